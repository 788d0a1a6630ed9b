//! The live stream as a client reads it: connects, filters, and after a cut goes on where it was.
//!
//! ```text
//!  GET /api/v1/stream ─► thread: lines ─► frames ─► next(): a frame, or silence
//!        ▲                                              │ the cursor of each
//!        └──────────── again, after the last cursor ────┘
//! ```

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use busbar_api::{StreamFilter, StreamFrame};

use crate::client::{Client, encode};
use crate::failure::Failure;

/// So many frames are read ahead.
const AHEAD: usize = 1_024;
/// The longest frame that is taken.
const FRAME_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The gateway gives a sign of life every 15 s: after so long without one the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// After so long without a connection we give up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A stream that outlives its connections. What it has given out once it does not give out again, but for snapshots.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    client: &'a Client,
    filter: StreamFilter,
    place: Place,
    connection: Option<Connection>,
    cut: Option<Cut>,
}

/// Where to go on.
#[derive(Debug, Default)]
struct Place {
    cursor: Option<String>,
    /// A snapshot has begun and not ended: no frame is a place to resume.
    in_snapshot: bool,
}

#[derive(Debug)]
struct Connection {
    frames: Receiver<io::Result<StreamFrame>>,
    heard: Instant,
}

/// How long there has been no connection.
#[derive(Debug)]
struct Cut {
    since: Instant,
    pause: Duration,
}

impl Place {
    /// The place after a connection was made without a cursor.
    const fn fresh(snapshot: bool) -> Self {
        Self { cursor: None, in_snapshot: snapshot }
    }

    fn pass(&mut self, frame: &StreamFrame, snapshots: bool) {
        if frame.reset.is_some() {
            *self = Self::fresh(snapshots);
        }
        if frame.snapshot_end.is_some() {
            self.in_snapshot = false;
        }
        if !self.in_snapshot && frame.cursor.is_some() {
            self.cursor.clone_from(&frame.cursor);
        }
    }
}

impl<'a> Stream<'a> {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers, or the gateway refuses.
    pub(crate) fn open(client: &'a Client, filter: StreamFilter) -> Result<Self, Failure> {
        let mut stream = Self { client, filter, place: Place::default(), connection: None, cut: None };
        stream.connect()?;
        Ok(stream)
    }

    /// The next frame; `None` when there was none within about `wait`. Cuts are mended on the way.
    ///
    /// # Errors
    /// When the gateway refuses to go on, or cannot be reached for two minutes.
    pub(crate) fn next(&mut self, wait: Duration) -> Result<Option<StreamFrame>, Failure> {
        let Some(connection) = &mut self.connection else {
            self.mend(wait)?;
            return Ok(None);
        };
        match connection.frames.recv_timeout(wait) {
            Ok(Ok(frame)) => {
                connection.heard = Instant::now();
                self.cut = None;
                if let Some(problem) = frame.error {
                    return Err(Failure::Refused(problem));
                }
                self.place.pass(&frame, self.filter.snapshot != Some(false));
                return Ok(Some(frame));
            }
            Err(RecvTimeoutError::Timeout) if connection.heard.elapsed() < SILENCE_MAX => {}
            Ok(Err(_)) | Err(_) => self.connection = None,
        }
        Ok(None)
    }

    /// Tries once to connect again, after a pause that grows.
    fn mend(&mut self, wait: Duration) -> Result<(), Failure> {
        let cut = self.cut.get_or_insert_with(|| Cut { since: Instant::now(), pause: Duration::ZERO });
        thread::sleep(cut.pause.min(wait));
        cut.pause = (cut.pause * 2).clamp(Duration::from_millis(100), PAUSE_MAX);
        let given_up = cut.since.elapsed() > PATIENCE;
        match self.connect() {
            Err(failure) if given_up || !failure.may_pass() => Err(failure),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn connect(&mut self) -> Result<(), Failure> {
        if self.place.cursor.is_none() {
            self.place = Place::fresh(self.filter.snapshot != Some(false));
        }
        let reader = self.client.get_stream(&path(&self.filter, self.place.cursor.as_deref()))?;
        let (sender, frames) = mpsc::sync_channel(AHEAD);
        thread::spawn(move || read(reader, &sender));
        self.connection = Some(Connection { frames, heard: Instant::now() });
        Ok(())
    }
}

fn path(filter: &StreamFilter, cursor: Option<&str>) -> String {
    let mut path = "/api/v1/stream/sse".to_owned();
    for (n, (name, value)) in filter.members().chain(cursor.map(|cursor| ("cursor", cursor))).enumerate() {
        let _ = write!(path, "{}{name}={}", if n == 0 { '?' } else { '&' }, encode(value));
    }
    path
}

/// Reads frames until the connection ends or nobody wants them any more.
fn read(reader: impl Read, frames: &SyncSender<io::Result<StreamFrame>>) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let frame = match (&mut reader).take(FRAME_BYTES_MAX).read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => line.strip_prefix("data: ").map(|data| serde_json::from_str(data).map_err(io::Error::from)),
            Err(error) => Some(Err(error)),
        };
        let Some(frame) = frame else { continue };
        let is_last = frame.is_err();
        if frames.send(frame).is_err() || is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use busbar_api::{SnapshotEnd, StreamReset};

    use super::*;

    fn frame(cursor: &str) -> StreamFrame {
        StreamFrame { cursor: Some(cursor.into()), ..StreamFrame::default() }
    }

    #[test]
    fn the_middle_of_a_snapshot_is_no_place_to_resume() {
        let mut place = Place::fresh(true);
        place.pass(&frame("1"), true);
        assert_eq!(place.cursor, None);
        place.pass(&StreamFrame { snapshot_end: Some(SnapshotEnd::default()), ..frame("1") }, true);
        assert_eq!(place.cursor.as_deref(), Some("1"));
        place.pass(&frame("2"), true);
        place.pass(&StreamFrame { snapshot: true, ..StreamFrame::default() }, true);
        assert_eq!(place.cursor.as_deref(), Some("2"));
        let reset = StreamFrame { reset: Some(StreamReset { reason: String::new() }), ..frame("9") };
        place.pass(&reset, true);
        assert_eq!(place.cursor, None);
        place.pass(&reset, false);
        assert_eq!(place.cursor.as_deref(), Some("9"));
    }

    #[test]
    fn the_path_has_filter_and_cursor() {
        let filter = StreamFilter { topic: vec!["job.>".into()], kind: vec!["job".into()], ..StreamFilter::default() };
        assert_eq!(path(&filter, Some("c")), "/api/v1/stream/sse?topic=job.%3E&kind=job&cursor=c");
        assert_eq!(path(&StreamFilter::default(), None), "/api/v1/stream/sse");
    }

    #[test]
    fn only_data_are_frames_and_garbage_is_the_last_word() {
        let text = "retry: 1000\n\nid: c\ndata: {\"cursor\":\"c\"}\n\n: x\ndata: {\ndata: {}\n";
        let (sender, frames) = mpsc::sync_channel(8);
        read(text.as_bytes(), &sender);
        drop(sender);
        let read: Vec<_> = frames.iter().map(|frame| frame.map(|frame| frame.cursor).ok()).collect();
        assert_eq!(read, [Some(Some("c".to_owned())), None]);
    }
}
