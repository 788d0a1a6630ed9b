//! The stream over a WebSocket.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use busbar_api::{Problem, StreamRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::time::Instant;

use super::session::{Session, Step};
use crate::core::stream::frame::Frame;

/// The largest message that a client may send, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A client that does not answer pings for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How long a client has to take the last word.
const PARTING: Duration = Duration::from_secs(2);

/// How a connection ends.
enum End {
    /// The client went, or takes nothing any more.
    Gone,
    /// We end it, with a last word where there is one.
    Close { code: u16, problem: Option<Problem> },
}

impl End {
    /// The client said something that is not understood or not allowed.
    fn refuse(code: u16, problem: Problem) -> Self {
        Self::Close { code, problem: Some(problem) }
    }
}

/// Serves a client until it goes or the gateway ends.
pub(crate) async fn serve<B: Bus, R: Records>(socket: WebSocket, mut session: Session<B, R>) {
    let (mut sink, mut stream) = socket.split();
    if let End::Close { code, problem } = talk(&mut sink, &mut stream, &mut session).await {
        // Whoever does not take it within this time goes without.
        let _ = tokio::time::timeout(PARTING, close(&mut sink, code, problem)).await;
    }
}

async fn talk<B: Bus, R: Records>(
    sink: &mut SplitSink<WebSocket, Message>,
    stream: &mut SplitStream<WebSocket>,
    session: &mut Session<B, R>,
) -> End {
    let mut heard = Instant::now();
    loop {
        let frames = tokio::select! {
            message = stream.next() => {
                heard = Instant::now();
                match hear(message, session).await {
                    Ok(frames) => frames,
                    Err(end) => return end,
                }
            }
            step = session.next() => match step {
                Step::Frames(frames) => frames,
                Step::Tick(_) if heard.elapsed() > SILENCE_MAX => return End::Gone,
                Step::Tick(place) => {
                    if sink.send(Message::Ping(Bytes::new())).await.is_err() {
                        return End::Gone;
                    }
                    vec![place]
                }
                Step::Shutdown => return End::Close { code: close_code::AWAY, problem: None },
                Step::KeyChanged => {
                    let problem = Problem::new(Code::KeyUnknown, "this API key has been changed or taken away");
                    return End::refuse(close_code::POLICY, problem);
                }
            },
        };
        if send(sink, frames).await.is_err() {
            return End::Gone;
        }
    }
}

async fn send(sink: &mut SplitSink<WebSocket, Message>, frames: Vec<Frame>) -> Result<(), axum::Error> {
    for frame in frames {
        sink.feed(Message::Text(frame.text.into())).await?;
    }
    sink.flush().await
}

/// What a message of the client changes, and what is answered.
async fn hear<B: Bus, R: Records>(
    message: Option<Result<Message, axum::Error>>,
    session: &mut Session<B, R>,
) -> Result<Vec<Frame>, End> {
    let invalid = |detail: String| Problem::new(Code::FrameInvalid, detail);
    match message {
        None | Some(Ok(Message::Close(_))) => Err(End::Gone),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Vec::new()),
        Some(Ok(Message::Binary(_))) => {
            Err(End::refuse(close_code::UNSUPPORTED, invalid("messages are JSON in text frames".to_owned())))
        }
        Some(Ok(Message::Text(text))) => {
            let request: StreamRequest = serde_json::from_str(text.as_str()).map_err(|error| {
                End::refuse(close_code::POLICY, invalid(format!("a message is {{\"filter\":{{…}}}}: {error}")))
            })?;
            session.refilter(request.filter).await.map_err(|problem| End::refuse(close_code::POLICY, problem))
        }
        // Broken framing, a message that is too large, or a connection that broke: the last word may get through or not.
        Some(Err(error)) => Err(End::refuse(close_code::PROTOCOL, invalid(error.to_string()))),
    }
}

async fn close(sink: &mut SplitSink<WebSocket, Message>, code: u16, problem: Option<Problem>) -> Result<(), axum::Error> {
    let reason = problem.as_ref().map_or("the gateway ends", |problem| &problem.code).to_owned();
    if let Some(problem) = problem {
        sink.feed(Message::Text(Frame::error(problem).text.into())).await?;
    }
    sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await?;
    sink.close().await
}
