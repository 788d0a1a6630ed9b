//! The streams and their consumers: created where they are missing, read back, compared.

use std::fmt::Debug;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, ConsumerErrorKind, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode, consumer};
use busbar_protocol::ports::BusError;
use busbar_protocol::subjects::Stream;

use crate::config::StreamLimits;
use crate::convert::{unavailable, with_causes};

/// The name of the durable consumer of a work queue.
pub const CONSUMER: &str = "busbar-scheduler";

/// How long the server remembers message ids.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How many pull requests may wait at a consumer.
const WAITING_MAX: i64 = 512;
/// How long the server keeps a consumer of a kept stream that nobody reads.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// How full a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// Messages in it.
    pub messages: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// How many messages it takes; `None` without a bound.
    pub messages_max: Option<u64>,
    /// How many bytes it takes; `None` without a bound.
    pub bytes_max: Option<u64>,
    /// The sequence of its last message, zero before the first.
    pub last_sequence: u64,
}

/// Makes sure that the stream exists as we would create it.
pub(crate) async fn ensure(context: &Context, limits: &StreamLimits, stream: Stream) -> Result<Info, BusError> {
    let wanted = stream_config(limits, stream);
    let info = match context.get_stream(stream.name()).await {
        Ok(found) => found.cached_info().clone(),
        Err(error) if is_missing(&error.kind()) => create(context, wanted.clone()).await?,
        Err(error) => return Err(failed("read", stream, &error)),
    };
    agree(stream.name(), &stream_differences(&wanted, &info.config))?;
    Ok(info)
}

async fn create(context: &Context, wanted: Config) -> Result<Info, BusError> {
    let name = wanted.name.clone();
    let created = context
        .create_stream(wanted)
        .await
        .map_err(|error| unavailable(format!("stream {name} can not be created: {}", with_causes(&error))))?;
    tracing::info!(stream = name, "stream created");
    // What the server says it created is not taken for what it keeps.
    created.get_info().await.map_err(|error| unavailable(format!("stream {name} can not be read: {}", with_causes(&error))))
}

/// How full the stream is.
pub(crate) async fn state(context: &Context, stream: Stream) -> Result<StreamState, BusError> {
    let found = context.get_stream(stream.name()).await.map_err(|error| failed("read", stream, &error))?;
    let info = found.cached_info();
    Ok(StreamState {
        messages: info.state.messages,
        bytes: info.state.bytes,
        messages_max: u64::try_from(info.config.max_messages).ok(),
        bytes_max: u64::try_from(info.config.max_bytes).ok(),
        last_sequence: info.state.last_sequence,
    })
}

/// Makes sure that the durable consumer of a work queue exists as we would create it.
pub(crate) async fn ensure_consumer(context: &Context, limits: &StreamLimits, stream: Stream) -> Result<(), BusError> {
    let wanted = consumer_config(limits);
    let found = match consumer_info(context, stream, CONSUMER).await? {
        Some(info) => info,
        None => {
            create_consumer(context, stream, wanted.clone()).await?;
            tracing::info!(stream = stream.name(), consumer = CONSUMER, "consumer created");
            let created = consumer_info(context, stream, CONSUMER).await?;
            created.ok_or_else(|| unavailable(format!("consumer {CONSUMER} of {} vanished", stream.name())))?
        }
    };
    let found = found.config;
    agree(&format!("{}/{CONSUMER}", stream.name()), &consumer_differences(&wanted, &found))
}

/// Opens a reader of a kept stream that begins at a sequence; returns its name.
pub(crate) async fn open_reader(context: &Context, stream: Stream, from: u64) -> Result<String, BusError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
        ack_policy: AckPolicy::None,
        inactive_threshold: ABANDONED_AFTER,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    create_consumer(context, stream, config).await
}

async fn create_consumer(context: &Context, stream: Stream, config: pull::Config) -> Result<String, BusError> {
    let created: consumer::Consumer<pull::Config> = context
        .create_consumer_on_stream(config, stream.name())
        .await
        .map_err(|error| failed("get a consumer", stream, &error))?;
    Ok(created.cached_info().name.clone())
}

/// What the server knows of a consumer, `None` when there is none.
pub(crate) async fn consumer_info(context: &Context, stream: Stream, name: &str) -> Result<Option<consumer::Info>, BusError> {
    let found: Result<consumer::Consumer<pull::Config>, _> = context.get_consumer_from_stream(name, stream.name()).await;
    match found {
        Ok(found) => Ok(Some(found.cached_info().clone())),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            ConsumerErrorKind::InvalidConsumerType => {
                Err(unavailable(format!("consumer {name} of {} is not a pull consumer: delete it", stream.name())))
            }
            ConsumerErrorKind::JetStream(_)
            | ConsumerErrorKind::TimedOut
            | ConsumerErrorKind::Request
            | ConsumerErrorKind::InvalidName
            | ConsumerErrorKind::Other => Err(failed("read a consumer of", stream, &error)),
        },
    }
}

