//! Which bundles are taken, and what is said of those that are not.

use super::*;

fn source(tier: Tier, content: &str, topics: &[&str]) -> Source {
    Source { tier, id: "test".into(), content: content.into(), topics: topics.iter().map(|topic| (*topic).to_owned()).collect() }
}

fn core(content: &str) -> Result<Bundle, BundleError> {
    Bundle::compile(source(Tier::Core, content, &[]))
}

fn pack(content: &str) -> Result<Bundle, BundleError> {
    Bundle::compile(source(Tier::Pack, content, &["job.bpsw.main_odds", "job.words.>"]))
}

const EVERYTHING: &str = r#"
version: 1
default_tenant: acme
default_decision: require_human
rules:
  - id: all-there-is
    match:
      tenants: [Acme]
      topics: ["job.*"]
      capabilities: [Code]
      pack_ids: [p]
      actor_ids: [a]
      actor_types: [human]
      risk_tags: [network]
      requires: [gpu]
      labels: {env: prod}
      secrets_present: false
      mcp: {allow_servers: [git], deny_servers: [], allow_tools: [], deny_tools: [rm], allow_resources: [], deny_resources: [], allow_actions: [], deny_actions: []}
    decision: allow-with-constraints
    reason: because
    constraints:
      budgets: {max_runtime_ms: 1000, max_retries: 1, max_artifact_bytes: 10, max_concurrent_jobs: 2}
      sandbox: {isolated: true, network_allowlist: [], fs_read_only: [/in], fs_read_write: [/tmp]}
      toolchain: {allowed_tools: [cc, wasm.files], allowed_commands: [make]}
      diff: {max_files: 3, max_lines: 4, deny_path_globs: ["*.key"]}
      redaction_level: High
    remediations:
      - {id: r, title: t, summary: s, replacement_topic: job.other, replacement_capability: c, add_labels: {a: b}, remove_labels: [x]}
tenants:
  Acme: {allow_topics: ["job.*"], deny_topics: [], max_concurrent_jobs: 5, mcp: {deny_tools: [rm]}}
  other:
"#;

#[test]
fn the_whole_shape_is_read() {
    let bundle = core(EVERYTHING).expect("valid");
    assert_eq!(bundle.default_decision, Some(Decision::RequireHuman));
    let rule = &bundle.rules[0];
    assert_eq!(rule.decision, Decision::AllowWithConstraints);
    assert_eq!(rule.constraints.network_allowlist, Some(BTreeSet::new()));
    assert_eq!(rule.constraints.redaction_level, Some(RedactionLevel::High));
    assert_eq!(rule.remediations[0].replacement_topic, "job.other");
    assert_eq!(bundle.tenants.keys().collect::<Vec<_>>(), ["acme", "other"]);
    assert!(core("").expect("valid").rules.is_empty());
    assert!(core("# nothing\nrules:\n").expect("valid").rules.is_empty());
}

#[test]
fn every_word_for_a_decision_is_known() {
    let words = [
        ("allow", Decision::Allow),
        ("PERMIT", Decision::Allow),
        ("deny", Decision::Deny),
        ("block", Decision::Deny),
        ("require_approval", Decision::RequireHuman),
        ("require-approval", Decision::RequireHuman),
        ("require_human", Decision::RequireHuman),
        ("allow_with_constraints", Decision::AllowWithConstraints),
        ("throttle", Decision::Throttle),
        ("quarantine", Decision::Quarantine),
        ("redact", Decision::Redact),
    ];
    for (word, decision) in words {
        let bundle = core(&format!("rules: [{{id: a, decision: {word}}}]")).expect(word);
        assert_eq!(bundle.rules[0].decision, decision, "{word}");
    }
}

#[test]
fn a_bad_bundle_is_refused_with_the_place() {
    let cases = [
        ("rules:\n  - id: a\n    decision: maybe\n", "line 3", "\"maybe\" is no decision"),
        ("rules:\n  - id: a\n    decison: allow\n", "line 3", "decison"),
        ("rules:\n  - id: a\n    match: {topic: [x]}\n    decision: allow\n", "line 3", "topic"),
        ("rulez: []\n", "line 1", "rulez"),
        ("rules: [", "line", ""),
        ("rules:\n  - {id: a, decision: allow}\n  - {id: a, decision: deny}\n", "line 3", "second rule"),
        ("rules: [{id: 'a b', decision: allow}]", "line 1", "identifier"),
        ("rules: [{decision: allow}]", "line 1", "id"),
        ("rules: [{id: a, match: {topics: ['job.[']}, decision: allow}]", "match.topics", "no pattern"),
        ("rules: [{id: a, decision: allow, constraints: {budgets: {max_retries: 0}}}]", "constraints", "at least 1"),
        ("rules: [{id: a, decision: allow, constraints: {redaction_level: some}}]", "constraints", "redaction_level"),
        (
            "rules: [{id: a, decision: allow, constraints: {toolchain: {allowed_tools: [cc, wasm.clock]}}}]",
            "constraints",
            "wasm.clock",
        ),
        ("default_decision: throttle", "line 1", "default_decision"),
        ("tenants: {t: {allowed_repo_hosts: [x]}}", "tenants.t", "nothing enforces"),
        ("rules: []\nrules: []\n", "line 2", ""),
    ];
    for (content, place, problem) in cases {
        let error = core(content).expect_err(content);
        assert!(error.place.contains(place), "{content}: {error}");
        assert!(error.problem.contains(problem), "{content}: {error}");
    }
    assert!(core(&"#".repeat(BUNDLE_BYTES_MAX + 1)).is_err());
}

#[test]
fn a_pack_speaks_only_of_its_own_topics() {
    let with = |topics: &str| pack(&format!("rules: [{{id: a, match: {{topics: {topics}}}, decision: allow}}]"));
    for own in ["[job.bpsw.main_odds]", "['job.bpsw.*']", "['JOB.bpsw.main*', 'job.words.map']", "['job.words.*']"] {
        assert!(with(own).is_ok(), "{own}: {:?}", with(own));
    }
    for foreign in [
        "[]",
        "['*']",
        "['job.*']",
        "['j*']",
        "['*.main_odds']",
        "[job.bpsw.other]",
        "['job.echo']",
        "[job.bpsw.main_odds, job.echo]",
    ] {
        assert!(with(foreign).is_err(), "{foreign}");
    }
    assert!(pack("rules: [{id: a, decision: allow}]").is_err(), "a rule without topics speaks of all");
    assert!(pack("default_decision: allow").is_err());
    assert!(pack("default_tenant: x").is_err());
    assert!(pack("tenants: {t: {allow_topics: ['*']}}").is_err());
    assert!(Bundle::compile(source(Tier::Pack, "", &[])).is_err(), "a pack without topics");
    assert!(Bundle::compile(source(Tier::Core, "", &["job.a"])).is_err(), "topics are for packs");
}

#[test]
fn a_tenants_rules_name_tenants() {
    let tenant = |content| Bundle::compile(source(Tier::Tenant, content, &[]));
    assert!(tenant("rules: [{id: a, match: {tenants: [t]}, decision: deny}]").is_ok());
    assert!(tenant("rules: [{id: a, decision: deny}]").is_err());
    assert!(tenant("default_decision: allow").is_err());
}

proptest::proptest! {
    #[test]
    fn garbage_is_refused_without_a_panic(content in "[ -~\n]{0,200}") {
        let _ = core(&content);
    }
}
