//! The gateway over HTTP and gRPC, with real servers. A few lines of test code stand in for the scheduler, the engine and the kernel:
//! they speak the same messages, and let the tests decide what happens to a job.

mod artifacts;
mod contract;
mod dead;
mod engine;
mod grpc;
mod holds;
mod jobs;
mod keyring;
mod limits;
mod lists;
mod operations;
mod options;
mod packs;
mod refusals;
mod runs;
mod stream;
mod support;
mod verbs;
mod watching;
mod workflows;
