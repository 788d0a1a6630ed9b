//! What an approval is bound to: the job as its submitter wrote it.

use busbar_protocol::cap::JobRequest;
use busbar_protocol::hex;
use busbar_protocol::prost::Message as _;
use sha2::{Digest, Sha256};

/// The label that marks a submission that is made again after an approval.
const MESSAGE_ID_LABEL: &str = "cordum.bus_msg_id";

/// What begins the labels that an approval adds.
const APPROVAL_LABELS: &str = "approval_";

/// The environment entry that the control plane adds.
const EFFECTIVE_CONFIG_ENV: &str = "CORDUM_EFFECTIVE_CONFIG";

/// SHA-256, in hexadecimal, of the request without what the control plane itself adds to it: the labels `approval_*` and
/// `cordum.bus_msg_id`, the environment entry `CORDUM_EFFECTIVE_CONFIG`. Maps are encoded in the order of their keys, so that
/// the same request always has the same hash.
#[must_use]
pub fn job_hash(request: &JobRequest) -> String {
    let mut request = request.clone();
    request.labels.retain(|label, _| !label.starts_with(APPROVAL_LABELS) && label != MESSAGE_ID_LABEL);
    request.env.remove(EFFECTIVE_CONFIG_ENV);
    hex::encode(&Sha256::digest(request.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(labels: &[(&str, &str)]) -> JobRequest {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        JobRequest { job_id: "j".into(), topic: "job.echo".into(), labels, ..JobRequest::default() }
    }

    #[test]
    fn an_approval_does_not_change_the_hash() {
        let plain = request(&[("a", "1"), ("b", "2")]);
        let mut approved = request(&[("b", "2"), ("approval_granted", "true"), ("cordum.bus_msg_id", "x"), ("a", "1")]);
        approved.env.insert("CORDUM_EFFECTIVE_CONFIG".into(), "{}".into());
        assert_eq!(job_hash(&plain), job_hash(&approved));
        assert_eq!(job_hash(&plain).len(), 64);
    }

    #[test]
    fn every_other_change_does() {
        let plain = request(&[("a", "1")]);
        assert_ne!(job_hash(&plain), job_hash(&request(&[("a", "2")])));
        assert_ne!(job_hash(&plain), job_hash(&JobRequest { topic: "job.other".into(), ..plain.clone() }));
    }
}
