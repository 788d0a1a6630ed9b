//! A table of cases: policy and request in, judgement out.

use std::collections::BTreeMap;

use busbar_protocol::cap::{ActorType, DecisionType, IdentityBinding, JobMetadata};

use super::*;
use crate::core::bundle::{Source, Tier};

fn source(tier: Tier, id: &str, content: &str, topics: &[&str]) -> Source {
    Source { tier, id: id.into(), content: content.into(), topics: topics.iter().map(|topic| (*topic).to_owned()).collect() }
}

fn snapshot(content: &str) -> Snapshot {
    Snapshot::compile([source(Tier::Core, "base", content, &[])]).expect("valid")
}

fn request(topic: &str) -> PolicyCheckRequest {
    PolicyCheckRequest { job_id: "j".into(), topic: topic.into(), ..PolicyCheckRequest::default() }
}

fn labelled(labels: &[(&str, &str)]) -> PolicyCheckRequest {
    let labels: BTreeMap<String, String> = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    PolicyCheckRequest { labels, ..request("job.echo") }
}

fn with_meta(meta: JobMetadata) -> PolicyCheckRequest {
    PolicyCheckRequest { meta: Some(meta), ..request("job.echo") }
}

/// Decision and rule.
fn judged(snapshot: &Snapshot, request: &PolicyCheckRequest) -> (Decision, String) {
    let judgement = evaluate(snapshot, request);
    (judgement.decision, judgement.rule_id)
}

#[test]
fn what_nothing_allows_is_denied() {
    let nothing = Snapshot::compile([]).expect("valid");
    let judgement = evaluate(&nothing, &request("job.echo"));
    assert_eq!((judgement.decision, judgement.rule_id.as_str()), (Decision::Deny, ""));
    assert_eq!(judgement.reason, "no rule allows topic job.echo for tenant default");
    for (default, decision) in [("allow", Decision::Allow), ("require_human", Decision::RequireHuman), ("deny", Decision::Deny)] {
        let snapshot = snapshot(&format!("default_decision: {default}"));
        assert_eq!(evaluate(&snapshot, &request("job.echo")).decision, decision, "{default}");
    }
    let both = [source(Tier::Core, "a", "default_decision: allow", &[]), source(Tier::Core, "b", "default_decision: deny", &[])];
    assert_eq!(Snapshot::compile(both).expect("valid").default_decision(), Decision::Deny, "the stricter default holds");
}

#[test]
fn topics_that_are_none_are_denied_before_any_rule() {
    let open = snapshot("rules: [{id: all, decision: allow}]");
    assert_eq!(evaluate(&open, &request("")).reason, "missing topic");
    assert_eq!(evaluate(&open, &request("sys.job.submit")).reason, "unsupported topic");
    assert_eq!(judged(&open, &request("job.echo")), (Decision::Allow, "all".into()));
}

#[test]
fn the_strongest_word_holds_whatever_the_order() {
    let words = ["allow", "allow_with_constraints", "redact", "throttle", "require_human", "quarantine", "deny"];
    for weaker in 0..words.len() {
        for stronger in weaker + 1..words.len() {
            for order in [[weaker, stronger], [stronger, weaker]] {
                let [a, b] = order.map(|n| format!("{{id: {}, decision: {}}}", words[n], words[n]));
                let decided = judged(&snapshot(&format!("rules: [{a}, {b}]")), &request("job.echo"));
                assert_eq!(decided.1, words[stronger]);
            }
        }
    }
}

#[test]
fn the_smallest_id_gives_the_reason() {
    let snapshot = snapshot(
        "rules: [{id: b, decision: deny, reason: second}, {id: a, decision: deny, reason: first}, {id: '0', decision: allow}]",
    );
    let judgement = evaluate(&snapshot, &request("job.echo"));
    assert_eq!((judgement.rule_id.as_str(), judgement.reason.as_str()), ("a", "first"));
}

#[test]
fn every_condition_must_hold() {
    let meta = JobMetadata {
        tenant_id: "Acme".into(),
        actor_id: "Ann".into(),
        actor_type: ActorType::Human.into(),
        capability: "Code".into(),
        risk_tags: vec!["Network".into(), "secrets".into()],
        requires: vec!["gpu".into(), "linux".into()],
        pack_id: "P".into(),
        ..JobMetadata::default()
    };
    let full = with_meta(meta);
    let cases = [
        ("topics: ['job.e*']", true),
        ("topics: ['job.x', JOB.ECHO]", true),
        ("topics: ['job.x*']", false),
        ("tenants: [acme]", true),
        ("tenants: [other]", false),
        ("capabilities: [code]", true),
        ("capabilities: [data]", false),
        ("pack_ids: [p]", true),
        ("pack_ids: [q]", false),
        ("actor_ids: [ANN]", true),
        ("actor_ids: [bob]", false),
        ("actor_types: [human, service]", true),
        ("actor_types: [service]", false),
        ("risk_tags: [network, write]", true),
        ("risk_tags: [write]", false),
        ("requires: [gpu]", true),
        ("requires: [gpu, arm]", false),
        ("labels: {}", true),
        ("labels: {env: prod}", false),
        ("secrets_present: true", true),
        ("secrets_present: false", false),
        ("tenants: [acme], capabilities: [data]", false),
    ];
    for (conditions, matches) in cases {
        let snapshot = snapshot(&format!("rules: [{{id: r, match: {{{conditions}}}, decision: allow}}]"));
        assert_eq!(evaluate(&snapshot, &full).rule_id == "r", matches, "{conditions}");
    }
}

