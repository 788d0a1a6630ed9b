//! How a native worker tells results: reported to whoever is active, and into the stream where nobody answers.

#![expect(clippy::unwrap_used, reason = "tests")]

use crate::rig::{PATIENCE, Rig};
use busbar_protocol::busbar::{ReportItem, ReportReply, ReportRequest};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{JobResult, JobStatus};
use busbar_protocol::envelope;
use busbar_protocol::inline;
use busbar_protocol::ports::{Bus, Headers, Message, Subscription};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects::{self, Stream};
use busbar_sdk::{Worker, WorkerOptions};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;

fn echo(worker: &mut Worker) {
    worker.handle("job.echo", |_, input: Value| async move { Ok(input) });
}

/// A scheduler that takes reports.
struct Desk {
    questions: Subscription,
}

impl Desk {
    async fn open(rig: &Rig) -> Self {
        Self { questions: rig.bus.subscribe(subjects::REPORT, None).await.unwrap() }
    }

    /// The next report: its message, and what was in it.
    async fn next(&mut self) -> (Message, Vec<ReportItem>) {
        let message = timeout(PATIENCE, self.questions.next()).await.expect("a report").unwrap();
        let items = ReportRequest::decode(message.payload.clone()).unwrap().items;
        (message, items)
    }
}

async fn answer(rig: &Rig, question: &Message, reply: ReportReply) {
    rig.bus.publish(question.reply.as_ref().unwrap(), Headers::new(), reply.encode_to_vec().into()).await.unwrap();
}

fn result(packet: &bytes::Bytes) -> JobResult {
    let Payload::JobResult(result) = envelope::decode(packet).unwrap().payload else { panic!("a result") };
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_reported_with_their_outputs_and_held_until_the_answer() {
    let mut rig = Rig::start().await;
    let mut desk = Desk::open(&rig).await;
    let mut listener = rig.bus.subscribe(subjects::RESULT, None).await.unwrap();
    let options = WorkerOptions { max_parallel: 64, ..rig.options() };
    let _running = rig.work(options, echo).await;
    for number in 0..20 {
        let id = format!("j{number:02}");
        rig.input(&id, &json!(number)).await;
        rig.dispatch_with(crate::rig::request(&id, 1, "job.echo"), &[(inline::OUTPUT_BYTES_MAX, "4096")]).await;
    }
    let mut told = std::collections::BTreeMap::new();
    let (mut questions, mut is_answered) = (Vec::new(), false);
    // Four messages at most are under way without an answer; all others gather.
    while told.len() < 20 {
        let (question, items) = desk.next().await;
        for ReportItem { packet, output } in items {
            let result = result(&packet);
            assert_eq!(result.status(), JobStatus::Succeeded);
            told.insert(result.job_id, output);
        }
        questions.push(question);
        if questions.len() == 4 {
            if !std::mem::replace(&mut is_answered, true) {
                rig.bus.round_trip().await.unwrap();
                assert_eq!(listener.next().now_or_never(), None, "others heard of what nobody has kept");
            }
            for question in questions.drain(..) {
                answer(&rig, &question, ReportReply::default()).await;
            }
        }
    }
    assert_eq!((told.len(), told["j07"].as_ref()), (20, b"7".as_slice()));
    if !questions.is_empty() {
        rig.beat(|beat| !beat.held.is_empty()).await;
    }
    for question in questions {
        answer(&rig, &question, ReportReply::default()).await;
    }
    rig.holds(&[]).await;
    for _ in 0..20 {
        let heard = timeout(PATIENCE, listener.next()).await.expect("others hear it, too").unwrap();
        assert!(told.contains_key(&result(&heard.payload).job_id));
    }
    assert_eq!(rig.bus.stream_state(Stream::Results).await.unwrap().last_sequence, 0, "and the stream has kept nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_answer_goes_into_the_stream() {
    let mut rig = Rig::start().await;
    let mut desk = Desk::open(&rig).await;
    let mut listener = rig.bus.subscribe(subjects::RESULT, None).await.unwrap();
    let _running = rig.work(rig.options(), echo).await;
    rig.input("silent", &json!(1)).await;
    rig.dispatch_with(crate::rig::request("silent", 1, "job.echo"), &[(inline::OUTPUT_BYTES_MAX, "4096")]).await;
    let (question, _) = desk.next().await;
    let (result, delivery) = rig.delivery().await;
    assert_eq!(result.job_id, "silent");
    assert_eq!(delivery.message.headers.get(inline::OUTPUT), Some(&inline::encode(b"1")), "its output goes along");
    rig.holds(&[]).await;
    rig.bus.round_trip().await.unwrap();
    let heard = std::iter::from_fn(|| listener.next().now_or_never().flatten()).count();
    assert_eq!(heard, 1, "others hear of it once");
    // Nobody is asked again for a while, and a late answer hurts nobody.
    answer(&rig, &question, ReportReply::default()).await;
    rig.input("next", &json!(2)).await;
    rig.dispatch("next", 1, "job.echo").await;
    assert_eq!(rig.result().await.job_id, "next");
    rig.holds(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_dealt_with_now_goes_into_the_stream() {
    let mut rig = Rig::start().await;
    let mut desk = Desk::open(&rig).await;
    let _running = rig.work(rig.options(), echo).await;
    rig.input("later", &json!(1)).await;
    rig.dispatch("later", 1, "job.echo").await;
    let (question, items) = desk.next().await;
    assert_eq!(items.len(), 1);
    answer(&rig, &question, ReportReply { again: vec![0], problem: None }).await;
    assert_eq!(rig.result().await.job_id, "later");
    rig.holds(&[]).await;
    // It has answered, so that it is asked again.
    rig.input("now", &json!(1)).await;
    rig.dispatch("now", 1, "job.echo").await;
    let (question, _) = desk.next().await;
    answer(&rig, &question, ReportReply::default()).await;
    rig.holds(&[]).await;
    assert_eq!(rig.bus.stream_state(Stream::Results).await.unwrap().last_sequence, 1);
}
