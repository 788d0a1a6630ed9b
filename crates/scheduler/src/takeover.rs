//! Taking over: what a replica reads when it becomes active. It is the same whether a predecessor died, left or never was.
//!
//! ```text
//!  job:live   [ what workers have ][ what waits, the oldest first ........................................ ]
//!             └──────── begin ────────────────────┘└──────────────── go_on, while jobs are dispatched ─────┘
//! ```

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures::{Stream, TryStreamExt as _, stream};
use tokio::sync::{Semaphore, mpsc};

use busbar_protocol::busbar::{HoldsDocument, JobState, QuorumCredits, QuorumSecret};
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::ports::{
    Bus, COMMIT_RETRY, Clock, CommitClass, CommitId, IndexEntry, IndexRange, Judge, Records, StoreError, Stored,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

use crate::Ports;
use crate::config::SchedulerConfig;
use crate::core::cell::{self, Cell, Siblings, Standing, UnreadGroup, replica_id, verification_id};
use crate::core::commit;
use crate::core::job::{Job, RECORD_VERSION};
use crate::core::line::Class;
use crate::core::quorum::draw::Secret;
use crate::core::sketch::Found;
use crate::input::Input;
use crate::intake::{self, Kinds};
use crate::{secrets, tasks};

/// How many pages are under way at once: while one is taken in, the store works on the next ones.
const PAGES_AHEAD: usize = 4;
/// How many pages of the index are read at once.
const INDEX_PAGES: u64 = 16;
/// How many pages wait for the loop at most. It takes them in between its turns, which last the longer the more there is to do.
const PAGES_READY: usize = 16;

/// How far the index of live jobs was read: up to this score, of which these members were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    score: Option<i64>,
    seen: BTreeSet<String>,
}

/// A job, its revision and its class.
type Whole = (Job, u64, Arc<Class>);

/// A page of live jobs, and where the next one begins; nowhere, after the last.
struct Page<T> {
    jobs: T,
    /// It ends among jobs that wait.
    waits: bool,
    next: Option<Place>,
}

/// Reads what workers have, and some of what waits. Where there is more, tells where to go on.
pub(crate) async fn begin<B: Bus, R: Records, C: Clock, J: Judge>(
    config: &SchedulerConfig,
    ports: &Ports<B, R, C, J>,
    cell: &mut Cell,
) -> Result<Option<Place>, StoreError> {
    let doubt = doubtful_since(&ports.records.log_end(keys::LOG_JOBS).await?);
    let mut read = 0;
    let mut waiting = 0;
    let mut pages = pin!(pages(&ports.records, config.load_page, Some(Place::default()), whole));
    while let Some(Page { jobs, waits, next }) = pages.try_next().await? {
        let now = ports.clock.now();
        read += jobs.len();
        for (job, revision, class) in jobs {
            // Our predecessor died about when it was sent.
            let doubtful = job.hold().is_some_and(|hold| hold.since >= doubt).then(|| (job.id.clone(), job.attempt));
            waiting += usize::from(job.hold().is_none());
            cell.insert(job, revision, class, now);
            if let Some(attempt) = doubtful {
                cell.doubt(&attempt);
            }
        }
        if waits && waiting >= config.load_first && next.is_some() {
            let live = usize::try_from(ports.records.index_len(keys::INDEX_LIVE).await?).unwrap_or(usize::MAX);
            cell.begin_loading(live.saturating_sub(read));
            return Ok(next);
        }
    }
    Ok(None)
}

