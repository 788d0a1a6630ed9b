//! The decision itself: pure, so that the same snapshot and request give the same answer on every replica, at every time.
//!
//! ```text
//!  YAML ── document ──► Bundle (rules, tenants) ──┐
//!                                                 ├──► Snapshot ──┐
//!  other bundles ─────────────────────────────────┘               ├── evaluate ──► Judgement ──► PolicyCheckResponse
//!  PolicyCheckRequest ── facts ──► Facts ─────────────────────────┘
//! ```

pub mod bundle;
pub mod decision;
pub mod document;
pub mod evaluate;
pub mod facts;
mod index;
pub mod mcp;
pub mod rule;
pub mod snapshot;
pub mod tenant;
