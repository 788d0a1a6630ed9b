//! The OpenAPI document of the HTTP interface, made from the code, and the page to try it.
//!
//! Each route carries `#[utoipa::path]` and stands in [`Document`]. What belongs to every route is added here: keys, the form of
//! errors, and the statuses of the codes that a route names in `x-busbar-codes`. `docs/guides/add-an-endpoint.md` tells how a route is added.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use busbar_api::{PROBLEM_MEDIA_TYPE, Problem};
use busbar_protocol::codes::Code;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, PathItem};
use utoipa::openapi::response::{Response as Answer, ResponseBuilder};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{OpenApi, Ref, RefOr, ResponsesBuilder};
use utoipa::{Modify, OpenApi as _, PartialSchema, ToSchema};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::routes::{
    artifacts, cell, dead, jobs, limits, list, packs, pauses, runs, start, stream, submit, trust, workers, workflows,
};

/// Where the document is.
const PATH: &str = "/api/v1/openapi.json";
/// The extension in which a route names the codes that it refuses with, beyond [`EVERYWHERE`].
const CODES: &str = "x-busbar-codes";
/// What every route that needs a key may refuse with.
const EVERYWHERE: [Code; 5] = [Code::Unauthenticated, Code::KeyUnknown, Code::Forbidden, Code::StoreUnavailable, Code::Internal];
/// The page loads nothing from elsewhere, and nobody else's page can frame it.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Busbar",
        description = "Jobs and the cell that runs them. Errors are `application/problem+json` (RFC 9457) with a stable `code`. \
                       Answers may gain members: pass over those that you do not know. `docs/http.md` tells more.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "jobs", description = "Submitting jobs, looking at them, ending them."),
        (name = "dead letters", description = "Jobs that ended without success, kept to be looked at and tried again."),
        (name = "artifacts", description = "Files that jobs work on."),
        (name = "workflows", description = "Which jobs belong together, and in which order they run."),
        (name = "runs", description = "Starting workflows, looking at what became of it, ending it."),
        (name = "stream", description = "Everything live, over one connection."),
        (name = "packs", description = "What is installed: modules, topics, policy, workflows."),
        (name = "cell", description = "Workers, and the state of the whole."),
        (name = "health", description = "For probes, Prometheus and tools. No key is needed."),
    ),
    paths(
        list::list,
        submit::one,
        submit::batch,
        jobs::get,
        jobs::explain,
        jobs::cancel,
        jobs::logs,
        jobs::result,
        dead::list,
        dead::page,
        dead::show,
        dead::show_of_job,
        dead::again,
        dead::retry,
        dead::again_many,
        dead::discard,
        dead::discard_of_job,
        artifacts::upload,
        artifacts::download,
        workflows::list,
        workflows::save,
        workflows::get,
        workflows::remove,
        start::start,
        runs::list,
        runs::list_of,
        runs::get,
        runs::get_timeline,
        runs::cancel,
        runs::pause,
        runs::resume,
        runs::input,
        runs::output,
        stream::stream,
        stream::sse,
        packs::list,
        packs::show,
        packs::install,
        packs::uninstall,
        workers::list,
        workers::drain,
        workers::undrain,
        workers::block,
        workers::unblock,
        trust::list,
        trust::list_of,
        trust::enrol,
        trust::revoke,
        limits::get,
        limits::set,
        limits::set_tenant,
        limits::unset_tenant,
        limits::set_topic,
        limits::unset_topic,
        pauses::list,
        pauses::set,
        pauses::lift,
        cell::status,
    ),
    security(("api_key" = []), ("bearer" = [])),
    modifiers(&Refusals, &Open, &Keys),
)]
struct Document;

/// The document's word for a body of bytes.
pub(crate) struct Octets;

impl PartialSchema for Octets {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).into()
    }
}

impl ToSchema for Octets {}

/// The document and the page, for everybody.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    static TEXT: LazyLock<String> = LazyLock::new(text);
    let json = || async { ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response() };
    let config = Config::from(PATH).try_it_out_enabled(true).display_request_duration(true).display_operation_id(true);
    let page = Router::from(SwaggerUi::new("/docs").config(config)).layer(map_response(guarded));
    Router::new().route("/api/v1/openapi.json", get(json)).merge(page)
}

/// The document as it is served and committed.
fn text() -> String {
    let mut text = Document::openapi().to_pretty_json().expect("the document has only texts, numbers and maps");
    text.push('\n');
    text
}

async fn guarded(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Says what a refusal looks like, and which statuses the codes of a route have.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, document: &mut OpenApi) {
        let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
        Problem::schemas(&mut schemas);
        document.components.get_or_insert_default().schemas.extend(schemas);
        for item in document.paths.paths.values_mut() {
            let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
            operations.into_iter().flatten().for_each(add_refusals);
        }
    }
}

