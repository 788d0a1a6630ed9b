//! Who says what: the voices of a job, counted by owner.

use super::credit::Credit;
use super::vote::{Voice, Word};

/// What an owner says of a job. Why a job fails may differ between machines; that it fails is what owners agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Result([u8; 32]),
    Failure,
}

impl Answer {
    pub(super) const fn of(word: &Word) -> Option<Self> {
        match word {
            Word::Said(digest) | Word::Proven(digest) => Some(Self::Result(*digest)),
            Word::Failed { .. } => Some(Self::Failure),
            Word::Awaited | Word::Lost | Word::Disproven(_) => None,
        }
    }
}

/// An owner whose voice counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Member<'a> {
    pub(super) owner: &'a str,
    pub(super) credit: Credit,
}

/// Owners that say the same; never empty.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    pub(super) answer: Answer,
    pub(super) members: Vec<Member<'a>>,
}

/// The voices of a job by what their owners say. An owner counts once, however many replicas it has; one that contradicts itself says
/// nothing that counts.
#[derive(Debug, Default)]
pub(super) struct Tally<'a> {
    pub(super) groups: Vec<Group<'a>>,
    /// Owners that have a replica and have not said anything yet.
    pub(super) hoped: Vec<Member<'a>>,
    /// Replicas that nobody has yet.
    pub(super) unplaced: u32,
    /// Owners that contradict themselves.
    pub(super) contradicting: Vec<&'a str>,
}

enum Stand {
    Silent,
    Hoped,
    Says(Answer),
    Contradicts,
}

impl<'a> Tally<'a> {
    /// Counts the voices of owners that `credit` knows; it knows nothing of those whose voices do not count.
    pub(super) fn count(voices: &'a [Voice], credit: impl Fn(&str) -> Option<Credit>) -> Self {
        let mut tally = Self::default();
        for (place, voice) in voices.iter().enumerate() {
            let owner = voice.owner.as_str();
            if owner.is_empty() {
                tally.unplaced += u32::from(voice.word == Word::Awaited);
                continue;
            }
            let is_first = voices.iter().take(place).all(|before| before.owner != owner);
            match credit(owner) {
                Some(credit) if is_first => tally.add(Member { owner, credit }, &stand(owner, voices)),
                Some(_) | None => {}
            }
        }
        tally
    }

    fn add(&mut self, member: Member<'a>, stand: &Stand) {
        match stand {
            Stand::Silent => {}
            Stand::Hoped => self.hoped.push(member),
            Stand::Contradicts => self.contradicting.push(member.owner),
            Stand::Says(answer) => match self.groups.iter_mut().find(|group| group.answer == *answer) {
                Some(group) => group.members.push(member),
                None => self.groups.push(Group { answer: *answer, members: vec![member] }),
            },
        }
    }
}

fn stand(owner: &str, voices: &[Voice]) -> Stand {
    let own = || voices.iter().filter(|voice| voice.owner == owner);
    let mut answers = own().filter_map(|voice| Answer::of(&voice.word));
    match answers.next() {
        Some(first) if answers.all(|other| other == first) => Stand::Says(first),
        Some(_) => Stand::Contradicts,
        None if own().any(|voice| voice.word == Word::Awaited) => Stand::Hoped,
        None => Stand::Silent,
    }
}
