//! Reading bodies with a bound.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use busbar_api::Problem;
use busbar_protocol::codes::Code;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

/// Reads a body of at most `max` bytes.
///
/// What is beyond is passed over, within reason, because a client that is still sending sees a broken connection instead of the
/// answer.
pub(crate) async fn read(headers: &HeaderMap, body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Code::PayloadTooLarge, format!("the body is larger than the {max} bytes that are taken"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let patience = max.saturating_mul(4);
    if announced.is_some_and(|bytes| bytes > patience) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).min(max).min(1024 * 1024));
    let mut seen = 0_usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Problem::new(Code::BodyInvalid, format!("the body could not be read: {error}")))?;
        seen = seen.saturating_add(chunk.len());
        if seen > patience {
            break;
        }
        if seen <= max {
            whole.extend_from_slice(&chunk);
        }
    }
    if seen > max { Err(too_large()) } else { Ok(whole.freeze()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bound_is_inclusive() {
        let of = |bytes: usize| Body::from(vec![b'x'; bytes]);
        assert_eq!(read(&HeaderMap::new(), of(10), 10).await.map(|b| b.len()), Ok(10));
        for bytes in [11, 40, 1000] {
            assert_eq!(read(&HeaderMap::new(), of(bytes), 10).await.map_err(|p| p.code), Err("payload_too_large".into()));
        }
    }
}