/// Reads the rest, page by page, and puts it into the loop: no faster than the loop takes it in.
pub(crate) async fn go_on<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: Ports<B, R, C, J>,
    page: u64,
    from: Option<Place>,
    inputs: mpsc::Sender<Input>,
) {
    let places = Arc::new(Semaphore::new(PAGES_READY));
    let mut from = from;
    while from.is_some() {
        let mut pages = pin!(pages(&ports.records, page, from.clone(), sketches));
        loop {
            match pages.try_next().await {
                Ok(Some(Page { jobs: page, next, .. })) => {
                    from = next;
                    let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                    if inputs.send(Input::Loaded { page, place }).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {
                    from = None;
                    break;
                }
                Err(error @ StoreError::Unavailable { .. }) => {
                    tracing::debug!(%error, "live jobs cannot be read for now");
                    ports.clock.sleep(COMMIT_RETRY).await;
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "live jobs cannot be read");
                    let _ = inputs.send(Input::Unreadable).await;
                    return;
                }
            }
        }
    }
    let _ = inputs.send(Input::AllLoaded).await;
}

/// Live jobs from a place on. `read` takes the records of a page apart, each with the name under which it is listed.
fn pages<R: Records, T>(
    records: &R,
    page: u64,
    from: Option<Place>,
    read: impl Fn(&[(IndexEntry, Stored)]) -> Result<T, StoreError> + Copy,
) -> impl Stream<Item = Result<Page<T>, StoreError>> {
    entries(records, page, from)
        .map_ok(move |(entries, next)| async move {
            let waits = entries.last().is_none_or(|entry| entry.score >= 0);
            let stored = records.read(entries.iter().map(|entry| keys::job(&entry.member)).collect()).await?;
            let there = entries.into_iter().zip(stored).filter_map(|(entry, stored)| {
                if stored.is_none() {
                    tracing::error!(job_id = entry.member, "a job is listed as live but has no record");
                }
                Some((entry, stored?))
            });
            let there: Vec<_> = there.collect();
            Ok(Page { jobs: read(&there)?, waits, next })
        })
        .try_buffered(PAGES_AHEAD)
}

/// The index of live jobs, page by page. Many pages of it are asked for at once: what comes next is known only when the answer is
/// there, and a busy store answers late. Of each score everything is asked for again that was there before, since jobs leave the
/// index and move in it all the time: counting how many to pass over would miss some.
fn entries<R: Records>(
    records: &R,
    page: u64,
    from: Option<Place>,
) -> impl Stream<Item = Result<(Vec<IndexEntry>, Option<Place>), StoreError>> {
    stream::try_unfold(from, move |from| async move {
        let Some(place) = from else { return Ok::<_, StoreError>(None) };
        let limit = INDEX_PAGES * page + place.seen.len() as u64;
        let min = place.score.unwrap_or(i64::MIN);
        let range = IndexRange { min, max: i64::MAX, newest_first: false, offset: 0, limit };
        let mut entries = records.index(keys::INDEX_LIVE, range).await?;
        let is_last = (entries.len() as u64) < limit;
        entries.retain(|entry| !place.has_passed(entry));
        let mut pages = in_pages(place, entries, page);
        if is_last && let Some((_, next)) = pages.last_mut() {
            *next = None;
        }
        let next = pages.last().and_then(|(_, next)| next.clone());
        Ok(Some((stream::iter(pages.into_iter().map(Ok)), next)))
    })
    .try_flatten()
}

/// Entries from a place on in pages, each with the place behind it.
fn in_pages(from: Place, entries: Vec<IndexEntry>, page: u64) -> Vec<(Vec<IndexEntry>, Option<Place>)> {
    let size = usize::try_from(page).unwrap_or(usize::MAX).max(1);
    let (mut place, mut entries) = (from, entries.into_iter());
    let next = || {
        let page: Vec<IndexEntry> = entries.by_ref().take(size).collect();
        place.pass(&page);
        (!page.is_empty()).then(|| (page, Some(place.clone())))
    };
    std::iter::from_fn(next).collect()
}

impl Place {
    /// Whether an entry of the score at which it stands was seen.
    fn has_passed(&self, entry: &IndexEntry) -> bool {
        Some(entry.score) == self.score && self.seen.contains(&entry.member)
    }

