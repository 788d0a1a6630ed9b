//! Counts what a running guest takes of memory and time, and says when it is too much.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;
use wasmtime::ResourceLimiter;

use crate::failure::Stop;
use crate::{Limits, Usage};

/// Compiled guests have one; more are refused when a module is loaded.
pub(crate) const TABLES_MAX: u32 = 8;

/// The budget of one task. It must be made on, and stay on, the thread that runs the guest: that thread's clock is read.
pub(crate) struct Budget {
    limits: Limits,
    cancel: CancellationToken,
    started: Instant,
    cpu_at_start: Duration,
    memory_bytes: usize,
    memory_bytes_peak: usize,
    table_elements: usize,
    random_bytes: u64,
}

impl Budget {
    pub(crate) fn start(limits: Limits, cancel: CancellationToken) -> Self {
        Self {
            limits,
            cancel,
            started: Instant::now(),
            cpu_at_start: thread_cpu_time(),
            memory_bytes: 0,
            memory_bytes_peak: 0,
            table_elements: 0,
            random_bytes: 0,
        }
    }

    /// Asked at every tick of the epoch.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        if self.cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let used = self.cpu_used();
        if used > self.limits.cpu() {
            return Err(Stop::Cpu { used });
        }
        let used = self.started.elapsed();
        if used > self.limits.wall() {
            return Err(Stop::Wall { used });
        }
        Ok(())
    }

    /// Counts random bytes before they are drawn.
    pub(crate) fn take_random(&mut self, bytes: u64) -> Result<(), Stop> {
        let wanted = self.random_bytes.saturating_add(bytes);
        if wanted > self.limits.random_bytes {
            return Err(Stop::Random { wanted });
        }
        self.random_bytes = wanted;
        Ok(())
    }

    /// What was counted here; the rest is counted where it is used.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            cpu: self.cpu_used(),
            wall: self.started.elapsed(),
            memory_bytes_peak: self.memory_bytes_peak as u64,
            table_elements: self.table_elements as u64,
            random_bytes: self.random_bytes,
            ..Usage::default()
        }
    }

    fn cpu_used(&self) -> Duration {
        thread_cpu_time().saturating_sub(self.cpu_at_start)
    }
}

impl ResourceLimiter for Budget {
    /// A refusal ends the guest. Answering -1 instead would let it go on, abort in its allocator, and be reported as a trap.
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_sub(current).saturating_add(desired);
        if total as u64 > self.limits.memory_bytes {
            return Err(wasmtime::Error::new(Stop::Memory { wanted: total as u64 }));
        }
        self.memory_bytes = total;
        self.memory_bytes_peak = self.memory_bytes_peak.max(total);
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_sub(current).saturating_add(desired);
        if total as u64 > self.limits.table_elements {
            return Err(wasmtime::Error::new(Stop::Tables { wanted: total as u64 }));
        }
        self.table_elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        1
    }
}

/// Processor time of the calling thread: a neighbour that takes the processor away costs this guest nothing.
fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limits: Limits) -> Budget {
        Budget::start(limits, CancellationToken::new())
    }

    fn stop(result: wasmtime::Result<bool>) -> Option<Stop> {
        result.err()?.downcast_ref::<Stop>().copied()
    }

    #[test]
    fn memory_counts_to_its_limit_and_keeps_its_peak() {
        let mut budget = budget(Limits { memory_bytes: 131_072, ..Limits::default() });
        assert!(budget.memory_growing(0, 65_536, None).expect("below"));
        assert!(budget.memory_growing(65_536, 131_072, None).expect("at the limit"));
        assert_eq!(stop(budget.memory_growing(131_072, 131_073, None)), Some(Stop::Memory { wanted: 131_073 }));
        assert_eq!(budget.usage().memory_bytes_peak, 131_072);
    }

    #[test]
    fn tables_count_together_and_random_bytes_to_their_limit() {
        let mut budget = budget(Limits { table_elements: 10, random_bytes: 5, ..Limits::default() });
        assert!(budget.table_growing(0, 6, None).expect("below"));
        assert!(budget.table_growing(0, 4, None).expect("another table"));
        assert_eq!(stop(budget.table_growing(6, 7, None)), Some(Stop::Tables { wanted: 11 }));
        assert_eq!(budget.take_random(5), Ok(()));
        assert_eq!(budget.take_random(1), Err(Stop::Random { wanted: 6 }));
        assert_eq!((budget.usage().table_elements, budget.usage().random_bytes), (10, 5));
    }

    #[test]
    fn cancel_comes_first_then_processor_then_wall() {
        let cancel = CancellationToken::new();
        let budget = Budget::start(Limits { cpu_ms: 0, wall_ms: 0, ..Limits::default() }, cancel.clone());
        assert!(matches!(budget.check(), Err(Stop::Cpu { .. })));
        cancel.cancel();
        assert_eq!(budget.check(), Err(Stop::Cancelled));
    }
}
