//! The time. The port and the clock that production gives to it stand in `protocol`, where the simulator finds the same
//! port; services name them through here.

pub use busbar_protocol::ports::{Clock, SystemClock};
