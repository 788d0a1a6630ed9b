//! Looking at the world once a second: readiness and metrics say what was seen.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use busbar_protocol::ports::Bus as _;
use busbar_protocol::subjects::Stream;
use busbar_service::telemetry::{Connections, Gauge, Gauges};
use busbar_service::{Metrics, Readiness, Shutdown};

use super::World;

/// How often the connections are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the servers are asked how full they are: every so many looks.
const FILL_EVERY: u32 = 5;
/// What is said to be asked for too long.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Keeps readiness checks and metrics of a role true to the world. `fill` is for the role that says how full the servers are.
pub(super) async fn look(
    world: World,
    connections: Connections,
    fill: Option<Fill>,
    readiness: Readiness,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let connection = world.bus.connection();
    let mut looks = 0_u32;
    loop {
        let now = *connection.borrow();
        readiness.set("bus", now.connected);
        connections.bus(now.connected, now.generation);
        let asked = Instant::now();
        let answered = matches!(tokio::time::timeout(ASK_WITHIN, world.store.ping()).await, Ok(Ok(())));
        readiness.set("store", answered);
        connections.store(answered.then(|| asked.elapsed()));
        // Whoever is away is not asked: waiting for it would delay the word that it is back.
        let due = looks.is_multiple_of(FILL_EVERY) && answered && connection.borrow().connected;
        if let Some(fill) = fill.as_ref().filter(|_| due) {
            fill.look(&world).await;
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.triggered() => return Ok(()),
        }
    }
}

/// How full streams and store are.
pub(super) struct Fill {
    messages: Gauges,
    percent: Gauges,
    memory: Gauge,
    memory_max: Gauge,
}

impl Fill {
    pub(super) fn register(metrics: &Metrics, role: &str) -> Self {
        let name = |rest: &str| format!("{role}_{rest}");
        Self {
            messages: metrics.gauges(&name("stream_messages"), "Messages in a stream"),
            percent: metrics.gauges(&name("stream_fill_percent"), "How full a stream is, in percent of its nearer bound"),
            memory: metrics.gauge(&name("store_memory_bytes"), "Memory that the store uses"),
            memory_max: metrics
                .gauge(&name("store_memory_max_bytes"), "Memory from which on it refuses new work; 0 without a limit"),
        }
    }

    /// What does not answer keeps its last value: that it is away is told elsewhere.
    async fn look(&self, world: &World) {
        for stream in [Stream::Submissions, Stream::Results, Stream::DeadLetters] {
            let Ok(Ok(state)) = tokio::time::timeout(ASK_WITHIN, world.bus.stream_state(stream)).await else { continue };
            let labels = vec![("stream", stream.name().to_owned())];
            self.messages.get_or_create(&labels).set(number(state.messages));
            let share = percent(state.messages, state.messages_max).max(percent(state.bytes, state.bytes_max));
            self.percent.get_or_create(&labels).set(share);
        }
        if let Ok(Ok(memory)) = tokio::time::timeout(ASK_WITHIN, world.store.memory()).await {
            self.memory.set(number(memory.used_bytes));
            self.memory_max.set(number(memory.max_bytes.unwrap_or(0)));
        }
    }
}

fn percent(found: u64, max: Option<u64>) -> i64 {
    max.filter(|max| *max > 0).map_or(0, |max| number(found.saturating_mul(100) / max))
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_bound_is_never_full() {
        assert_eq!(
            [percent(5, None), percent(5, Some(0)), percent(5, Some(20)), percent(u64::MAX, Some(u64::MAX))],
            [0, 0, 25, 1]
        );
    }
}
