//! Units as the flat arguments that the function library reads; `library.lua` says what they mean.

use std::ops::Range;
use std::time::Duration;

use busbar_protocol::ports::{Guard, StoreError, UNITS_MAX, Unit, Write, unit_fault};
use bytes::{BufMut, Bytes, BytesMut};
use fred::types::Value;

/// The longest time to live that is passed on: a hundred years. What is longer is cut.
const EXPIRE_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;
/// More entries than any log can hold; Redis takes no numbers beyond 63 bits.
const KEEP_MAX: u64 = 1 << 53;

/// Units that are ready to be sent.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The arguments, all in one piece of memory.
    pub(crate) args: Vec<Value>,
    /// How many units.
    pub(crate) units: usize,
    /// How many bytes the arguments have.
    pub(crate) bytes: usize,
    /// Whether every unit puts a record, so that the library recognises it when it comes again.
    pub(crate) repeatable: bool,
}

/// Encodes units.
///
/// # Errors
/// [`StoreError::Refused`] for too many units and for a unit that makes no sense.
pub(crate) fn encode(units: &[Unit]) -> Result<Encoded, StoreError> {
    if units.len() > UNITS_MAX {
        return Err(StoreError::Refused { detail: format!("{} units in one call; at most {UNITS_MAX}", units.len()) });
    }
    let mut out = Arguments::default();
    let mut repeatable = true;
    for (place, unit) in units.iter().enumerate() {
        if let Some(fault) = unit_fault(unit) {
            return Err(StoreError::Refused { detail: format!("unit {place}: {fault}") });
        }
        repeatable &= subject(unit).is_some();
        out.unit(unit);
    }
    let bytes = out.buffer.len();
    Ok(Encoded { args: out.finish(), units: units.len(), bytes, repeatable })
}

/// A duration as Redis takes it: at least a millisecond, since less is an error or deletes the key.
pub(crate) fn expire_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, EXPIRE_MS_MAX)
}

/// The key of the first record that the unit puts.
fn subject(unit: &Unit) -> Option<&str> {
    unit.writes.iter().find_map(|write| match write {
        Write::Put { key, .. } => Some(key.as_str()),
        _ => None,
    })
}

#[derive(Default)]
struct Arguments {
    buffer: BytesMut,
    ranges: Vec<Range<usize>>,
}

impl Arguments {
    fn unit(&mut self, unit: &Unit) {
        let first = self.ranges.len();
        let subject = subject(unit).unwrap_or_default();
        self.bytes(&unit.id.0);
        self.text(subject);
        // The length is known only afterwards.
        self.text("");
        for guard in &unit.guards {
            self.guard(guard, subject);
        }
        for write in &unit.writes {
            self.write(write, unit, subject);
        }
        let length = (self.ranges.len() - first).to_string();
        self.ranges[first + 2] = self.store(length.as_bytes());
    }

    fn guard(&mut self, guard: &Guard, subject: &str) {
        match guard {
            Guard::Epoch { lock, epoch } => self.text("e").text(lock).number(epoch),
            Guard::Revision { key, revision } if key == subject => self.text("r").bytes(&revision.to_be_bytes()),
            Guard::Revision { key, revision } => self.text("R").text(key).bytes(&revision.to_be_bytes()),
            Guard::Absent { key } => self.text("a").text(key),
            Guard::Exists { key } => self.text("x").text(key),
            Guard::CounterBelow { key, bound } => self.text("c").text(key).number(bound),
            Guard::TokenBucket { key, per_second, burst, cost } => {
                self.text("b").text(key).number(per_second).number(burst).number(cost)
            }
        };
    }