/// Deletes a consumer; that there was none is as good.
pub(crate) async fn delete_consumer(context: &Context, stream: Stream, name: &str) {
    if let Err(error) = context.delete_consumer_from_stream(name, stream.name()).await {
        tracing::debug!(stream = stream.name(), consumer = name, %error, "consumer not deleted");
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn failed(what: &str, stream: Stream, error: &dyn std::error::Error) -> BusError {
    unavailable(format!("can not {what} stream {}: {}", stream.name(), with_causes(error)))
}

fn stream_config(limits: &StreamLimits, stream: Stream) -> Config {
    let common = Config {
        name: stream.name().to_owned(),
        subjects: vec![stream.subject().to_owned()],
        storage: StorageType::File,
        num_replicas: limits.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        ..Config::default()
    };
    if stream.is_work_queue() {
        // Discarding the oldest would delete work in silence; refusing the newest tells the publisher.
        return Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_messages: limits.work_queue_messages_max,
            max_bytes: limits.work_queue_bytes_max,
            max_age: Duration::ZERO,
            ..common
        };
    }
    Config {
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_messages: -1,
        max_bytes: limits.kept_bytes_max,
        max_age: if stream == Stream::Handshakes { limits.handshakes_kept } else { limits.dead_letters_kept },
        ..common
    }
}

fn consumer_config(limits: &StreamLimits) -> pull::Config {
    pull::Config {
        durable_name: Some(CONSUMER.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: limits.ack_wait,
        // How often a job is tried is for the scheduler to say, which knows why; a message that ran out of deliveries would
        // stay in the work queue for ever.
        max_deliver: -1,
        max_ack_pending: limits.ack_pending_max,
        max_waiting: WAITING_MAX,
        ..pull::Config::default()
    }
}

/// Collects what differs, as sentences of a person who has to repair it.
struct Differences(Vec<String>);

impl Differences {
    fn check<T: Debug + PartialEq>(mut self, field: &str, wanted: &T, found: &T) -> Self {
        if wanted != found {
            self.0.push(format!("{field} is {found:?} and should be {wanted:?}"));
        }
        self
    }
}

fn stream_differences(wanted: &Config, found: &Config) -> Vec<String> {
    Differences(Vec::new())
        .check("subjects", &wanted.subjects, &found.subjects)
        .check("retention", &wanted.retention, &found.retention)
        .check("storage", &wanted.storage, &found.storage)
        .check("discard", &wanted.discard, &found.discard)
        .check("max_msgs", &wanted.max_messages, &found.max_messages)
        .check("max_bytes", &wanted.max_bytes, &found.max_bytes)
        .check("max_age", &wanted.max_age, &found.max_age)
        .check("num_replicas", &wanted.num_replicas, &found.num_replicas)
        .check("duplicate_window", &wanted.duplicate_window, &found.duplicate_window)
        .check("no_ack", &wanted.no_ack, &found.no_ack)
        .check("sealed", &wanted.sealed, &found.sealed)
        .0
}

fn consumer_differences(wanted: &pull::Config, found: &consumer::Config) -> Vec<String> {
    Differences(Vec::new())
        .check("deliver_subject", &None, &found.deliver_subject)
        .check("deliver_policy", &wanted.deliver_policy, &found.deliver_policy)
        .check("ack_policy", &wanted.ack_policy, &found.ack_policy)
        .check("ack_wait", &wanted.ack_wait, &found.ack_wait)
        .check("max_deliver", &wanted.max_deliver, &found.max_deliver)
        .check("max_ack_pending", &wanted.max_ack_pending, &found.max_ack_pending)
        .check("max_waiting", &wanted.max_waiting, &found.max_waiting)
        .check("filter_subject", &wanted.filter_subject, &found.filter_subject)
        .check("backoff", &wanted.backoff, &found.backoff)
        .0
}

fn agree(name: &str, differences: &[String]) -> Result<(), BusError> {
    if differences.is_empty() {
        return Ok(());
    }
    Err(unavailable(format!(
        "{name} exists and differs from what we would create: {}; edit it to match, set the same limits in our configuration, \
         or delete it when it holds nothing of value",
        differences.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_queues_refuse_rather_than_forget() {
        let limits = StreamLimits::default();
        for stream in Stream::ALL {
            let config = stream_config(&limits, stream);
            assert_eq!(config.retention == RetentionPolicy::WorkQueue, stream.is_work_queue());
            assert_eq!(config.discard == DiscardPolicy::New, stream.is_work_queue());
            assert_eq!(config.max_age.is_zero(), stream.is_work_queue());
            assert!(config.max_bytes > 0, "every stream has a bound");
        }
    }

    #[test]
    fn every_difference_is_named() {
        let wanted = stream_config(&StreamLimits::default(), Stream::Submissions);
        let found = Config { max_age: Duration::from_secs(1), storage: StorageType::Memory, ..wanted.clone() };
        let differences = stream_differences(&wanted, &found);
        assert_eq!(differences.len(), 2, "{differences:?}");
        let error = agree("S", &differences).expect_err("differs").to_string();
        assert!(error.contains("max_age is 1s and should be 0ns") && error.contains("storage"), "{error}");
        assert!(stream_differences(&wanted, &wanted).is_empty());
    }
}
