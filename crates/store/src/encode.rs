//! Units as the flat arguments that the function library reads; `library.lua` says what they mean. They are few, since Redis and its client
//! pay for each of them.

use std::ops::Range;
use std::time::Duration;

use busbar_protocol::ports::{Guard, StoreError, UNITS_MAX, Unit, Write, unit_fault};
use bytes::{BufMut, Bytes, BytesMut};
use fred::types::Value;

/// The longest time to live that is passed on: a hundred years. What is longer is cut.
const EXPIRE_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;
/// More entries than any log can hold; Redis takes no numbers beyond 63 bits.
const KEEP_MAX: u64 = 1 << 53;
/// Marks a place as that of a name.
const NAME: u16 = 1 << 15;
/// The most names of a group. There is a plan for each combination of them, and Redis keeps so many plans only: what many units of very
/// different kinds name, as the indexes of many tenants, each of them has for itself.
const NAMES_MAX: usize = 12;
/// Among so many operands of a unit it is looked for one that comes again.
const SEEN_MAX: usize = 64;

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
    let mut out = Arguments::for_units(units.len());
    let mut repeatable = true;
    for (place, unit) in units.iter().enumerate() {
        if let Some(fault) = unit_fault(unit).or_else(|| out.unit(unit).err()) {
            return Err(StoreError::Refused { detail: format!("unit {place}: {fault}") });
        }
        repeatable &= subject(unit).is_some();
    }
    let bytes = out.buffer.len();
    Ok(Encoded { args: out.finish(units.len()), units: units.len(), bytes, repeatable })
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

/// The arguments of one group: what its units have in common, and the units.
#[derive(Default)]
struct Arguments {
    buffer: BytesMut,
    /// What several units name, each once.
    names: Vec<Range<usize>>,
    /// Plans, commit ids and operands, unit after unit.
    units: Vec<Range<usize>>,
    /// The plan of the unit at hand, and where its operands begin among the units.
    plan: Vec<u8>,
    own: usize,
}

impl Arguments {
    /// With room for what units of jobs are like, so that it seldom moves.
    fn for_units(count: usize) -> Self {
        let (buffer, units) = (BytesMut::with_capacity(count * 1024), Vec::with_capacity(count * 16));
        Self { buffer, units, ..Self::default() }
    }

    /// # Errors
    /// A sentence, for a unit with more operands than a plan can count.
    fn unit(&mut self, unit: &Unit) -> Result<(), String> {
        let subject = subject(unit);
        let (plan, id) = (self.units.len(), store(&mut self.buffer, &unit.id.0));
        // What the plan says is known only afterwards.
        self.units.extend([0..0, id]);
        self.own = self.units.len();
        self.plan.clear();
        self.plan.put_u16(0);
        match subject {
            Some(key) => self.text(key),
            None => self.place(0),
        };
        for guard in &unit.guards {
            self.guard(guard, subject);
        }
        for write in &unit.writes {
            self.write(write, unit, subject);
        }
        let own = number(self.units.len() - self.own);
        if own >= NAME {
            return Err(format!("it has more than {} operands", NAME - 1));
        }
        self.plan[..2].copy_from_slice(&own.to_be_bytes());
        self.units[plan] = store(&mut self.buffer, &self.plan);
        Ok(())
    }

    fn guard(&mut self, guard: &Guard, subject: Option<&str>) {
        match guard {
            Guard::Epoch { lock, epoch } => self.letter(b'e').name(lock).name(&epoch.to_string()),
            Guard::Revision { key, revision } if subject == Some(key) => self.letter(b'r').bytes(&revision.to_be_bytes()),
            Guard::Revision { key, revision } => self.letter(b'R').text(key).bytes(&revision.to_be_bytes()),
            Guard::Absent { key } => self.letter(b'a').again(key),
            Guard::Exists { key } => self.letter(b'x').again(key),
            Guard::CounterBelow { key, bound } => self.letter(b'c').name(key).name(&bound.to_string()),
            Guard::TokenBucket { key, per_second, burst, cost } => {
                let bucket = self.letter(b'b').name(key).name(&per_second.to_string());
                bucket.name(&burst.to_string()).name(&cost.to_string())
            }
        };
    }

    fn write(&mut self, write: &Write, unit: &Unit, subject: Option<&str>) {
        match write {
            Write::Put { key, revision, value, expire } => {
                match (subject == Some(key), expire) {
                    (true, None) => self.letter(b'p'),
                    (true, Some(_)) => self.letter(b'q'),
                    (false, None) => self.letter(b'P').text(key),
                    (false, Some(_)) => self.letter(b'Q').text(key),
                };
                self.record(*revision, unit, value);
                match expire {
                    Some(after) => self.expiry(*after),
                    None => self,
                }
            }
            Write::Delete { key } => self.letter(b'd').text(key),
            Write::IndexAdd { index, member, score } => self.letter(b'z').name(index).text(&score.to_string()).again(member),
            Write::IndexRemove { index, member } => self.letter(b'Z').name(index).again(member),
            Write::IndexTrim { index, below } => self.letter(b't').name(index).text(&format!("({below}")),
            Write::Append { log, value, keep } => {
                self.letter(b'l').name(log).name(&(*keep).min(KEEP_MAX).to_string()).bytes(value)
            }
            Write::Count { key, by } => self.letter(b'n').name(key).again(&by.to_string()),
            Write::PutPayload { key, value, expire: None } => self.letter(b'v').text(key).bytes(value),
            Write::PutPayload { key, value, expire: Some(after) } => self.letter(b'V').text(key).bytes(value).expiry(*after),
            Write::Persist { key } => self.letter(b'k').text(key),
            Write::Expire { key, after } => self.letter(b'E').text(key).expiry(*after),
            Write::Copy { from, to, expire: None } => self.letter(b'y').text(from).text(to),
            Write::Copy { from, to, expire: Some(after) } => self.letter(b'Y').text(from).text(to).expiry(*after),
        };
    }

