//! Something to look at while work is done: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, a line no more often than this.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(2);

/// How far a piece of work is.
pub(crate) struct Progress {
    title: &'static str,
    what: &'static str,
    bar: Option<ProgressBar>,
    /// What else is known.
    note: String,
    told: Instant,
}

impl Progress {
    /// Begins to show work that counts in these things, such as `jobs`.
    pub(crate) fn begin(title: &'static str, what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1);
            let style = ProgressStyle::with_template(&format!(
                "  {{msg:12}} {{bar:40}} {{pos:>6}}/{{len}} {what}  {{elapsed}}  {{per_sec}}  {{prefix}}"
            ));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(title);
            bar
        });
        Self { title, what, bar, note: String::new(), told: Instant::now() }
    }

    /// What is shown beside the counts from now on.
    pub(crate) fn note(&mut self, note: String) {
        self.note = note;
    }

    pub(crate) fn show(&mut self, done: u64, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total.max(1));
                bar.set_position(done);
                bar.set_prefix(self.note.clone());
            }
            None if self.told.elapsed() >= PLAIN_LINE_EVERY => {
                self.told = Instant::now();
                let separator = if self.note.is_empty() { "" } else { "; " };
                let (title, what, note) = (self.title, self.what, &self.note);
                let _ = writeln!(std::io::stderr(), "  {title}: {done} of {total} {what} done{separator}{note}");
            }
            None => {}
        }
    }

    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
