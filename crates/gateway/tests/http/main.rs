//! The gateway over HTTP and gRPC, with real servers. A few lines of test code stand in for the scheduler, the engine and the kernel:
//! they speak the same messages, and let the tests decide what happens to a job.

mod artifacts;
mod contract;
mod engine;
mod grpc;
mod jobs;
mod keyring;
mod lists;
mod operations;
mod packs;
mod refusals;
mod runs;
mod stream;
mod support;
mod watching;
mod workflows;
