//! Following a hunt: how far it is, how fast, until when, and what its finished jobs have found.
//!
//! ```text
//!  the stream ─► parts that are done ─► their results ─► findings
//!  the run, now and then ─► state, parts in all, since when ─► rate, time left
//! ```

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use busbar_api::{RunChange, RunState, RunView, StepChange, StepState, StepView, StreamFilter, StreamItem};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::Value;

use super::decimal;
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::render::{counted, grouped};
use crate::stream::{PATIENCE, Stream};

/// How often the run is looked at, and how often a line is written where there is no terminal.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(200);
/// The step that searches.
const SEARCH: &str = "search";

/// What a job has found.
#[derive(Debug, Default, Deserialize)]
struct Part {
    #[serde(default)]
    primes: Value,
    counterexamples: Vec<Claim>,
}

#[derive(Debug, Deserialize)]
struct Claim {
    n: String,
}

/// What was seen since we look.
#[derive(Debug, Default)]
struct Seen {
    primes: u64,
    claims: BTreeSet<String>,
}

/// How far a hunt is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    /// Numbers that are searched, and in all.
    done: u64,
    total: u64,
    /// Jobs that are done, and in all.
    parts: (u32, u32),
    /// Numbers in a second.
    rate: Option<u64>,
    /// What is left, at this rate.
    left: Option<Duration>,
}

/// The range of a run.
#[derive(Debug, Deserialize)]
pub(super) struct Range {
    from: String,
    to: String,
}

impl Range {
    /// How many numbers it has; as many as can be counted, where there are more.
    fn numbers(&self) -> u64 {
        decimal::distance(&self.from, &self.to).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Follows a run to its end, and says with which client it came there: a cell that comes back at another place, as `busbar dev` may, is found
/// by asking `stack` again.
///
/// # Errors
/// When nothing can be heard of it any more.
pub(super) fn follow(stack: &impl Fn() -> Result<Client, Failure>, run_id: &str) -> Result<(Client, RunView), Failure> {
    let mut client = stack()?;
    let range = client.get(&format!("{}/input", path(run_id)))?;
    let (seen, board) = (Seen::default(), Board::new());
    let mut watch = Watch { run_id, range, seen, board, first: None, state: None, answered: Instant::now() };
    loop {
        match watch.follow(&client, stack)? {
            Followed::Ended(view) => return Ok((client, *view)),
            Followed::Moved(moved) => client = moved,
        }
    }
}

/// A run that is watched.
struct Watch<'a> {
    run_id: &'a str,
    range: Range,
    seen: Seen,
    board: Board,
    /// How far it was when it was first looked at, and when that was.
    first: Option<(u64, Instant)>,
    /// The state that was shown last; none while nobody answers.
    state: Option<RunState>,
    answered: Instant,
}

/// How far following came.
enum Followed {
    Ended(Box<RunView>),
    /// Somebody else answers.
    Moved(Client),
}

impl Watch<'_> {
    fn follow(&mut self, client: &Client, stack: &impl Fn() -> Result<Client, Failure>) -> Result<Followed, Failure> {
        let kind = ["run", "step"].map(str::to_owned).into();
        let filter = StreamFilter { run: vec![self.run_id.to_owned()], kind, ..StreamFilter::default() };
        let mut stream = Stream::open(client, filter)?;
        let mut looked = None::<Instant>;
        loop {
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                if let Some(followed) = self.look(client, stack)? {
                    return Ok(followed);
                }
            }
            let frame = stream.next(TICK)?;
            if let Some(StreamItem::Run(change)) = frame.map(|frame| frame.item()).transpose().map_err(std::io::Error::from)? {
                self.hear(client, &change);
                if change.state.is_terminal() {
                    looked = None;
                }
            }
        }
    }

    /// Looks at the run, and shows it.
    fn look(&mut self, client: &Client, stack: &impl Fn() -> Result<Client, Failure>) -> Result<Option<Followed>, Failure> {
        match client.get::<RunView>(&path(self.run_id)) {
            Ok(view) if view.state.is_terminal() => return Ok(Some(Followed::Ended(Box::new(view)))),
            Ok(view) => {
                self.answered = Instant::now();
                let pace = pace(&self.range, &view);
                let (done, since) = *self.first.get_or_insert((pace.done, self.answered));
                let is_news = self.state.replace(view.state) != Some(view.state);
                self.board.show(&told(&view, &pace.since(done, since.elapsed()), &self.seen), is_news);
            }
            // The hunt lives in the cell, which may come back.
            Err(failure) if failure.may_pass() && self.answered.elapsed() < PATIENCE => {
                let is_news = self.state.take().is_some();
                self.board.show(&format!("{failure}; trying again"), is_news);
                let moved = stack().ok().filter(|other| other.url() != client.url());
                return Ok(moved.filter(|other| other.get::<RunView>(&path(self.run_id)).is_ok()).map(Followed::Moved));
            }
            Err(failure) => return Err(failure),
        }
        Ok(None)
    }

    fn hear(&mut self, client: &Client, change: &RunChange) {
        let done = |step: &&StepChange| step.step == SEARCH && step.item.is_some() && step.state == StepState::Succeeded;
        for job_id in change.changes.iter().filter(done).filter_map(|step| step.job_id.as_deref()) {
            take(client, job_id, &mut self.seen, &self.board);
        }
    }
}

