//! Standard output and standard error of a guest: the first is bounded by ending the guest, or by cutting where it is text; the second by forgetting.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::GuestEvents;
use crate::failure::Stop;

const STDERR_TAIL_BYTES: usize = 64 * 1024;
const LINE_BYTES_MAX: usize = 4 * 1024;
const LOG_BYTES_PER_WINDOW: usize = 64 * 1024;
const LOG_WINDOW: Duration = Duration::from_secs(1);
/// What one write may carry; WASI asks before each.
const PERMIT_BYTES: usize = 64 * 1024;

/// Who listens, shared between standard error and the `busbar` imports. One thread uses it, so it is never contended.
pub(crate) type SharedEvents = Arc<Mutex<Box<dyn GuestEvents>>>;

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the bytes of a stream go.
trait Sink: Send + 'static {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Stop>;
}

/// What becomes of a guest that writes more to standard output than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// It is ended: half a JSON value is none.
    Ends,
    /// It goes on, and the rest is counted and left out.
    IsLeftOut,
}

/// Collects standard output up to a bound.
pub(crate) struct Stdout {
    bytes: Vec<u8>,
    bytes_max: u64,
    written: u64,
    excess: Excess,
}

impl Stdout {
    pub(crate) fn new(bytes_max: u64, excess: Excess) -> Self {
        Self { bytes: Vec::new(), bytes_max, written: 0, excess }
    }

    /// How many bytes the guest has written, those above the bound included.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl Sink for Stdout {
    /// What fits is kept even of the write that does not: it shows what went wrong.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let room = self.bytes_max.saturating_sub(self.written);
        self.written += bytes.len() as u64;
        let fitting = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..fitting]);
        match self.excess {
            Excess::Ends if self.written > self.bytes_max => Err(Stop::Output { wanted: self.written }),
            Excess::Ends | Excess::IsLeftOut => Ok(()),
        }
    }
}

/// Keeps the end of standard error, and tells its lines as they come.
pub(crate) struct Stderr {
    tail: VecDeque<u8>,
    line: Vec<u8>,
    window: LogWindow,
    events: SharedEvents,
}

impl Stderr {
    pub(crate) fn new(events: SharedEvents) -> Self {
        Self { tail: VecDeque::new(), line: Vec::new(), window: LogWindow::new(Instant::now()), events }
    }

    /// Tells a last line that has no end, and what was left out; returns the tail.
    pub(crate) fn finish(&mut self) -> Bytes {
        if !self.line.is_empty() {
            self.end_line();
        }
        if let Some(notice) = self.window.take_notice() {
            lock(&self.events).log(&notice);
        }
        Bytes::from(Vec::from(std::mem::take(&mut self.tail)))
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let admitted = self.window.admit(line.len() + 1, Instant::now());
        let mut events = lock(&self.events);
        if let Admitted::Yes { notice } = admitted {
            if let Some(notice) = notice {
                events.log(&notice);
            }
            events.log(String::from_utf8_lossy(&line).trim_end_matches('\r'));
        }
    }
}

impl Sink for Stderr {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let excess = (self.tail.len() + bytes.len()).saturating_sub(STDERR_TAIL_BYTES);
        self.tail.drain(..excess.min(self.tail.len()));
        let kept = bytes.get(bytes.len().saturating_sub(STDERR_TAIL_BYTES)..).unwrap_or_default();
        self.tail.extend(kept);
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
                continue;
            }
            self.line.push(*byte);
            if self.line.len() == LINE_BYTES_MAX {
                self.end_line();
            }
        }
        Ok(())
    }
}

/// Lets so many bytes a second through, and counts the rest.
struct LogWindow {
    since: Instant,
    bytes: usize,
    bytes_dropped: usize,
}

#[derive(Debug, PartialEq)]
enum Admitted {
    Yes { notice: Option<String> },
    No,
}

