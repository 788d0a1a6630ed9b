//! Bounds that two sides of a conversation must agree on.

use std::time::Duration;

/// The most submissions of one `admit` message.
pub const ADMIT_ITEMS_MAX: usize = 256;

/// The largest `admit` message, in bytes.
pub const ADMIT_BYTES_MAX: usize = 512 * 1024;

/// The most attempts of one message to a worker.
pub const DISPATCH_ITEMS_MAX: usize = 256;

/// The largest message of several attempts to a worker, in bytes.
pub const DISPATCH_BYTES_MAX: usize = 512 * 1024;

/// The most attempts of one `report` message.
pub const REPORT_ITEMS_MAX: usize = 256;

/// The largest `report` message, in bytes.
pub const REPORT_BYTES_MAX: usize = 512 * 1024;

/// The largest payload that Redis keeps, in bytes; what is larger goes into blobs.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// How long an input stays that nobody has admitted.
pub const INPUT_TTL: Duration = Duration::from_secs(600);
