//! What an owner's past comparisons in a topic are worth.
//!
//! The bound is that of Sarmenta, "Sabotage-tolerance mechanisms for volunteer computing systems" (2001). A share f of the owners
//! lies, each in a share s of its answers. Whoever has passed k comparisons lies in the next answer with a probability of at most
//! `f s (1-s)^k / ((1-f) + f (1-s)^k)`, which for no s is above `f / ((1-f) e k)`. It holds for whoever lies at a steady rate. It
//! holds for nobody who is honest until trusted; for that there are audits.

use std::f64::consts::E;

use busbar_rules::replication::odds;

/// Whoever was found wrong so often is barred: once may be a broken machine, twice is a habit.
pub const WRONG_MAX: u32 = 2;

/// What is known of an owner in a topic; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Comparisons passed since the owner was last found wrong, or has failed where others did not.
    pub agreed: u64,
    /// How often it was found wrong. Only an operator forgives that.
    pub wrong: u32,
}

/// What a decided job says of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It said what was accepted, and that would have been accepted had it no record.
    Confirmed,
    /// It said something else.
    Refuted,
    /// It failed for good where others did not. That convinces nobody, so it is no lie; but neither is it a pass.
    Failed,
}

impl Credit {
    /// What is known of the owner after one more job: trust grows by one and is lost at once.
    #[must_use]
    pub const fn after(self, outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Confirmed => Self { agreed: self.agreed.saturating_add(1), ..self },
            Outcome::Refuted => Self { agreed: 0, wrong: self.wrong.saturating_add(1) },
            Outcome::Failed => Self { agreed: 0, ..self },
        }
    }

    /// The probability at most that the owner's next answer is wrong, if a share `liars_max` of all owners lies.
    ///
    /// Whoever was found wrong once is as likely a liar as not, whatever that share is, and needs a record that is longer in proportion.
    #[must_use]
    pub fn error_bound(&self, liars_max: f64) -> f64 {
        if self.is_barred() {
            return 1.0;
        }
        let prior = if self.is_clean() { liars_max } else { 0.5 };
        match self.agreed {
            0 => prior,
            agreed => prior.min(odds(prior) / (E * agreed as f64)),
        }
    }

    /// How many comparisons an owner that was never found wrong must pass before it is believed alone.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and what is too large saturates")]
    pub fn needed(error_max: f64, liars_max: f64) -> u64 {
        (odds(liars_max) / (E * error_max)).ceil() as u64
    }

    /// Whether it was never found wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.wrong == 0
    }

    /// Whether what it says counts no more, and it should get no more work of the topic.
    #[must_use]
    pub const fn is_barred(&self) -> bool {
        self.wrong >= WRONG_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credit(agreed: u64, wrong: u32) -> Credit {
        Credit { agreed, wrong }
    }

    #[test]
    fn trust_grows_slowly_and_is_lost_at_once() {
        for (before, outcome, after) in [
            (credit(0, 0), Outcome::Confirmed, credit(1, 0)),
            (credit(9, 1), Outcome::Confirmed, credit(10, 1)),
            (credit(u64::MAX, 0), Outcome::Confirmed, credit(u64::MAX, 0)),
            (credit(1_000_000, 0), Outcome::Refuted, credit(0, 1)),
            (credit(9, u32::MAX), Outcome::Refuted, credit(0, u32::MAX)),
            (credit(1_000_000, 1), Outcome::Failed, credit(0, 1)),
        ] {
            assert_eq!(before.after(&outcome), after, "{before:?} {outcome:?}");
        }
    }

    #[test]
    fn whoever_is_found_wrong_twice_is_barred() {
        let once = credit(7, 0).after(&Outcome::Refuted);
        assert!(!once.is_barred() && !once.is_clean());
        let twice = (0..1_000).fold(once, |credit, _| credit.after(&Outcome::Confirmed)).after(&Outcome::Refuted);
        assert!(twice.is_barred() && twice.after(&Outcome::Confirmed).is_barred());
        assert_eq!(twice.error_bound(0.1).to_bits(), 1.0_f64.to_bits());
    }

    #[test]
    fn the_bound_is_above_whatever_a_steady_liar_can_reach() {
        for liars in [0.01_f64, 0.1, 0.3, 0.49] {
            for agreed in [0_u64, 1, 2, 10, 1_000, 100_000] {
                let bound = credit(agreed, 0).error_bound(liars);
                for step in 1..=1_000_u32 {
                    // Evenly in the exponent, from one millionth to one.
                    let share = 10_f64.powf(-6.0 * f64::from(1_000 - step) / 1_000.0);
                    let passes = (1.0 - share).powf(agreed as f64);
                    let error = liars * share * passes / (1.0 - liars + liars * passes);
                    assert!(error <= bound * (1.0 + 1e-9), "{liars} {agreed} {share}: {error} > {bound}");
                }
            }
        }
    }

    #[test]
    fn so_many_comparisons_are_needed_and_no_fewer() {
        for (error_max, liars, needed) in
            [(1e-2, 0.1, 5), (1e-3, 0.1, 41), (1e-4, 0.1, 409), (1e-6, 0.1, 40_876), (1e-6, 0.01, 3_716)]
        {
            assert_eq!(Credit::needed(error_max, liars), needed);
            assert!(credit(needed, 0).error_bound(liars) <= error_max && credit(needed - 1, 0).error_bound(liars) > error_max);
            // Whoever was found wrong once needs a record that is longer by what liars are rarer than honest owners.
            let again = Credit::needed(error_max, 0.5);
            assert!(credit(again, 1).error_bound(liars) <= error_max && credit(again - 1, 1).error_bound(liars) > error_max);
        }
    }
}
