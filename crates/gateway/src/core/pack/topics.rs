//! The topic documents of the cell, as packs come and go.

use std::collections::BTreeMap;

use busbar_protocol::busbar::TopicDocument;
use busbar_protocol::prost::Message as _;

/// The largest sum of all topic documents, in bytes: they are one record, which the scheduler reads whole.
const TOPICS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why topics cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Taken {
    /// A topic is somebody else's.
    #[error("the topic {topic} belongs to {}", if owner.is_empty() { "the configuration".to_owned() } else { format!("the pack {owner}") })]
    Topic {
        /// The topic.
        topic: String,
        /// The pack, or empty where it was configured.
        owner: String,
    },
    /// There are too many.
    #[error("the topics of all packs together would have more than {TOPICS_BYTES_MAX} bytes")]
    Full,
}

/// The topics that stand when these are the pack's: the others stay as they are. By name.
pub(crate) fn with_topics(
    present: &[TopicDocument],
    pack_id: &str,
    topics: &[TopicDocument],
) -> Result<Vec<TopicDocument>, Taken> {
    let others = present.iter().filter(|document| document.pack_id != pack_id);
    let mut all: BTreeMap<&str, &TopicDocument> = others.map(|document| (document.topic.as_str(), document)).collect();
    for document in topics {
        if let Some(other) = all.insert(&document.topic, document) {
            return Err(Taken::Topic { topic: other.topic.clone(), owner: other.pack_id.clone() });
        }
    }
    if all.values().map(|document| document.encoded_len()).sum::<usize>() > TOPICS_BYTES_MAX {
        return Err(Taken::Full);
    }
    Ok(all.into_values().cloned().collect())
}

/// The topics that stand without those of the pack.
pub(crate) fn without_topics(present: &[TopicDocument], pack_id: &str) -> Vec<TopicDocument> {
    present.iter().filter(|document| document.pack_id != pack_id).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(topic: &str, pack: &str) -> TopicDocument {
        TopicDocument { topic: topic.into(), pack_id: pack.into(), ..TopicDocument::default() }
    }

    #[test]
    fn a_pack_replaces_its_own_topics_and_leaves_the_others() {
        let present = [of("job.own", ""), of("job.a.gone", "a"), of("job.a.x", "a"), of("job.b.x", "b")];
        let names = |topics: Result<Vec<TopicDocument>, Taken>| {
            topics
                .map(|all| all.into_iter().map(|document| document.topic).collect::<Vec<_>>())
                .map_err(|taken| taken.to_string())
        };
        let all = ["job.a.x", "job.a.y", "job.b.x", "job.own"].map(str::to_owned).to_vec();
        assert_eq!(names(with_topics(&present, "a", &[of("job.a.y", "a"), of("job.a.x", "a")])), Ok(all));
        let taken = |topic| names(with_topics(&present, "a", &[of(topic, "a")]));
        assert_eq!(taken("job.b.x"), Err("the topic job.b.x belongs to the pack b".into()));
        assert_eq!(taken("job.own"), Err("the topic job.own belongs to the configuration".into()));
        assert_eq!(names(Ok(without_topics(&present, "a"))), Ok(vec!["job.own".into(), "job.b.x".into()]));
    }
}
