//! The threads of the guests: a fixed number of their own, so that neither the network nor the beats ever wait behind a guest.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use tokio::sync::oneshot;

/// More than calls from a guest into the host need; only touched pages cost memory.
const STACK_BYTES: usize = 8 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that do what they are given, one thing each at a time. Dropping the pool ends each when it is idle.
///
/// The queue has no bound of its own: whoever queues holds one of the worker's slots, and there is a thread for each.
#[derive(Debug)]
pub(crate) struct Threads {
    queue: mpsc::Sender<Work>,
}

/// The work panicked. What it said went to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub(crate) struct Panicked;

impl Threads {
    /// Starts the threads.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let (queue, work) = mpsc::channel::<Work>();
        let work = Arc::new(Mutex::new(work));
        for number in 1..=count {
            let work = Arc::clone(&work);
            let thread = thread::Builder::new().name(format!("guest-{number}")).stack_size(STACK_BYTES);
            thread.spawn(move || do_all(&work))?;
        }
        Ok(Self { queue })
    }

    /// Does this on one of the threads. It is done even if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Panicked> {
        let (tell, told) = oneshot::channel();
        let work = move || drop(tell.send(work()));
        self.queue.send(Box::new(work)).expect("the threads hold the other end as long as the pool lives");
        // A panic drops the sender.
        told.await.map_err(|_| Panicked)
    }
}

fn do_all(queue: &Mutex<mpsc::Receiver<Work>>) {
    loop {
        // One waits in the queue, the others for their turn to wait.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // The thread survives; whoever waits is told by the dropped sender, and the panic hook has logged what it said.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn work_is_done_side_by_side_and_a_panic_costs_no_thread() {
        let threads = Threads::start(2).expect("threads");
        for _ in 0..4 {
            assert_eq!(threads.run(|| panic!("on purpose")).await, Err::<(), _>(Panicked));
        }
        // Each waits for the other: one thread alone would never end.
        let meeting = Arc::new(Barrier::new(2));
        let meet = |value| {
            let meeting = Arc::clone(&meeting);
            threads.run(move || {
                meeting.wait();
                value
            })
        };
        assert_eq!(tokio::join!(meet(1), meet(2)), (Ok(1), Ok(2)));
    }
}
