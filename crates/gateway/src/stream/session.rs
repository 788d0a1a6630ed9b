//! One client: its filter, its place, and what it gets next. Everything that waits can be given up and asked for again:
//! nothing of a session changes before the waiting is over.

use std::sync::Arc;
use std::time::Duration;

use busbar_api::{Problem, StreamFilter};
use busbar_protocol::ports::{Bus, Records, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::follow;
use super::present::present;
use super::{Hub, Seat};
use crate::app::Shared;
use crate::core::role::Need;
use crate::core::stream::cursor::{Cursor, Log};
use crate::core::stream::filter::{View, Viewer};
use crate::core::stream::frame::Frame;
use crate::core::stream::item::Kind;
use crate::core::stream::ring::{Entry, Found, Reader};
use crate::core::stream::shown::Shown;
use crate::keys::Principal;

/// How many changes are taken from the ring at once.
const ENTRIES: usize = 256;
/// How many newest values are taken at once.
const VALUES: usize = 256;
/// Newest values are told no more often than this.
const VALUES_EVERY: Duration = Duration::from_millis(100);
/// How often a client hears from us at least, and its key is looked up again.
const TICK: Duration = Duration::from_secs(15);
/// A store that is away comes back soon.
const STORE_PAUSE: Duration = Duration::from_millis(250);

const UNKNOWN_PLACE: &str = "this cursor is ahead of the log: the stream begins anew";
const TRIMMED: &str = "the log was trimmed after this cursor: the stream begins anew";

/// What happens next.
#[derive(Debug)]
pub(crate) enum Step {
    /// These go out.
    Frames(Vec<Frame>),
    /// A sign of life is due. The frame is a place to resume.
    Tick(Frame),
    /// The gateway ends.
    Shutdown,
    /// The key is not what it was.
    KeyChanged,
}

/// How a client begins.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) filter: StreamFilter,
    pub(crate) resume: Option<Cursor>,
}

/// One client.
pub(crate) struct Session<B, R> {
    app: Shared<B, R>,
    hub: Arc<Hub<B, R>>,
    principal: Arc<Principal>,
    view: View,
    /// Whether the client wants the present first, if it said.
    snapshot: Option<bool>,
    /// None as soon as it has begun.
    opening: Option<Opening>,
    reader: Reader,
    /// The version up to which newest values were told.
    seen: u64,
    values_due: Instant,
    shown: Shown,
    changed: watch::Receiver<u64>,
    tick_at: Instant,
    _seat: Seat,
}

impl<B: Bus, R: Records> Session<B, R> {
    /// A client that has not got anything yet.
    pub(crate) fn new(app: Shared<B, R>, principal: Arc<Principal>, opening: Opening, seat: Seat) -> Result<Self, Problem> {
        let view = view_of(&principal, &opening.filter)?;
        let hub = app.stream.clone();
        let now = Instant::now();
        Ok(Self {
            changed: hub.changed.subscribe(),
            app,
            hub,
            principal,
            view,
            snapshot: opening.filter.snapshot,
            opening: Some(opening),
            reader: Reader::default(),
            seen: 0,
            values_due: now,
            shown: Shown::default(),
            tick_at: now + TICK,
            _seat: seat,
        })
    }

    /// Waits for what goes out next.
    pub(crate) async fn next(&mut self) -> Step {
        loop {
            if self.hub.shutdown.is_triggered() {
                return Step::Shutdown;
            }
            if Instant::now() >= self.tick_at {
                return self.tick().await;
            }
            self.changed.mark_unchanged();
            match self.take().await {
                Ok(Some(frames)) if frames.is_empty() => {}
                Ok(Some(frames)) => return Step::Frames(frames),
                Ok(None) => self.wait().await,
                Err(error) => {
                    tracing::debug!(%error, "a client of the stream waits for the store");
                    self.pause().await;
                }
            }
        }
    }

    /// Takes another filter, from now on. Where it wants a snapshot, the place in the logs stays: nothing is passed over.
    pub(crate) async fn refilter(&mut self, filter: StreamFilter) -> Result<Vec<Frame>, Problem> {
        let view = view_of(&self.principal, &filter)?;
        let snapshot = filter.snapshot;
        let (mut frames, mut shown) = (vec![Frame::filter(self.reader.cursor, filter)], Shown::default());
        // Before anything was told, the opening brings the snapshot.
        if snapshot != Some(false) && self.opening.is_none() {
            (frames, shown) = self.present(&view, self.reader.cursor, frames).await;
        }
        (self.view, self.shown, self.snapshot) = (view, shown, snapshot);
        Ok(frames)
    }

    /// What there is for this client; none of it where nothing passed the filter, but there may be more. `None` at the end.
    async fn take(&mut self) -> Result<Option<Vec<Frame>>, StoreError> {
        if let Some(opening) = self.opening.clone() {
            return self.open(opening).await.map(Some);
        }
        let from = self.reader.cursor;
        let found = self.hub.board().ring.read(&mut self.reader, ENTRIES);
        let entries = match found {
            Found::Behind(log) => return self.read_log(log).await.map(Some),
            Found::Entries(entries) => entries,
        };
        let mut frames = self.pass(from, entries.iter().map(|entry| &**entry));
        frames.extend(self.values());
        Ok((!entries.is_empty() || !frames.is_empty()).then_some(frames))
    }

