//! The reputation of a topic's owners: one small record that does not grow with the number of jobs.

use std::collections::BTreeMap;

use busbar_protocol::busbar::{OwnerCredit, TopicCredit};

use super::credit::{Credit, Outcome};

/// The version of the records that this code writes.
const RECORD_VERSION: u32 = 1;
/// So many owners of a topic are remembered, about 40 bytes each.
pub const OWNERS_MAX: usize = 1_024;

/// What is known of the owners of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reputation(BTreeMap<String, Credit>);

impl Reputation {
    /// Reads the record.
    #[must_use]
    pub fn from_record(record: TopicCredit) -> Self {
        let mut reputation = Self::default();
        for OwnerCredit { owner, agreed, wrong } in record.owners {
            reputation.put(owner, Credit { agreed, wrong });
        }
        reputation
    }

    /// The record.
    #[must_use]
    pub fn to_record(&self) -> TopicCredit {
        let packed = |(owner, credit): (&String, &Credit)| OwnerCredit {
            owner: owner.clone(),
            agreed: credit.agreed,
            wrong: credit.wrong,
        };
        TopicCredit { version: RECORD_VERSION, owners: self.0.iter().map(packed).collect() }
    }

    /// What is known of an owner.
    #[must_use]
    pub fn of(&self, owner: &str) -> Credit {
        self.0.get(owner).copied().unwrap_or_default()
    }

    /// All owners of whom something is known, by name.
    pub fn owners(&self) -> impl Iterator<Item = (&str, Credit)> {
        self.0.iter().map(|(owner, credit)| (owner.as_str(), *credit))
    }

    /// Enters what a decided job says of its owners. Whether anybody lost something: that must not be forgotten in a crash, or a liar
    /// has its trust back. A pass that is forgotten costs a comparison.
    pub fn enter(&mut self, outcomes: &[(String, Outcome)]) -> bool {
        for (owner, outcome) in outcomes {
            self.put(owner.clone(), self.of(owner).after(outcome));
        }
        outcomes.iter().any(|(_, outcome)| *outcome != Outcome::Confirmed)
    }

    /// Forgets an owner, so that it begins anew: an operator forgives it, or distrusts it. Whether anything was known of it.
    pub fn forget(&mut self, owner: &str) -> bool {
        self.0.remove(owner).is_some()
    }

    /// When there are too many, the owner is forgotten that loses least: of those never found wrong the one with the shortest record.
    /// It will be compared as a newcomer is, which is always safe. Those that were found wrong are forgotten last.
    fn put(&mut self, owner: String, credit: Credit) {
        self.0.insert(owner, credit);
        if self.0.len() > OWNERS_MAX {
            let least = self.0.iter().min_by_key(|(_, credit)| (credit.wrong, credit.agreed)).map(|(owner, _)| owner.clone());
            least.and_then(|owner| self.0.remove(&owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::prost::Message as _;

    use super::*;

    fn of(owners: &[(&str, u64, u32)]) -> Reputation {
        let owners = owners.iter().map(|&(owner, agreed, wrong)| OwnerCredit { owner: owner.to_owned(), agreed, wrong });
        Reputation::from_record(TopicCredit { version: 1, owners: owners.collect() })
    }

    #[test]
    fn the_record_reads_back_and_is_small() {
        let reputation = of(&[("a", 40_876, 0), ("b", 0, 2)]);
        assert_eq!(Reputation::from_record(reputation.to_record()), reputation);
        assert_eq!((reputation.of("a").agreed, reputation.of("b").wrong, reputation.of("c")), (40_876, 2, Credit::default()));
        let full: Vec<(String, u64)> = (0..OWNERS_MAX).map(|number| (format!("an owner of 20 {number:06}"), 1_000_000)).collect();
        let full: Vec<(&str, u64, u32)> = full.iter().map(|(owner, agreed)| (owner.as_str(), *agreed, 1)).collect();
        let bytes = of(&full).to_record().encoded_len();
        assert!(bytes <= 40 * OWNERS_MAX, "{bytes}");
    }

    #[test]
    fn what_is_learned_is_entered_and_losses_are_told() {
        let mut reputation = of(&[("a", 5, 0), ("b", 5, 0)]);
        assert!(!reputation.enter(&[]));
        assert!(!reputation.enter(&[("a".to_owned(), Outcome::Confirmed), ("c".to_owned(), Outcome::Confirmed)]));
        assert!(reputation.enter(&[("a".to_owned(), Outcome::Confirmed), ("b".to_owned(), Outcome::Refuted)]));
        assert_eq!(reputation, of(&[("a", 7, 0), ("b", 0, 1), ("c", 1, 0)]));
        assert_eq!(reputation.owners().map(|(owner, _)| owner).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(reputation.enter(&[("a".to_owned(), Outcome::Failed)]));
        assert!(reputation.forget("b") && !reputation.forget("b"));
        assert_eq!(reputation, of(&[("a", 0, 0), ("c", 1, 0)]));
    }

    #[test]
    fn when_there_are_too_many_whoever_loses_least_is_forgotten() {
        let mut reputation = of(&[("barred", 0, 2), ("trusted", 1_000, 0), ("young", 2, 0)]);
        for number in 0..OWNERS_MAX {
            reputation.enter(&[(format!("new {number}"), Outcome::Refuted)]);
        }
        assert_eq!(reputation.owners().count(), OWNERS_MAX);
        assert_eq!(reputation.of("young"), Credit::default());
        assert_eq!(
            (reputation.of("barred").wrong, reputation.of("trusted").agreed),
            (2, 0),
            "those found wrong are forgotten last"
        );
        let mut reputation = of(&[("trusted", 1_000, 0), ("barred", 0, 2)]);
        for number in 0..2 * OWNERS_MAX {
            reputation.enter(&[(format!("new {number}"), Outcome::Confirmed)]);
        }
        assert_eq!((reputation.of("barred").wrong, reputation.of("trusted").agreed), (2, 1_000));
    }
}
