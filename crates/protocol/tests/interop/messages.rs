//! Every message type of CAP, with what our generated code makes of its bytes.

use busbar_protocol::cap;
use busbar_protocol::prost::{DecodeError, Message};

fn through<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    M::decode(bytes).map(|message| message.encode_to_vec())
}

/// Decodes and encodes again.
pub(crate) type Through = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

macro_rules! types {
    ($($name:ident)*) => {
        /// Name and code of each type.
        pub(crate) const TYPES: &[(&str, Through)] =
            &[$((concat!("cordum.agent.v1.", stringify!($name)), through::<cap::$name>),)*];
    };
}

types! {
    BudgetConstraints Budget BusPacket Compensation ContextHints DiffConstraints DispatchIdentity Handshake Heartbeat IdentityBinding
    JobCancel JobMetadata JobProgress JobRequest JobResult ListSnapshotsRequest ListSnapshotsResponse PolicyCheckRequest
    PolicyCheckResponse PolicyConstraints PolicyRemediation ResourceRef SandboxProfile SignatureMetadata SystemAlert
    ToolchainConstraints WorkerHandshakeAuthenticate WorkerHandshakeChallenge WorkerHandshakeChallengeRequest WorkerHandshakeResult
}
