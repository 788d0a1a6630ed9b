//! Ready means that somebody outside has seen it: the gateway says so over HTTP, and an active
//! scheduler has heard of the workers.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use busbar_protocol::busbar::{WorkersReply, WorkersRequest};
use busbar_protocol::ports::{Bus as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::error::DevError;
use super::workers::Workers;
use crate::roles::World;

/// How long it may take. Redis may have much to load, but it was ready before the roles were started.
const WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
const ONE_ANSWER: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Waits until the gateway is ready and every worker is online.
pub(crate) async fn wait(http: SocketAddr, workers: &Workers, world: &World) -> Result<(), DevError> {
    let deadline = Instant::now() + WITHIN;
    let seconds = WITHIN.as_secs();
    loop {
        let said = match timeout(ONE_ANSWER, readyz(http)).await {
            Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") => break,
            Ok(Ok(answer)) => answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "nothing".to_owned(),
        };
        if Instant::now() > deadline {
            return Err(DevError::NotReady { seconds, said });
        }
        sleep(PAUSE).await;
    }
    loop {
        let online = online(world).await;
        let missing = online.as_ref().map(|online| missing(workers, online));
        if missing.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(match missing {
                Some(missing) => DevError::WorkersAway { seconds, missing: missing.join(", "), logs: workers.logs().to_owned() },
                None => DevError::NotReady { seconds, said: "no scheduler answers".to_owned() },
            });
        }
        sleep(PAUSE).await;
    }
}

async fn readyz(http: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(http).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Who is online, if an active scheduler answers.
async fn online(world: &World) -> Option<BTreeSet<String>> {
    let question = WorkersRequest {}.encode_to_vec().into();
    let answer = world.bus.request(subjects::SCHEDULER_WORKERS, Headers::new(), question, ONE_ANSWER).await;
    let reply = WorkersReply::decode(answer.ok()?.payload).ok()?;
    reply.scheduler.filter(|_| reply.problem.is_none())?;
    Some(reply.workers.into_iter().filter(|worker| worker.status == "online").map(|worker| worker.worker_id).collect())
}

fn missing(workers: &Workers, online: &BTreeSet<String>) -> Vec<String> {
    workers.ids().iter().filter(|id| !online.contains(*id)).cloned().collect()
}
