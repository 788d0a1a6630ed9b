//! Draws that nobody outside can foresee and everybody inside repeats: a secret and the name of a job decide.
//!
//! A scheduler that takes over draws the same as its predecessor, and nothing has to be kept of it.

use busbar_protocol::ids::JobId;
use sha2::{Digest as _, Sha256};

/// What makes draws unforeseeable: 32 random bytes that never leave the scheduler and its store.
#[derive(Clone, Default)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Whether a job is one of the share that is audited.
    #[must_use]
    pub fn audits(&self, job_id: &JobId, share: f64) -> bool {
        // 53 bits are all that a number between 0 and 1 can hold evenly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let drawn = (self.draw("audit", job_id, &[]) >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < share
    }

    /// The number that the replica made in this place (from 0) gets in its name: each from 0 to `replicas_max` - 1 once.
    ///
    /// Were the first one always `r0`, then whoever gets `r1` would know that somebody else has the job too, and whoever gets `r0`
    /// that it may be alone: it could lie just there.
    #[must_use]
    pub fn replica(&self, job_id: &JobId, place: u32, replicas_max: u32) -> u32 {
        let mut numbers: Vec<u32> = (0..replicas_max).collect();
        numbers.sort_by_cached_key(|&number| self.draw("replica", job_id, &number.to_be_bytes()));
        numbers.into_iter().nth(place as usize).unwrap_or(place)
    }

    fn draw(&self, what: &str, job_id: &JobId, of: &[u8]) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.0);
        // The words differ in their first letter, and no name of a job holds a zero: no two draws have the same text.
        hash.update(what);
        hash.update(job_id.as_str());
        hash.update([0]);
        hash.update(of);
        let digest: [u8; 32] = hash.finalize().into();
        digest.iter().take(8).fold(0, |drawn, &byte| drawn << 8 | u64::from(byte))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u32) -> JobId {
        JobId::parse(format!("job-{number}")).expect("a good id")
    }

    #[test]
    fn about_the_share_is_audited_and_always_the_same_jobs() {
        let secret = Secret::new([7; 32]);
        for (share, least, most) in [(0.0, 0, 0), (0.05, 430, 570), (0.5, 4_800, 5_200), (1.0, 10_000, 10_000)] {
            let audited = (0..10_000).filter(|&number| secret.audits(&job(number), share)).count();
            assert!((least..=most).contains(&audited), "{share}: {audited}");
        }
        let again = Secret::new([7; 32]);
        assert!((0..1_000).all(|number| secret.audits(&job(number), 0.3) == again.audits(&job(number), 0.3)));
    }

    #[test]
    fn another_secret_audits_other_jobs() {
        let (one, other) = (Secret::new([7; 32]), Secret::new([8; 32]));
        assert!((0..1_000).any(|number| one.audits(&job(number), 0.5) != other.audits(&job(number), 0.5)));
    }

    #[test]
    fn replicas_get_each_number_once_and_the_first_may_get_any() {
        let secret = Secret::new([7; 32]);
        let mut firsts = [0; 5];
        for number in 0..1_000 {
            let mut numbers: Vec<u32> = (0..5).map(|place| secret.replica(&job(number), place, 5)).collect();
            firsts[numbers[0] as usize] += 1;
            numbers.sort_unstable();
            assert_eq!(numbers, [0, 1, 2, 3, 4]);
        }
        assert!(firsts.iter().all(|&times| (150..=250).contains(&times)), "{firsts:?}");
        assert_eq!(secret.replica(&job(1), 9, 5), 9, "more than there may be are still told apart");
    }

    #[test]
    fn a_secret_is_not_told() {
        assert_eq!(format!("{:?}", Secret::new([7; 32])), "Secret");
    }
}
