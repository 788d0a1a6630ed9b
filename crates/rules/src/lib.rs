//! Pure judgement that several services share. No clock, no I/O, no environment: the same arguments give the same answer.
//!
//! - [`topics`]: which topic document speaks for a topic.
//! - [`glob`]: the patterns of policy rules.
//! - [`schema`]: JSON Schemas of inputs and outputs.
//! - [`constraints`]: limits that only ever get tighter.
//! - [`imports`]: what a policy lets guests import.
//! - [`expr`]: expressions and templates of workflows.
//! - [`job_hash`]: what an approval is bound to.
//! - [`pack`]: what a pack may be.

pub mod constraints;
pub mod expr;
pub mod glob;
pub mod imports;
pub mod job_hash;
pub mod pack;
pub mod replication;
pub mod schema;
pub mod topics;

pub use constraints::Constraints;
pub use glob::Glob;
pub use job_hash::job_hash;
pub use schema::{Schema, SchemaError, Violation};
pub use topics::{TopicPattern, TopicPatternError, TopicTable, TopicTableError};
