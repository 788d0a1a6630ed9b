//! The verdict on what the replicas of a job have said so far, and what it says of their owners.

use super::credit::{Credit, Outcome};
use super::tally::{Answer, Group, Member, Tally};
pub use busbar_rules::replication::{Terms, TrustTerms};

/// What a replica has said.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// Nothing yet.
    Awaited,
    /// A result; this is the SHA-256 of its canonical form.
    Said([u8; 32]),
    /// A result that shows by itself that it is right.
    Proven([u8; 32]),
    /// A result that is wrong, as the verifier has found.
    Disproven([u8; 32]),
    /// A final failure that the worker told, with its code.
    Failed {
        /// Why, in the worker's words.
        code: String,
    },
    /// It ended without a word that counts: cancelled, timed out, worker lost or unreachable.
    Lost,
}

impl Word {
    /// The digest of the result that was told, right or wrong.
    #[must_use]
    pub const fn digest(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Said(digest) | Self::Proven(digest) | Self::Disproven(digest) => Some(digest),
            Self::Awaited | Self::Failed { .. } | Self::Lost => None,
        }
    }
}

/// A replica, who has it, and what was said.
#[derive(Clone, Debug, PartialEq)]
pub struct Voice {
    /// The number in the replica's name.
    pub replica: u32,
    /// The worker that has it; empty while nobody has.
    pub worker_id: String,
    /// Who runs that worker; empty while nobody has the replica, and never afterwards. A worker of nobody's is its own owner.
    pub owner: String,
    /// What was said.
    pub word: Word,
}

/// What becomes of the job.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// What is on its way may be enough.
    Wait,
    /// More replicas are to be made now.
    Ask {
        /// How many: never more than could be needed, at least one, and never more than there may still be.
        more: u32,
    },
    /// A result counts.
    Accept {
        /// The replica whose result it is: of those that told it, the one of the smallest number.
        replica: u32,
        /// Replicas that told another result. Not those that failed.
        dissenters: Vec<u32>,
    },
    /// It is agreed that the job fails.
    Fail {
        /// The replica whose failure it is: of those that failed, the one of the smallest number.
        replica: u32,
        /// The code of that failure.
        code: String,
    },
    /// Whatever is said from now on, the replicas that there may still be are not enough.
    Split,
}

/// Judges a job by what its replicas have said. `credit` says what is known of an owner; `audited` says whether a result must be
/// compared although it need not be.
///
/// Without trust, the first `quorum` owners that agree win. With trust, a result counts when it is wrong with a probability of at most
/// `error_max`, by one of two arguments, which are never multiplied:
///
/// - *by number*: so many owners would hardly all be liars. What is known of them plays no part, since accomplices that lie only
///   in each other's company have spotless records; and once owners contradict each other, this argument alone is left.
/// - *by record*: nobody says otherwise, and one of them is trusted so much that it would be believed alone. An audited result
///   must be good enough without the best record, so that whoever has that is compared with somebody else.
///
/// What is proven needs no voices, and what is disproven is none: proofs are above numbers and records.
///
/// That a job is audited does not show before its result would count without: whoever has it first has nobody to ask or to copy.
///
/// Nobody can know who will get the next replica, so as long as nobody contradicts, one more is asked for at a time: as soon as it is
/// placed, the next look shows whether its owner makes it enough. Failures are believed by a quorum only, never from one owner.
pub fn judge(terms: &Terms, voices: &[Voice], credit: &dyn Fn(&str) -> Credit, audited: bool) -> Verdict {
    if let Some(proven) = proven(voices) {
        // Two results can be right, so that nobody dissents from a proof.
        return Verdict::Accept { replica: proven.replica, dissenters: Vec::new() };
    }
    match Poll::of(terms, voices, credit, false).judge() {
        accept @ Verdict::Accept { .. } if audited => match Poll::of(terms, voices, credit, true).judge() {
            // Nobody is left who could be asked, and nobody contradicts.
            Verdict::Split => accept,
            verdict => verdict,
        },
        verdict => verdict,
    }
}

