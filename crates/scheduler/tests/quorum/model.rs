//! A world of workers of every kind, honest and not, whose jobs `judge` decides: one seed is one history.
//!
//! Whoever lies knows everything: its own credit, who else has a replica of the job, and what was said so far. It does not know
//! whether the job is audited, nor who will get the next replica.

use busbar_rules::replication::Terms;
use busbar_scheduler::core::quorum::credit::Credit;
use busbar_scheduler::core::quorum::vote::{Verdict, Voice, Word, judge, outcomes};

const RIGHT: [u8; 32] = [0; 32];

/// How a worker behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Manner {
    Honest,
    /// Lies in this share of its jobs; the lie is its own.
    Liar(f64),
    /// All of this manner lie in the same jobs, this share of all, and say the same.
    InStep(f64),
    /// Says the truth unless another of this manner has the job too; then both tell the same lie.
    InCompany,
    /// Says the truth until it is believed alone; from then on it lies whenever nobody else has the job.
    FlipFlop,
    /// Repeats what was said first; knows nothing itself.
    Copycat,
    /// Repeats what was said first, and waits for it as long as somebody else has the job too.
    PatientCopycat,
    /// Never answers in this share of its jobs.
    Slow(f64),
}

/// What happened in a number of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Count {
    pub(crate) jobs: u64,
    pub(crate) replicas: u64,
    /// Wrong results that were accepted.
    pub(crate) wrong: u64,
    /// Jobs without a result.
    pub(crate) split: u64,
}

impl Count {
    pub(crate) fn replicas_per_job(&self) -> f64 {
        ratio(self.replicas, self.jobs)
    }

    pub(crate) fn error(&self) -> f64 {
        ratio(self.wrong, self.jobs)
    }

