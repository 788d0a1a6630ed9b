//! Faults at the bus.

use std::time::Duration;

use busbar_protocol::busbar::ReportReply;
use busbar_protocol::ports::{Bus, BusError, Connection, Delivery, Headers, Message, PullConsumer, Settlement, Subscription};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects::{self, Stream};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;

use super::{Sabotaged, messages};
use crate::batch;
use crate::plant::Plant;

/// Two workers that are taken for one another.
const TWINS: [&str; 2] = ["native-0", "native-1"];

/// Reads a stream for a port with a saboteur in it.
#[derive(Debug)]
pub struct SabotagedConsumer<P: Bus> {
    consumer: P::Consumer,
    port: Sabotaged<P>,
    stream: Stream,
}

impl<P: Bus> Sabotaged<P> {
    async fn double(&self, subject: &str, headers: &Headers, payload: &Bytes) {
        let message = Message { subject: subject.to_owned(), headers: headers.clone(), payload: payload.clone(), reply: None };
        for Message { subject, headers, payload, .. } in batch::apart(&message).unwrap_or_else(|| vec![message]) {
            let [first, second] = TWINS;
            let other = if subject == subjects::worker_jobs(first) { second } else { first };
            if !TWINS.iter().any(|twin| subjects::worker_jobs(twin) == subject) {
                continue;
            }
            if let Some(payload) = messages::readdress(&payload, other) {
                let _ = self.port.publish(&subjects::worker_jobs(other), headers, payload).await;
            }
        }
    }

    /// Answers reports before they are dealt with.
    fn answer_reports(&self, heard: Subscription) -> Subscription {
        let port = self.port.clone();
        let answered = move |message: Message| {
            let port = port.clone();
            async move {
                if let Some(reply) = &message.reply {
                    let _ = port.publish(reply, Headers::new(), ReportReply::default().encode_to_vec().into()).await;
                }
                message
            }
        };
        heard.then(answered).boxed()
    }

    /// Answers cancellations, and forgets them.
    fn forget_cancels(&self, heard: Subscription) -> Subscription {
        let port = self.port.clone();
        let forgotten = move |message: Message| {
            let port = port.clone();
            async move {
                let reply = message.reply.clone()?;
                let _ = port.publish(&reply, Headers::new(), messages::cancelled(&message.payload)).await;
                None
            }
        };
        heard.filter_map(forgotten).boxed()
    }
}

impl<P: Bus> Bus for Sabotaged<P> {
    type Consumer = SabotagedConsumer<P>;

    async fn publish(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        if self.has(Plant::DispatchDoubled) {
            self.double(subject, &headers, &payload).await;
        }
        self.port.publish(subject, headers, payload).await
    }

    async fn publish_with_reply(&self, subject: &str, reply: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        let is_batch = batch::worker_of(subject).is_some();
        let (headers, payload) = match (self.saboteur.plant, is_batch) {
            (Some(Plant::InputMistaken), false) => (messages::mistake_input(headers), payload),
            (Some(Plant::InputMistaken), true) => {
                (headers, batch::with_inputs(&payload, |headers, _| messages::mistake_input(headers)))
            }
            (Some(Plant::RedactionUndone), false) => (messages::undo_redaction(headers, &payload), payload),
            (Some(Plant::RedactionUndone), true) => (headers, batch::with_inputs(&payload, messages::undo_redaction)),
            _ => (headers, payload),
        };
        if self.has(Plant::DispatchDoubled) {
            self.double(subject, &headers, &payload).await;
        }
        self.port.publish_with_reply(subject, reply, headers, payload).await
    }

    async fn publish_durable(&self, subject: &str, id: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        if self.has(Plant::DeadLetterUntold) && subject == subjects::DEAD_LETTER {
            return Ok(());
        }
        self.port.publish_durable(subject, id, headers, payload).await
    }

    async fn request(&self, subject: &str, headers: Headers, payload: Bytes, deadline: Duration) -> Result<Message, BusError> {
        self.port.request(subject, headers, payload, deadline).await
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        let heard = self.port.subscribe(subject, queue).await?;
        let saboteur = self.saboteur.clone();
        Ok(match (self.saboteur.plant, subject) {
            (Some(Plant::CapacityDoubled), subjects::BEAT) => heard.map(messages::double_capacity).boxed(),
            (Some(Plant::SlotFreedEarly), subjects::BEAT) => {
                heard.map(move |beat| messages::show_present(beat, &saboteur.memory().present)).boxed()
            }
            (Some(Plant::PauseMistaken), subjects::SCHEDULER_PAUSE) => heard.map(messages::mistake).boxed(),
            (Some(Plant::RunPauseForgotten), subjects::SCHEDULER_PAUSE) => heard.map(messages::mistake_run).boxed(),
            (Some(Plant::NotBeforeForgotten), subjects::ADMIT) => heard.map(messages::hurry).boxed(),
            (Some(Plant::ChildrenSpared), subjects::ADMIT) => heard.map(messages::orphan).boxed(),
            (Some(Plant::ReportAnsweredEarly), subjects::REPORT) => self.answer_reports(heard),
            (Some(Plant::CancelForgotten), subjects::SCHEDULER_CANCEL) => self.forget_cancels(heard),
            _ => heard,
        })
    }

    async fn consume(&self, stream: Stream) -> Result<Self::Consumer, BusError> {
        Ok(SabotagedConsumer { consumer: self.port.consume(stream).await?, port: self.clone(), stream })
    }

    async fn settle(&self, delivery: &Delivery, settlement: Settlement) -> Result<(), BusError> {
        self.port.settle(delivery, settlement).await
    }

    async fn round_trip(&self) -> Result<(), BusError> {
        if self.has(Plant::RelayUnproven) {
            return Ok(());
        }
        self.port.round_trip().await
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.port.connection()
    }

    fn inbox(&self) -> String {
        self.port.inbox()
    }
}

impl<P: Bus> PullConsumer for SabotagedConsumer<P> {
    async fn pull(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        let mut batch = self.consumer.pull(max, wait).await?;
        let early = match self.stream {
            Stream::Submissions => Some(Plant::SubmissionSettledEarly),
            Stream::Results => Some(Plant::ResultSettledEarly),
            Stream::Handshakes | Stream::DeadLetters => None,
        };
        if early.is_some_and(|early| self.port.has(early)) {
            for delivery in &batch {
                let _ = self.port.settle(delivery, Settlement::Ack).await;
            }
        }
        if self.stream == Stream::Results && self.port.has(Plant::ResultRelabelled) {
            for delivery in &mut batch {
                let message = std::mem::take(&mut delivery.message);
                delivery.message = messages::relabel(message, &self.port.saboteur.memory().present);
            }
        }
        Ok(batch)
    }
}
