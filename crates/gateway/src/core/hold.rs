//! Pauses and drains: what may be held back, and how it is told.

use busbar_api::{DrainView, PauseRequest, PauseScope, PauseView, Problem};
use busbar_protocol::busbar::{self, Drain, Pause, PauseName};
use busbar_protocol::codes::Code;
use busbar_protocol::time::Timestamp;
use busbar_protocol::{ids, subjects};
use busbar_rules::TopicPattern;

use super::moment::{self, Members};
use super::view::time;

const NAME_BYTES_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 256;
const REASON_CHARACTERS_MAX: usize = 500;

/// What is paused, checked.
pub(crate) fn name(scope: PauseScope, name: &str) -> Result<PauseName, Problem> {
    match scope {
        PauseScope::Pool | PauseScope::Worker => plain(scope.as_str(), name)?,
        PauseScope::Tenant => tenant(name)?,
        PauseScope::Topic => {
            TopicPattern::parse(name).map_err(|error| Problem::new(Code::TopicInvalid, error.to_string()))?;
        }
        PauseScope::Key => key(name)?,
    }
    Ok(PauseName { scope: number(scope).into(), name: name.to_owned() })
}

fn tenant(name: &str) -> Result<(), Problem> {
    ids::check(name).map_err(|error| invalid(format!("tenant: {error}")))
}

fn key(name: &str) -> Result<(), Problem> {
    let parts = name.split_once(' ').and_then(|(tenant_id, rest)| Some((tenant_id, rest.split_once(' ')?)));
    let Some((tenant_id, (topic, key))) = parts else {
        return Err(invalid("key: name it as `<tenant> <topic> <key>`, with one space between them".to_owned()));
    };
    tenant(tenant_id)?;
    if !subjects::is_topic(topic) {
        return Err(invalid(format!("key: {:?} is no topic", shortened(topic))));
    }
    demand((1..=KEY_BYTES_MAX).contains(&key.len()) && !has_control(key), || {
        format!("key: 1 to {KEY_BYTES_MAX} bytes, none of them a control character")
    })
}

/// Refuses a name that no pool or worker can have.
pub(crate) fn plain(what: &str, name: &str) -> Result<(), Problem> {
    demand((1..=NAME_BYTES_MAX).contains(&name.len()) && !has_control(name), || {
        format!("{what}: a name has 1 to {NAME_BYTES_MAX} bytes, none of them a control character")
    })
}

/// A pause as it is asked for.
pub(crate) fn pause(what: PauseName, request: &PauseRequest, set_by: &str, now: Timestamp) -> Result<Pause, Problem> {
    let members = Members { at: "until", after: "for_ms" };
    let until = moment::ahead(members, request.until.as_deref(), request.for_ms, now)?;
    if let Some(until) = until {
        let member = if request.for_ms.is_some() { members.after } else { members.at };
        demand(until > now, || format!("{member}: {until} is over already: it is {now}"))?;
    }
    Ok(Pause {
        what: Some(what),
        since_ms: now.millis(),
        until_ms: until.map_or(0, Timestamp::millis),
        reason: reason(request.reason.as_deref()),
        set_by: set_by.to_owned(),
    })
}

/// A reason as much of it as is kept.
pub(crate) fn reason(given: Option<&str>) -> String {
    given.unwrap_or_default().trim().chars().take(REASON_CHARACTERS_MAX).collect()
}

/// All pauses as the interface shows them, by scope and name.
pub(crate) fn pauses(pauses: Vec<Pause>) -> Vec<PauseView> {
    let mut views: Vec<PauseView> = pauses.into_iter().filter_map(pause_view).collect();
    views.sort_by(|a, b| (a.scope, &a.name).cmp(&(b.scope, &b.name)));
    views
}

/// A pause as the interface shows it. `None` where it has a scope that a later version knows.
pub(crate) fn pause_view(pause: Pause) -> Option<PauseView> {
    let what = pause.what?;
    Some(PauseView {
        scope: scope(what.scope())?,
        name: what.name,
        since: time(pause.since_ms),
        until: (pause.until_ms > 0).then(|| time(pause.until_ms)),
        reason: pause.reason,
        set_by: pause.set_by,
    })
}

