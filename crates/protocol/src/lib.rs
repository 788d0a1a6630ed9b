//! The words that every part of Busbar agrees on.
//!
//! - [`cap`] is the CAP v2 wire (package `cordum.agent.v1`), [`busbar`] our own messages (package `busbar.v1`), [`cordum_api`] the
//!   calls that users of Cordum know (package `cordum.v1`); all are generated from `proto/` by `cargo xtask protos` and committed.
//! - [`envelope`] decodes, checks and builds the packets that CAP puts on the bus.
//! - [`canonical`] and [`signing`] make and check CAP's signatures, byte for byte as the published SDKs do; [`schema`] and [`wire`] are
//!   what they read packets with.
//! - [`handshake`] is the trust handshake of workers: what its packets must say.
//! - [`inline`] is how small payloads travel with messages.
//! - [`ids`], [`subjects`], [`keys`], [`limits`], [`pointers`], [`codes`], [`pause_hint`], [`time`], [`trace`] and [`hex`] are the
//!   names and values that travel in them.
//! - [`ports`] are the traits through which the shells of the services touch the world, so that the same shells run in
//!   production and inside the simulator.

pub mod canonical;
pub mod codes;
pub mod cursor;
pub mod envelope;
pub mod handshake;
pub mod hex;
pub mod ids;
pub mod imports;
pub mod inline;
pub mod keys;
pub mod labels;
pub mod limits;
pub mod negotiation;
pub mod pause_hint;
pub mod pointers;
pub mod ports;
pub mod schema;
pub mod signing;
mod states;
pub mod subjects;
pub mod time;
pub mod trace;
pub mod wire;

mod generated {
    //! Code made from `proto/`; the modules mirror the packages because the code refers to itself by those paths.
    #![expect(
        missing_docs,
        unreachable_pub,
        clippy::large_enum_variant,
        reason = "generated code; the meaning of each field stands in `proto/`"
    )]

    pub mod cordum {
        pub mod agent {
            pub mod v1 {
                include!("generated/cordum.agent.v1.rs");
            }
        }
        pub mod v1 {
            include!("generated/cordum.v1.rs");
        }
    }
    pub mod busbar {
        pub mod v1 {
            include!("generated/busbar.v1.rs");
        }
    }
}

pub use generated::busbar::v1 as busbar;
pub use generated::cordum::agent::v1 as cap;
pub use generated::cordum::v1 as cordum_api;
/// The protobuf runtime, so that other crates encode and decode with the version that made the messages.
pub use prost;
/// The well-known types that the messages carry.
pub use prost_types;
