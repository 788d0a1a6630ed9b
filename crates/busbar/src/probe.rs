//! `busbar probe URL`: one GET, for the health checks of containers, whose image has no other program that could ask.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one answer may take.
const ONE_ANSWER: Duration = Duration::from_secs(2);
/// `/readyz` is short; what is longer is cut.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Where to ask: `http://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeUrl {
    authority: String,
    path: String,
}

impl ProbeUrl {
    pub(crate) fn of(address: SocketAddr, path: &str) -> Self {
        Self { authority: address.to_string(), path: path.to_owned() }
    }

    /// For `clap`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").ok_or("the URL must begin with http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        let plain = !authority.contains('@') && !text.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control());
        match port {
            Some(Ok(_)) if plain => Ok(Self { authority: authority.to_owned(), path: format!("/{path}") }),
            _ => Err("http://HOST:PORT/PATH is wanted, for example http://127.0.0.1:9090/readyz".to_owned()),
        }
    }
}

/// Why a probe did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("{authority} does not answer")]
    Away {
        authority: String,
        #[source]
        source: io::Error,
    },
    #[error("{authority} does not answer within {ONE_ANSWER:?}")]
    Slow { authority: String },
    #[error("{status}: {body}")]
    Unready { status: String, body: String },
}

/// Asks once: the answer must be a 200.
pub(crate) async fn probe(url: &ProbeUrl) -> Result<(), ProbeError> {
    let authority = || url.authority.clone();
    let answer = match timeout(ONE_ANSWER, get(url)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(source)) => return Err(ProbeError::Away { authority: authority(), source }),
        Err(_) => return Err(ProbeError::Slow { authority: authority() }),
    };
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    let status = answer.lines().next().unwrap_or("an empty answer").to_owned();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim().to_owned();
    Err(ProbeError::Unready { status, body })
}

async fn get(url: &ProbeUrl) -> io::Result<String> {
    let ProbeUrl { authority, path } = url;
    let mut stream = TcpStream::connect(authority).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_plain_urls_with_a_port_are_taken() {
        let url = ProbeUrl::parse("http://127.0.0.1:9090/readyz").expect("good");
        assert_eq!((url.authority.as_str(), url.path.as_str()), ("127.0.0.1:9090", "/readyz"));
        assert_eq!(ProbeUrl::parse("http://[::1]:80").expect("good").path, "/");
        for bad in
            ["https://a:1/", "a:1", "http://a/readyz", "http://a:b/", "http://u@a:1/", "http://a:1/x y", "http://a:1/\r\nx: y"]
        {
            assert!(ProbeUrl::parse(bad).is_err(), "{bad}");
        }
    }

    async fn probed(answer: &'static str) -> Result<(), ProbeError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = ProbeUrl::parse(&format!("http://{}/readyz", listener.local_addr().expect("bound"))).expect("good");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut asked = [0; 1024];
            let read = stream.read(&mut asked).await.expect("asked");
            assert!(asked[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.expect("answered");
        });
        let probed = probe(&url).await;
        server.await.expect("no panic");
        probed
    }

    #[tokio::test]
    async fn a_200_is_ready_and_the_rest_is_told() {
        probed("HTTP/1.1 200 OK\r\n\r\nok").await.expect("ready");
        let error = probed("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"ready\":false}\n").await.expect_err("not ready");
        assert_eq!(error.to_string(), "HTTP/1.1 503 Service Unavailable: {\"ready\":false}");
        assert!(matches!(probed("").await, Err(ProbeError::Unready { .. })));
    }
}
