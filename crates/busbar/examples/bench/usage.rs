//! What processes use, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::Outcome;

/// A process with the name that it has in reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
}

impl Process {
    /// This program itself.
    pub(crate) fn own(name: &'static str) -> Self {
        Self { name, pid: std::process::id() }
    }

    /// The process whose id stands in a file.
    pub(crate) fn of_file(name: &'static str, file: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Self { name, pid: text.trim().parse()? })
    }

    /// Seconds of processor that it has used so far.
    pub(crate) fn cpu_seconds(&self) -> Outcome<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The second field may hold anything, in parentheses; user and system time are fields 14 and 15.
        let rest = text.rsplit_once(')').map(|(_, rest)| rest).ok_or("an odd /proc/<pid>/stat")?;
        seconds(rest.split_whitespace().skip(11).take(2))
    }

    /// Memory that it has in use, in bytes.
    pub(crate) fn rss_bytes(&self) -> Outcome<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: u64 = line.split_whitespace().next().ok_or("no VmRSS")?.parse()?;
        Ok(kib * 1024)
    }
}

/// Seconds of processor that all processes together have used so far.
pub(crate) fn machine_cpu_seconds() -> Outcome<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields: Vec<&str> = text.lines().next().ok_or("an odd /proc/stat")?.split_whitespace().skip(1).collect();
    // User, nice and system time, then idle and waiting, then interrupts.
    seconds(fields.iter().take(3).chain(fields.iter().skip(5).take(2)).copied())
}

fn seconds<'a>(ticks: impl Iterator<Item = &'a str>) -> Outcome<f64> {
    let ticks = ticks.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
    Ok(f64::from(ticks) / f64::from(per_second))
}

/// Seconds of processor by process, between a beginning and an end.
pub(crate) struct Meter<'a> {
    processes: &'a [Process],
    before: Vec<f64>,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(processes: &'a [Process]) -> Outcome<Self> {
        let before = processes.iter().map(Process::cpu_seconds).collect::<Outcome<_>>()?;
        Ok(Self { processes, before })
    }

    pub(crate) fn stop(self) -> Outcome<BTreeMap<&'static str, f64>> {
        let used = |(process, before): (&Process, f64)| Ok((process.name, process.cpu_seconds()? - before));
        self.processes.iter().zip(self.before).map(used).collect()
    }
}
