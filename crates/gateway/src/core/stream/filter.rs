//! What a client wants to see, and what it may.

use std::collections::BTreeSet;

use busbar_api::{Problem, STREAM_FILTER_VALUES_MAX, StreamFilter};
use busbar_protocol::codes::Code;
use busbar_protocol::ids;
use busbar_rules::TopicPattern;

use super::item::{Item, Kind, Owner, Steps};

/// Who looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Viewer {
    pub(crate) tenant_id: String,
    /// May look at workers and alerts.
    pub(crate) sees_cell: bool,
}

/// What a client sees. A list that is empty lets everything pass.
#[derive(Clone, Debug)]
pub(crate) struct View {
    viewer: Viewer,
    topics: Vec<TopicPattern>,
    pub(crate) jobs: BTreeSet<String>,
    pub(crate) runs: BTreeSet<String>,
    workers: BTreeSet<String>,
    kinds: BTreeSet<Kind>,
}

/// What a query asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) filter: StreamFilter,
    pub(crate) cursor: Option<String>,
}

impl Asked {
    /// Reads the pairs of a query. Members of a filter may be repeated, or have several values with commas between them.
    pub(crate) fn of_query(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut asked = Self::default();
        for (name, value) in pairs {
            let list = match name.as_str() {
                "topic" => &mut asked.filter.topic,
                "job" => &mut asked.filter.job,
                "run" => &mut asked.filter.run,
                "worker" => &mut asked.filter.worker,
                "kind" => &mut asked.filter.kind,
                "cursor" => {
                    asked.cursor = Some(value);
                    continue;
                }
                "snapshot" => {
                    let flag = value.parse().map_err(|_| invalid("snapshot: true or false".to_owned()))?;
                    asked.filter.snapshot = Some(flag);
                    continue;
                }
                _ => {
                    return Err(invalid(format!(
                        "unknown field `{}`, expected topic, job, run, worker, kind, snapshot or cursor",
                        shorten(&name)
                    )));
                }
            };
            list.extend(value.split(',').filter(|value| !value.is_empty()).map(str::to_owned));
        }
        Ok(asked)
    }
}

impl View {
    /// What somebody sees who asks for this.
    pub(crate) fn new(viewer: Viewer, filter: &StreamFilter) -> Result<Self, Problem> {
        let lists = [&filter.topic, &filter.job, &filter.run, &filter.worker, &filter.kind];
        if lists.iter().any(|list| list.len() > STREAM_FILTER_VALUES_MAX) {
            return Err(invalid(format!("a filter takes at most {STREAM_FILTER_VALUES_MAX} values of a kind")));
        }
        let topics = filter.topic.iter().map(|text| TopicPattern::parse(text)).collect::<Result<_, _>>();
        let view = Self {
            topics: topics.map_err(|error| invalid(format!("topic: {error}")))?,
            jobs: identifiers("job", &filter.job)?,
            runs: identifiers("run", &filter.run)?,
            workers: identifiers("worker", &filter.worker)?,
            kinds: kinds(&viewer, &filter.kind)?,
            viewer,
        };
        Ok(view)
    }

    pub(crate) fn tenant_id(&self) -> &str {
        &self.viewer.tenant_id
    }

    /// Whether anything of this kind can pass.
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// The one topic that is asked for, if it is one.
    pub(crate) fn only_topic(&self) -> Option<&TopicPattern> {
        match self.topics.as_slice() {
            [topic] if topic.is_exact() => Some(topic),
            _ => None,
        }
    }

    /// What this client gets of it: the members of a frame after its cursor.
    pub(crate) fn shows<'a>(&self, item: &'a Item) -> Option<&'a str> {
        let allowed = match &item.owner {
            Owner::Tenant(tenant_id) => *tenant_id == self.viewer.tenant_id,
            Owner::Cell => self.viewer.sees_cell,
        };
        let among = |wanted: &BTreeSet<String>, id: &Option<String>| {
            wanted.is_empty() || id.as_ref().is_some_and(|id| wanted.contains(id))
        };
        let topic = || item.topic.as_ref().is_some_and(|topic| self.topics.iter().any(|pattern| pattern.matches(topic)));
        let passes = allowed
            && (self.topics.is_empty() || topic())
            && among(&self.jobs, &item.job_id)
            && among(&self.runs, &item.run_id)
            && among(&self.workers, &item.worker_id);
        if passes { self.body(item) } else { None }
    }

    fn body<'a>(&self, item: &'a Item) -> Option<&'a str> {
        match (&item.steps, self.wants(item.kind), self.wants(Kind::Step)) {
            (Steps::None, true, _) | (Steps::Some { .. }, _, true) => Some(&item.body),
            (Steps::Some { without }, true, false) => without.as_deref(),
            (Steps::None, false, _) | (Steps::Some { .. }, false, false) => None,
        }
    }
}

