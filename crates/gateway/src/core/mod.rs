//! What the gateway decides by itself: pure, without clock, randomness or I/O.

pub(crate) mod page;
pub(crate) mod submission;
pub(crate) mod trace;
pub(crate) mod view;
pub(crate) mod wait;

pub(crate) mod pack;
pub(crate) mod role;
