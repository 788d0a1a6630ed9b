//! Faults in what is committed: pure changes of units.

use busbar_protocol::busbar::{DeadLetter, FlowLimits, HoldsDocument, LimitsDocument, PauseScope, Rate, TopicDocuments};
use busbar_protocol::keys;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::ports::{CommitId, Guard, Stored, Unit, Write};
use busbar_protocol::prost::Message as _;
use bytes::Bytes;

use super::messages::OTHER;
use crate::plant::Plant;

/// The unit as somebody would commit it who made this mistake.
pub(super) fn spoil(plant: Plant, mut unit: Unit) -> Unit {
    match plant {
        Plant::EpochUnguarded => open(&mut unit, |guard| is_epoch(guard, keys::LOCK_SCHEDULER)),
        Plant::EngineEpochUnguarded => open(&mut unit, |guard| is_epoch(guard, keys::LOCK_ENGINE)),
        Plant::JobOverwritten => open(&mut unit, |guard| is_absent(guard, "job:meta:")),
        Plant::RunOverwritten => open(&mut unit, |guard| is_absent(guard, "wf:run:")),
        Plant::KeyUsedTwice => open(&mut unit, |guard| is_absent(guard, "idem:")),
        Plant::CommitRepeated => {
            open(&mut unit, |guard| is_absent(guard, "job:meta:") || matches!(guard, Guard::Revision { .. }));
        }
        Plant::RedrivenTwice => {
            open(&mut unit, |guard| matches!(guard, Guard::Revision { key, .. } if key.starts_with("dlq:entry:")));
        }
        Plant::EndUnlogged if ends(&unit, keys::INDEX_LIVE) => leave_out(&mut unit, |write| appends(write, keys::LOG_JOBS)),
        Plant::RunEndUnlogged if ends(&unit, keys::INDEX_LIVE_RUNS) => {
            leave_out(&mut unit, |write| appends(write, keys::LOG_RUNS));
        }
        Plant::LiveIndexLeft => leave_out(&mut unit, |write| leaves(write, keys::INDEX_LIVE)),
        Plant::LiveRunLeft => leave_out(&mut unit, |write| leaves(write, keys::INDEX_LIVE_RUNS)),
        Plant::DeadLetterMissing => leave_out(&mut unit, |write| match write {
            Write::Put { key, .. } | Write::IndexAdd { index: key, .. } => key.starts_with("dlq:"),
            _ => false,
        }),
        Plant::DiscardForgotten if discards(&unit) => leave_out(&mut unit, |_| true),
        Plant::InputNotKept => {
            leave_out(&mut unit, |write| matches!(write, Write::Persist { .. }));
            for write in &mut unit.writes {
                if let Write::PutPayload { key, expire, .. } = write
                    && key.starts_with("ctx:")
                {
                    *expire = Some(INPUT_TTL);
                }
            }
        }
        Plant::OutputNotWritten => {
            leave_out(&mut unit, |write| matches!(write, Write::PutPayload { key, .. } if key.starts_with("res:")));
        }
        Plant::ResultNotCopied => {
            leave_out(&mut unit, |write| matches!(write, Write::Copy { from, .. } if from.starts_with("res:")));
        }
        Plant::RunPauseForgotten => {
            for write in &mut unit.writes {
                if let Write::Put { key, value, .. } = write
                    && key == keys::HOLDS
                {
                    *value = with_true_runs(value);
                }
            }
        }
        _ => {}
    }
    unit
}

/// What is paused, with the runs that were meant.
fn with_true_runs(value: &Bytes) -> Bytes {
    let mut holds = HoldsDocument::decode(value.clone()).unwrap_or_default();
    for what in holds.pauses.iter_mut().filter_map(|pause| pause.what.as_mut()) {
        if what.scope() == PauseScope::Run {
            what.name = what.name.trim_end_matches(OTHER).to_owned();
        }
    }
    holds.encode_to_vec().into()
}

/// The same unit under a name that the store has never heard.
pub(super) fn rename(unit: Unit, number: u64) -> Unit {
    let mut id = unit.id.0;
    // A term that no process reaches, and the epoch as it was.
    id[6..10].copy_from_slice(&u32::MAX.to_be_bytes());
    id[10..].copy_from_slice(&number.to_be_bytes()[2..]);
    Unit { id: CommitId(id), ..unit }
}