fn path(run_id: &str) -> String {
    format!("/api/v1/workflow-runs/{}", encode(run_id))
}

/// Looks at what a job has found. Without its result there is nothing to tell yet; the run tells it at its end.
fn take(client: &Client, job_id: &str, seen: &mut Seen, board: &Board) {
    let Ok(part) = client.get::<Part>(&format!("/api/v1/jobs/{}/result", encode(job_id))) else { return };
    seen.primes += part.primes.as_u64().unwrap_or(0);
    for claim in part.counterexamples {
        board.tell(&format!("a counterexample is claimed, and will be judged again: {}", claim.n));
        seen.claims.insert(claim.n);
    }
}

/// How far it is, by the clock of whoever looks.
fn pace(range: &Range, view: &RunView) -> Pace {
    let search = view.steps.iter().find(|step| step.id == SEARCH);
    let since = search.and_then(|step| step.started_at.as_deref()?.parse::<jiff::Timestamp>().ok());
    let elapsed = since.and_then(|since| Duration::try_from(jiff::Timestamp::now().duration_since(since)).ok());
    pace_after(range, search, elapsed)
}

fn pace_after(range: &Range, search: Option<&StepView>, elapsed: Option<Duration>) -> Pace {
    let total = range.numbers();
    let items = search.and_then(|step| step.items).unwrap_or_default();
    let done = u128::from(total) * u128::from(items.succeeded) / u128::from(items.total.max(1));
    let done = u64::try_from(done).unwrap_or(u64::MAX);
    let rate = elapsed.filter(|elapsed| done > 0 && !elapsed.is_zero()).map(|elapsed| a_second(done, elapsed));
    let left = rate.and_then(|rate| time_left(total - done, rate));
    Pace { done, total, parts: (items.succeeded, items.total), rate, left }
}

impl Pace {
    /// The pace of what was done since somebody looks, where that can be told: before, the run may have been paused.
    fn since(self, done: u64, elapsed: Duration) -> Self {
        let fresh = self.done.saturating_sub(done);
        if fresh == 0 || done == 0 {
            return self;
        }
        let rate = a_second(fresh, elapsed);
        Self { rate: Some(rate), left: time_left(self.total - self.done, rate), ..self }
    }
}

/// How many numbers a second that is.
fn a_second(numbers: u64, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(numbers) * 1_000 / elapsed.as_millis().max(1)).unwrap_or(u64::MAX)
}

/// How long so many numbers take.
fn time_left(numbers: u64, rate: u64) -> Option<Duration> {
    numbers.checked_div(rate).map(Duration::from_secs)
}

