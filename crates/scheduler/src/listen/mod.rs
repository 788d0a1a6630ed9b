//! Listening: turns what arrives on the bus into inputs of the event loop.
//!
//! Whatever cannot be understood is told on `sys.alert` and dropped; nothing that arrives can hurt anything else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use busbar_protocol::busbar::{
    AdmitItem, AdmitReply, AdmitRequest, CancelItem, CancelReply, CancelRequest, DrainReply, DrainRequest, ExplainReply,
    ExplainRequest, ListReply, ListRequest, PauseReply, PauseRequest, WorkerBeat,
};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{BusPacket, JobCancel, JobProgress};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope::{self, Decoded, PacketError};
use busbar_protocol::ids::JobId;
use busbar_protocol::limits::ADMIT_ITEMS_MAX;
use busbar_protocol::ports::{
    Bus, BusError, Clock, Delivery, Headers, Judge, Message, PullConsumer as _, Records, Settlement, StoreError, TRACEPARENT,
};
use busbar_protocol::prost::{DecodeError, Message as _};
use busbar_protocol::subjects::{self, Stream};
use busbar_protocol::time::Timestamp;

mod proving;
mod redriving;
mod reporting;

use crate::Ports;
use crate::core::transition::Limits;
use crate::input::{Admit, Input, Origin};
use crate::intake;
use crate::library::Library;
use crate::objections::Objections;
use crate::observer::Instruments;
use crate::perform;
use crate::receipts::Receipt;
use crate::trust::Trust;

/// The most submissions or results of one pull.
const PULL: usize = 256;
/// The longest pull.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// How many messages of submissions are prepared at once.
const PREPARE_MAX: usize = 8;
/// How long a delivery waits that could not be dealt with now.
const NAK_DELAY: Duration = Duration::from_secs(1);

/// What the listening tasks share.
pub(crate) struct Ears<B, R, C, J> {
    pub ports: Ports<B, R, C, J>,
    pub inputs: mpsc::Sender<Input>,
    pub library: watch::Receiver<Arc<Library>>,
    pub limits: Limits,
    pub inbox: String,
    pub instruments: Instruments,
    pub epoch: u64,
    pub objections: Arc<Objections<B>>,
    pub trust: Arc<Trust<R, C>>,
}

impl<B: Bus, R: Records, C: Clock, J: Judge> Ears<B, R, C, J> {
    /// Starts every listening task; when this returns, the server knows of every subscription.
    pub(crate) async fn start(self: Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), BusError> {
        for subject in [
            subjects::SCHEDULER_CANCEL,
            subjects::SCHEDULER_LIST,
            subjects::SCHEDULER_WORKERS,
            subjects::SCHEDULER_PAUSE,
            subjects::SCHEDULER_DRAIN,
            subjects::SCHEDULER_EXPLAIN,
            subjects::BEAT,
            subjects::HEARTBEAT,
            subjects::PROGRESS,
            subjects::CANCEL,
        ] {
            let mut messages = self.ports.bus.subscribe(subject, None).await?;
            let ears = Arc::clone(&self);
            tasks.spawn(async move {
                while let Some(message) = messages.next().await {
                    ears.hear(subject, message).await;
                }
            });
        }
        let mut words = self.ports.bus.subscribe(&format!("{}.>", self.inbox), None).await?;
        let ears = Arc::clone(&self);
        tasks.spawn(async move {
            while let Some(message) = words.next().await {
                ears.hear_word(&message).await;
            }
        });
        self.start_admission(tasks).await?;
        self.start_redriving(tasks).await?;
        self.start_enrolling(tasks).await?;
        self.start_reporting(tasks).await?;
        self.start_proving(tasks).await?;
        for stream in [Stream::Submissions, Stream::Results, Stream::Handshakes] {
            tasks.spawn(Arc::clone(&self).pull(stream));
        }
        Ok(())
    }

    async fn send(&self, input: Input) {
        // The loop ends before its ears do; what arrives afterwards is for whoever is active then.
        let _ = self.inputs.send(input).await;
    }