impl LogWindow {
    fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, bytes_dropped: 0 }
    }

    fn admit(&mut self, bytes: usize, now: Instant) -> Admitted {
        if now.duration_since(self.since) >= LOG_WINDOW {
            self.since = now;
            self.bytes = 0;
        }
        if self.bytes + bytes > LOG_BYTES_PER_WINDOW {
            self.bytes_dropped += bytes;
            return Admitted::No;
        }
        self.bytes += bytes;
        Admitted::Yes { notice: self.take_notice() }
    }

    fn take_notice(&mut self) -> Option<String> {
        let dropped = std::mem::take(&mut self.bytes_dropped);
        (dropped > 0).then(|| format!("[{dropped} bytes of log left out: more than {LOG_BYTES_PER_WINDOW} a second]"))
    }
}

/// Makes a sink a stream of WASI's. Clones write to the same sink.
pub(crate) struct Stream<S>(pub(crate) Arc<Mutex<S>>);

impl<S> Clone for Stream<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Send> IsTerminal for Stream<S> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<S: Sink> StdoutStream for Stream<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl<S: Sink> Pollable for Stream<S> {
    async fn ready(&mut self) {}
}

#[async_trait]
impl<S: Sink> OutputStream for Stream<S> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        lock(&self.0).take(&bytes).map_err(|stop| StreamError::Trap(wasmtime::Error::new(stop)))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT_BYTES)
    }
}

impl<S: Sink> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(lock(&self.0).take(bytes).map(|()| bytes.len()).map_err(std::io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl GuestEvents for Lines {
        fn log(&mut self, line: &str) {
            lock(&self.0).push(line.to_owned());
        }
    }

    fn stderr() -> (Stderr, Lines) {
        let lines = Lines::default();
        (Stderr::new(Arc::new(Mutex::new(Box::new(lines.clone())))), lines)
    }

    #[test]
    fn lines_are_told_whole_whatever_the_writes() {
        let (mut stderr, lines) = stderr();
        for part in ["on", "e\r\ntw", "o\n\nthr", "ee"] {
            stderr.take(part.as_bytes()).expect("never refused");
        }
        assert_eq!(stderr.finish(), Bytes::from_static(b"one\r\ntwo\n\nthree"));
        assert_eq!(*lock(&lines.0), ["one", "two", "", "three"]);
    }

    #[test]
    fn the_tail_is_bounded_and_keeps_the_end() {
        let (mut stderr, _) = stderr();
        stderr.take(&[b'a'; STDERR_TAIL_BYTES]).expect("never refused");
        stderr.take(b"end").expect("never refused");
        let tail = stderr.finish();
        assert_eq!(tail.len(), STDERR_TAIL_BYTES);
        assert!(tail.ends_with(b"aend"));
        stderr.take(&vec![b'b'; 3 * STDERR_TAIL_BYTES]).expect("never refused");
        assert_eq!(stderr.finish().len(), STDERR_TAIL_BYTES);
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_said() {
        let mut window = LogWindow::new(Instant::now());
        let now = window.since;
        assert_eq!(window.admit(LOG_BYTES_PER_WINDOW, now), Admitted::Yes { notice: None });
        assert_eq!(window.admit(10, now), Admitted::No);
        let Admitted::Yes { notice: Some(notice) } = window.admit(1, now + LOG_WINDOW) else { panic!("a new window") };
        assert!(notice.starts_with("[10 bytes of log left out"), "{notice}");
    }

    #[test]
    fn standard_output_is_refused_at_its_bound() {
        let mut stdout = Stdout::new(4, Excess::Ends);
        assert_eq!(stdout.take(b"123"), Ok(()));
        assert_eq!(stdout.take(b"45"), Err(Stop::Output { wanted: 5 }));
        assert_eq!((stdout.written(), stdout.finish()), (5, b"1234".to_vec()));
    }

    #[test]
    fn standard_output_that_may_be_cut_is_never_refused() {
        let mut stdout = Stdout::new(4, Excess::IsLeftOut);
        for written in [&b"123"[..], b"45", b"6789"] {
            assert_eq!(stdout.take(written), Ok(()));
        }
        assert_eq!((stdout.written(), stdout.finish()), (9, b"1234".to_vec()));
    }
}
