//! What clients can ask for, whichever way they come: the same operations for HTTP and gRPC.
//!
//! Roles are checked by the ways in, before they read what they are given; everything else is decided here or behind it.

pub(crate) mod dead;
pub(crate) mod explain;
pub(crate) mod holds;
pub(crate) mod jobs;
pub(crate) mod limits;
pub(crate) mod list;
pub(crate) mod redrive;
pub(crate) mod results;
pub(crate) mod scan;
pub(crate) mod submit;
pub(crate) mod trust;
pub(crate) mod waiting;
pub(crate) mod watch;