#[test]
fn labels_are_exact_and_tell_of_secrets() {
    let prod = snapshot("rules: [{id: r, match: {labels: {env: prod}}, decision: allow}]");
    assert_eq!(judged(&prod, &labelled(&[("env", "prod"), ("x", "y")])).1, "r");
    assert_eq!(judged(&prod, &labelled(&[("env", "Prod")])).1, "");
    let secrets = snapshot("rules: [{id: r, match: {secrets_present: true}, decision: allow}]");
    assert_eq!(judged(&secrets, &labelled(&[("secrets_present", "true")])).1, "r");
    let mut tagged = with_meta(JobMetadata { risk_tags: vec!["secrets".into()], ..JobMetadata::default() });
    assert_eq!(judged(&secrets, &tagged).1, "r");
    tagged.labels.insert("secrets_present".into(), "false".into());
    assert_eq!(judged(&secrets, &tagged).1, "", "the label wins over the tag");
}

#[test]
fn mcp_lists_decide_whether_a_rule_speaks() {
    let snapshot = snapshot("rules: [{id: r, match: {mcp: {allow_servers: [Git], deny_tools: [push]}}, decision: allow}]");
    let speaks = |labels: &[(&str, &str)]| judged(&snapshot, &labelled(labels)).1 == "r";
    assert!(speaks(&[]), "no MCP, nothing to check");
    assert!(speaks(&[("mcp.server", "git"), ("mcpTool", "pull")]));
    assert!(!speaks(&[("mcp_server", "shell")]));
    assert!(!speaks(&[("mcp.server", "git"), ("mcp.tool", "PUSH")]));
}

#[test]
fn the_tenant_is_found_in_the_request_then_its_meta_then_the_default() {
    let snapshot = snapshot("default_tenant: fallback\nrules: [{id: r, match: {tenants: [fallback]}, decision: allow}]");
    let mut named = with_meta(JobMetadata { tenant_id: "meta".into(), ..JobMetadata::default() });
    assert_eq!(judged(&snapshot, &request("job.echo")).1, "r");
    assert_eq!(judged(&snapshot, &named).1, "");
    named.tenant = "fallback".into();
    assert_eq!(judged(&snapshot, &named).1, "r");
}

#[test]
fn constraints_of_all_matching_rules_are_merged() {
    let snapshot = snapshot(
        "rules:
  - {id: a, decision: allow, constraints: {budgets: {max_runtime_ms: 100}, sandbox: {network_allowlist: [x, y]}}}
  - {id: b, decision: allow, constraints: {budgets: {max_runtime_ms: 50, max_retries: 1}, sandbox: {network_allowlist: [y, z]}}}
  - {id: c, match: {topics: [job.other]}, decision: allow, constraints: {budgets: {max_runtime_ms: 1}}}",
    );
    let answer = evaluate(&snapshot, &request("job.echo")).to_wire(&snapshot, &request("job.echo"));
    assert_eq!(answer.decision(), DecisionType::AllowWithConstraints);
    let constraints = answer.constraints.expect("constraints");
    let budgets = constraints.budgets.expect("budgets");
    assert_eq!((budgets.max_runtime_ms, budgets.max_retries), (50, 1));
    assert_eq!(constraints.sandbox.expect("a sandbox").network_allowlist, ["y"]);
}

#[test]
fn tools_with_nothing_in_common_deny() {
    let rule = |id, tool| format!("{{id: {id}, decision: allow, constraints: {{toolchain: {{allowed_tools: [{tool}]}}}}}}");
    let snapshot = snapshot(&format!("rules: [{}, {}]", rule("a", "cc"), rule("b", "ld")));
    let judgement = evaluate(&snapshot, &request("job.echo"));
    assert_eq!(judgement.decision, Decision::Deny);
    assert!(judgement.reason.contains("toolchain.allowed_tools"), "{}", judgement.reason);
}

