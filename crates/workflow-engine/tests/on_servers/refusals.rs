//! Questions that are not in order: each is answered, with a stable code, and changes nothing.

use busbar_protocol::busbar::{
    DefineReply, DefineRequest, RemoveReply, RunCancelReply, StartReply, StartRequest, run_cancel_reply, start_reply,
};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{IndexRange, Records as _};
use busbar_protocol::{ids, keys, subjects};
use serde_json::json;

use crate::rig::{Rig, document};

/// The code of a start that was refused.
pub(crate) fn code(reply: &StartReply) -> Option<&str> {
    match &reply.answer {
        Some(start_reply::Answer::Rejected(problem)) => Some(&problem.code),
        Some(start_reply::Answer::Started(_)) | None => None,
    }
}

fn code_of_cancel(reply: RunCancelReply) -> String {
    let Some(run_cancel_reply::Answer::Rejected(problem)) = reply.answer else { panic!("{reply:?}") };
    problem.code
}

async fn rig_with(id: &str) -> (Rig, tokio::task::JoinHandle<()>) {
    let rig = Rig::start().await;
    let engine = rig.engine("a").await;
    let mut picky = document(id, &json!({"all": {"type": "transform", "value": "${input.n}"}}), &json!("${steps.all.output}"));
    picky["input_schema"] = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
    assert_eq!(rig.define(&picky).await.problem, None);
    (rig, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_as_such() {
    let (rig, _engine) = rig_with("picky").await;
    let garbage = || vec![0xff, 0xff, 0x01, 0x02];
    let defined: DefineReply = rig.ask_raw(subjects::ENGINE_DEFINE, garbage()).await;
    let removed: RemoveReply = rig.ask_raw(subjects::ENGINE_REMOVE, garbage()).await;
    for problem in [defined.problem, removed.problem] {
        assert_eq!(problem.expect("refused").code, "packet_malformed");
    }
    let reply: StartReply = rig.ask_raw(subjects::ENGINE_START, garbage()).await;
    assert_eq!(code(&reply), Some("packet_malformed"));
    let reply: RunCancelReply = rig.ask_raw(subjects::ENGINE_CANCEL, garbage()).await;
    assert_eq!(code_of_cancel(reply), "packet_malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_start_says_what_is_wrong_and_leaves_no_run() {
    let (rig, _engine) = rig_with("picky").await;
    let good = || Rig::question("picky");
    let cases: [(&str, StartRequest, Option<&str>); 9] = [
        ("field_invalid", StartRequest { run_id: "tuesday".to_owned(), ..good() }, Some(r#"{"n": 1}"#)),
        ("field_invalid", StartRequest { tenant_id: "no tenant".to_owned(), ..good() }, Some(r#"{"n": 1}"#)),
        (
            "field_invalid",
            StartRequest { labels: [("approval_by".to_owned(), String::new())].into(), ..good() },
            Some(r#"{"n": 1}"#),
        ),
        ("workflow_not_found", StartRequest { workflow_id: "nothing".to_owned(), ..good() }, Some(r#"{"n": 1}"#)),
        ("workflow_not_found", StartRequest { tenant_id: "somebody".to_owned(), ..good() }, Some(r#"{"n": 1}"#)),
        ("workflow_not_found", StartRequest { workflow_version: 7, ..good() }, Some(r#"{"n": 1}"#)),
        ("payload_missing", good(), None),
        ("input_invalid", good(), Some("{")),
        ("input_invalid", good(), Some(r#"{"n": "one"}"#)),
    ];
    for (expected, request, input) in cases {
        if let Some(input) = input {
            rig.input(&request.run_id, input).await;
        }
        let reply = rig.ask_start(&request).await;
        assert_eq!(code(&reply), Some(expected), "{request:?}: {reply:?}");
        assert!(Code::ALL.iter().any(|code| code.as_str() == expected));
    }
    let all = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset: 0, limit: 10 };
    for index in [keys::INDEX_LIVE_RUNS.to_owned(), keys::index_runs("default"), keys::index_runs("somebody")] {
        assert!(rig.store.index(&index, all.clone()).await.expect("read").is_empty(), "{index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_somebody_elses_is_not_there() {
    let (rig, _engine) = rig_with("picky").await;
    let run = rig.start_run("picky", &json!({"n": 1})).await;
    rig.ended(&run).await;
    assert_eq!(code_of_cancel(rig.cancel(&run, "somebody").await), "run_not_found");
    assert_eq!(code_of_cancel(rig.cancel(&ids::generate(), "").await), "run_not_found");
    assert_eq!(code_of_cancel(rig.cancel(&run, "default").await), "run_terminal");
    let stolen = StartRequest { run_id: run.clone(), tenant_id: "somebody".to_owned(), ..Rig::question("picky") };
    assert_eq!(code(&rig.ask_start(&stolen).await), Some("run_duplicate"));
    assert_eq!(rig.output(&run).await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_workflow_says_which_rule_it_breaks() {
    let (rig, _engine) = rig_with("picky").await;
    let waits = |before: &str| json!({"type": "transform", "value": 1, "depends_on": [before]});
    let cycle = document("round", &json!({"a": waits("b"), "b": waits("a")}), &json!(null));
    let problem = rig.define(&cycle).await.problem.expect("refused");
    assert!(problem.code == "workflow_invalid" && problem.detail.contains("a → b → a"), "{problem:?}");
    let ask = async |request: DefineRequest| -> String {
        let reply: DefineReply = rig.ask(subjects::ENGINE_DEFINE, &request).await;
        reply.problem.expect("refused").code
    };
    let own = document("mine", &json!({"a": {"type": "transform", "value": 1}}), &json!(null)).to_string();
    let request = |tenant: &str, pack: &str| DefineRequest {
        document: own.clone().into(),
        tenant_id: tenant.to_owned(),
        pack_id: pack.to_owned(),
        ..DefineRequest::default()
    };
    assert_eq!(ask(DefineRequest { document: "{".into(), ..request("default", "") }).await, "workflow_invalid");
    assert_eq!(ask(request("", "")).await, "field_invalid", "nobody's");
    assert_eq!(ask(request("", "theirs")).await, "workflow_invalid", "a pack's begin with its name");
    assert_eq!(ask(request("default", "mine")).await, "workflow_invalid", "a pack has no tenant");
}