    /// Goes on behind entries that follow it.
    fn pass(&mut self, entries: &[IndexEntry]) {
        let Some(end) = entries.last().map(|entry| entry.score) else { return };
        if self.score != Some(end) {
            self.seen.clear();
        }
        self.score = Some(end);
        self.seen.extend(entries.iter().filter(|entry| entry.score == end).map(|entry| entry.member.clone()));
    }
}

/// A job from its record, with its revision; none, if it has ended.
pub(crate) fn live(job_id: &str, stored: &Stored) -> Result<Option<(Job, u64)>, StoreError> {
    let job = Job::decode(&stored.value).map_err(|detail| StoreError::Corrupt { key: keys::job(job_id), detail })?;
    Ok(job.end().is_none().then_some((job, stored.revision)))
}

fn whole(records: &[(IndexEntry, Stored)]) -> Result<Vec<Whole>, StoreError> {
    records.iter().filter_map(|(entry, stored)| whole_one(entry, stored).transpose()).collect()
}

fn whole_one(entry: &IndexEntry, stored: &Stored) -> Result<Option<Whole>, StoreError> {
    let with_class = |(job, revision)| {
        let class = intake::class_of(&job);
        (job, revision, class)
    };
    Ok(live(&entry.member, stored)?.map(with_class))
}

/// Reads of the jobs of a page no more than they wait by, where that will do.
fn sketches(records: &[(IndexEntry, Stored)]) -> Result<cell::Page, StoreError> {
    let (mut page, mut kinds) = (cell::Page::default(), Kinds::default());
    page.sketches.reserve(records.len());
    for (entry, stored) in records {
        match Found::read(stored) {
            Some(found) => {
                let kind = kinds.of(&found);
                page.sketches.push(found.into_sketch(kind));
            }
            None => page.whole.extend(whole_one(entry, stored)?),
        }
    }
    Ok(cell::Page { kinds: kinds.into_list(), ..page })
}

/// What is paused and what drains, with the revision of that record.
pub(crate) async fn holds<R: Records>(records: &R) -> Result<(HoldsDocument, u64), StoreError> {
    let key = keys::HOLDS.to_owned();
    let Some(stored) = records.read(vec![key.clone()]).await?.pop().flatten() else { return Ok((HoldsDocument::default(), 0)) };
    let record = HoldsDocument::decode(stored.value).map_err(|error| StoreError::Corrupt { key, detail: error.to_string() })?;
    Ok((record, stored.revision))
}

/// How owners of workers stand. What makes draws unforeseeable is made by the first who needs it.
pub(crate) async fn standing<R: Records>(records: &R, epoch: u64) -> Result<Standing, StoreError> {
    loop {
        let names = [keys::QUORUM_CREDITS, keys::QUORUM_SECRET].map(str::to_owned);
        let [credits, secret] = <[_; 2]>::try_from(records.read(names.to_vec()).await?).unwrap_or_default();
        let Some(secret) = secret else {
            let none = || StoreError::Unavailable { detail: "the machine gives no random bytes".to_owned() };
            let draw = secrets::draw::<32>().ok_or_else(none)?;
            let record = QuorumSecret { version: RECORD_VERSION, secret: draw.to_vec().into() };
            let unit = commit::document(keys::QUORUM_SECRET, &record, 0, epoch, CommitId::generate());
            records.commit(CommitClass::Advance, vec![unit]).await?;
            continue;
        };
        let corrupt = |key: &str, detail: String| StoreError::Corrupt { key: key.to_owned(), detail };
        let secret = QuorumSecret::decode(secret.value).map(|record| <[u8; 32]>::try_from(&record.secret[..]));
        let Ok(Ok(secret)) = secret else { return Err(corrupt(keys::QUORUM_SECRET, "it does not hold 32 bytes".to_owned())) };
        let (record, revision) = credits.map_or_else(Default::default, |stored| (stored.value, stored.revision));
        let credits = QuorumCredits::decode(record).map_err(|error| corrupt(keys::QUORUM_CREDITS, error.to_string()))?;
        return Ok(Standing { credits, revision, secret: Secret::new(secret) });
    }
}

