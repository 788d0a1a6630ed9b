//! The stream as `text/event-stream`.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use busbar_api::Problem;
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};
use futures::stream;

use super::session::{Session, Step};
use crate::core::stream::frame::Frame;

/// How long a browser waits before it comes again, and a sign of life for proxies.
const GREETING: &str = "retry: 1000\n\n";

/// The response that a client reads until it goes or the gateway ends.
pub(crate) fn respond<B: Bus, R: Records>(session: Session<B, R>) -> Response {
    let greeting = stream::once(async { Ok::<_, Infallible>(GREETING.to_owned()) });
    let events = stream::unfold(Some(session), |session| async move {
        let mut session = session?;
        Some(match session.next().await {
            Step::Frames(frames) => (Ok(events(&frames)), Some(session)),
            Step::Tick(place) => (Ok(events(&[place])), Some(session)),
            Step::KeyChanged => {
                let problem = Problem::new(Code::KeyUnknown, "this API key has been changed or taken away");
                (Ok(events(&[Frame::error(problem)])), None)
            }
            Step::Shutdown => return None,
        })
    });
    let body = Body::from_stream(futures::StreamExt::chain(greeting, events));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that gather what they pass on would hold the events back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}

fn events(frames: &[Frame]) -> String {
    let mut text = String::with_capacity(frames.iter().map(|frame| frame.text.len() + 128).sum());
    frames.iter().for_each(|frame| frame.as_event(&mut text));
    text
}
