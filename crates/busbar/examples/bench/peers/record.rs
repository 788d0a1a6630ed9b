//! What the workers of a peer wrote down: the number of a job for each time that it was executed.
//!
//! Each process has a file of its own to which it appends a line for each job. Reading them costs the measured program nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::document::Delivery;

const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The files of one peer.
#[derive(Debug)]
pub(crate) struct Record {
    folder: PathBuf,
    files: BTreeMap<PathBuf, (File, Vec<u8>)>,
    /// How often each job was executed.
    times: BTreeMap<u64, u64>,
}

impl Record {
    /// Makes the folder.
    pub(crate) fn new(folder: PathBuf) -> Outcome<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, files: BTreeMap::new(), times: BTreeMap::new() })
    }

    /// Waits until every job with a number below `jobs` was executed at least once, and says when that was seen.
    pub(crate) async fn until(&mut self, jobs: u64, within: Duration) -> Outcome<Instant> {
        let deadline = Instant::now() + within;
        loop {
            self.look()?;
            let (seen, now) = (self.times.len() as u64, Instant::now());
            if seen >= jobs {
                return Ok(now);
            }
            if now > deadline {
                return Err(format!("{seen} of {jobs} jobs were executed within {within:?}").into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Reads what was written since the last look.
    pub(crate) fn look(&mut self) -> Outcome<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if !self.files.contains_key(&path) {
                self.files.insert(path.clone(), (File::open(&path)?, Vec::new()));
            }
        }
        for (path, (file, rest)) in &mut self.files {
            file.read_to_end(rest)?;
            let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            for line in rest.drain(..whole).collect::<Vec<u8>>().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                *self.times.entry(number(line, path)?).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Compares what was executed with the jobs that were submitted: all numbers below `jobs`.
    pub(crate) fn delivery(&self, jobs: u64) -> Delivery {
        let repeated = self.times.values().filter(|times| **times > 1).count() as u64;
        let lost = jobs.saturating_sub(self.times.range(..jobs).count() as u64);
        Delivery { checked: "what workers wrote down at each execution".to_owned(), jobs, lost, repeated }
    }
}

fn number(line: &[u8], path: &Path) -> Outcome<u64> {
    let text = std::str::from_utf8(line)?;
    text.parse().map_err(|error| format!("{}: {text:?}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn executions_are_counted_over_all_files_and_half_lines_wait() {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut record = Record::new(temp.path().join("done")).expect("made");
        let file = |name: &str| File::create(temp.path().join("done").join(name)).expect("created");
        let (mut one, mut two) = (file("1"), file("2"));
        one.write_all(b"0\n2\n1").expect("written");
        two.write_all(b"1\n2\n").expect("written");
        record.until(3, Duration::from_secs(60)).await.expect("all three");
        one.write_all(b"1\n").expect("written");
        record.look().expect("looked");
        let delivery = record.delivery(13);
        assert_eq!((delivery.jobs, delivery.lost, delivery.repeated), (13, 9, 1), "11 comes but now, 2 came twice");
    }
}
