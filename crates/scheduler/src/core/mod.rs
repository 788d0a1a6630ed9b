//! The heart of the scheduler: pure, without I/O, clock or randomness.
//!
//! - [`job`] is what a job is; `packed` its form in the store.
//! - [`transition`] is the table: one state and one event give the next state, or a rejection.
//! - [`commit`] turns a change into the unit that makes it durable.
//! - [`line`](mod@line) is where a job waits; [`queue`], [`workers`] and [`place`] say who runs what next.
//! - [`roll`] lists who is live, in memory or on the shelf; [`sketch`] is what must be read of a job for the latter;
//!   `dense` is what a million of them stand in.
//! - [`bounds`], [`bucket`] and [`flow`] say how many and how fast; [`holds`] what is paused; [`timeline`] where the time went.
//! - [`inputs`] are those that came with their submissions.
//! - [`complaints`] says of which bad packets operators are told.
//! - [`trust`] says whom of CAP's workers we believe.
//! - [`quorum`] says which result counts when workers are not trusted.
//! - [`fact`] is what happened, for those who measure.
//! - [`cell`] holds all of it together: everything that the active scheduler knows.

pub mod bounds;
pub mod bucket;
pub mod cell;
pub mod commit;
pub mod complaints;
mod dense;
pub mod fact;
pub mod flow;
pub mod holds;
pub mod inputs;
pub mod job;
mod lane;
pub mod line;
mod packed;
pub mod place;
pub mod queue;
pub mod quorum;
pub mod roll;
pub mod sketch;
pub mod timeline;
pub mod transition;
pub mod trust;
pub mod verdict;
pub mod workers;
