//! What the replicas of a job have come to, and how it ends by that.

use std::collections::BTreeSet;

use busbar_protocol::busbar::{Judgement, Vote};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::time::Timestamp;
use busbar_rules::replication::Terms;

use super::super::job::{End, Outcome, ResultPlace, Source};
use super::super::quorum::credit::Credit;
use super::super::quorum::vote::{self, Verdict, Voice, Word};
use super::super::transition::{Event, Settled};
use super::Cell;
use super::replicating::{Group, Replica};
use super::verifying::Check;

impl Cell {
    /// Judges all jobs of whose replicas something was heard.
    pub(super) fn judge_replicas(&mut self, now: Timestamp) {
        for id in std::mem::take(&mut self.replication.heard) {
            self.ask_for_checks(&id);
            let Some(group) = self.replication.groups.get(&id).filter(|group| group.is_whole) else { continue };
            let Some(job) = self.job(&id) else { continue };
            let Some(replication) = &job.plan.replication else { continue };
            let voices = self.voices(group);
            if let Some(denied) = denial(group) {
                let settled = settled(voices, Outcome::Denied, (denied.code.clone(), denied.message.clone()), None);
                let _ = self.apply(&id, &Event::Settled(settled), now);
                continue;
            }
            if let Some(why) = refusal(group) {
                let why = (Code::QuorumNotReached.to_string(), format!("results cannot be checked: {why}"));
                let _ = self.apply(&id, &Event::Settled(settled(voices, Outcome::Failed, why, None)), now);
                continue;
            }
            let terms = Terms::from(replication);
            let credit = |owner: &str| -> Credit { self.replication.credits.of(&job.topic, owner) };
            let audited = terms.trust.as_ref().is_some_and(|trust| self.replication.secret.audits(&id, trust.audit_share));
            let verdict = vote::judge(&terms, &voices, &credit, audited);
            let shown = vote::outcomes(&terms, &voices, &credit, &verdict);
            let end = match verdict {
                Verdict::Wait => continue,
                Verdict::Ask { more } => {
                    self.make_replicas(&id, more, now);
                    continue;
                }
                Verdict::Accept { replica, .. } => self.accepted(&id, replica, voices),
                Verdict::Fail { replica, code } => self.failed(&id, replica, code, voices),
                Verdict::Split => {
                    let why = (Code::QuorumNotReached.to_string(), split(&voices));
                    settled(voices, Outcome::Failed, why, None)
                }
            };
            self.replication.shown.extend((!shown.is_empty()).then(|| (id.clone(), shown)));
            let _ = self.apply(&id, &Event::Settled(end), now);
        }
    }

    fn voices(&self, group: &Group) -> Vec<Voice> {
        let voice = |(number, replica, word): (u32, &Replica, Word)| Voice {
            replica: number,
            worker_id: replica.worker_id.clone(),
            owner: self.owner_of(&replica.worker_id).to_owned(),
            word,
        };
        group.words().map(voice).collect()
    }

    /// How a job ends whose result is that of this replica.
    fn accepted(&self, id: &JobId, replica: u32, voices: Vec<Voice>) -> Settled {
        let end = self.end_of(id, replica);
        let result = end.as_ref().and_then(|end| end.result.clone()).map(|place| self.own(id, place));
        let agreed = voices.iter().find(|voice| voice.replica == replica).and_then(|voice| voice.word.digest()).copied();
        let settled = settled(voices, Outcome::Succeeded, Default::default(), agreed);
        let (worker_id, execution_ms) = end.map(|end| (end.worker_id, end.execution_ms)).unwrap_or_default();
        Settled { result, worker_id, execution_ms, ..settled }
    }

    /// How a job ends that fails as this replica did.
    fn failed(&self, id: &JobId, replica: u32, code: String, voices: Vec<Voice>) -> Settled {
        let message = self.end_of(id, replica).map(|end| end.message).unwrap_or_default();
        settled(voices, Outcome::Failed, (code, message), None)
    }

    /// How a replica of a job has ended.
    fn end_of(&self, id: &JobId, replica: u32) -> Option<End> {
        self.replication.groups.get(id)?.replicas.get(&replica)?.end.clone()
    }