    async fn hear(&self, subject: &'static str, message: Message) {
        let reply = message.reply.clone();
        let malformed = |error: &DecodeError| Some(intake::problem(Code::PacketMalformed, error.to_string()));
        match (subject, reply) {
            (subjects::SCHEDULER_CANCEL, Some(reply)) => match CancelRequest::decode(message.payload) {
                Ok(request) => self.send(Input::Cancel { items: request.items, reply: Some(reply) }).await,
                Err(error) => self.answer(&reply, &CancelReply { problem: malformed(&error), ..CancelReply::default() }).await,
            },
            (subjects::SCHEDULER_LIST, Some(reply)) => match ListRequest::decode(message.payload) {
                Ok(request) => self.send(Input::List { request, reply }).await,
                Err(error) => self.answer(&reply, &ListReply { problem: malformed(&error), ..ListReply::default() }).await,
            },
            (subjects::SCHEDULER_PAUSE, Some(reply)) => match PauseRequest::decode(message.payload) {
                Ok(request) => self.send(Input::Pause { request, reply }).await,
                Err(error) => self.answer(&reply, &PauseReply { problem: malformed(&error), ..PauseReply::default() }).await,
            },
            (subjects::SCHEDULER_DRAIN, Some(reply)) => match DrainRequest::decode(message.payload) {
                Ok(request) => self.send(Input::Drain { request, reply }).await,
                Err(error) => self.answer(&reply, &DrainReply { problem: malformed(&error), ..DrainReply::default() }).await,
            },
            (subjects::SCHEDULER_EXPLAIN, Some(reply)) => match ExplainRequest::decode(message.payload) {
                Ok(request) => self.send(Input::Explain { request, reply }).await,
                Err(error) => self.answer(&reply, &ExplainReply { problem: malformed(&error), ..ExplainReply::default() }).await,
            },
            (subjects::SCHEDULER_WORKERS, Some(reply)) => self.send(Input::Workers { reply }).await,
            (subjects::BEAT, _) => match WorkerBeat::decode(message.payload.clone()) {
                Ok(beat) if !self.trust.may_be_native(&beat.worker_id) => {
                    let error = PacketError::Session { sender_id: beat.worker_id };
                    self.complain(subject, &error, &message.payload).await;
                }
                Ok(beat) if subjects::is_addressable(&beat.worker_id) => self.send(Input::Beat(beat)).await,
                Ok(_) => {
                    let error = PacketError::Rule { field: "worker_id", rule: "must be one token" };
                    self.complain(subject, &error, &message.payload).await;
                }
                Err(error) => {
                    let error = PacketError::Malformed { detail: error.to_string() };
                    self.complain(subject, &error, &message.payload).await;
                }
            },
            (_, _) => match envelope::decode(&message.payload) {
                Ok(decoded) => self.hear_packet(subject, decoded, &message.payload).await,
                Err(error) => self.complain(subject, &error, &message.payload).await,
            },
        }
    }

    async fn hear_packet(&self, subject: &'static str, decoded: Decoded, bytes: &Bytes) {
        let Decoded { packet, payload, .. } = decoded;
        match (subject, payload) {
            (subjects::HEARTBEAT, Payload::Heartbeat(beat)) => {
                // One that cannot be weighed now is lost; the next one comes.
                if let Ok(objection) = self.objection(subject, &beat.worker_id, &packet, bytes).await {
                    self.send(Input::Heartbeat(beat, objection)).await;
                }
            }
            (subjects::PROGRESS, Payload::JobProgress(progress)) => self.hear_progress(packet, progress, bytes).await,
            // What we broadcast ourselves comes back to us.
            (subjects::CANCEL, Payload::JobCancel(_)) if packet.sender_id == subjects::SCHEDULER_SENDER => {}
            (subjects::CANCEL, Payload::JobCancel(cancel)) => {
                let doubt = self.trust.doubt_signature(&packet, bytes);
                if self.weighs(subject, doubt, bytes).await {
                    self.send(Input::Cancel { items: vec![cancel_item(cancel)], reply: None }).await;
                }
            }
            (_, _) => self.complain(subject, &PacketError::UnknownPayload, bytes).await,
        }
    }

