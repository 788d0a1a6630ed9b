//! The engine on real servers, with the scheduler's side of the conversation in the hands of the test.

mod desk;
mod refusals;
mod relay;
mod rig;
mod runs;
mod verbs;
