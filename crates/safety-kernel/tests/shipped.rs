//! The policies that ship with Busbar are bundles that the kernel takes, and they decide as they promise.

use std::path::{Path, PathBuf};

use busbar_protocol::cap::PolicyCheckRequest;
use busbar_safety_kernel::core::bundle::{Source, Tier};
use busbar_safety_kernel::core::decision::Decision;
use busbar_safety_kernel::core::evaluate::evaluate;
use busbar_safety_kernel::core::snapshot::Snapshot;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of a pack's topics, taken from the lines that begin a topic document.
fn topics(pack: &Path) -> Vec<String> {
    let name = |line: &str| {
        line.trim().strip_prefix("- topic:").map(|name| name.split('#').next().unwrap_or_default().trim().to_owned())
    };
    read(&pack.join("topics.yaml")).lines().filter_map(name).collect()
}

#[test]
fn packs_are_allowed_their_own_topics_and_nothing_else() {
    let content = read(&root().join("config/safety-policy.yaml"));
    let mut sources = vec![Source { tier: Tier::Core, id: "policy-file".into(), content, topics: vec![] }];
    let mut all_topics = Vec::new();
    for entry in std::fs::read_dir(root().join("packs")).expect("the packs").flatten() {
        let policy = entry.path().join("policy.yaml");
        if policy.is_file() {
            let topics = topics(&entry.path());
            assert!(!topics.is_empty(), "{}", policy.display());
            all_topics.extend(topics.clone());
            let id = entry.file_name().into_string().expect("a name");
            sources.push(Source { tier: Tier::Pack, id, content: read(&policy), topics });
        }
    }
    let snapshot = Snapshot::compile(sources).expect("every shipped policy is taken");
    let decide = |topic: &str| {
        let request = PolicyCheckRequest { topic: topic.into(), ..PolicyCheckRequest::default() };
        evaluate(&snapshot, &request)
    };
    for topic in all_topics.iter().filter(|topic| !topic.contains(['*', '>'])) {
        let judgement = decide(topic);
        assert_eq!(judgement.decision, Decision::Allow, "{topic}: {}", judgement.reason);
    }
    assert_eq!(decide("job.nobody.asked").decision, Decision::Deny);
    assert!(all_topics.iter().any(|topic| topic == "job.echo"), "{all_topics:?}");
}
