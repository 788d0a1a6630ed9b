//! Listening to workers that prove who they are, to those who enrol their keys, and to what speaks against a packet.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::task::JoinSet;

use busbar_protocol::busbar::{EnrolReply, EnrolRequest};
use busbar_protocol::cap::{BusPacket, WorkerHandshakeRejectionReason as Reason};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope::PacketError;
use busbar_protocol::handshake::Refused;
use busbar_protocol::ports::{Bus, BusError, Clock, Headers, Judge, Message, Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;

use super::Ears;
use crate::core::trust::Doubt;
use crate::input::{Input, Objection};
use crate::intake;

/// How many steps of handshakes are dealt with at once.
const STEPS_MAX: usize = 16;
/// How long a step may take; workers ask again after ten seconds.
const STEP_WAIT: Duration = Duration::from_secs(5);

/// The packet that answers a step, and what is to be told of it.
type Step = Result<(Bytes, Option<Refused>), Refused>;

impl<B: Bus, R: Records, C: Clock, J: Judge> Ears<B, R, C, J> {
    /// Keys are enrolled and revoked one message at a time.
    pub(super) async fn start_enrolling(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), BusError> {
        let mut messages = self.ports.bus.subscribe(subjects::SCHEDULER_ENROL, Some(subjects::SCHEDULER_QUEUE)).await?;
        let ears = Arc::clone(self);
        tasks.spawn(async move {
            while let Some(message) = messages.next().await {
                ears.enrol(message).await;
            }
        });
        Ok(())
    }

    async fn enrol(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        match EnrolRequest::decode(message.payload) {
            Ok(request) => {
                let (answer, strangers) = self.trust.enrol(request).await;
                if self.trust.enforces() && !strangers.is_empty() {
                    self.send(Input::Distrusted(strangers)).await;
                }
                self.answer(&reply, &answer).await;
                // The answer comes first: with this, a term can end.
                self.send(Input::Bindings(self.trust.bindings(), self.trust.owners())).await;
            }
            Err(error) => {
                let problem = Some(intake::problem(Code::PacketMalformed, error.to_string()));
                self.answer(&reply, &EnrolReply { problem, ..EnrolReply::default() }).await;
            }
        }
    }

    /// Workers prove their keys; nobody answers them where the scheduler has no key of its own.
    pub(super) async fn start_proving(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), BusError> {
        if !self.trust.answers() {
            return Ok(());
        }
        for subject in [subjects::TRUST_CHALLENGE, subjects::TRUST_AUTHENTICATE] {
            let messages = self.ports.bus.subscribe(subject, Some(subjects::SCHEDULER_QUEUE)).await?;
            let ears = Arc::clone(self);
            tasks.spawn(async move {
                messages
                    .for_each_concurrent(STEPS_MAX, |message| {
                        let ears = Arc::clone(&ears);
                        async move { ears.step(subject, message).await }
                    })
                    .await;
            });
        }
        Ok(())
    }

    async fn step(&self, subject: &'static str, message: Message) {
        let Message { payload: bytes, reply: Some(reply), .. } = message else { return };
        let step = async {
            match subject {
                subjects::TRUST_CHALLENGE => self.trust.challenge(&bytes).await.map(|packet| (packet, None)),
                _ => self.trust.authenticate(&bytes).await,
            }
        };
        let step: Step = tokio::select! {
            step = step => step,
            () = self.ports.clock.sleep(STEP_WAIT) => return,
        };
        let refused = match step {
            Ok((packet, refused)) => {
                if let Err(error) = self.ports.bus.publish(&reply, Headers::new(), packet).await {
                    tracing::debug!(%error, "an answer to a worker was not sent");
                }
                refused
            }
            Err(refused) => Some(refused),
        };
        // What is our own trouble says nothing about the worker.
        if let Some(refused) = refused.filter(|refused| refused.reason != Reason::InternalError) {
            self.complain(subject, &PacketError::Handshake(refused), &bytes).await;
        }
    }

    /// What speaks against a packet in which a worker speaks of itself, unless it turns out to be a native one.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be known now.
    pub(super) async fn objection(
        &self,
        subject: &'static str,
        worker_id: &str,
        packet: &BusPacket,
        bytes: &Bytes,
    ) -> Result<Option<Objection>, StoreError> {
        let doubt = self.trust.doubt_worker(worker_id, packet, bytes).await?;
        Ok(doubt.map(|doubt| Objection { subject, doubt, bytes: bytes.clone() }))
    }

    /// Whether a packet counts against which this speaks.
    pub(super) async fn weighs(&self, subject: &'static str, doubt: Option<Doubt>, bytes: &Bytes) -> bool {
        let Some(doubt) = doubt else { return true };
        self.complain(subject, &doubt.error, bytes).await;
        !doubt.refuses
    }
}
