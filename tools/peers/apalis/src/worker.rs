//! A worker of apalis. It ends when its stdin is closed: by the adapter, or with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{env, process, thread};

use apalis::prelude::{BackendExt as _, Data, PollSnapshot, PollStrategy, WorkerBuilder, WorkerError};
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::Outcome;
use crate::queue::{Echo, Options};

/// The record of executions, a file of this very process.
type Record = Arc<File>;

/// Wakes an idle worker again and again. The interval of apalis 1.0.0 is not armed anew where it ends while a late reply says that
/// there is no job, and the worker then sleeps until its next heartbeat, up to 30 s.
struct Look(Interval);

pub(crate) async fn run() -> Outcome<()> {
    let options = Options::from_env()?;
    let file = Path::new(&env::var("PEER_DIR")?).join("done").join(process::id().to_string());
    let record: Record = Arc::new(OpenOptions::new().create(true).append(true).open(file)?);
    let queue = options.queue().await?.poll_with_strategy(Look::each(Duration::from_millis(options.poll_milliseconds)));
    let name = format!("worker-{}", process::id());
    let worker = WorkerBuilder::new(name).backend(queue).data(record).build(echo);
    Ok(worker.run_until(closed()).await?)
}

impl Look {
    fn each(period: Duration) -> Self {
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(interval)
    }
}

impl PollStrategy for Look {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _snapshot: &PollSnapshot) -> Poll<Option<()>> {
        let mut due = Poll::Pending;
        // Until it is pending, and so sure to wake the worker.
        while self.0.poll_tick(cx).is_ready() {
            due = Poll::Ready(Some(()));
        }
        due
    }
}

async fn echo(job: Echo, record: Data<Record>) -> io::Result<Echo> {
    (&**record).write_all(format!("{}\n", job.number).as_bytes())?;
    Ok(job)
}

/// Until stdin has ended. A thread of its own waits there: one of the runtime's would keep a worker that has failed from ending.
fn closed() -> impl Future<Output = Result<(), WorkerError>> + Send + 'static {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || ended.send(io::copy(&mut io::stdin(), &mut io::sink())));
    async {
        if let Ok(read) = end.await {
            read?;
        }
        Ok(())
    }
}
