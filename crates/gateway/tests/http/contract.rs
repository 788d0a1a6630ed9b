//! The OpenAPI document against the gateway itself: every answer that any of these tests gets, every route, every example.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::engine::Engine;
use crate::support::{Fixture, Reply, Scheduler, exchange, request};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../../docs/openapi.json")).expect("`cargo xtask openapi` writes JSON")
});

/// Paths that are not part of the interface: the page to try it.
const UNDOCUMENTED: &str = "/docs";

/// A job may be named like a part of a path; looking at it is documented as looking at any.
const DOCUMENTED_AS_ANY_JOB: &str = "GET /api/v1/jobs/batch";

/// Checks that an answer is one that the document allows.
#[track_caller]
pub(crate) fn check(method: &str, path: &str, reply: &Reply) {
    let path = path.split('?').next().unwrap_or(path);
    let known = template_of(method, path).map(|template| (template, &DOCUMENT["paths"][template][method.to_lowercase()]));
    let code = reply.is_problem().then(|| reply.json()["code"].as_str().expect("a code").to_owned());
    match known {
        Some((template, operation)) if operation.is_object() => {
            check_answer(&format!("{method} {template}"), operation, reply, code);
        }
        Some(_) => assert_eq!(code.as_deref(), Some("method_not_allowed"), "{method} {path} answers, but is not documented"),
        None if path.starts_with(UNDOCUMENTED) => {}
        None => assert_eq!(code.as_deref(), Some("not_found"), "{method} {path} answers, but is not documented"),
    }
}

#[track_caller]
fn check_answer(name: &str, operation: &Value, reply: &Reply, code: Option<String>) {
    let answer = &operation["responses"][reply.status.to_string()];
    assert!(answer.is_object(), "{name} may not answer with status {}: {}", reply.status, reply.text());
    if let Some(code) = code {
        let named = operation["x-busbar-codes"].as_array().expect("codes");
        assert!(named.contains(&json!(code)), "{name} does not name the code {code}");
    }
    if answer["content"].is_null() {
        return assert!(reply.body.is_empty(), "{name} has no content for {}: {}", reply.status, reply.text());
    }
    let media_type = reply.headers.get("content-type").map_or("", |value| value.split(';').next().unwrap_or_default());
    let content = answer["content"].as_object().unwrap_or_else(|| panic!("{name} has no content for {}", reply.status));
    let media = content.get(media_type).or_else(|| content.get("*/*"));
    let media = media.unwrap_or_else(|| panic!("{name} may not answer with {media_type}, only with {:?}", content.keys()));
    if media_type.ends_with("json") && media["schema"].is_object() {
        check_body(name, &media["schema"], &reply.json());
    }
}

#[track_caller]
fn check_body(name: &str, schema: &Value, body: &Value) {
    // References lead to `#/components/schemas/…`, so that what they lead to is put where they look.
    let whole = json!({"allOf": [schema], "components": DOCUMENT["components"]});
    let validator = jsonschema::draft202012::new(&whole).expect("a schema");
    let broken: Vec<String> = validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(broken.is_empty(), "{name} answered what its schema refuses: {broken:?} in {body}");
}

/// The documented path that this one belongs to: one that has the method, and among those one without parameters, as in the router.
fn template_of(method: &str, path: &str) -> Option<&'static str> {
    let fits = |template: &str| {
        let (mut wanted, mut given) = (template.split('/'), path.split('/'));
        let all = wanted.by_ref().zip(given.by_ref()).all(|(wanted, given)| wanted == given || wanted.starts_with('{'));
        all && wanted.next().is_none() && template.split('/').count() == path.split('/').count()
    };
    let fitting = DOCUMENT["paths"].as_object().expect("paths").keys().filter(|template| fits(template));
    let has_method = |template: &str| DOCUMENT["paths"][template][method.to_lowercase()].is_object();
    fitting.min_by_key(|template| (!has_method(template), template.matches('{').count())).map(String::as_str)
}

