//! The load of the machine, as workers tell it in their signs of life.

use std::fs;
use std::num::NonZero;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long one look at the machine is good for. The kernel's own figure for a load is an average over a minute.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// How much of a machine is in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Processes that run or want to, in percent of the processors, 100 at most; 0 where it is not known.
    pub processors: f32,
    /// Memory in percent; 0 where it is not known.
    pub memory: f32,
}

impl Load {
    /// The load of this machine, at most five seconds old. All workers of a process share one look: it costs more than all the rest
    /// of a beat.
    pub(super) fn of_the_machine() -> Self {
        static LAST: Mutex<Option<(Instant, Load)>> = Mutex::new(None);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some((seen, load)) if seen.elapsed() < GOOD_FOR => load,
            _ => last.insert((Instant::now(), Self::look())).1,
        }
    }

    fn look() -> Self {
        Self { processors: processors(), memory: memory() }
    }
}

fn processors() -> f32 {
    /// Asking takes reading the files of control groups.
    static PROCESSORS: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f32 = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    (load / *PROCESSORS as f32 * 100.0).min(100.0)
}

fn memory() -> f32 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name: &str| -> Option<f32> {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    match (of("MemTotal:"), of("MemAvailable:")) {
        (Some(total), Some(free)) if total > 0.0 => (total - free) / total * 100.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_percentages() {
        let Load { processors, memory } = Load::look();
        for load in [processors, memory] {
            assert!((0.0..=100.0).contains(&load), "{load}");
        }
    }
}
