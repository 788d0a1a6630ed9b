//! gRPC plumbing: the only place that makes tonic channels and servers.
//!
//! - [`cap`], [`busbar`] and [`cordum_api`] are the stubs generated from `proto/` by `cargo xtask protos`; their messages are those of
//!   `protocol`.
//! - [`KernelClient`] asks the safety kernel; it is what production gives to a shell that is generic over
//!   [`Judge`](busbar_protocol::ports::Judge).
//! - [`serve()`] runs a server on a listener until it is told to end, in plain text or with [`Tls`].
//! - [`add_standard`] adds health and reflection, [`refusal`] tells errors with their stable codes.
//! - [`tonic`] is passed on, so that services implement the traits with the version that made them.

mod kernel_client;
mod server;
mod standard;
mod status;

mod generated {
    //! Code made from `proto/`.
    #![expect(
        missing_docs,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated code; the meaning of each call stands in `proto/`"
    )]

    pub mod cap {
        include!("generated/cordum.agent.v1.rs");
    }
    pub mod busbar {
        include!("generated/busbar.v1.rs");
    }
    pub mod cordum_api {
        include!("generated/cordum.v1.rs");
    }
}

/// The largest message that our servers and clients send or take, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

pub use generated::{busbar, cap, cordum_api};
pub use kernel_client::{AddressError, CHECKS_MAX, KernelClient, KernelClientOptions, channel};
pub use server::{ServeError, ServeOptions, Tls, TlsError, serve};
pub use standard::{Health, add_standard};
pub use status::{CODE_METADATA, RETRY_METADATA, refusal};
pub use tonic;
