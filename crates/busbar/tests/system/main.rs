//! The whole system as its users see it: real `busbar dev` processes with real servers, spoken to over HTTP and the bus.
//!
//! The worker of most tests is the example `sleeper` of the SDK; it writes down each execution. The others use the `worker`
//! program and the shipped packs. `cargo test --workspace` builds the programs, `cargo xtask packs` the packs. Nothing here
//! compares durations: a test waits for a state, with a generous deadline. What is ignored here needs the roles apart:
//! `tools/test deploy` runs it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod apart;
mod api;
mod bad_guests;
mod bad_input;
mod bench;
mod carried;
mod conformance;
mod examples;
mod faults;
mod garbage;
mod grpc;
mod hunt;
mod installs;
mod keys;
mod kill;
mod lifecycle;
mod packs;
mod permissions;
mod roles;
mod runs;
mod sdk_python;
mod support;
mod telemetry;
mod trust;
mod two_workers;
mod volunteers;
mod wordcount;
mod workers;
