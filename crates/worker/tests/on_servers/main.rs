//! The worker's process on real servers, with real guests, and the scheduler's side of the conversation in the hands of the test.

mod ends;
mod guests;
mod packs;
mod process;
mod rig;
mod wall;
