//! Compiling under a limit of time: on threads of its own, of which there are never more than a few.
//!
//! Compilation cannot be interrupted. Whoever waits is sent away when time is over; the thread goes on to its end, and what it makes
//! is kept on disk where there is a place for it, so that the next attempt may find it. Since there are only so many threads, a
//! module that takes for ever takes one of them and not the worker.

use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::stdio::lock;

/// Compiling a large function recurses deeply; only touched pages cost memory.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// The places for threads that compile.
pub(crate) struct Compilers {
    free: Arc<(Mutex<usize>, Condvar)>,
}

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotMade {
    /// It took longer than it may, waiting for a place included.
    TooLong,
    /// The thread panicked, or could not be started.
    Broken,
}

/// A place that is free again when this is dropped.
struct Place(Arc<(Mutex<usize>, Condvar)>);

impl Drop for Place {
    fn drop(&mut self) {
        *lock(&self.0.0) += 1;
        self.0.1.notify_one();
    }
}

impl Compilers {
    pub(crate) fn new(threads_max: usize) -> Self {
        Self { free: Arc::new((Mutex::new(threads_max.max(1)), Condvar::new())) }
    }

    /// Does this on a thread of its own, and waits for it no longer than that.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        time_max: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotMade> {
        let until = Instant::now() + time_max;
        let place = self.place(until).ok_or(NotMade::TooLong)?;
        let (tell, told) = mpsc::sync_channel(1);
        let compiler = thread::Builder::new().name("sandbox-compiler".to_owned()).stack_size(STACK_BYTES);
        let started = compiler.spawn(move || {
            let made = work();
            // Before it is told: whoever asks for the next one finds the place free.
            drop(place);
            // Nobody may wait any more.
            let _ = tell.send(made);
        });
        started.map_err(|_| NotMade::Broken)?;
        told.recv_timeout(until.saturating_duration_since(Instant::now())).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => NotMade::TooLong,
            mpsc::RecvTimeoutError::Disconnected => NotMade::Broken,
        })
    }

    fn place(&self, until: Instant) -> Option<Place> {
        let left = until.saturating_duration_since(Instant::now());
        let (free, changed) = &*self.free;
        let waited = changed.wait_timeout_while(lock(free), left, |free| *free == 0);
        let (mut free, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Place(Arc::clone(&self.free)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn what_takes_for_ever_is_left_alone_and_takes_one_place() {
        let compilers = Compilers::new(2);
        let (end, ended) = mpsc::channel::<()>();
        assert_eq!(compilers.run(Duration::from_millis(20), move || ended.recv().is_err()), Err(NotMade::TooLong));
        assert_eq!(compilers.run(PATIENCE, || 7), Ok(7));
        assert_eq!(compilers.run(PATIENCE, || 8), Ok(8));
        drop(end);
    }

    #[test]
    fn without_a_place_the_time_is_over_too_and_a_place_comes_back() {
        let compilers = Compilers::new(1);
        let (end, ended) = mpsc::channel::<()>();
        assert_eq!(compilers.run(Duration::from_millis(20), move || ended.recv().is_err()), Err(NotMade::TooLong));
        assert_eq!(compilers.run(Duration::from_millis(20), || 7), Err(NotMade::TooLong));
        drop(end);
        assert_eq!(compilers.run(PATIENCE, || 7), Ok(7));
        assert_eq!(compilers.run(PATIENCE, || -> u8 { panic!("on purpose") }), Err(NotMade::Broken));
        assert_eq!(compilers.run(PATIENCE, || 8), Ok(8));
    }
}
