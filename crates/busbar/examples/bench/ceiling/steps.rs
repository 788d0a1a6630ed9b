//! The steps of the ceiling: what each sends, and how it knows that it was done. `docs/adr/0050-the-ceiling.md` fixes them.

use std::ops::Range;
use std::time::Duration;

use busbar_bus::{Bare as Nats, BareListener, BusConfig};
use busbar_store::{Bare as Redis, StoreConfig};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Outcome;

const LIBRARY: &str = include_str!("function.lua");
const LOCK: &str = "ceiling:lock";
const EPOCH: &str = "7";
const INDEX: &str = "ceiling:index";
const LOG: &str = "ceiling:log";
const KEPT_MS: &str = "3600000";
const ASKED: &str = "ceiling.asked";
const PUBLISHED: &str = "ceiling.published";
const STORED: &str = "ceiling.stored";
const STREAM: &str = "CEILING";
const STREAM_BYTES_MAX: i64 = 512 << 20;
/// What a message carries for each job.
const MESSAGE_BYTES: usize = 512;
/// What a payload carries for each job.
const PAYLOAD_BYTES: usize = 256;
/// What all arguments of a unit carry together.
const UNIT_BYTES: usize = 1024;
const ENTRY_BYTES: usize = 120;
/// As many as there are units in a job.
const COMMITS: u8 = 3;
const HEARD_WITHIN: Duration = Duration::from_secs(30);

/// One step of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Writes the payload.
    Set,
    /// A request, and its reply.
    Ask,
    /// A unit; which of the three.
    Commit(u8),
    /// A message that somebody listens to.
    Publish,
    /// A message into a stream, and the stream's word.
    Store,
    /// Reads the payload.
    Get,
}

/// A job, in the order in which one lives: submitted, admitted, dispatched, its result told, finished, its payload read.
pub(crate) const JOB: [Step; 8] =
    [Step::Set, Step::Ask, Step::Commit(1), Step::Commit(2), Step::Publish, Step::Store, Step::Commit(COMMITS), Step::Get];

impl Step {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Ask => "request and reply",
            Self::Commit(_) => "function call",
            Self::Publish => "publish, until heard",
            Self::Store => "publish to a stream, until stored",
            Self::Get => "GET",
        }
    }
}

/// Connections, and who listens at the other end.
pub(crate) struct Steps {
    nats: Nats,
    redis: Redis,
    heard: watch::Receiver<u64>,
    _listeners: [BareListener; 2],
}

impl Steps {
    /// Connects to servers that nobody has used yet.
    pub(crate) async fn connect(nats: &str, redis: &str) -> Outcome<Self> {
        let redis = Redis::connect(&StoreConfig::new(redis)).await?;
        redis.call("FUNCTION", texts(&["LOAD", "REPLACE", LIBRARY])).await?;
        redis.call("HSET", texts(&[LOCK, "epoch", EPOCH])).await?;
        let (other, nats) =
            (Nats::connect(&BusConfig::new(nats, "ceiling")).await?, Nats::connect(&BusConfig::new(nats, "ceiling")).await?);
        nats.make_stream(STREAM, STORED, STREAM_BYTES_MAX).await?;
        let listeners = [other.listen(ASKED).await?, other.listen(PUBLISHED).await?];
        Ok(Self { nats, redis, heard: listeners[1].heard(), _listeners: listeners })
    }

    /// Takes some jobs through all their steps, each step in one call for all of them.
    pub(crate) async fn jobs(&self, numbers: Range<u64>) -> Outcome<()> {
        for step in JOB {
            self.step(step, numbers.clone()).await?;
        }
        Ok(())
    }

