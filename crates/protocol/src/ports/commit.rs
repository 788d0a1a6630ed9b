//! Committing many units until the store has answered all of them.

use std::time::Duration;

use super::{Answer, Clock, CommitClass, Records, StoreError, UNITS_MAX, Unit};

/// After how long a question is repeated that the store did not answer.
pub const COMMIT_RETRY: Duration = Duration::from_millis(50);

/// Commits units in order, repeating what the store did not answer: a repeated unit is recognised and not applied twice. A unit
/// that was refused for want of memory has no answer.
///
/// # Errors
/// [`StoreError`] when the store refuses for good, or is short of memory where a unit may have been applied before: then nothing
/// is certain.
pub async fn commit_all<R: Records, C: Clock>(
    records: &R,
    clock: &C,
    class: CommitClass,
    units: Vec<Unit>,
) -> Result<Vec<Option<Answer>>, StoreError> {
    let mut answers = Vec::with_capacity(units.len());
    for chunk in units.chunks(UNITS_MAX) {
        let mut doubtful = false;
        loop {
            match records.commit(class, chunk.to_vec()).await {
                Ok(some) => break answers.extend(some.into_iter().map(Some)),
                Err(StoreError::Unavailable { .. }) => {
                    doubtful = true;
                    clock.sleep(COMMIT_RETRY).await;
                }
                Err(StoreError::MemoryShort) if !doubtful => break answers.extend(chunk.iter().map(|_| None)),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(answers)
}
