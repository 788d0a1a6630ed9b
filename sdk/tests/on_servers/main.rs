//! The SDK on real servers, with the scheduler's side of the conversation in the hands of the test.

mod client;
mod reports;
mod rig;
mod worker;
