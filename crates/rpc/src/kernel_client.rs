//! Asks the safety kernel over gRPC.
//!
//! The channel is made when it is first needed and made again whenever it broke; a peer that went silent is noticed by
//! keepalive. No failure is ever turned into a decision here: whoever asks gets [`JudgeError`] and asks again.

use std::time::Duration;

use busbar_protocol::busbar::{CheckBatchRequest, CheckBatchResponse};
use busbar_protocol::cap::DecisionType;
use busbar_protocol::ports::{Judge, JudgeError, Question};
use busbar_protocol::prost::Message as _;
use tonic::transport::{Channel, Endpoint};

use crate::MESSAGE_BYTES_MAX;
use crate::busbar::kernel_client::KernelClient as Stub;

/// How many requests one call carries at most.
pub const CHECKS_MAX: usize = 256;

/// How many bytes of requests one call carries at most, unless a single request is larger.
const CALL_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

/// How often a batch that met two snapshots is asked again.
const SNAPSHOT_TRIES_MAX: usize = 3;

/// How the kernel is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelClientOptions {
    /// How long one call may take.
    pub deadline: Duration,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How often a silent connection is asked for a sign of life; it gets as long again to give one.
    pub keepalive: Duration,
}

impl Default for KernelClientOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(2), connect_timeout: Duration::from_secs(1), keepalive: Duration::from_secs(2) }
    }
}

/// A text that is no address of a gRPC server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is no address of a gRPC server; it must look like `host:port`")]
pub struct AddressError {
    /// The text.
    pub address: String,
}

/// A channel to `host:port` (or `http://host:port`) for any of the stubs. It connects when it is first used, and again whenever the
/// connection broke; the options' deadline is the caller's affair. Must be called inside a tokio runtime.
///
/// # Errors
/// [`AddressError`].
pub fn channel(address: &str, options: KernelClientOptions) -> Result<Channel, AddressError> {
    let error = || AddressError { address: address.to_owned() };
    let authority = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(error)?;
    if host.is_empty() || host.contains(['/', '@', '?', '#']) || port.parse::<u16>().is_err() {
        return Err(error());
    }
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| error())?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(options.keepalive)
        .keep_alive_timeout(options.keepalive)
        .keep_alive_while_idle(true)
        .connect_lazy())
}

/// The safety kernel, from afar.
#[derive(Clone, Debug)]
pub struct KernelClient {
    stub: Stub<Channel>,
    deadline: Duration,
}

impl KernelClient {
    /// A client for `host:port` (or `http://host:port`). Connects when it is first asked, so the kernel need not be there yet.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn new(address: &str, options: KernelClientOptions) -> Result<Self, AddressError> {
        let channel = channel(address, options)?;
        let stub = Stub::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { stub, deadline: options.deadline })
    }

    async fn call(&self, questions: Vec<Question>) -> Result<CheckBatchResponse, JudgeError> {
        let asked = questions.len();
        let (requests, traceparents) = questions.into_iter().map(|question| (question.request, question.traceparent)).unzip();
        let mut stub = self.stub.clone();
        let call = stub.check_batch(CheckBatchRequest { requests, traceparents });
        let response = tokio::time::timeout(self.deadline, call)
            .await
            .map_err(|_| unavailable(format!("no answer within {:?}", self.deadline)))?
            .map_err(|status| unavailable(format!("{:?}: {}", status.code(), status.message())))?
            .into_inner();
        check_response(&response, asked)?;
        Ok(response)
    }

    /// Asks all calls; `None` when their answers are of different snapshots.
    async fn calls(&self, calls: Vec<Vec<Question>>) -> Result<Option<CheckBatchResponse>, JudgeError> {
        let mut whole: Option<CheckBatchResponse> = None;
        for questions in calls {
            let part = self.call(questions).await?;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) if whole.snapshot == part.snapshot => whole.responses.extend(part.responses),
                Some(_) => return Ok(None),
            }
        }
        Ok(Some(whole.unwrap_or_default()))
    }
}

impl Judge for KernelClient {
    async fn check(&self, questions: Vec<Question>) -> Result<CheckBatchResponse, JudgeError> {
        let calls = split(questions);
        for _ in 1..SNAPSHOT_TRIES_MAX {
            if let Some(response) = self.calls(calls.clone()).await? {
                return Ok(response);
            }
        }
        self.calls(calls).await?.ok_or_else(|| unavailable("the snapshot keeps changing".to_owned()))
    }
}

fn unavailable(detail: String) -> JudgeError {
    JudgeError::Unavailable { detail }
}

/// Divides questions into calls of bounded count and size; at least one, because an empty question still asks for the snapshot.
fn split(questions: Vec<Question>) -> Vec<Vec<Question>> {
    let (mut calls, mut bytes) = (vec![Vec::new()], 0);
    for question in questions {
        let size = question.request.encoded_len() + question.traceparent.len();
        let last: &mut Vec<Question> = calls.last_mut().expect("never empty");
        if !last.is_empty() && (last.len() == CHECKS_MAX || bytes + size > CALL_BYTES_MAX) {
            bytes = 0;
            calls.push(Vec::new());
        }
        bytes += size;
        calls.last_mut().expect("never empty").push(question);
    }
    calls
}

