//! What a topic demands of its replicas before one of their results counts.

use busbar_protocol::busbar::{Replication, ReplicationTrust};

/// The most replicas that a job may ever have.
pub const REPLICAS_MAX: u32 = 64;

/// What a topic demands.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// So many owners must say the same. With [`trust`](Self::trust) that holds for audited jobs and for failures only.
    pub quorum: u32,
    /// So many replicas a job may have in all, those that were lost included.
    pub replicas_max: u32,
    /// Owners earn trust, and what a trusted one says needs no second voice.
    pub trust: Option<TrustTerms>,
}

/// What trust is measured by. All three are shares or probabilities, from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustTerms {
    /// A result is accepted when it is wrong with at most this probability.
    pub error_max: f64,
    /// A replica falls to an owner that lies with at most this probability. It is an assumption: nothing here can find out that more
    /// lie.
    pub liars_max: f64,
    /// This share of the jobs is compared although it need not be.
    pub audit_share: f64,
}

/// Why terms make no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TermsError {
    /// There are no replicas to agree, or more than anybody makes.
    #[error("replicas_max: must be from 1 to {REPLICAS_MAX}")]
    Replicas,
    /// So many replicas never agree.
    #[error("quorum: must be from 1 to replicas_max")]
    Quorum,
    /// No result could be good enough, or any would.
    #[error("error_max: must be above 0 and below 0.5")]
    Error,
    /// Liars that are a majority are believed.
    #[error("liars_max: must be above 0 and below 0.5")]
    Liars,
    /// A worker that is never compared again may lie as it likes.
    #[error("audit_share: must be above 0 and at most 1")]
    Audits,
    /// Newcomers could not outvote one liar, however many they are.
    #[error("error_max: no number of replicas is enough for it with these liars_max: raise it, or lower liars_max")]
    Never,
    /// One liar among newcomers would leave the job without a result.
    #[error("replicas_max: must be at least {least} for these error_max and liars_max: newcomers must outvote one liar")]
    Few {
        /// The fewest replicas that are enough.
        least: u32,
    },
}

impl From<&Replication> for Terms {
    fn from(replication: &Replication) -> Self {
        let trust = replication.trust.as_ref().map(TrustTerms::from);
        Self { quorum: replication.quorum, replicas_max: replication.replicas_max, trust }
    }
}

impl From<&ReplicationTrust> for TrustTerms {
    fn from(trust: &ReplicationTrust) -> Self {
        Self {
            error_max: f64::from(trust.wrong_per_billion) / 1e9,
            liars_max: f64::from(trust.liars_per_million) / 1e6,
            audit_share: f64::from(trust.audited_per_million) / 1e6,
        }
    }
}

impl Terms {
    /// Whether jobs can be decided under these terms.
    ///
    /// # Errors
    /// [`TermsError`]: the first thing that is wrong.
    pub fn check(&self) -> Result<(), TermsError> {
        let ensure = |holds: bool, error| if holds { Ok(()) } else { Err(error) };
        ensure((1..=REPLICAS_MAX).contains(&self.replicas_max), TermsError::Replicas)?;
        ensure((1..=self.replicas_max).contains(&self.quorum), TermsError::Quorum)?;
        let Some(trust) = &self.trust else { return Ok(()) };
        // What is no number is in no range.
        ensure(trust.error_max > 0.0 && trust.error_max < 0.5, TermsError::Error)?;
        ensure(trust.liars_max > 0.0 && trust.liars_max < 0.5, TermsError::Liars)?;
        ensure(trust.audit_share > 0.0 && trust.audit_share <= 1.0, TermsError::Audits)?;
        let least = trust.newcomers_against(&[1]) + 1;
        ensure(least <= REPLICAS_MAX, TermsError::Never)?;
        ensure(least <= self.replicas_max, TermsError::Few { least })
    }
}

impl TrustTerms {
    /// How likely a liar is beside an honest owner, when nothing is known of either.
    #[must_use]
    pub fn odds(&self) -> f64 {
        odds(self.liars_max)
    }

