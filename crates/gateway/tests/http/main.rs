//! The gateway over HTTP, with real servers. A few lines of test code stand in for the scheduler and the kernel: they speak the
//! same messages, and let the tests decide what happens to a job.

mod artifacts;
mod jobs;
mod lists;
mod operations;
mod packs;
mod refusals;
mod support;