    /// Begins a guard or a write.
    fn letter(&mut self, letter: u8) -> &mut Self {
        self.plan.put_u8(letter);
        self
    }

    fn record(&mut self, revision: u64, unit: &Unit, value: &[u8]) {
        let start = self.buffer.len();
        self.buffer.put_u64(revision);
        self.buffer.put_slice(&unit.id.0);
        self.buffer.put_slice(value);
        self.operand(start..self.buffer.len());
    }

    fn expiry(&mut self, after: Duration) -> &mut Self {
        self.name(&expire_ms(after).to_string())
    }

    /// An operand that other units are likely to have, too.
    fn name(&mut self, name: &str) -> &mut Self {
        let known = self.names.iter().position(|known| self.buffer[known.clone()] == *name.as_bytes());
        if known.is_none() && self.names.len() == NAMES_MAX {
            return self.again(name);
        }
        let before = known.unwrap_or_else(|| {
            self.names.push(store(&mut self.buffer, name.as_bytes()));
            self.names.len() - 1
        });
        self.plan.put_u16(NAME | number(before + 1));
        self
    }

    /// An operand that this unit is likely to have had already.
    fn again(&mut self, text: &str) -> &mut Self {
        let mut own = self.units[self.own..].iter().take(SEEN_MAX);
        match own.position(|known| self.buffer[known.clone()] == *text.as_bytes()) {
            Some(before) => self.place(before + 1),
            None => self.text(text),
        }
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let range = store(&mut self.buffer, bytes);
        self.operand(range)
    }

    /// One more operand of the unit, and its place.
    fn operand(&mut self, range: Range<usize>) -> &mut Self {
        self.units.push(range);
        self.place(self.units.len() - self.own)
    }

    /// The place of an operand of the unit, or 0.
    fn place(&mut self, place: usize) -> &mut Self {
        self.plan.put_u16(number(place));
        self
    }

    fn finish(mut self, units: usize) -> Vec<Value> {
        let counts = [self.names.len(), units].map(|count| store(&mut self.buffer, count.to_string().as_bytes()));
        let buffer: Bytes = self.buffer.freeze();
        counts.into_iter().chain(self.names).chain(self.units).map(|range| Value::Bytes(buffer.slice(range))).collect()
    }
}

/// A number of a plan. One that does not fit is refused with its unit, which has too many operands then.
fn number(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn store(buffer: &mut BytesMut, bytes: &[u8]) -> Range<usize> {
    let start = buffer.len();
    buffer.put_slice(bytes);
    start..buffer.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_protocol::ports::CommitId;

    fn texts(encoded: &Encoded) -> Vec<String> {
        encoded.args.iter().map(|arg| String::from_utf8_lossy(arg.as_bytes().expect("bytes")).into_owned()).collect()
    }

    fn plan(steps: &[&[u8]]) -> String {
        String::from_utf8_lossy(&steps.concat()).into_owned()
    }

    fn finish(job: &str) -> Unit {
        Unit {
            id: CommitId([b'i'; 16]),
            guards: vec![Guard::Epoch { lock: "l".into(), epoch: 7 }, Guard::Absent { key: job.into() }],
            writes: vec![
                Write::Put { key: job.into(), revision: 1, value: Bytes::from_static(b"v"), expire: Some(Duration::ZERO) },
                Write::IndexAdd { index: "z".into(), member: "m".into(), score: -5 },
                Write::IndexRemove { index: "y".into(), member: "m".into() },
            ],
        }
    }

    #[test]
    fn units_of_one_kind_have_one_plan_and_name_once_what_they_share() {
        let encoded = encode(&[finish("j"), finish("k")]).expect("good units");
        let plan = plan(&[
            &[0, 4, 0, 1],
            b"e\x80\x01\x80\x02",
            b"a\0\x01",
            b"q\0\x02\x80\x03",
            b"z\x80\x04\0\x03\0\x04",
            b"Z\x80\x05\0\x04",
        ]);
        let (id, record) = ("i".repeat(16), format!("{}\u{1}{}v", "\0".repeat(7), "i".repeat(16)));
        let unit = |job: &str| [plan.clone(), id.clone(), job.to_owned(), record.clone(), "-5".to_owned(), "m".to_owned()];
        let group = ["5", "2", "l", "7", "1", "z", "y"].map(str::to_owned);
        assert_eq!(texts(&encoded), [&group[..], &unit("j"), &unit("k")].concat());
        assert!(encoded.repeatable);
    }

    #[test]
    fn more_names_than_a_group_has_are_operands() {
        let count = |key: usize| Write::Count { key: key.to_string(), by: 1 };
        let unit = Unit { id: CommitId([0; 16]), guards: vec![], writes: (0..=NAMES_MAX).map(count).collect() };
        let texts = texts(&encode(&[unit]).expect("a good unit"));
        assert_eq!(texts[0], NAMES_MAX.to_string());
        // One addend for all, and the key that was too many.
        assert_eq!(texts[2 + NAMES_MAX + 2..], ["1".to_owned(), NAMES_MAX.to_string()]);
    }

    #[test]
    fn a_unit_with_more_operands_than_a_plan_counts_is_refused() {
        let delete = |key: usize| Write::Delete { key: key.to_string() };
        let unit = |writes| Unit { id: CommitId([0; 16]), guards: vec![], writes: (0..writes).map(delete).collect() };
        assert!(encode(&[unit(usize::from(NAME) - 1)]).is_ok());
        assert!(matches!(encode(&[unit(usize::from(NAME))]), Err(StoreError::Refused { .. })));
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