    /// A replica's result under the name of the job itself.
    fn own(&self, id: &JobId, place: ResultPlace) -> ResultPlace {
        let attempt = self.job(id).map_or(0, |job| job.attempt);
        let place = ResultPlace { compared: bytes::Bytes::new(), ..place };
        match Pointer::parse(&place.pointer) {
            Ok(Pointer::Redis(key)) => ResultPlace { source: Source::Key(key), ..place }.of_attempt(id, attempt),
            Ok(Pointer::Blob(_)) | Err(_) => place,
        }
    }

    /// What the replicas of a job have said so far, in words; none where it has no replicas.
    pub(super) fn tell_replicas(&self, id: &JobId) -> Option<String> {
        let group = self.replication.groups.get(id)?;
        let told = |(number, replica, word): (u32, &Replica, Word)| {
            let at = if replica.worker_id.is_empty() { "nobody yet".to_owned() } else { replica.worker_id.clone() };
            let short = |digest: [u8; 32]| busbar_protocol::hex::encode(&digest[..4]);
            let word = match word {
                Word::Awaited if replica.end.is_some() => "its result is being checked".to_owned(),
                Word::Awaited => "awaited".to_owned(),
                Word::Said(digest) => format!("said {}", short(digest)),
                Word::Proven(digest) => format!("has proven {}", short(digest)),
                Word::Disproven(digest) => format!("said {}, which is wrong", short(digest)),
                Word::Failed { code } => format!("failed: {code}"),
                Word::Lost => "ended without a word".to_owned(),
            };
            format!("r{number} with {at}: {word}")
        };
        Some(group.words().map(told).collect::<Vec<_>>().join("; "))
    }
}

/// The end of a replica that the policy has denied: what holds for it holds for the job.
fn denial(group: &Group) -> Option<&End> {
    group.replicas.values().filter_map(|replica| replica.end.as_ref()).find(|end| end.outcome == Outcome::Denied)
}

/// Why results cannot be checked, if that was found out.
fn refusal(group: &Group) -> Option<&str> {
    group
        .replicas
        .values()
        .find_map(|replica| if let Check::Refused { why } = &replica.check { Some(why.as_str()) } else { None })
}

/// An end with what each replica said of it.
fn settled(voices: Vec<Voice>, outcome: Outcome, (code, message): (String, String), agreed: Option<[u8; 32]>) -> Settled {
    let vote = |voice: Voice| {
        let compared = voice.word.digest().copied();
        let (judgement, error_code) = match voice.word {
            Word::Proven(_) => (Judgement::Proven, String::new()),
            Word::Disproven(_) => (Judgement::Wrong, String::new()),
            Word::Failed { code } => (Judgement::Unspecified, code),
            Word::Said(_) | Word::Awaited | Word::Lost => Default::default(),
        };
        let said = compared.is_some() && compared == agreed && judgement != Judgement::Wrong;
        let failed = outcome == Outcome::Failed && !error_code.is_empty() && error_code == code;
        Vote {
            replica: voice.replica,
            worker_id: voice.worker_id,
            owner: voice.owner,
            compared_sha256: compared.map_or_else(Default::default, |digest| digest.to_vec().into()),
            error_code,
            agrees: said || failed,
            judgement: judgement.into(),
        }
    };
    let votes = voices.into_iter().map(vote).collect();
    Settled { votes, outcome, code, message, result: None, worker_id: String::new(), execution_ms: 0 }
}

/// Why no quorum was reached.
fn split(voices: &[Voice]) -> String {
    let count = |is: fn(&Word) -> bool| voices.iter().filter(|voice| is(&voice.word)).count();
    let results: BTreeSet<[u8; 32]> =
        voices.iter().filter_map(|voice| if let Word::Said(digest) = &voice.word { Some(*digest) } else { None }).collect();
    let [said, failed] = [count(|w| matches!(w, Word::Said(_))), count(|w| matches!(w, Word::Failed { .. }))];
    let [wrong, lost] = [count(|w| matches!(w, Word::Disproven(_))), count(|w| matches!(w, Word::Lost))];
    let different = results.len();
    let wrong = if wrong > 0 { format!("{wrong} a wrong one, ") } else { String::new() };
    format!("{said} replicas gave {different} different results, {wrong}{failed} failed, {lost} gave no answer; too few agree")
}