/// An answer that is incomplete or says nothing must not pass for a decision.
fn check_response(response: &CheckBatchResponse, asked: usize) -> Result<(), JudgeError> {
    let malformed = |detail: String| Err(JudgeError::Malformed { detail });
    if response.responses.len() != asked {
        return malformed(format!("{} answers to {asked} questions", response.responses.len()));
    }
    if response.snapshot.is_empty() {
        return malformed("no snapshot".to_owned());
    }
    for answer in &response.responses {
        if matches!(DecisionType::try_from(answer.decision), Err(_) | Ok(DecisionType::Unspecified)) {
            return malformed(format!("decision {} is none", answer.decision));
        }
        if answer.policy_snapshot != response.snapshot {
            return malformed("answers of different snapshots".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use busbar_protocol::cap::{PolicyCheckRequest, PolicyCheckResponse};
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tonic::service::Routes;
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::busbar::kernel_server::{Kernel, KernelServer};

    /// A kernel that allows everything, names the job in its reason, and counts its calls.
    struct Echo {
        calls: Arc<AtomicUsize>,
        deaf: bool,
    }

    #[tonic::async_trait]
    impl Kernel for Echo {
        async fn check_batch(&self, request: Request<CheckBatchRequest>) -> Result<Response<CheckBatchResponse>, Status> {
            if self.deaf {
                std::future::pending::<()>().await;
            }
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            // The snapshot changes after the first call, so that a batch of two calls meets both.
            let snapshot = if call == 0 { "old" } else { "new" }.to_owned();
            let answer = |request: PolicyCheckRequest| PolicyCheckResponse {
                decision: DecisionType::Allow.into(),
                reason: request.job_id,
                policy_snapshot: snapshot.clone(),
                ..PolicyCheckResponse::default()
            };
            let responses = request.into_inner().requests.into_iter().map(answer).collect();
            Ok(Response::new(CheckBatchResponse { responses, snapshot: snapshot.clone() }))
        }
    }

    fn start(listener: TcpListener, deaf: bool) -> (Arc<AtomicUsize>, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let routes = Routes::new(KernelServer::new(Echo { calls: calls.clone(), deaf }));
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            crate::serve(listener, routes, crate::ServeOptions::default(), async move { drop(stopped.await) })
                .await
                .expect("a clean end");
        });
        (calls, stop, server)
    }

    fn questions(count: usize) -> Vec<Question> {
        (0..count).map(|n| PolicyCheckRequest { job_id: n.to_string(), ..PolicyCheckRequest::default() }.into()).collect()
    }

    #[tokio::test]
    async fn large_batches_are_split_and_answered_in_order_under_one_snapshot() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let (calls, stop, server) = start(listener, false);
        let client = KernelClient::new(&address, KernelClientOptions::default()).expect("an address");
        let response = client.check(questions(600)).await.expect("answered");
        assert_eq!(response.snapshot, "new");
        let order: Vec<String> = response.responses.into_iter().map(|answer| answer.reason).collect();
        assert_eq!(order, (0..600).map(|n| n.to_string()).collect::<Vec<_>>());
        // Old, new (given up); then three calls under the new one.
        assert_eq!(calls.load(Ordering::SeqCst), 5);
        assert_eq!(client.check(vec![]).await.expect("answered").snapshot, "new");
        drop(stop);
        server.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_kernel_that_is_away_is_unavailable_and_found_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let client = KernelClient::new(&address.to_string(), KernelClientOptions::default()).expect("an address");
        let (_, stop, server) = start(listener, false);
        assert!(client.check(questions(1)).await.is_ok());
        drop(stop);
        server.await.expect("no panic");
        assert!(matches!(client.check(questions(1)).await, Err(JudgeError::Unavailable { .. })));
        // The same port again: the very next question may still meet the broken connection, a later one must not.
        let again = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let (_, _stop, _server) = start(again, false);
        let found = async { while client.check(questions(1)).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(30), found).await.expect("found again");
    }

    #[tokio::test]
    async fn a_deaf_kernel_costs_no_more_than_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let (_, _stop, _server) = start(listener, true);
        let options = KernelClientOptions { deadline: Duration::from_millis(50), ..KernelClientOptions::default() };
        let client = KernelClient::new(&address, options).expect("an address");
        assert!(matches!(client.check(questions(1)).await, Err(JudgeError::Unavailable { .. })));
    }

    #[test]
    fn answers_that_are_none_are_refused() {
        let answer = |decision: i32, snapshot: &str| PolicyCheckResponse {
            decision,
            policy_snapshot: snapshot.into(),
            ..PolicyCheckResponse::default()
        };
        let of = |responses, snapshot: &str| CheckBatchResponse { responses, snapshot: snapshot.into() };
        assert_eq!(check_response(&of(vec![answer(1, "s")], "s"), 1), Ok(()));
        for bad in [
            of(vec![], "s"),
            of(vec![answer(0, "s")], "s"),
            of(vec![answer(99, "s")], "s"),
            of(vec![answer(1, "t")], "s"),
            of(vec![answer(1, "")], ""),
        ] {
            assert!(check_response(&bad, 1).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn calls_are_bounded_by_count_and_size() {
        assert_eq!(split(questions(600)).iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88]);
        let large = |_| PolicyCheckRequest { input_content: vec![0; 1024 * 1024].into(), ..PolicyCheckRequest::default() }.into();
        assert!(split((0..10).map(large).collect()).iter().all(|call| call.len() <= 3));
        assert_eq!(split(vec![]).len(), 1);
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused() {
        for bad in ["", "localhost", "localhost:", ":50051", "https://x:1", "host:99999"] {
            assert!(KernelClient::new(bad, KernelClientOptions::default()).is_err(), "{bad}");
        }
        assert!(KernelClient::new("http://localhost:50051", KernelClientOptions::default()).is_ok());
    }
}