    /// How many owners of whom nothing is known must agree against rivals of these numbers; more than [`REPLICAS_MAX`]: no number does.
    #[must_use]
    pub fn newcomers_against(&self, rivals: &[u32]) -> u32 {
        (1..=REPLICAS_MAX).find(|&own| self.doubt(own, rivals) <= self.error_max).unwrap_or(REPLICAS_MAX + 1)
    }

    /// How likely `own` owners that agree are all wrong, beside rivals of these numbers, if nobody's record counts: Sarmenta's
    /// credibility of a group, for voters of whom nothing is known.
    #[must_use]
    pub fn doubt(&self, own: u32, rivals: &[u32]) -> f64 {
        // How much likelier it is that so many are honest than that all of them lie. Multiplied, since `powi` may differ between machines.
        let strength = |owners: u32| (0..owners).fold(1.0, |product, _| product / self.odds());
        let others = rivals.iter().fold(1.0, |sum, &owners| sum + strength(owners));
        others / (others + strength(own))
    }
}

/// A share as odds.
#[must_use]
pub fn odds(share: f64) -> f64 {
    share / (1.0 - share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(quorum: u32, replicas_max: u32, trust: Option<(f64, f64, f64)>) -> Terms {
        let trust = trust.map(|(error_max, liars_max, audit_share)| TrustTerms { error_max, liars_max, audit_share });
        Terms { quorum, replicas_max, trust }
    }

    #[test]
    fn terms_under_which_nothing_can_be_decided_are_refused() {
        let good = Some((1e-6, 0.1, 0.05));
        for (terms, expected) in [
            (terms(2, 3, None), Ok(())),
            (terms(1, 1, None), Ok(())),
            (terms(2, 9, good), Ok(())),
            (terms(2, 0, None), Err(TermsError::Replicas)),
            (terms(2, 65, None), Err(TermsError::Replicas)),
            (terms(0, 3, None), Err(TermsError::Quorum)),
            (terms(4, 3, None), Err(TermsError::Quorum)),
            (terms(2, 9, Some((0.0, 0.1, 0.05))), Err(TermsError::Error)),
            (terms(2, 9, Some((f64::NAN, 0.1, 0.05))), Err(TermsError::Error)),
            (terms(2, 9, Some((1e-6, 0.5, 0.05))), Err(TermsError::Liars)),
            (terms(2, 9, Some((1e-6, 0.1, 0.0))), Err(TermsError::Audits)),
            (terms(2, 9, Some((1e-6, 0.1, 1.5))), Err(TermsError::Audits)),
            (terms(2, 8, good), Err(TermsError::Few { least: 9 })),
            (terms(2, 64, Some((1e-6, 0.49, 0.05))), Err(TermsError::Never)),
        ] {
            assert_eq!(terms.check(), expected, "{terms:?}");
        }
    }

    #[test]
    fn so_many_newcomers_are_believed() {
        for (error_max, liars_max, alone, against_one) in [
            (1e-2, 0.1, 3, 4),
            (1e-3, 0.1, 4, 5),
            (1e-4, 0.1, 5, 6),
            (1e-5, 0.1, 6, 7),
            (1e-6, 0.1, 7, 8),
            (1e-6, 0.01, 4, 5),
            (1e-6, 0.2, 10, 12),
        ] {
            let trust = TrustTerms { error_max, liars_max, audit_share: 0.05 };
            assert_eq!((trust.newcomers_against(&[]), trust.newcomers_against(&[1])), (alone, against_one), "{trust:?}");
        }
    }

    #[test]
    fn terms_that_were_never_checked_have_an_answer_all_the_same() {
        for liars_max in [0.0, 0.5, 1.0, 2.0, f64::NAN, f64::MIN_POSITIVE] {
            let trust = TrustTerms { error_max: 1e-6, liars_max, audit_share: 0.05 };
            assert!((1..=REPLICAS_MAX + 1).contains(&trust.newcomers_against(&[1, 2])), "{trust:?}");
        }
    }
}