    /// One step of some jobs, in one call.
    pub(crate) async fn step(&self, step: Step, numbers: Range<u64>) -> Outcome<()> {
        let count = numbers.clone().count();
        match step {
            Step::Set => self.set(numbers).await,
            Step::Ask => {
                let answer = self.nats.ask(ASKED, filled(count * MESSAGE_BYTES)).await?;
                done(answer.len() == count * MESSAGE_BYTES, "a reply is shorter than its request")
            }
            Step::Commit(turn) => {
                let answers = self.redis.call("FCALL", commit(turn, numbers)).await?;
                let applied = answers.iter().flatten().filter(|answer| answer.is_empty()).count();
                done(applied == count, "a unit was not applied")
            }
            Step::Publish => Ok(self.nats.publish(PUBLISHED, filled(count * MESSAGE_BYTES)).await?),
            Step::Store => Ok(self.nats.store(STORED, filled(count * MESSAGE_BYTES)).await?),
            Step::Get => {
                let values = self.redis.call(if count == 1 { "GET" } else { "MGET" }, numbers.map(payload_key).collect()).await?;
                let whole = values.iter().flatten().filter(|value| value.len() == PAYLOAD_BYTES).count();
                done(whole == count, "a payload is missing")
            }
        }
    }

    async fn set(&self, numbers: Range<u64>) -> Outcome<()> {
        let command = if numbers.clone().count() == 1 { "SET" } else { "MSET" };
        let args = numbers.flat_map(|number| [payload_key(number), filled(PAYLOAD_BYTES)]).collect();
        self.redis.call(command, args).await?;
        Ok(())
    }

    /// How many messages were heard.
    pub(crate) fn heard(&self) -> u64 {
        *self.heard.borrow()
    }

    /// Waits until so many messages were heard.
    pub(crate) async fn until_heard(&self, messages: u64) -> Outcome<()> {
        let mut heard = self.heard.clone();
        let waited = timeout(HEARD_WITHIN, heard.wait_for(|heard| *heard >= messages)).await;
        done(matches!(waited, Ok(Ok(_))), "messages were published and not heard")
    }
}

fn done(as_wanted: bool, otherwise: &str) -> Outcome<()> {
    if as_wanted { Ok(()) } else { Err(format!("the ceiling cannot be measured: {otherwise}").into()) }
}

fn texts(texts: &[&'static str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
}

fn filled(bytes: usize) -> Bytes {
    vec![b'x'; bytes].into()
}

fn payload_key(number: u64) -> Bytes {
    format!("ceiling:payload:{number:020}").into()
}

/// The arguments of a call of the function, its name and the number of its keys included.
fn commit(turn: u8, numbers: Range<u64>) -> Vec<Bytes> {
    let mut args = texts(&["busbar_ceiling", "0", LOCK, EPOCH]);
    args.extend(numbers.flat_map(|number| unit(turn, number)));
    args
}

/// A unit: the record is as long as the whole needs it to be.
fn unit(turn: u8, number: u64) -> [Bytes; 9] {
    let revision = |turn: u8| u64::from(turn).to_be_bytes();
    let before = if turn == 1 { Bytes::new() } else { Bytes::copy_from_slice(&revision(turn - 1)) };
    let mut unit = [
        format!("ceiling:record:{number:020}").into(),
        before,
        Bytes::new(),
        Bytes::from_static(KEPT_MS.as_bytes()),
        Bytes::from_static(INDEX.as_bytes()),
        number.to_string().into(),
        format!("{number:036}").into(),
        Bytes::from_static(LOG.as_bytes()),
        filled(ENTRY_BYTES),
    ];
    let rest = UNIT_BYTES - unit.iter().map(Bytes::len).sum::<usize>();
    let mut record = revision(turn).to_vec();
    record.resize(rest, b'x');
    unit[2] = record.into();
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_what_the_definition_says() {
        let count = |wanted: fn(&Step) -> bool| JOB.iter().filter(|step| wanted(step)).count();
        assert_eq!(count(|step| matches!(step, Step::Commit(_))), usize::from(COMMITS));
        for step in [Step::Set, Step::Ask, Step::Publish, Step::Store, Step::Get] {
            assert_eq!(JOB.iter().filter(|other| **other == step).count(), 1, "{step:?}");
        }
    }

    #[test]
    fn every_unit_has_the_same_size_and_names_the_revision_before() {
        for (turn, number) in [(1, 0), (2, 17), (3, u64::MAX)] {
            let unit = unit(turn, number);
            assert_eq!(unit.iter().map(Bytes::len).sum::<usize>(), UNIT_BYTES);
            assert_eq!(unit[2][..8], u64::from(turn).to_be_bytes());
            assert_eq!(unit[1].len(), if turn == 1 { 0 } else { 8 });
        }
        assert_eq!(commit(1, 5..8).len(), 4 + 3 * 9);
    }
}
