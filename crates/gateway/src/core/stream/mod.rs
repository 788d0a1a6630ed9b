//! What the live stream decides: who sees what, in which order, and from where. Pure.
//!
//! ```text
//!  ev:jobs, ev:runs ─► item ─► ring ───► after each reader's own place ─┐
//!                                                                       ├─► filter ─► frame
//!  progress, workers, alerts ─► item ─► latest ─► newest of each key ───┘
//! ```
//!
//! A reader is a cursor and two numbers. Nothing is kept for it: what it has not read yet stands in the ring, or in the log.

pub(crate) mod cursor;
pub(crate) mod filter;
pub(crate) mod frame;
pub(crate) mod item;
pub(crate) mod latest;
pub(crate) mod owners;
pub(crate) mod packet;
pub(crate) mod ring;
pub(crate) mod shown;