/// What a verdict says of the owners that took part: nothing, unless the terms have trust, and the verdict accepts something or
/// something was disproven.
///
/// Credit is given only by accepted results, which are right with the probability that the terms demand, and only to owners
/// without whose record the result would have been accepted too: an accomplice raises nobody's credit by agreeing. What was
/// accepted by one voice alone confirms nobody. `voices` may have become more since the verdict; if by these the result would not be
/// accepted, nobody knows who is right, and nothing is said.
#[must_use]
pub fn outcomes(terms: &Terms, voices: &[Voice], credit: &dyn Fn(&str) -> Credit, verdict: &Verdict) -> Vec<(String, Outcome)> {
    let Some(trust) = &terms.trust else { return Vec::new() };
    let accepted = match verdict {
        Verdict::Accept { replica, .. } | Verdict::Fail { replica, .. } => voices.iter().find(|voice| voice.replica == *replica),
        Verdict::Split => None,
        Verdict::Wait | Verdict::Ask { .. } => return Vec::new(),
    };
    let by_proof = voices.iter().filter_map(|voice| match &voice.word {
        Word::Proven(_) => Some((voice.owner.clone(), Outcome::Confirmed)),
        Word::Disproven(_) => Some((voice.owner.clone(), Outcome::Refuted)),
        Word::Said(_) | Word::Failed { .. } | Word::Awaited | Word::Lost => None,
    });
    if proven(voices).is_some() {
        return by_proof.collect();
    }
    let answer = accepted.and_then(|voice| Answer::of(&voice.word));
    let poll = Poll::of(terms, voices, credit, false);
    let group = poll.tally.groups.iter().find(|group| Some(group.answer) == answer && poll.convinces(group));
    let by_voices = group.map(|group| poll.outcomes(trust, group)).unwrap_or_default();
    by_voices.into_iter().chain(by_proof).collect()
}

/// The first of the results that show by themselves that they are right.
fn proven(voices: &[Voice]) -> Option<&Voice> {
    voices.iter().filter(|voice| matches!(voice.word, Word::Proven(_))).min_by_key(|voice| voice.replica)
}

/// A job's voices, with what is needed to judge them.
struct Poll<'a> {
    terms: &'a Terms,
    voices: &'a [Voice],
    tally: Tally<'a>,
    audited: bool,
}

impl<'a> Poll<'a> {
    fn of(terms: &'a Terms, voices: &'a [Voice], credit: &dyn Fn(&str) -> Credit, audited: bool) -> Self {
        let known = |owner: &str| match terms.trust {
            None => Some(Credit::default()),
            Some(_) => Some(credit(owner)).filter(|credit| !credit.is_barred()),
        };
        Self { terms, voices, tally: Tally::count(voices, known), audited }
    }

    fn judge(&self) -> Verdict {
        // Results before failures: should both convince, the job can succeed.
        let convincing =
            |is_wanted: fn(&Group) -> bool| self.tally.groups.iter().find(|group| is_wanted(group) && self.convinces(group));
        let result = convincing(|group| group.answer != Answer::Failure);
        match result.or_else(|| convincing(|group| group.answer == Answer::Failure)) {
            Some(group) => self.verdict(group),
            None => self.ask(),
        }
    }

    fn convinces(&self, group: &Group) -> bool {
        self.suffices(&group.members, group.answer)
    }

    /// Whether so many owners, and such ones, are enough if they all give this answer.
    fn suffices(&self, members: &[Member], answer: Answer) -> bool {
        if owners(members) < self.least(answer) {
            return false;
        }
        let Some(trust) = &self.terms.trust else { return true };
        let rivals = self.rivals(answer);
        let by_record = || {
            let mut bounds: Vec<f64> = members.iter().map(|member| member.credit.error_bound(trust.liars_max)).collect();
            bounds.sort_by(f64::total_cmp);
            bounds.get(usize::from(self.audited)).is_some_and(|&bound| bound <= trust.error_max)
        };
        trust.doubt(clean(members), &rivals) <= trust.error_max || (rivals.is_empty() && by_record())
    }

    /// The fewest owners that must give an answer.
    fn least(&self, answer: Answer) -> u32 {
        match (&self.terms.trust, answer) {
            (None, Answer::Result(_) | Answer::Failure) => self.terms.quorum.max(1),
            (Some(_), Answer::Result(_)) if !self.audited => 1,
            (Some(_), Answer::Result(_) | Answer::Failure) => self.terms.quorum.max(2),
        }
    }

    /// The sizes of the groups that contradict an answer. No failure contradicts a result: a machine may break, honest as its owner is.
    fn rivals(&self, answer: Answer) -> Vec<u32> {
        let contradicts = |group: &&Group| group.answer != answer && group.answer != Answer::Failure;
        self.tally.groups.iter().filter(contradicts).map(|group| clean(&group.members)).collect()
    }