/// Makes guards hold whatever stands there, each in its place: the lease always exists.
fn open(unit: &mut Unit, which: impl Fn(&Guard) -> bool) {
    let lock = unit.guards.iter().find_map(|guard| match guard {
        Guard::Epoch { lock, .. } => Some(lock.clone()),
        _ => None,
    });
    let Some(lock) = lock else { return };
    for guard in unit.guards.iter_mut().filter(|guard| which(guard)) {
        *guard = Guard::Exists { key: lock.clone() };
    }
}

fn is_epoch(guard: &Guard, of: &str) -> bool {
    matches!(guard, Guard::Epoch { lock, .. } if lock == of)
}

fn is_absent(guard: &Guard, prefix: &str) -> bool {
    matches!(guard, Guard::Absent { key } if key.starts_with(prefix))
}

fn leave_out(unit: &mut Unit, which: impl Fn(&Write) -> bool) {
    unit.writes.retain(|write| !which(write));
}

fn ends(unit: &Unit, live: &str) -> bool {
    unit.writes.iter().any(|write| leaves(write, live))
}

fn leaves(write: &Write, live: &str) -> bool {
    matches!(write, Write::IndexRemove { index, .. } if index == live)
}

fn discards(unit: &Unit) -> bool {
    unit.writes.iter().any(|write| matches!(write, Write::Delete { key } if key.starts_with("dlq:entry:")))
}

fn appends(write: &Write, to: &str) -> bool {
    matches!(write, Write::Append { log, .. } if log == to)
}

/// A record as somebody would read it who made this mistake.
pub(super) fn misread(plant: Plant, key: &str, stored: Stored) -> Stored {
    let value = match (plant, key) {
        (Plant::AttemptsRaised | Plant::CrashLimitRaised | Plant::QuorumLowered | Plant::VerifierForgotten, keys::TOPICS) => {
            topics(plant, &stored.value)
        }
        (
            Plant::TenantLimitRaised
            | Plant::TopicLimitRaised
            | Plant::KeyLimitRaised
            | Plant::TenantRateRaised
            | Plant::KeyRateRaised,
            keys::LIMITS,
        ) => limits(plant, &stored.value),
        (Plant::RedrivenTwice, key) if key.starts_with("dlq:entry:") => untried(&stored.value),
        _ => None,
    };
    match value {
        Some(value) => Stored { value, ..stored },
        None => stored,
    }
}

fn topics(plant: Plant, value: &Bytes) -> Option<Bytes> {
    let mut documents = TopicDocuments::decode(value.clone()).ok()?;
    for document in &mut documents.topics {
        match (plant, document.replication.as_mut()) {
            (Plant::AttemptsRaised, _) => document.max_attempts += 1,
            (Plant::QuorumLowered, Some(replication)) => replication.quorum = 1,
            (Plant::VerifierForgotten, Some(replication)) => replication.verifier.clear(),
            (Plant::QuorumLowered | Plant::VerifierForgotten, None) => {}
            (_, _) => document.crash_limit += 1,
        }
    }
    Some(documents.encode_to_vec().into())
}

fn limits(plant: Plant, value: &Bytes) -> Option<Bytes> {
    let mut document = LimitsDocument::decode(value.clone()).ok()?;
    let raise = |most: &mut u32| *most += u32::from(*most > 0);
    let flows: Vec<&mut FlowLimits> = match plant {
        Plant::TenantLimitRaised => document.tenants.iter_mut().filter_map(|row| row.flow.as_mut()).collect(),
        Plant::TopicLimitRaised => document.topics.iter_mut().filter_map(|row| row.flow.as_mut()).collect(),
        _ => Vec::new(),
    };
    flows.into_iter().for_each(|flow| raise(&mut flow.concurrency_max));
    if plant == Plant::KeyLimitRaised {
        document.topics.iter_mut().filter_map(|row| row.key.as_mut()).for_each(|key| raise(&mut key.concurrency_max));
    }
    let rates: Vec<&mut Rate> = match plant {
        Plant::TenantRateRaised => document.tenants.iter_mut().filter_map(|row| row.flow.as_mut()?.starts.as_mut()).collect(),
        Plant::KeyRateRaised => document.topics.iter_mut().filter_map(|row| row.key.as_mut()?.starts.as_mut()).collect(),
        _ => Vec::new(),
    };
    rates.into_iter().for_each(|rate| rate.count *= 2);
    Some(document.encode_to_vec().into())
}

fn untried(value: &Bytes) -> Option<Bytes> {
    let letter = DeadLetter::decode(value.clone()).ok()?;
    Some(DeadLetter { redriven_as: String::new(), redriven_ms: 0, ..letter }.encode_to_vec().into())
}
