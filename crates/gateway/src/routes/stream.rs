//! The live stream: over a WebSocket, or as server-sent events.

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use busbar_api::{Problem, StreamFrame};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};

use super::bad_query;
use crate::app::{Caller, Shared};
use crate::core::role::Need;
use crate::core::stream::cursor::Cursor;
use crate::core::stream::filter::Asked;
use crate::error::Refusal;
use crate::keys::SUBPROTOCOLS;
use crate::stream::{MESSAGE_BYTES_MAX, Opening, Session, Way, events, serve_socket};

/// What the socket reads at once: clients say little, and there are many of them.
const READ_BUFFER_BYTES: usize = 4 * 1024;
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Follow jobs, runs, workers and alerts.
///
/// Over a WebSocket where one is asked for, else as server-sent events. `docs/stream.md` describes the frames.
#[utoipa::path(
    get,
    path = "/api/v1/stream",
    tag = "stream",
    operation_id = "stream",
    params(
        busbar_api::StreamFilter,
        ("cursor" = Option<String>, Query, description = "Where to resume: the `cursor` of the last frame."),
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers give it when they come again."),
    ),
    responses(
        (status = 101, description = "A WebSocket: each message is a frame."),
        (status = 200, description = "The data of each event is a frame.", body = StreamFrame, content_type = "text/event-stream"),
    ),
    extensions(("x-busbar-codes" = json!(["field_invalid", "cursor_invalid", "stream_full"]))),
)]
pub(crate) async fn stream<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Pairs,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Refusal> {
    if !headers.contains_key(header::UPGRADE) {
        return as_events(&app, caller, query, &headers);
    }
    let session = open(&app, caller, query, &headers, Way::WebSocket)?;
    let upgrade = upgrade.map_err(|rejection| Problem::new(Code::FieldInvalid, rejection.body_text()))?;
    let mut upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX);
    if let Some(chosen) = subprotocol(&upgrade) {
        upgrade.set_selected_protocol(chosen);
    }
    Ok(upgrade.on_upgrade(move |socket| serve_socket(socket, session)))
}

/// Follow jobs, runs, workers and alerts by server-sent events, whatever else the client could do.
#[utoipa::path(
    get,
    path = "/api/v1/stream/sse",
    tag = "stream",
    operation_id = "streamEvents",
    params(
        busbar_api::StreamFilter,
        ("cursor" = Option<String>, Query, description = "Where to resume: the `cursor` of the last frame."),
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers give it when they come again."),
    ),
    responses((
        status = 200, description = "The data of each event is a frame.", body = StreamFrame, content_type = "text/event-stream"
    )),
    extensions(("x-busbar-codes" = json!(["field_invalid", "cursor_invalid", "stream_full"]))),
)]
pub(crate) async fn sse<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Pairs,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    as_events(&app, caller, query, &headers)
}

fn as_events<B: Bus, R: Records>(
    app: &Shared<B, R>,
    caller: Caller,
    query: Pairs,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    Ok(events::respond(open(app, caller, query, headers, Way::Events)?))
}

/// Everything that can be refused is refused here, before anything is upgraded.
fn open<B: Bus, R: Records>(
    app: &Shared<B, R>,
    caller: Caller,
    query: Pairs,
    headers: &HeaderMap,
    way: Way,
) -> Result<Session<B, R>, Problem> {
    caller.require(Need::ReadJobs)?;
    let Query(pairs) = query.map_err(|rejection| bad_query(&rejection))?;
    let asked = Asked::of_query(pairs)?;
    // A browser that comes again has its old cursor in the address and the newer one in the header.
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("unreadable").to_owned());
    let cursor = last.or(asked.cursor).filter(|cursor| !cursor.is_empty());
    let resume = cursor.as_deref().map(Cursor::parse).transpose()?;
    let opening = Opening { filter: asked.filter, resume };
    Session::new(app.clone(), caller.0, opening, app.stream.seat(way)?)
}

/// A browser gives a connection up whose offers were all passed over.
fn subprotocol(upgrade: &WebSocketUpgrade) -> Option<HeaderValue> {
    let is_ours = |offer: &&HeaderValue| {
        let name = offer.to_str().unwrap_or_default().split('.').next().unwrap_or_default();
        SUBPROTOCOLS.contains(&name)
    };
    upgrade.requested_protocols().find(is_ours).cloned()
}
