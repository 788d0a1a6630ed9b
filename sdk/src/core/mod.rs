//! What a worker decides, without async, clock or I/O: which dispatches it takes, which it answers again, what a topic pattern
//! covers.

pub(crate) mod dispatch;
pub(crate) mod ledger;
pub(crate) mod pattern;