    async fn hear_progress(&self, packet: BusPacket, progress: JobProgress, bytes: &Bytes) {
        // Progress that cannot be weighed now is lost; the next one tells more.
        let Ok(objection) = self.objection(subjects::PROGRESS, &packet.sender_id, &packet, bytes).await else { return };
        let attempt = progress.dispatch.as_ref().and_then(|d| u32::try_from(d.attempt).ok());
        let JobProgress { job_id, percent, .. } = progress;
        if let Ok(job) = JobId::parse(job_id) {
            self.send(Input::Progress { job, attempt, worker_id: packet.sender_id, percent, objection }).await;
        }
    }

    /// Word of a dispatch: NATS answers with status 503 when nobody is there.
    async fn hear_word(&self, message: &Message) {
        if message.headers.get("Status").map(String::as_str) != Some("503") {
            return;
        }
        if let Some(batch) = perform::batch_of_reply(&message.subject, &self.inbox) {
            self.send(Input::NobodyTook { batch }).await;
        } else if let Some((job, attempt)) = perform::attempt_of_reply(&message.subject, &self.inbox)
            && let Ok(job) = JobId::parse(job)
        {
            self.send(Input::NobodyThere { job, attempt }).await;
        }
    }

    /// Tells of a packet that is not taken.
    async fn complain(&self, subject: &'static str, error: &PacketError, bytes: &Bytes) {
        self.objections.tell(subject, error, bytes, self.ports.clock.now()).await;
    }

    async fn answer<M: busbar_protocol::prost::Message>(&self, reply: &str, message: &M) {
        if let Err(error) = self.ports.bus.publish(reply, Headers::new(), message.encode_to_vec().into()).await {
            tracing::debug!(%error, "an answer was not sent");
        }
    }

    /// Admission by request: several messages are prepared at once, each is answered after its commit.
    async fn start_admission(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), BusError> {
        let messages = self.ports.bus.subscribe(subjects::ADMIT, Some(subjects::SCHEDULER_QUEUE)).await?;
        let ears = Arc::clone(self);
        tasks.spawn(async move {
            messages
                .for_each_concurrent(PREPARE_MAX, |message| {
                    let ears = Arc::clone(&ears);
                    async move { ears.admit(message).await }
                })
                .await;
        });
        Ok(())
    }

    async fn admit(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let received = Instant::now();
        let refuse =
            |code: Code, detail: String| AdmitReply { answers: Vec::new(), problem: Some(intake::problem(code, detail)) };
        let request = match AdmitRequest::decode(message.payload) {
            Ok(request) => request,
            Err(error) => return self.answer(&reply, &refuse(Code::PacketMalformed, error.to_string())).await,
        };
        if request.items.len() > ADMIT_ITEMS_MAX {
            let detail = format!("{} items in one message, more than {ADMIT_ITEMS_MAX}", request.items.len());
            return self.answer(&reply, &refuse(Code::BatchTooLarge, detail)).await;
        }
        match self.prepare(&request.items).await {
            Ok(outcomes) => self.send(Input::Admit(Admit { outcomes, origin: Origin::Asked { reply }, received })).await,
            Err(error) => self.answer(&reply, &refuse(Code::StoreUnavailable, error.to_string())).await,
        }
    }

    async fn prepare(&self, items: &[AdmitItem]) -> Result<Vec<intake::Outcome>, StoreError> {
        let library = Arc::clone(&self.library.borrow());
        let Ports { records, clock, judge, .. } = &self.ports;
        intake::prepare(items, &library, records, judge, &self.instruments.traces, &self.limits, clock.now()).await
    }

    /// Reads a stream for ever.
    async fn pull(self: Arc<Self>, stream: Stream) {
        loop {
            let mut consumer = match self.ports.bus.consume(stream).await {
                Ok(consumer) => consumer,
                Err(error) => {
                    tracing::debug!(stream = stream.name(), %error, "the stream cannot be read now");
                    self.ports.clock.sleep(Duration::from_millis(250)).await;
                    continue;
                }
            };
            loop {
                match consumer.pull(PULL, PULL_WAIT).await {
                    Ok(deliveries) => self.take(stream, deliveries).await,
                    Err(error) => {
                        tracing::debug!(stream = stream.name(), %error, "a pull failed");
                        self.ports.clock.sleep(Duration::from_millis(250)).await;
                        break;
                    }
                }
            }
        }
    }