/// All drains as the interface shows them, by worker.
pub(crate) fn drains(drains: Vec<Drain>) -> Vec<DrainView> {
    let mut views: Vec<DrainView> = drains.into_iter().map(drain_view).collect();
    views.sort_by(|a, b| a.worker_id.cmp(&b.worker_id));
    views
}

/// A drain as the interface shows it.
pub(crate) fn drain_view(drain: Drain) -> DrainView {
    DrainView { worker_id: drain.worker_id, since: time(drain.since_ms), reason: drain.reason, set_by: drain.set_by }
}

const fn number(scope: PauseScope) -> busbar::PauseScope {
    match scope {
        PauseScope::Pool => busbar::PauseScope::Pool,
        PauseScope::Topic => busbar::PauseScope::Topic,
        PauseScope::Tenant => busbar::PauseScope::Tenant,
        PauseScope::Key => busbar::PauseScope::Key,
        PauseScope::Worker => busbar::PauseScope::Worker,
    }
}

const fn scope(number: busbar::PauseScope) -> Option<PauseScope> {
    match number {
        // A run that is paused is shown as such, and lifted there.
        busbar::PauseScope::Unspecified | busbar::PauseScope::Run => None,
        busbar::PauseScope::Pool => Some(PauseScope::Pool),
        busbar::PauseScope::Topic => Some(PauseScope::Topic),
        busbar::PauseScope::Tenant => Some(PauseScope::Tenant),
        busbar::PauseScope::Key => Some(PauseScope::Key),
        busbar::PauseScope::Worker => Some(PauseScope::Worker),
    }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::FieldInvalid, detail)
}

fn demand(holds: bool, detail: impl FnOnce() -> String) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(invalid(detail())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    #[test]
    fn each_scope_has_names_of_its_own() {
        for (scope, good) in [
            (PauseScope::Pool, "gpu pool"),
            (PauseScope::Worker, "w/1"),
            (PauseScope::Tenant, "acme"),
            (PauseScope::Topic, "job.a.>"),
            (PauseScope::Key, "acme job.a order 4711/b"),
        ] {
            assert_eq!(name(scope, good).map(|what| what.name).as_deref(), Ok(good), "{scope}");
        }
        for (scope, bad, code) in [
            (PauseScope::Pool, "", "field_invalid"),
            (PauseScope::Worker, "a\nb", "field_invalid"),
            (PauseScope::Tenant, "a b", "field_invalid"),
            (PauseScope::Topic, "jobs", "topic_invalid"),
            (PauseScope::Key, "acme job.a", "field_invalid"),
            (PauseScope::Key, "acme job.* k", "field_invalid"),
            (PauseScope::Key, "acme job.a ", "field_invalid"),
        ] {
            assert_eq!(name(scope, bad).map_err(|problem| problem.code), Err(code.into()), "{scope} {bad:?}");
        }
    }

    #[test]
    fn a_pause_ends_ahead_or_not_by_itself() {
        let of = |request| pause(PauseName::default(), &request, "ops", NOW).map(|pause| pause.until_ms);
        assert_eq!(of(PauseRequest::default()), Ok(0));
        assert_eq!(of(PauseRequest { for_ms: Some(5), ..PauseRequest::default() }), Ok(NOW.millis() + 5));
        for bad in [
            PauseRequest { for_ms: Some(0), ..PauseRequest::default() },
            PauseRequest { until: Some(NOW.to_string()), ..PauseRequest::default() },
            PauseRequest { until: Some("soon".into()), ..PauseRequest::default() },
        ] {
            assert_eq!(of(bad.clone()).map_err(|problem| problem.code), Err("field_invalid".into()), "{bad:?}");
        }
    }

    #[test]
    fn what_is_paused_is_shown_in_order() {
        let of = |scope, text: &str| Pause { what: name(scope, text).ok(), ..Pause::default() };
        let unknown = Pause { what: Some(PauseName { scope: 77, name: "x".into() }), ..Pause::default() };
        let views =
            pauses(vec![of(PauseScope::Topic, "job.b"), unknown, of(PauseScope::Pool, "p"), of(PauseScope::Topic, "job.a")]);
        let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
        assert_eq!(names, ["p", "job.a", "job.b"]);
    }
}