fn add_refusals(operation: &mut Operation) {
    let mut by_status: BTreeMap<u16, BTreeSet<Code>> = BTreeMap::new();
    // Only what needs no key says something of its own about keys.
    let common: &[Code] = if operation.security.is_some() { &[] } else { &EVERYWHERE };
    for code in common.iter().copied().chain(named_codes(operation)) {
        by_status.entry(code.http_status()).or_default().insert(code);
    }
    if by_status.is_empty() {
        return;
    }
    let all: Vec<&str> = by_status.values().flatten().map(|code| code.as_str()).collect();
    operation.extensions.get_or_insert_default().insert(CODES.to_owned(), all.into());
    for (status, codes) in by_status {
        operation.responses.responses.insert(status.to_string(), RefOr::T(refusal(&codes)));
    }
}

/// The codes that the route names.
fn named_codes(operation: &Operation) -> Vec<Code> {
    let named = operation.extensions.as_ref().and_then(|extensions| extensions.get(CODES)?.as_array()).into_iter().flatten();
    let read = |name: &serde_json::Value| name.as_str().and_then(Code::parse).expect("a route names codes that exist");
    named.map(read).collect()
}

fn refusal(codes: &BTreeSet<Code>) -> Answer {
    let lines: Vec<String> = codes.iter().map(|code| format!("`{code}`: {}", meaning(*code))).collect();
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(lines.join("  \n")).content(PROBLEM_MEDIA_TYPE, content).build()
}

/// What the code's page says that it means.
fn meaning(code: Code) -> String {
    let page = code.page().split("\n\n").find_map(|paragraph| paragraph.strip_prefix("**What it means.** "));
    page.unwrap_or_default().replace('\n', " ")
}

/// Adds what needs no key and has no code of the gateway's own.
struct Open;

impl Modify for Open {
    fn modify(&self, document: &mut OpenApi) {
        let open = [
            ("/healthz", "isAlive", "See whether the process answers.", vec![("200", "It does.", "text/plain")]),
            (
                "/readyz",
                "isReady",
                "See whether every check holds.",
                vec![("200", "All hold.", "application/json"), ("503", "Some do not.", "application/json")],
            ),
            ("/metrics", "getMetrics", "Read the metrics.", vec![("200", "OpenMetrics text.", "application/openmetrics-text")]),
            (PATH, "getOpenApi", "Get this document.", vec![("200", "OpenAPI 3.1.", "application/json")]),
        ];
        for (path, id, summary, answers) in open {
            document.paths.paths.insert(path.to_owned(), PathItem::new(HttpMethod::Get, open_operation(id, summary, &answers)));
        }
    }
}

fn open_operation(id: &str, summary: &str, answers: &[(&str, &str, &str)]) -> Operation {
    let responses = answers.iter().map(|(status, description, media_type)| {
        let answer = ResponseBuilder::new().description(*description).content(*media_type, ContentBuilder::new().build());
        (*status, answer.build())
    });
    OperationBuilder::new()
        .operation_id(Some(id))
        .summary(Some(summary))
        .tag("health")
        .responses(ResponsesBuilder::new().responses_from_iter(responses).build())
        .security(SecurityRequirement::default())
        .build()
}

/// Says how a key is given.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let key = ApiKeyValue::with_description("X-API-Key", "An API key. It belongs to a tenant and carries roles.");
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(key)));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The same key.")).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

    /// `cargo xtask openapi` sets the variable.
    #[test]
    fn the_committed_document_is_the_one_that_is_served() {
        if std::env::var_os("BUSBAR_RENEW_OPENAPI").is_some() {
            std::fs::write(COMMITTED, text()).expect("written");
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(committed == text(), "docs/openapi.json is not what the code gives: run `cargo xtask openapi`");
    }

    #[test]
    fn every_code_has_a_meaning() {
        for code in Code::ALL {
            assert!(!meaning(*code).is_empty(), "{code}: its page has no paragraph **What it means.**");
        }
    }

    #[test]
    fn the_form_is_the_same_everywhere() {
        let document = serde_json::to_value(Document::openapi()).expect("plain");
        assert_eq!(document["openapi"], "3.1.0");
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("methods") {
                let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no operation id"));
                assert!(ids.insert(id.to_owned()), "{id} is there twice");
                assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{method} {path}");
                assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{method} {path}: no summary");
            }
        }
        let texts = text();
        assert!(!texts.contains("[`"), "a description has a link that only rustdoc can follow");
    }
}
