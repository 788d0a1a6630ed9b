//! Signals to processes, by id.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::until;

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

pub(crate) fn kill9(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Stops a process; when this returns, it does nothing more until it is thawed.
pub(crate) fn freeze(pid: u32) {
    signal(pid, Signal::STOP);
    until("the process is stopped", || (state(pid) == Some('T')).then_some(()));
}

pub(crate) fn thaw(pid: u32) {
    signal(pid, Signal::CONT);
}

/// Whether the process runs; one that has ended and was not yet reaped does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, also parentheses.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}