/// One line about all of it, for terminals of 80 columns.
fn told(view: &RunView, pace: &Pace, seen: &Seen) -> String {
    let mut words = vec![view.state.to_string()];
    match pace.parts {
        (_, 0) => words.push("the range is measured and split".to_owned()),
        (done, total) => {
            words.push(format!("{done} of {total} jobs"));
            words.push(percent(pace.done, pace.total));
        }
    }
    if let Some(rate) = pace.rate.filter(|_| view.state == RunState::Running) {
        words.push(format!("{}/s", grouped(rate)));
    }
    if let Some(left) = pace.left.filter(|_| view.state == RunState::Running) {
        words.push(format!("{} left", lasting(left)));
    }
    if seen.primes > 0 {
        words.push(counted(seen.primes, "prime"));
    }
    if !seen.claims.is_empty() {
        words.push(counted(seen.claims.len() as u64, "claim"));
    }
    words.join(", ")
}

/// A duration as people say it.
pub(super) fn lasting(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// A part of a hundred, with one digit more than whole ones: each of a thousand jobs shows.
fn percent(part: u64, whole: u64) -> String {
    let thousandths = u128::from(part) * 1_000 / u128::from(whole.max(1));
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

/// Where lines go: over one another on a terminal, no longer than it is wide, and now and then elsewhere.
struct Board {
    bar: Option<ProgressBar>,
    told: Option<Instant>,
}

impl Board {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Self { bar, told: None }
    }

    /// News are not waited for.
    fn show(&mut self, text: &str, is_news: bool) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if is_news || self.told.is_none_or(|at| at.elapsed() >= LINE_EVERY) => {
                self.told = Some(Instant::now());
                let _ = writeln!(std::io::stderr(), "{text}");
            }
            None => {}
        }
    }

    /// Something that stays.
    fn tell(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use busbar_api::ItemsView;

    use super::*;

    fn search(succeeded: u32, total: u32) -> StepView {
        StepView {
            id: SEARCH.to_owned(),
            kind: Some("for_each".to_owned()),
            state: StepState::Running,
            attempts: 0,
            job_id: None,
            started_at: None,
            ended_at: None,
            error: None,
            items: Some(ItemsView { total, succeeded, failed: 0, running: 0 }),
        }
    }

    #[test]
    fn the_pace_follows_from_the_parts_that_are_done() {
        let range = Range { from: "1".to_owned(), to: "1000000".to_owned() };
        let half = pace_after(&range, Some(&search(5, 10)), Some(Duration::from_secs(10)));
        let expected =
            Pace { done: 500_000, total: 1_000_000, parts: (5, 10), rate: Some(50_000), left: Some(Duration::from_secs(10)) };
        assert_eq!(half, expected);
        let none = pace_after(&range, Some(&search(0, 10)), Some(Duration::from_secs(10)));
        assert_eq!((none.done, none.rate, none.left), (0, None, None));
        assert_eq!(pace_after(&range, None, None).parts, (0, 0));
        // Since somebody looks it is faster than on the whole.
        let fresh = half.since(300_000, Duration::from_secs(2));
        assert_eq!((fresh.rate, fresh.left), (Some(100_000), Some(Duration::from_secs(5))));
        assert_eq!(half.since(500_000, Duration::from_secs(2)), half);
    }

    #[test]
    fn percents_have_a_digit_more() {
        assert_eq!(
            [percent(0, 7), percent(1, 1_000), percent(999, 1_000), percent(5, 5)],
            ["0.0 %", "0.1 %", "99.9 %", "100.0 %"]
        );
        assert_eq!((percent(0, 0).as_str(), percent(u64::MAX, u64::MAX).as_str()), ("0.0 %", "100.0 %"));
    }

    #[test]
    fn durations_are_told_as_people_do() {
        let told = |seconds| lasting(Duration::from_secs(seconds));
        assert_eq!([told(5), told(600), told(7_260), told(200_000)], ["5 s", "10 min", "2 h 1 min", "2 days"]);
    }
}
