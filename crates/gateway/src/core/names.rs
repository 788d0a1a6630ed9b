//! Which blobs a record names: whatever in it looks like a SHA-256 in hexadecimal digits, but for results whose time is over.

use busbar_protocol::busbar::{Ended, JobRecord, job_record};
use busbar_protocol::pointers::{Pointer, Sha256Hex};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

const DIGITS: usize = 64;

/// All digests that stand in these bytes as text. Within a longer row of digits, each that could be one.
pub(crate) fn names_in(bytes: &[u8]) -> impl Iterator<Item = Sha256Hex> {
    let rows = bytes.split(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')).filter(|row| row.len() >= DIGITS);
    rows.flat_map(|row| row.windows(DIGITS)).filter_map(|digits| Sha256Hex::parse(std::str::from_utf8(digits).ok()?).ok())
}

/// What the record of a job names at this time.
pub(crate) fn names_in_job(record: &[u8], now: Timestamp) -> Vec<Sha256Hex> {
    let mut names: Vec<Sha256Hex> = names_in(record).collect();
    // Most jobs name nothing, and need not be taken apart.
    if names.is_empty() {
        return names;
    }
    // Where the record names it twice, it is something else besides.
    if let Some(at) = expired_result(record, now).and_then(|result| names.iter().position(|name| *name == result)) {
        names.remove(at);
    }
    names
}

/// The result of a job, if it is a blob that was to be kept until before now.
fn expired_result(record: &[u8], now: Timestamp) -> Option<Sha256Hex> {
    let Some(job_record::State::Ended(Ended { result_ptr, result_until_ms, .. })) = JobRecord::decode(record).ok()?.state else {
        return None;
    };
    match Pointer::parse(&result_ptr) {
        Ok(Pointer::Blob(result)) => (1..now.millis()).contains(&result_until_ms).then_some(result),
        Ok(Pointer::Redis(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::{ArtifactRecord, JobPlan};
    use busbar_protocol::cap::{JobRequest, ResourceRef};

    use super::*;

    fn named(bytes: &[u8]) -> Vec<String> {
        names_in(bytes).map(|name| name.to_string()).collect()
    }

    #[test]
    fn records_name_blobs_wherever_they_do() {
        let [input, result, module, upload] = [b"a", b"b", b"c", b"d"].map(|content| Sha256Hex::of(content));
        let uri = Pointer::Blob(input.clone()).to_string();
        let request = JobRequest { context_ref: Some(ResourceRef { uri, ..ResourceRef::default() }), ..JobRequest::default() };
        let ended = Ended { result_ptr: Pointer::Blob(result.clone()).to_string(), ..Ended::default() };
        let job = JobRecord {
            request: request.encode_to_vec().into(),
            plan: Some(JobPlan { module: format!("sha256:{module}"), ..JobPlan::default() }),
            state: Some(job_record::State::Ended(ended)),
            ..JobRecord::default()
        };
        let found = named(&job.encode_to_vec());
        assert_eq!(found.len(), 3);
        assert!([input, result, module].iter().all(|digest| found.contains(&digest.to_string())), "{found:?}");
        let artifact = ArtifactRecord { sha256: upload.to_string(), ..ArtifactRecord::default() };
        assert_eq!(named(&artifact.encode_to_vec()), [upload.to_string()]);
    }

    #[test]
    fn a_result_is_named_until_its_time_is_over() {
        let [result, module] = [b"a", b"b"].map(|content| Sha256Hex::of(content));
        let named_at = |now, result_until_ms, module: &Sha256Hex| {
            let ended = Ended { result_ptr: Pointer::Blob(result.clone()).to_string(), result_until_ms, ..Ended::default() };
            let plan = JobPlan { module: format!("sha256:{module}"), ..JobPlan::default() };
            let state = Some(job_record::State::Ended(ended));
            let record = JobRecord { plan: Some(plan), state, ..JobRecord::default() }.encode_to_vec();
            names_in_job(&record, Timestamp::from_millis(now)).contains(&result)
        };
        assert_eq!([4, 5, 6].map(|now| named_at(now, 5, &module)), [true, true, false]);
        assert!(named_at(6, 0, &module), "an earlier scheduler did not say until when");
        assert!(named_at(6, 5, &result), "it is named for something else, too");
        assert_eq!(names_in_job(result.as_str().as_bytes(), Timestamp::from_millis(6)), [result], "a record that we cannot read");
    }

    #[test]
    fn what_may_be_a_name_is_one() {
        let digest = Sha256Hex::of(b"x").to_string();
        assert_eq!(named(format!("{digest}0").as_bytes()).len(), 2, "a tag of the next field may look like a digit");
        for other in [&digest[1..], "", &digest.to_uppercase()] {
            assert!(named(other.as_bytes()).is_empty(), "{other}");
        }
    }
}
