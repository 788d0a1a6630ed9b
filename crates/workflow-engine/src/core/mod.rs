//! The pure heart: what a workflow says, where a run stands, and what follows from what happens. No clock, no I/O.

mod changes;
pub mod commit;
pub mod document;
mod draft;
pub mod engine;
pub mod place;
pub mod records;
pub mod request;
pub mod run;
pub mod scope;
pub mod transition;
pub mod workflow;