fn identifiers(name: &str, given: &[String]) -> Result<BTreeSet<String>, Problem> {
    for id in given {
        ids::check(id).map_err(|error| invalid(format!("{name}: {error}")))?;
    }
    Ok(given.iter().cloned().collect())
}

fn kinds(viewer: &Viewer, given: &[String]) -> Result<BTreeSet<Kind>, Problem> {
    if given.is_empty() {
        return Ok(Kind::ALL.into_iter().filter(|kind| viewer.sees_cell || !kind.is_of_cell()).collect());
    }
    given.iter().map(|text| kind(viewer, text)).collect()
}

fn kind(viewer: &Viewer, text: &str) -> Result<Kind, Problem> {
    let all = || Kind::ALL.map(Kind::as_str).join(", ");
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    let kind = kind.ok_or_else(|| invalid(format!("kind: {:?} is none of {}", shorten(text), all())))?;
    if kind.is_of_cell() && !viewer.sees_cell {
        return Err(Problem::new(Code::Forbidden, format!("kind: {text}: this key may not look at the cell")));
    }
    Ok(kind)
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::FieldInvalid, detail)
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::super::item::tests::{job, progress, run, step};
    use super::*;

    fn viewer(sees_cell: bool) -> Viewer {
        Viewer { tenant_id: "acme".into(), sees_cell }
    }

    fn view(query: &str) -> Result<View, Problem> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        View::new(viewer(true), &Asked::of_query(pairs)?.filter)
    }

    fn shows(query: &str, item: &Item) -> bool {
        view(query).expect("a good query").shows(item).is_some()
    }

    #[test]
    fn nobody_sees_what_belongs_to_others() {
        assert!(shows("", &job("acme", "a", "job.x", 0)));
        assert!(!shows("", &job("other", "a", "job.x", 0)));
        assert!(!shows("job=a&topic=job.x&kind=job", &job("other", "a", "job.x", 0)));
        assert!(!shows("", &progress("other", "a", 1)));
        let alert = Item::new(Kind::Alert, Owner::Cell, String::new());
        assert!(shows("", &alert));
        let own_only = View::new(viewer(false), &StreamFilter::default()).expect("a view");
        assert!(own_only.shows(&alert).is_none());
        assert!(own_only.shows(&job("acme", "a", "job.x", 0)).is_some());
        for kind in ["worker", "alert"] {
            let filter = StreamFilter { kind: vec![kind.into()], ..StreamFilter::default() };
            assert_eq!(View::new(viewer(false), &filter).map_err(|p| p.code).err(), Some("forbidden".into()));
        }
    }

    #[test]
    fn values_of_one_member_are_alternatives_and_members_go_together() {
        let item = job("acme", "r1:s@1", "job.a.b", 0);
        for query in [
            "topic=job.a.>",
            "topic=job.x,job.a.b",
            "job=x&job=r1:s@1",
            "run=r1",
            "worker=w1",
            "kind=job,progress",
            "kind=job&run=r1",
        ] {
            assert!(shows(query, &item), "{query}");
        }
        for query in [
            "topic=job.a",
            "topic=job.*",
            "job=x",
            "run=r2",
            "worker=w2",
            "kind=progress",
            "kind=job&run=r2",
            "topic=job.a.b&worker=w2",
        ] {
            assert!(!shows(query, &item), "{query}");
        }
        // What has no topic does not pass a filter of topics.
        assert!(!shows("topic=job.>", &run(vec![], None)));
        assert!(shows("kind=progress&job=a", &progress("acme", "a", 1)));
    }

    #[test]
    fn runs_are_told_with_or_without_their_steps() {
        let of = |query: &str, item: &Item| view(query).expect("a good query").shows(item).map(|body| body.contains("changes"));
        let (begun, steps, items) = (run(vec![], None), run(vec![step("a", 0)], None), run(vec![step("a", 2)], None));
        assert_eq!([&begun, &steps, &items].map(|item| of("kind=run,step", item)), [Some(false), Some(true), Some(true)]);
        assert_eq!([&begun, &steps, &items].map(|item| of("kind=run", item)), [Some(false), Some(false), None]);
        assert_eq!([&begun, &steps, &items].map(|item| of("kind=step", item)), [None, Some(true), Some(true)]);
        assert_eq!([&begun, &steps, &items].map(|item| of("kind=job", item)), [None, None, None]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (query, part) in [
            ("topics=job.a", "`topics`"),
            ("tenant=x", "`tenant`"),
            ("topic=sys.x", "job."),
            ("job=%20", "identifier"),
            ("kind=jobs", "none of job, run"),
            ("snapshot=no", "true or false"),
        ] {
            let problem = view(query).expect_err(query);
            assert_eq!(problem.code, "field_invalid", "{query}");
            assert!(problem.detail.contains(part), "{query}: {problem}");
        }
        let many = vec!["a"; STREAM_FILTER_VALUES_MAX + 1].join(",");
        assert!(view(&format!("job={many}")).is_err());
    }
}