/// Every path that the sources route, as written there.
fn routed_paths() -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = vec![crates.join("service/src/health.rs")];
    collect(&crates.join("gateway/src"), &mut sources);
    let mut paths = BTreeSet::new();
    for source in sources {
        let text = fs::read_to_string(&source).expect("a source");
        for after in text.split(".route(").skip(1) {
            let literal = after.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
            let (path, _) = literal.unwrap_or_else(|| panic!("{}: write a route's path where it is routed", source.display()));
            paths.insert(path.to_owned());
        }
    }
    paths
}

fn collect(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => collect(&path, into),
            false => into.push(path),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_is_documented_and_the_other_way_round() {
    let fixture = Fixture::start().await;
    let mut routed = BTreeSet::new();
    for path in routed_paths() {
        // No route has this method, and the refusal names those that it has.
        let plain = path.replace(['{', '}', '*'], "");
        let reply = exchange(fixture.address, "PROPFIND", &plain, &[], b"").await;
        let allowed = reply.headers.get("allow").unwrap_or_else(|| panic!("{path} names no methods: {reply:?}"));
        routed.extend(allowed.split(',').filter(|method| *method != "HEAD").map(|method| format!("{method} {path}")));
    }
    assert!(routed.remove(DOCUMENTED_AS_ANY_JOB), "{DOCUMENTED_AS_ANY_JOB} is not routed");
    let mut documented = BTreeSet::new();
    for (path, item) in DOCUMENT["paths"].as_object().expect("paths") {
        documented.extend(item.as_object().expect("methods").keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    assert!(routed.len() > 10, "{routed:?}");
    assert_eq!(routed, documented, "left what is routed, right what is documented: see docs/guides/add-an-endpoint.md");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_of_a_body_is_taken() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let _engine = Engine::start(&fixture).await;
    let submitted = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1}"#).await.json();
    let job_id = submitted["job_id"].as_str().expect("an id");
    assert_eq!(fixture.ask("POST", "/api/v1/workflows", r#"{"id":"words","steps":{}}"#).await.status, 201);
    let mut tried = 0;
    for (path, item) in DOCUMENT["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let media = &operation["requestBody"]["content"]["application/json"];
            if !media.is_object() {
                continue;
            }
            let examples = examples(media);
            assert!(!examples.is_empty(), "{method} {path} has no example of its body");
            for example in examples {
                check_body(path, &media["schema"], &example);
                let path = path.replace("workflows/{id}", "workflows/words").replace("{id}", job_id);
                let dead = format!("dead-{tried}");
                if path.contains("{job_id}") {
                    scheduler.bury(&dead, "job.echo", "worker_lost", 1_700_000_000_000).await;
                }
                let path = path.replace("{scope}/{name}", "pool/p").replace("{job_id}", &dead).replace("{pattern}", "job.a");
                let reply = fixture.ask(&method.to_uppercase(), &path, &example.to_string()).await;
                assert!((200..300).contains(&reply.status), "{method} {path} refuses its own example: {}", reply.text());
                tried += 1;
            }
        }
    }
    assert!(tried >= 4, "{tried}");
    fixture.end().await;
}

fn examples(media: &Value) -> Vec<Value> {
    let named = media["examples"].as_object().into_iter().flat_map(Map::values).map(|example| example["value"].clone());
    media.get("example").cloned().into_iter().chain(named).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_and_its_page_are_served_to_everybody() {
    let fixture = Fixture::start().await;
    let get = async |path: &str| request(fixture.address, "GET", path, &[], b"").await;
    assert!(get("/api/v1/openapi.json").await.json() == *DOCUMENT, "what is served is not what is committed");
    assert_eq!(get("/docs").await.headers["location"], "/docs/");
    let page = get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.headers["content-security-policy"].starts_with("default-src 'self'"));
    let start = get("/docs/swagger-initializer.js").await;
    assert_eq!(start.status, 200);
    fixture.end().await;
}
