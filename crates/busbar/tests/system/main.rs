//! The whole system as its users see it: real `busbar dev` processes with real servers, spoken to over HTTP and the bus.
//!
//! The worker of most tests is the example `sleeper` of the SDK; it writes down each execution. The others use the `worker`
//! program and the shipped packs. `cargo test --workspace` builds the programs, `cargo xtask packs` the packs. Nothing here
//! compares durations: a test waits for a state, with a generous deadline.
#![expect(clippy::unwrap_used, reason = "tests")]

mod api;
mod bad_guests;
mod bad_input;
mod examples;
mod garbage;
mod kill;
mod lifecycle;
mod packs;
mod roles;
mod support;
mod two_workers;
mod workers;
