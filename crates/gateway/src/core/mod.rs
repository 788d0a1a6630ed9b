//! What the gateway decides by itself: pure, without clock, randomness or I/O.

pub(crate) mod dead;
pub(crate) mod dead_message;
pub(crate) mod deadline;
pub(crate) mod explain;
pub(crate) mod follow;
pub(crate) mod hold;
pub(crate) mod limits;
pub(crate) mod message;
pub(crate) mod moment;
pub(crate) mod names;
pub(crate) mod options;
pub(crate) mod pack;
pub(crate) mod page;
pub(crate) mod role;
pub(crate) mod run;
pub(crate) mod stream;
pub(crate) mod submission;
pub(crate) mod view;
pub(crate) mod wait;
