//! gRPC plumbing: the only place that makes tonic channels and servers.
//!
//! - [`cap`] and [`busbar`] are the stubs generated from `proto/` by `cargo xtask protos`; their messages are those of
//!   `protocol`.
//! - [`KernelClient`] asks the safety kernel; it is what production gives to a shell that is generic over
//!   [`Judge`](busbar_protocol::ports::Judge).
//! - [`serve()`] runs a server on a listener until it is told to end.
//! - [`tonic`] is passed on, so that services implement the traits with the version that made them.

mod kernel_client;
mod server;

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
}

/// The largest message that our servers and clients send or take, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

pub use generated::{busbar, cap};
pub use kernel_client::{AddressError, CHECKS_MAX, KernelClient, KernelClientOptions, channel};
pub use server::{ServeError, serve};
pub use tonic;