    fn write(&mut self, write: &Write, unit: &Unit, subject: &str) {
        match write {
            Write::Put { key, revision, value, expire } => self.put(key == subject, key, expire).record(*revision, unit, value),
            Write::Delete { key } => self.text("d").text(key),
            Write::IndexAdd { index, member, score } => self.text("z").text(index).number(score).text(member),
            Write::IndexRemove { index, member } => self.text("Z").text(index).text(member),
            Write::IndexTrim { index, below } => self.text("t").text(index).text(&format!("({below}")),
            Write::Append { log, value, keep } => self.text("l").text(log).number(&(*keep).min(KEEP_MAX)).bytes(value),
            Write::Count { key, by } => self.text("n").text(key).number(by),
            Write::PutPayload { key, value, expire: None } => self.text("v").text(key).bytes(value),
            Write::PutPayload { key, value, expire: Some(after) } => {
                self.text("V").text(key).bytes(value).number(&expire_ms(*after))
            }
            Write::Persist { key } => self.text("k").text(key),
            Write::Expire { key, after } => self.text("E").text(key).number(&expire_ms(*after)),
            Write::Copy { from, to, expire: None } => self.text("y").text(from).text(to),
            Write::Copy { from, to, expire: Some(after) } => self.text("Y").text(from).text(to).number(&expire_ms(*after)),
        };
        if let Write::Put { expire: Some(after), .. } = write {
            self.number(&expire_ms(*after));
        }
    }

    /// The letter of a put, and its key unless that is the subject.
    fn put(&mut self, is_subject: bool, key: &str, expire: &Option<Duration>) -> &mut Self {
        match (is_subject, expire) {
            (true, None) => self.text("p"),
            (true, Some(_)) => self.text("q"),
            (false, None) => self.text("P").text(key),
            (false, Some(_)) => self.text("Q").text(key),
        }
    }

    fn record(&mut self, revision: u64, unit: &Unit, value: &[u8]) -> &mut Self {
        let start = self.buffer.len();
        self.buffer.put_u64(revision);
        self.buffer.put_slice(&unit.id.0);
        self.buffer.put_slice(value);
        self.ranges.push(start..self.buffer.len());
        self
    }

    fn number(&mut self, number: &impl ToString) -> &mut Self {
        self.text(&number.to_string())
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let range = self.store(bytes);
        self.ranges.push(range);
        self
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.buffer.len();
        self.buffer.put_slice(bytes);
        start..self.buffer.len()
    }

    fn finish(self) -> Vec<Value> {
        let buffer: Bytes = self.buffer.freeze();
        self.ranges.into_iter().map(|range| Value::Bytes(buffer.slice(range))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_protocol::ports::CommitId;

    fn texts(encoded: &Encoded) -> Vec<String> {
        encoded.args.iter().map(|arg| String::from_utf8_lossy(arg.as_bytes().expect("bytes")).into_owned()).collect()
    }

    #[test]
    fn a_unit_names_its_subject_once_and_its_length() {
        let unit = Unit {
            id: CommitId([b'i'; 16]),
            guards: vec![Guard::Epoch { lock: "l".into(), epoch: 7 }, Guard::Exists { key: "x".into() }],
            writes: vec![
                Write::Put { key: "k".into(), revision: 1, value: Bytes::from_static(b"v"), expire: Some(Duration::ZERO) },
                Write::IndexAdd { index: "z".into(), member: "m".into(), score: -5 },
            ],
        };
        let encoded = encode(&[unit]).expect("a good unit");
        let record = format!("{}\u{1}{}v", "\0".repeat(7), "i".repeat(16));
        let expected = ["iiiiiiiiiiiiiiii", "k", "15", "e", "l", "7", "x", "x", "q", &record, "1", "z", "z", "-5", "m"];
        assert_eq!(texts(&encoded), expected);
        assert!(encoded.repeatable);
    }

    #[test]
    fn a_unit_without_a_record_is_not_repeatable() {
        let unit = Unit { id: CommitId([0; 16]), guards: vec![], writes: vec![Write::Count { key: "n".into(), by: 1 }] };
        assert!(!encode(&[unit]).expect("a good unit").repeatable);
    }

    #[test]
    fn too_many_units_are_refused() {
        let unit = Unit { id: CommitId([0; 16]), guards: vec![], writes: vec![] };
        let refused = encode(&vec![unit; 257]);
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    }
}
