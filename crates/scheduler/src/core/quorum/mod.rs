//! Which result counts when workers are not trusted: the words of a job's replicas go in, a verdict comes out.
//!
//! - What a topic demands is [`busbar_rules::replication`]'s.
//! - [`vote`] gives the verdict on what the replicas have said so far.
//! - [`credit`] is what an owner's past comparisons are worth, and what the next one makes of it.
//! - [`reputation`] keeps the credit of all owners of a topic, and its packed form; [`credits`] that of all topics, and when to write it.
//! - [`compare`] says in which form results are compared; [`judgement`] what a verifier says of one.
//! - [`draw`] decides by a secret what nobody outside may foresee: which jobs are audited, and what replicas are called.
//!
//! ```text
//!                      terms, credit of owners, audited?
//!                                   │
//!   voices (who, and what) ──▶ tally ──▶ judge ──▶ Wait │ Ask │ Accept │ Fail │ Split
//!                                   └──▶ outcomes (of an Accept or Fail) ──▶ Credit::after
//! ```
//!
//! The theory, with what it promises and what no scheme can, is in `docs/quorum.md`.

pub mod compare;
pub mod credit;
pub mod credits;
pub mod draw;
pub mod judgement;
pub mod reputation;
mod tally;
pub mod vote;