/// Which of the jobs that live ones belong to need them no longer: they may not have been cancelled yet, and that goes on.
pub(crate) async fn ended_parents<R: Records, C: Clock>(records: R, clock: C, parents: Vec<String>, inputs: mpsc::Sender<Input>) {
    let stored = tasks::stored(&records, &clock, parents.iter().map(String::as_str)).await;
    let is_done = |stored: Option<Stored>| {
        let job = stored.and_then(|stored| Job::decode(&stored.value).ok());
        job.is_some_and(|job| job.state.tag() == JobState::Cancelled || (job.is_replicated() && job.end().is_some()))
    };
    let done = parents.into_iter().zip(stored).filter_map(|(parent, stored)| is_done(stored).then_some(parent));
    let _ = inputs.send(Input::EndedParents(done.collect())).await;
}

/// Reads what stands in the store under the names that the replicas of a job have, and what checks their results.
pub(crate) async fn replicas<R: Records, C: Clock>(records: R, clock: C, group: UnreadGroup, inputs: mpsc::Sender<Input>) {
    let UnreadGroup { parent, replicas_max, is_checked } = group;
    let read = async |named: fn(&JobId, u32) -> Option<JobId>, most: u32| {
        let names: Vec<(u32, JobId)> = (1..=most).filter_map(|number| named(&parent, number).map(|id| (number, id))).collect();
        let stored = tasks::stored(&records, &clock, names.iter().map(|(_, id)| id.as_str())).await;
        let found =
            names.iter().zip(stored).filter_map(|((number, _), stored)| Some((*number, Job::decode(&stored?.value).ok())));
        found.collect()
    };
    let replicas = read(replica_id, replicas_max).await;
    let checks = read(verification_id, if is_checked { replicas_max } else { 0 }).await;
    let _ = inputs.send(Input::Replicas { parent, found: Siblings { replicas, checks } }).await;
}

/// From when on a sending of our predecessor is in doubt: shortly before the last thing that it wrote to the log.
fn doubtful_since(log_end: &str) -> Timestamp {
    const MARGIN_MS: u64 = 1_000;
    let last = log_end.split_once('-').and_then(|(millis, _)| millis.parse::<u64>().ok()).unwrap_or(0);
    Timestamp::from_millis(last.saturating_sub(MARGIN_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_past_many_of_one_score() {
        let entry = |score: i64, member: &str| IndexEntry { score, member: member.to_owned() };
        let all = vec![entry(-5, "held"), entry(1, "a"), entry(1, "b"), entry(1, "c"), entry(2, "d")];
        let pages = in_pages(Place::default(), all.clone(), 2);
        let members = |page: &[IndexEntry]| page.iter().map(|entry| entry.member.clone()).collect::<Vec<_>>();
        let read: Vec<Vec<String>> = pages.iter().map(|(page, _)| members(page)).collect();
        assert_eq!(read, [vec!["held", "a"], vec!["b", "c"], vec!["d"]]);
        // Whoever goes on behind a page is told everything of its last score again, and passes over what it has seen.
        let places: Vec<Place> = pages.into_iter().filter_map(|(_, place)| place).collect();
        let left = |place: &Place| {
            let from = all.iter().filter(|entry| Some(entry.score) >= place.score && !place.has_passed(entry));
            from.map(|entry| entry.member.as_str()).collect::<String>()
        };
        assert_eq!(places.iter().map(left).collect::<Vec<_>>(), ["bcd", "d", ""]);
    }

    #[test]
    fn doubt_begins_a_second_before_the_end_of_the_log() {
        assert_eq!(doubtful_since("1700000005000-3"), Timestamp::from_millis(1_700_000_004_000));
        assert_eq!(doubtful_since("0"), Timestamp::from_millis(0));
    }
}