    pub(crate) fn and(&self, other: &Self) -> Self {
        Self {
            jobs: self.jobs + other.jobs,
            replicas: self.replicas + other.replicas,
            wrong: self.wrong + other.wrong,
            split: self.split + other.split,
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

pub(crate) struct World {
    terms: Terms,
    /// One for each worker: its owner, and how it behaves.
    workers: Vec<(usize, Manner)>,
    /// By owner.
    credit: Vec<Credit>,
    random: Random,
}

impl World {
    /// Workers of these numbers and manners, each of an owner of its own.
    pub(crate) fn new(terms: &Terms, manners: &[(usize, Manner)], seed: u64) -> Self {
        let workers: Vec<_> =
            manners.iter().flat_map(|&(number, manner)| std::iter::repeat_n(manner, number)).enumerate().collect();
        let credit = vec![Credit::default(); workers.len()];
        Self { terms: terms.clone(), workers, credit, random: Random(seed) }
    }

    /// Makes these workers ones of the first one's owner.
    pub(crate) fn own(&mut self, workers: &[usize]) {
        for &worker in workers {
            self.workers[worker].0 = self.workers[workers[0]].0;
        }
    }

    /// What is known of the owners of all workers of a manner.
    pub(crate) fn credit(&self, manner: Manner) -> impl Iterator<Item = Credit> {
        self.workers.iter().filter(move |(_, own)| *own == manner).map(|(owner, _)| self.credit[*owner])
    }

    /// Whether all honest workers are believed alone, and how many jobs that took; at most this many.
    pub(crate) fn warm_up(&mut self, jobs_max: u64) -> Count {
        let trust = self.terms.trust.clone().expect("there is trust");
        let mut count = Count::default();
        while count.jobs < jobs_max
            && self.credit(Manner::Honest).any(|credit| credit.error_bound(trust.liars_max) > trust.error_max)
        {
            self.job(&mut count);
        }
        count
    }

    /// Runs jobs.
    pub(crate) fn run(&mut self, jobs: u64) -> Count {
        let mut count = Count::default();
        for _ in 0..jobs {
            self.job(&mut count);
        }
        count
    }

    /// Runs one job to its verdict.
    fn job(&mut self, count: &mut Count) {
        let share = self.terms.trust.as_ref().map_or(0.0, |trust| trust.audit_share);
        let audited = self.random.share() < share;
        let coin = self.random.share();
        let mut voices: Vec<Voice> = Vec::new();
        let verdict = loop {
            let credit = |owner: &str| self.credit[number(owner)];
            match judge(&self.terms, &voices, &credit, audited) {
                Verdict::Ask { more } => (0..more).for_each(|_| self.place(&mut voices)),
                Verdict::Wait => self.answer(&mut voices, coin),
                verdict @ (Verdict::Accept { .. } | Verdict::Fail { .. } | Verdict::Split) => break verdict,
            }
        };
        count.jobs += 1;
        count.replicas += voices.len() as u64;
        let credit = |owner: &str| self.credit[number(owner)];
        for (owner, outcome) in outcomes(&self.terms, &voices, &credit, &verdict) {
            let owner = number(&owner);
            self.credit[owner] = self.credit[owner].after(&outcome);
        }
        match verdict {
            Verdict::Accept { replica, .. } => count.wrong += u64::from(voices[replica as usize].word != Word::Said(RIGHT)),
            Verdict::Split => count.split += 1,
            Verdict::Fail { .. } | Verdict::Wait | Verdict::Ask { .. } => unreachable!("nobody fails here"),
        }
    }

    /// Gives a new replica to somebody whose owner has none yet; if there is nobody, it is lost at once.
    fn place(&mut self, voices: &mut Vec<Voice>) {
        let replica = u32::try_from(voices.len()).expect("few replicas");
        let is_free = |owner: usize| {
            !self.credit[owner].is_barred() && voices.iter().all(|voice| voice.owner.is_empty() || number(&voice.owner) != owner)
        };
        if !self.workers.iter().any(|&(owner, _)| is_free(owner)) {
            voices.push(Voice { replica, worker_id: String::new(), owner: String::new(), word: Word::Lost });
            return;
        }
        let worker = loop {
            let worker = self.random.below(self.workers.len());
            if is_free(self.workers[worker].0) {
                break worker;
            }
        };
        voices.push(Voice {
            replica,
            worker_id: worker.to_string(),
            owner: self.workers[worker].0.to_string(),
            word: Word::Awaited,
        });
    }

    /// One of those that are awaited speaks, or falls silent for good.
    fn answer(&mut self, voices: &mut [Voice], coin: f64) {
        let awaited: Vec<usize> = (0..voices.len()).filter(|&at| voices[at].word == Word::Awaited).collect();
        let is_patient = |at: usize| self.workers[number(&voices[at].worker_id)].1 == Manner::PatientCopycat;
        let (patient, quick): (Vec<usize>, Vec<usize>) = awaited.into_iter().partition(|&at| is_patient(at));
        let ready = if quick.is_empty() { patient } else { quick };
        let at = ready[self.random.below(ready.len())];
        voices[at].word = self.word(at, voices, coin);
    }

    fn word(&mut self, at: usize, voices: &[Voice], coin: f64) -> Word {
        let (owner, manner) = self.workers[number(&voices[at].worker_id)];
        let own_lie = [u8::try_from(owner).expect("fewer than 200 owners") + 50; 32];
        let common_lie = [1; 32];
        let trust = self.terms.trust.as_ref();
        let unless = |lies: bool, lie: [u8; 32]| Word::Said(if lies { lie } else { RIGHT });
        let first = voices.iter().find_map(|voice| match voice.word {
            Word::Said(digest) => Some(digest),
            Word::Proven(_) | Word::Disproven(_) | Word::Awaited | Word::Failed { .. } | Word::Lost => None,
        });
        match manner {
            Manner::Honest => Word::Said(RIGHT),
            Manner::Liar(share) => unless(self.random.share() < share, own_lie),
            Manner::InStep(share) => unless(coin < share, common_lie),
            Manner::InCompany => {
                let is_accomplice =
                    |voice: &&Voice| !voice.worker_id.is_empty() && self.workers[number(&voice.worker_id)].1 == Manner::InCompany;
                unless(voices.iter().filter(is_accomplice).count() > 1, common_lie)
            }
            Manner::FlipFlop => {
                let is_believed = trust.is_some_and(|trust| self.credit[owner].error_bound(trust.liars_max) <= trust.error_max);
                unless(is_believed && voices.len() == 1, own_lie)
            }
            Manner::Copycat | Manner::PatientCopycat => Word::Said(first.unwrap_or(own_lie)),
            Manner::Slow(share) if self.random.share() < share => Word::Lost,
            Manner::Slow(_) => Word::Said(RIGHT),
        }
    }
}

fn number(name: &str) -> usize {
    name.parse().expect("names are numbers here")
}

/// A small generator (SplitMix64): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly from 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below a usize")
    }
}