    async fn open(&mut self, opening: Opening) -> Result<Vec<Frame>, StoreError> {
        self.hub.until_listening().await;
        let version = self.hub.board().latest.version();
        let ends = self.hub.ends().await?;
        let known = |cursor: &Cursor| Log::ALL.into_iter().all(|log| cursor.at(log) <= ends.at(log));
        let (at, first, wants_snapshot) = match opening.resume {
            Some(at) if known(&at) => (at, Frame::cursor(at, self.snapshot == Some(true)), self.snapshot == Some(true)),
            Some(_) => (ends, Frame::reset(ends, UNKNOWN_PLACE, self.wants_snapshot()), self.wants_snapshot()),
            None => (ends, Frame::cursor(ends, self.wants_snapshot()), self.wants_snapshot()),
        };
        let (frames, shown) = self.begin(at, first, wants_snapshot).await;
        (self.reader, self.shown, self.seen, self.opening) = (Reader::at(at), shown, version, None);
        Ok(frames)
    }

    fn wants_snapshot(&self) -> bool {
        self.snapshot.unwrap_or(true)
    }

    /// The first frames of a stream that begins, or begins anew, at this place.
    async fn begin(&self, at: Cursor, first: Frame, wants_snapshot: bool) -> (Vec<Frame>, Shown) {
        if wants_snapshot {
            return self.present(&self.view, at, vec![first]).await;
        }
        // What workers did while a client was away stands in no log.
        let board = self.hub.board();
        let workers = board.latest.all().filter(|item| item.kind == Kind::Worker);
        let told = workers.filter_map(|item| self.view.shows(item)).map(|body| Frame::news(at, body));
        (std::iter::once(first).chain(told).collect(), Shown::default())
    }

    async fn present(&self, view: &View, at: Cursor, mut frames: Vec<Frame>) -> (Vec<Frame>, Shown) {
        let _turn = self.hub.readers.acquire().await;
        let mut present = present(&self.hub, view).await;
        frames.append(&mut present.frames);
        frames.push(Frame::snapshot_end(at, present.end));
        (frames, present.shown)
    }

    /// What the filter lets pass of the entries that come after `from`; afterwards the reader is past them.
    fn pass<'a>(&mut self, from: Cursor, entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Frame> {
        let (mut cursor, mut frames) = (from, Vec::new());
        for entry in entries {
            cursor.advance(entry.log, entry.position);
            let Some(item) = &entry.item else { continue };
            let Some(body) = self.view.shows(item) else { continue };
            if !self.shown.repeats(entry.log, entry.position, item) {
                frames.push(Frame::news(cursor, body));
            }
        }
        self.reader.cursor = cursor;
        if self.shown.is_over(cursor) {
            self.shown = Shown::default();
        }
        frames
    }

    /// Newest values that changed, if it is time for them.
    fn values(&mut self) -> Vec<Frame> {
        let now = Instant::now();
        if now < self.values_due {
            return Vec::new();
        }
        let (items, reached) = self.hub.board().latest.since(self.seen, VALUES);
        self.seen = reached;
        if !items.is_empty() {
            self.values_due = now + VALUES_EVERY;
        }
        let cursor = self.reader.cursor;
        items.iter().filter_map(|item| self.view.shows(item)).map(|body| Frame::news(cursor, body)).collect()
    }

    /// Reads on in a log that has left the ring behind.
    async fn read_log(&mut self, log: Log) -> Result<Vec<Frame>, StoreError> {
        let turn = self.hub.readers.acquire().await;
        let place = self.reader.cursor.at(log);
        let page = follow::page(&self.hub.records, log, place).await?;
        drop(turn);
        let Some(page) = page else {
            let ends = self.hub.ends().await?;
            let first = Frame::reset(ends, TRIMMED, self.wants_snapshot());
            let (frames, shown) = self.begin(ends, first, self.wants_snapshot()).await;
            (self.reader, self.shown) = (Reader::at(ends), shown);
            return Ok(frames);
        };
        if page.is_empty() {
            // The store has lost what the ring has seen; the ring begins anew when it has noticed.
            return Err(StoreError::Unavailable { detail: format!("{} ends before the ring", log.key()) });
        }
        let entries: Vec<Entry> = page.iter().map(|entry| follow::read(log, entry)).collect::<Result<_, _>>()?;
        Ok(self.pass(self.reader.cursor, &entries))
    }

    async fn tick(&mut self) -> Step {
        let key = self.app.keys.find(&self.principal.digest).await;
        self.tick_at = Instant::now() + TICK;
        match key {
            Ok(Some(principal)) if *principal == *self.principal => {
                Step::Tick(Frame::cursor(self.reader.cursor, self.opening.is_some()))
            }
            Ok(_) => Step::KeyChanged,
            // A store that is away takes nobody's key away.
            Err(_) => Step::Tick(Frame::cursor(self.reader.cursor, self.opening.is_some())),
        }
    }

    /// Waits until there may be something.
    async fn wait(&mut self) {
        let values_wait = self.hub.board().latest.version() > self.seen;
        let until = if values_wait { self.values_due.min(self.tick_at) } else { self.tick_at };
        tokio::select! {
            // The hub lives as long as this session.
            _ = self.changed.changed() => {}
            () = sleep_until(until) => {}
            () = self.hub.shutdown.triggered() => {}
        }
    }

    async fn pause(&self) {
        tokio::select! {
            () = tokio::time::sleep(STORE_PAUSE) => {}
            () = self.hub.shutdown.triggered() => {}
        }
    }
}

fn view_of(principal: &Principal, filter: &StreamFilter) -> Result<View, Problem> {
    principal.require(Need::ReadJobs)?;
    let viewer = Viewer { tenant_id: principal.tenant_id.clone(), sees_cell: principal.require(Need::ReadCell).is_ok() };
    View::new(viewer, filter)
}
