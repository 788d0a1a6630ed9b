//! Telling of packets that are not taken: each is counted, and operators are told of each kind, but not of each packet.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use busbar_protocol::envelope::PacketError;
use busbar_protocol::ports::Bus;
use busbar_protocol::time::Timestamp;

use crate::core::complaints::Complaints;
use crate::meters::Meters;
use crate::perform::{self, Refused};
use crate::voice::Voice;

/// Who tells.
pub(crate) struct Objections<B> {
    bus: B,
    voice: Voice,
    meters: Meters,
    complaints: Mutex<Complaints>,
}

impl<B: Bus> Objections<B> {
    pub(crate) fn new(bus: B, voice: Voice, meters: Meters) -> Self {
        Self { bus, voice, meters, complaints: Mutex::default() }
    }

    /// A packet on this subject was not taken, or was taken although something is missing.
    pub(crate) async fn tell(&self, subject: &'static str, error: &PacketError, bytes: &Bytes, now: Timestamp) {
        tracing::debug!(subject, %error, "a message was not taken as it is");
        self.meters.packet_refused(error.code());
        let told = {
            let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
            complaints.hear(subject, error.cap_code(), now)
        };
        if let Some(kept_back) = told {
            perform::alert(&self.bus, &self.voice, &Refused { subject, error, bytes, kept_back }, now).await;
        }
    }
}