    async fn take(&self, stream: Stream, deliveries: Vec<Delivery>) {
        match stream {
            Stream::Submissions => self.take_submissions(deliveries).await,
            Stream::Results => {
                for delivery in deliveries {
                    self.take_delivered(delivery).await;
                }
            }
            Stream::Handshakes => {
                for delivery in deliveries {
                    self.take_handshake(delivery).await;
                }
            }
            Stream::DeadLetters => {}
        }
    }

    async fn take_submissions(&self, deliveries: Vec<Delivery>) {
        let received = Instant::now();
        let mut items = Vec::with_capacity(deliveries.len());
        let mut kept = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            match submission(&delivery) {
                Ok((item, packet)) => {
                    let doubt = self.trust.doubt_signature(&packet, &delivery.message.payload);
                    if self.weighs(subjects::SUBMIT, doubt, &delivery.message.payload).await {
                        items.push(item);
                        kept.push(delivery);
                    } else {
                        self.settle(Receipt::Stream(delivery), Settlement::Term).await;
                    }
                }
                Err(error) => {
                    self.complain(subjects::SUBMIT, &error, &delivery.message.payload).await;
                    self.settle(Receipt::Stream(delivery), Settlement::Term).await;
                }
            }
        }
        if kept.is_empty() {
            return;
        }
        match self.prepare(&items).await {
            Ok(outcomes) => {
                let now = self.ports.clock.now();
                let outcomes =
                    outcomes.into_iter().zip(&items).map(|(outcome, item)| intake::from_bus(outcome, item, now)).collect();
                self.send(Input::Admit(Admit { outcomes, origin: Origin::Queue { deliveries: kept }, received })).await;
            }
            Err(_) => {
                for delivery in kept {
                    self.settle(Receipt::Stream(delivery), Settlement::Nak(NAK_DELAY)).await;
                }
            }
        }
    }

    async fn take_handshake(&self, delivery: Delivery) {
        match envelope::decode(&delivery.message.payload) {
            Ok(Decoded { packet, payload: Payload::Handshake(shake), .. }) => {
                let sent = packet.created_at.as_ref().map(Timestamp::from_proto).unwrap_or_default();
                match self.objection(subjects::HANDSHAKE, &shake.component_id, &packet, &delivery.message.payload).await {
                    Ok(objection) => self.send(Input::Handshake(shake, sent, objection)).await,
                    Err(_) => return self.settle(Receipt::Stream(delivery), Settlement::Nak(NAK_DELAY)).await,
                }
            }
            Ok(_) => self.complain(subjects::HANDSHAKE, &PacketError::UnknownPayload, &delivery.message.payload).await,
            Err(error) => self.complain(subjects::HANDSHAKE, &error, &delivery.message.payload).await,
        }
        self.settle(Receipt::Stream(delivery), Settlement::Ack).await;
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement) {
        if let Err(error) = receipt.settle(&self.ports.bus, settlement).await {
            tracing::debug!(%error, "a delivery was not settled and comes again");
        }
    }
}

/// The submission that a delivery carries, and its envelope.
fn submission(delivery: &Delivery) -> Result<(AdmitItem, BusPacket), PacketError> {
    let decoded = envelope::decode(&delivery.message.payload)?;
    let Payload::JobRequest(_) = decoded.payload else { return Err(PacketError::UnknownPayload) };
    let item = AdmitItem {
        request: decoded.raw_payload,
        trace_id: decoded.packet.trace_id.clone(),
        traceparent: delivery.message.headers.get(TRACEPARENT).cloned().unwrap_or_default(),
        ..AdmitItem::default()
    };
    Ok((item, decoded.packet))
}

fn cancel_item(cancel: JobCancel) -> CancelItem {
    // An attempt that is too large to be one of ours is over, or never was.
    let attempt = cancel.dispatch.map_or(0, |dispatch| u32::try_from(dispatch.attempt).unwrap_or(u32::MAX));
    CancelItem {
        job_id: cancel.job_id,
        tenant_id: String::new(),
        reason: cancel.reason,
        requested_by: cancel.requested_by,
        attempt,
    }
}