#[test]
fn tenants_sections_allow_deny_and_restrict() {
    let snapshot = snapshot(
        "rules: [{id: all, match: {topics: ['job.*']}, decision: allow}]
tenants:
  a: {allow_topics: [job.echo], deny_topics: ['job.x*']}
  b: {max_concurrent_jobs: 3, mcp: {deny_tools: [rm]}}",
    );
    let of = |tenant: &str, topic: &str| judged(&snapshot, &PolicyCheckRequest { tenant: tenant.into(), ..request(topic) });
    assert_eq!(of("a", "job.echo").0, Decision::Allow);
    assert_eq!(of("a", "job.x.y"), (Decision::Deny, "tenant:a:allow".into()));
    assert_eq!(of("A", "job.other"), (Decision::Deny, "tenant:a:allow".into()));
    assert_eq!(of("b", "job.other").0, Decision::AllowWithConstraints);
    assert_eq!(of("c", "job.other").0, Decision::Allow);
    let rm = PolicyCheckRequest { tenant: "b".into(), ..labelled(&[("mcp.tool", "rm")]) };
    assert_eq!(judged(&snapshot, &rm), (Decision::Deny, "tenant:b:mcp:tool".into()));

    let alone =
        Snapshot::compile([source(Tier::Core, "base", "tenants: {default: {allow_topics: ['job.e*']}}", &[])]).expect("valid");
    assert_eq!(judged(&alone, &request("job.echo")), (Decision::Allow, "tenant:default:allow:0".into()));
    assert_eq!(judged(&alone, &request("job.x")).0, Decision::Deny);
}

#[test]
fn no_tier_loosens_another() {
    let deny = "rules: [{id: no, match: {topics: [job.a.x]}, decision: deny}]";
    let allow = "rules: [{id: yes, match: {topics: ['job.a.*']}, decision: allow}]";
    let sources = [source(Tier::Core, "base", deny, &[]), source(Tier::Pack, "a", allow, &["job.a.x", "job.a.y"])];
    let snapshot = Snapshot::compile(sources).expect("valid");
    assert_eq!(judged(&snapshot, &request("job.a.x")), (Decision::Deny, "no".into()));
    assert_eq!(judged(&snapshot, &request("job.a.y")), (Decision::Allow, "yes".into()));
    assert_eq!(judged(&snapshot, &request("job.a.z")).0, Decision::Deny, "the glob is wider than the pack's topics");
}

#[test]
fn an_effective_config_may_only_deny_further() {
    let open = snapshot("rules: [{id: all, decision: allow}]");
    let with = |config: &str| PolicyCheckRequest { effective_config: config.to_owned().into(), ..request("job.echo") };
    assert_eq!(judged(&open, &with(r#"{"safety":{"allowed_topics":["job.e*"]},"other":1}"#)).0, Decision::Allow);
    for denied in [
        r#"{"safety":{"denied_topics":["job.e*"]}}"#,
        r#"{"safety":{"allowed_topics":["job.x"]}}"#,
        r#"{"safety":{"denied_topics":7}}"#,
        "not JSON",
    ] {
        assert_eq!(judged(&open, &with(denied)), (Decision::Deny, "effective_config".into()), "{denied}");
    }
    let closed = Snapshot::compile([]).expect("valid");
    assert_eq!(evaluate(&closed, &with(r#"{"safety":{"allowed_topics":["*"]}}"#)).decision, Decision::Deny);
}

#[test]
fn an_approval_is_bound_to_the_job() {
    let snapshot = snapshot("rules: [{id: r, decision: require_approval, remediations: [{id: ask, title: Ask}]}]");
    let identity = IdentityBinding { tenant_id: "t".into(), ..IdentityBinding::default() };
    let request = PolicyCheckRequest { identity: Some(identity.clone()), ..request("job.echo") };
    let answer = evaluate(&snapshot, &request).to_wire(&snapshot, &request);
    assert_eq!(answer.decision(), DecisionType::RequireHuman);
    assert_eq!((answer.approval_required, answer.approval_ref.as_str()), (true, "j"));
    assert_eq!(answer.remediations[0].title, "Ask");
    assert_eq!(answer.policy_snapshot, snapshot.id());
    assert_eq!(answer.identity, Some(identity));
}

#[test]
fn an_explanation_traces_every_rule() {
    let snapshot = snapshot("rules: [{id: b, decision: allow}, {id: a, match: {risk_tags: [x]}, decision: deny}]");
    let (judgement, text) = explain(&snapshot, &request("job.echo"));
    assert_eq!(judgement.decision, Decision::Allow);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["rule b: allow", "base/a (deny): does not match: risk_tags", "base/b (allow): matches", "default: deny"]);
}

#[test]
fn a_snapshot_is_named_by_what_is_in_it() {
    let (a, b) = (source(Tier::Core, "a", "rules: []", &[]), source(Tier::Core, "b", "", &[]));
    let id = |sources: Vec<Source>| Snapshot::compile(sources).expect("valid").id().to_owned();
    assert_eq!(id(vec![a.clone(), b.clone()]), id(vec![b.clone(), a.clone()]));
    let renamed = Source { id: "c".into(), ..a.clone() };
    let rewritten = Source { content: "rules: [] # x".into(), ..a.clone() };
    let others = [vec![a.clone()], vec![renamed, b.clone()], vec![rewritten, b.clone()]].map(id);
    for (n, other) in others.iter().enumerate() {
        assert_ne!(*other, id(vec![a.clone(), b.clone()]), "{n}");
    }
    assert!(id(vec![a]).starts_with("sha256:") && id(vec![b]).len() == 71);
}
