//! Which blobs a record names: whatever in it looks like a SHA-256 in hexadecimal digits.

use busbar_protocol::pointers::Sha256Hex;

const DIGITS: usize = 64;

/// All digests that stand in these bytes as text. Within a longer row of digits, each that could be one.
pub(crate) fn names_in(bytes: &[u8]) -> impl Iterator<Item = Sha256Hex> {
    let rows = bytes.split(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')).filter(|row| row.len() >= DIGITS);
    rows.flat_map(|row| row.windows(DIGITS)).filter_map(|digits| Sha256Hex::parse(std::str::from_utf8(digits).ok()?).ok())
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::{ArtifactRecord, Ended, JobPlan, JobRecord, job_record};
    use busbar_protocol::cap::{JobRequest, ResourceRef};
    use busbar_protocol::pointers::Pointer;
    use busbar_protocol::prost::Message as _;

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
    fn what_may_be_a_name_is_one() {
        let digest = Sha256Hex::of(b"x").to_string();
        assert_eq!(named(format!("{digest}0").as_bytes()).len(), 2, "a tag of the next field may look like a digit");
        for other in [&digest[1..], "", &digest.to_uppercase()] {
            assert!(named(other.as_bytes()).is_empty(), "{other}");
        }
    }
}
