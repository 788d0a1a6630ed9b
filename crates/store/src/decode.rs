//! What Redis answered, in our words.

use busbar_protocol::ports::{Answer, CommitId, IndexEntry, Lease, LogEntry, StoreError, Stored};
use bytes::Bytes;
use fred::types::Resp3Frame as Frame;
use std::time::Duration;

/// Bytes before the value of a record: revision and commit id.
const HEAD: usize = 24;

/// The elements of an array.
pub(crate) fn array(frame: Frame) -> Result<Vec<Frame>, StoreError> {
    match frame {
        Frame::Array { data, .. } => Ok(data),
        other => Err(unexpected("an array", &other)),
    }
}

/// A string of bytes, or nothing.
pub(crate) fn bytes(frame: Frame) -> Result<Option<Bytes>, StoreError> {
    match frame {
        Frame::BlobString { data, .. } | Frame::SimpleString { data, .. } => Ok(Some(data)),
        Frame::Null => Ok(None),
        other => Err(unexpected("a string", &other)),
    }
}

/// Text that must be there.
pub(crate) fn text(frame: Frame) -> Result<String, StoreError> {
    let bytes = bytes(frame)?.ok_or_else(|| refused("Redis answered nothing where text was expected"))?;
    String::from_utf8(bytes.into()).map_err(|_| refused("Redis answered text that is not UTF-8"))
}

/// What SCAN answers: the next cursor, and keys. Ours are text; others' are none of our business.
pub(crate) fn page_of_keys(frame: Frame) -> Result<(Vec<String>, u64), StoreError> {
    let mut parts = array(frame)?.into_iter();
    let mut next = || parts.next().ok_or_else(|| refused("Redis answered half a page of keys"));
    let cursor = text(next()?)?.parse().map_err(|_| refused("Redis answered a cursor that is no number"))?;
    let keys = array(next()?)?.into_iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
    Ok((keys.into_iter().flatten().filter_map(|key| String::from_utf8(key.into()).ok()).collect(), cursor))
}

/// A whole number, as such or as text.
pub(crate) fn integer(frame: Frame) -> Result<i64, StoreError> {
    match frame {
        Frame::Number { data, .. } => Ok(data),
        other => {
            let text = bytes(other)?.unwrap_or_default();
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            number.ok_or_else(|| refused("Redis answered no whole number"))
        }
    }
}

/// The answers of a caller's units. A unit that was refused makes the whole an error, whatever became of the others.
pub(crate) fn answers(frames: Vec<Frame>) -> Result<Vec<Answer>, StoreError> {
    frames.into_iter().enumerate().map(|(place, frame)| answer(place, frame)).collect()
}

fn answer(place: usize, frame: Frame) -> Result<Answer, StoreError> {
    if let Frame::Number { data, .. } = frame {
        let data = usize::try_from(data).map_err(|_| refused("Redis answered a negative guard"))?;
        let guard = data / 2;
        return Ok(if data % 2 == 0 { Answer::Conflict { guard } } else { Answer::GuardFailed { guard } });
    }
    let text = text(frame)?;
    match text.strip_prefix('!') {
        Some(reason) => Err(refused(&format!("unit {place}: {reason}"))),
        None if text == "=" => Ok(Answer::Already),
        None if text.is_empty() => Ok(Answer::Applied { appended: None }),
        None => Ok(Answer::Applied { appended: Some(text) }),
    }
}

/// A record.
pub(crate) fn stored(key: &str, frame: Frame) -> Result<Option<Stored>, StoreError> {
    let Some(bytes) = bytes(frame)? else { return Ok(None) };
    if bytes.len() < HEAD {
        let detail = format!("it has {} bytes, a record has at least {HEAD}", bytes.len());
        return Err(StoreError::Corrupt { key: key.into(), detail });
    }
    let (mut revision, mut commit) = ([0; 8], [0; 16]);
    revision.copy_from_slice(&bytes[..8]);
    commit.copy_from_slice(&bytes[8..HEAD]);
    Ok(Some(Stored { revision: u64::from_be_bytes(revision), commit: CommitId(commit), value: bytes.slice(HEAD..) }))
}

/// Members and scores in turn.
pub(crate) fn index_entries(frame: Frame) -> Result<Vec<IndexEntry>, StoreError> {
    let mut entries = Vec::new();
    let mut frames = array(frame)?.into_iter();
    while let (Some(member), Some(score)) = (frames.next(), frames.next()) {
        entries.push(IndexEntry { member: text(member)?, score: integer(score)? });
    }
    Ok(entries)
}

/// Entries of a log: a cursor and the pair `v`, value.
pub(crate) fn log_entries(frame: Frame) -> Result<Vec<LogEntry>, StoreError> {
    array(frame)?.into_iter().map(log_entry).collect()
}

fn log_entry(frame: Frame) -> Result<LogEntry, StoreError> {
    let mut parts = array(frame)?.into_iter();
    let (Some(cursor), Some(fields)) = (parts.next(), parts.next()) else {
        return Err(refused("Redis answered a log entry without cursor and fields"));
    };
    let value = array(fields)?.into_iter().nth(1).ok_or_else(|| refused("a log entry has no value"))?;
    Ok(LogEntry { cursor: text(cursor)?, value: bytes(value)?.unwrap_or_default() })
}

/// The answer of the lease function.
pub(crate) fn lease(frame: Frame) -> Result<Lease, StoreError> {
    let parts = array(frame)?;
    let Ok([held, epoch, remaining, owner]) = <[Frame; 4]>::try_from(parts) else {
        return Err(refused("Redis answered a lease that does not have four parts"));
    };
    Ok(Lease {
        held: integer(held)? == 1,
        epoch: integer(epoch)?.unsigned_abs(),
        remaining: Duration::from_millis(integer(remaining)?.unsigned_abs()),
        owner: text(owner)?,
    })
}

pub(crate) fn refused(detail: &str) -> StoreError {
    StoreError::Refused { detail: detail.into() }
}

fn unexpected(wanted: &str, frame: &Frame) -> StoreError {
    refused(&format!("Redis answered {frame:?} where {wanted} was expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &'static str) -> Frame {
        Frame::BlobString { data: Bytes::from_static(text.as_bytes()), attributes: None }
    }

    fn number(data: i64) -> Frame {
        Frame::Number { data, attributes: None }
    }

    #[test]
    fn each_answer_has_its_own_form() {
        let frames = vec![blob(""), blob("5-1"), blob("="), number(4), number(5)];
        let expected = vec![
            Answer::Applied { appended: None },
            Answer::Applied { appended: Some("5-1".into()) },
            Answer::Already,
            Answer::Conflict { guard: 2 },
            Answer::GuardFailed { guard: 2 },
        ];
        assert_eq!(answers(frames), Ok(expected));
    }

    #[test]
    fn a_refused_unit_is_named() {
        let Err(StoreError::Refused { detail }) = answers(vec![blob(""), blob("!WRONGTYPE k")]) else { panic!("not refused") };
        assert_eq!(detail, "unit 1: WRONGTYPE k");
    }

    #[test]
    fn a_short_record_is_corrupt() {
        let result = stored("k", blob("short"));
        assert!(matches!(result, Err(StoreError::Corrupt { ref key, .. }) if key == "k"), "{result:?}");
    }
}
