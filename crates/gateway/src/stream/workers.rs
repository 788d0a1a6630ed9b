//! Follows the workers. Only the scheduler knows who is late or lost, so it is asked once a second, for all clients together.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use busbar_api::WorkerView;
use busbar_protocol::busbar::{WorkersReply, WorkersRequest};
use busbar_protocol::ports::{Bus, Headers, Records};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;

use super::Hub;
use crate::core::stream::item::Item;
use crate::core::stream::latest::Key;
use crate::core::view;

const ASK_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(1);
/// The status of a worker that the scheduler has forgotten.
const GONE: &str = "gone";

/// Follows the workers until the shutdown, as long as somebody is connected.
pub(super) async fn follow<B: Bus, R: Records>(hub: Arc<Hub<B, R>>) -> Result<(), Infallible> {
    let mut known = BTreeMap::new();
    loop {
        if !hub.is_watched() {
            known.clear();
        } else if let Some(present) = ask(&hub.bus).await {
            let changed = changes(&mut known, present);
            tell(&hub, &changed);
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = hub.shutdown.triggered() => return Ok(()),
        }
    }
}

/// All workers; `None` while no scheduler answers.
pub(super) async fn ask<B: Bus>(bus: &B) -> Option<Vec<WorkerView>> {
    let question = WorkersRequest {}.encode_to_vec().into();
    let answer = bus.request(subjects::SCHEDULER_WORKERS, Headers::new(), question, PATIENCE).await.ok()?;
    let reply = WorkersReply::decode(answer.payload).ok().filter(|reply| reply.problem.is_none())?;
    Some(reply.workers.into_iter().map(view::worker).collect())
}

fn tell<B: Bus, R: Records>(hub: &Hub<B, R>, changed: &[WorkerView]) {
    if changed.is_empty() {
        return;
    }
    let mut board = hub.board();
    for worker in changed {
        board.latest.set(Key::Worker(worker.id.clone()), Item::of_worker(worker));
    }
    drop(board);
    hub.tell();
}

/// What is different from what was known. Load and the time of the last sign alone are no change.
fn changes(known: &mut BTreeMap<String, WorkerView>, present: Vec<WorkerView>) -> Vec<WorkerView> {
    let present: BTreeMap<String, WorkerView> = present.into_iter().map(|worker| (worker.id.clone(), worker)).collect();
    let quiet =
        |worker: &WorkerView| WorkerView { last_seen_at: String::new(), cpu_load: 0.0, memory_load: 0.0, ..worker.clone() };
    let is_news = |worker: &&WorkerView| known.get(&worker.id).is_none_or(|before| quiet(before) != quiet(worker));
    let mut changed: Vec<WorkerView> = present.values().filter(is_news).cloned().collect();
    let gone = known.values().filter(|worker| !present.contains_key(&worker.id));
    changed.extend(gone.map(|worker| WorkerView { status: GONE.to_owned(), in_flight: 0, ..worker.clone() }));
    *known = present;
    changed
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar;

    use super::*;

    fn worker(id: &str, status: &str, seen: u64) -> WorkerView {
        view::worker(busbar::WorkerView {
            worker_id: id.into(),
            status: status.into(),
            last_seen_ms: seen,
            ..busbar::WorkerView::default()
        })
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut known = BTreeMap::new();
        let mut told =
            |present| changes(&mut known, present).into_iter().map(|worker| (worker.id, worker.status)).collect::<Vec<_>>();
        let of = |id: &str, status: &str| (id.to_owned(), status.to_owned());
        assert_eq!(told(vec![worker("a", "online", 1), worker("b", "online", 1)]), [of("a", "online"), of("b", "online")]);
        assert_eq!(told(vec![worker("a", "online", 2), worker("b", "stale", 1)]), [of("b", "stale")]);
        assert_eq!(told(vec![worker("a", "online", 3)]), [of("b", "gone")]);
        assert_eq!(told(vec![worker("a", "online", 4)]), []);
    }
}