    /// The group for which the least is missing: of those of the same size a result before a failure, then the one that was first.
    fn leader(&self) -> Option<&Group<'a>> {
        let size = |group: &Group| match self.terms.trust {
            None => owners(&group.members),
            Some(_) => clean(&group.members),
        };
        self.tally.groups.iter().rev().max_by_key(|group| (size(group), group.answer != Answer::Failure))
    }

    /// What is missing, if everybody that has a replica agrees with the leader: better than that it cannot become.
    fn ask(&self) -> Verdict {
        let (mut members, answer) = match self.leader() {
            Some(group) => (group.members.clone(), group.answer),
            // Nobody has said anything yet: any result will do.
            None => (Vec::new(), Answer::Result([0; 32])),
        };
        members.extend(&self.tally.hoped);
        if self.suffices(&members, answer) {
            return Verdict::Wait;
        }
        let shortage = self.least(answer).saturating_sub(owners(&members));
        let rivals = self.rivals(answer);
        let missing = match &self.terms.trust {
            None => shortage,
            // The next one may be trusted.
            Some(_) if rivals.is_empty() => shortage.max(1),
            Some(trust) => shortage.max(trust.newcomers_against(&rivals).saturating_sub(clean(&members))),
        };
        let more = missing.saturating_sub(self.tally.unplaced);
        let made = u32::try_from(self.voices.len()).unwrap_or(u32::MAX);
        match more {
            0 => Verdict::Wait,
            more if more > self.terms.replicas_max.saturating_sub(made) => Verdict::Split,
            more => Verdict::Ask { more },
        }
    }

    fn verdict(&self, group: &Group) -> Verdict {
        let agrees = |voice: &&Voice| {
            Answer::of(&voice.word) == Some(group.answer) && group.members.iter().any(|member| member.owner == voice.owner)
        };
        let first =
            self.voices.iter().filter(agrees).min_by_key(|voice| voice.replica).expect("a group has members, and they said so");
        match &first.word {
            Word::Failed { code } => Verdict::Fail { replica: first.replica, code: code.clone() },
            Word::Said(_) | Word::Proven(_) | Word::Disproven(_) | Word::Awaited | Word::Lost => {
                let differs =
                    |voice: &&Voice| matches!(voice.word, Word::Said(_)) && Answer::of(&voice.word) != Some(group.answer);
                let dissenters = self.voices.iter().filter(differs).map(|voice| voice.replica).collect();
                Verdict::Accept { replica: first.replica, dissenters }
            }
        }
    }

    fn outcomes(&self, trust: &TrustTerms, accepted: &Group) -> Vec<(String, Outcome)> {
        let rivals = self.rivals(accepted.answer);
        let by_number = trust.doubt(clean(&accepted.members), &rivals) <= trust.error_max;
        let believed = |member: &Member| member.credit.error_bound(trust.liars_max) <= trust.error_max;
        let is_confirmed = |member: &Member| {
            let mut others = accepted.members.iter().filter(|other| other.owner != member.owner).peekable();
            others.peek().is_some() && (by_number || others.any(believed))
        };
        let confirmed =
            accepted.members.iter().filter(|member| is_confirmed(member)).map(|member| (member.owner, Outcome::Confirmed));
        let others = self.tally.groups.iter().filter(|group| group.answer != accepted.answer);
        let wrong = others.flat_map(|group| {
            let outcome = if group.answer == Answer::Failure { Outcome::Failed } else { Outcome::Refuted };
            group.members.iter().map(move |member| (member.owner, outcome))
        });
        let contradicting = self.tally.contradicting.iter().map(|&owner| {
            let own = self.voices.iter().filter(|voice| voice.owner == owner).filter_map(|voice| Answer::of(&voice.word));
            let is_refuted = own.filter(|&said| said != Answer::Failure).any(|said| said != accepted.answer);
            (owner, if is_refuted { Outcome::Refuted } else { Outcome::Failed })
        });
        confirmed.chain(wrong).chain(contradicting).map(|(owner, outcome)| (owner.to_owned(), outcome)).collect()
    }
}

/// How many owners these are.
fn owners(members: &[Member]) -> u32 {
    u32::try_from(members.len()).unwrap_or(u32::MAX)
}

/// How many of these were never found wrong: of the others, each is as likely a liar as not, and adds nothing.
fn clean(members: &[Member]) -> u32 {
    u32::try_from(members.iter().filter(|member| member.credit.is_clean()).count()).unwrap_or(u32::MAX)
}
