//! The state of the cell.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use busbar_api::{BusStatus, Problem, SchedulerView, StatusView, StoreStatus, WorkerTotals};
use busbar_protocol::busbar::{self, SchedulerStatus, WorkersReply, WorkersRequest};
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;

use crate::app::{App, Caller, Shared};
use crate::core::role::Need;
use crate::core::view::time;
use crate::error::{Refusal, of_wire};

/// The status is asked for when something is wrong, and must not wait long itself.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// Look at the state of the cell.
///
/// Answers also when everything else is away: then `scheduler` is null. Needs the role admin, operator or viewer.
#[utoipa::path(
    get,
    path = "/api/v1/status",
    tag = "cell",
    operation_id = "getStatus",
    responses((status = 200, description = "Bus, store, scheduler and workers in short.", body = StatusView)),
)]
pub(crate) async fn status<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
) -> Result<Json<StatusView>, Refusal> {
    caller.require(Need::ReadCell)?;
    let (reply, store) = tokio::join!(ask(&app, STATUS_PATIENCE), store(&app));
    let reply = reply.unwrap_or_default();
    let connection = *app.bus.connection().borrow();
    Ok(Json(StatusView {
        time: Timestamp::wall_clock().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: Instant::now().duration_since(app.started).as_secs(),
        bus: BusStatus { connected: connection.connected, connections: connection.generation },
        store,
        workers: totals(&reply.workers),
        scheduler: reply.scheduler.map(scheduler),
    }))
}

/// Asks the scheduler for its workers and for itself.
pub(crate) async fn ask<B: Bus, R: Records>(app: &App<B, R>, patience: Duration) -> Result<WorkersReply, Problem> {
    let reply: WorkersReply = app.ask(subjects::SCHEDULER_WORKERS, &WorkersRequest {}, patience).await?;
    reply.problem.clone().map_or(Ok(reply), |problem| Err(of_wire(problem)))
}

async fn store<B: Bus, R: Records>(app: &App<B, R>) -> StoreStatus {
    let error = match tokio::time::timeout(STATUS_PATIENCE, app.records.time()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {STATUS_PATIENCE:?}")),
    };
    StoreStatus { ok: error.is_none(), error }
}

fn totals(workers: &[busbar::WorkerView]) -> WorkerTotals {
    workers.iter().filter(|worker| worker.status != "lost").fold(WorkerTotals::default(), |sum, worker| WorkerTotals {
        count: sum.count + 1,
        capacity: sum.capacity.saturating_add(worker.capacity),
        in_flight: sum.in_flight.saturating_add(worker.in_flight),
    })
}

fn scheduler(status: SchedulerStatus) -> SchedulerView {
    SchedulerView {
        owner: status.owner,
        epoch: status.epoch,
        started_at: time(status.started_ms),
        snapshot: status.snapshot,
        live: status.live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_workers_do_not_count() {
        let of = |status: &str| busbar::WorkerView {
            status: status.into(),
            capacity: 4,
            in_flight: 1,
            ..busbar::WorkerView::default()
        };
        let totals = totals(&[of("online"), of("lost"), of("draining")]);
        assert_eq!(totals, WorkerTotals { count: 2, capacity: 8, in_flight: 2 });
    }
}
