//! Bounds of tenants and topics: one record, changed only from the revision that was read, so that no change is lost.

use std::time::Duration;

use busbar_api::{LimitsRequest, LimitsView, Problem};
use busbar_protocol::busbar::{ConfigChanged, LimitsDocument};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Answer, Bus, CommitClass, CommitId, Guard, Headers, Records, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};

use crate::app::App;
use crate::core::limits;
use crate::error::{busy, internal, of_store};

/// How often a change is made again that met another one: of many that meet, each time at least one gets through.
const TRIES_MAX: u64 = 100;
/// How much longer each of them waits than the time before.
const PAUSE: Duration = Duration::from_millis(2);

/// The bounds that are in force.
pub(crate) async fn get<B: Bus, R: Records>(app: &App<B, R>) -> Result<LimitsView, Problem> {
    let (document, revision) = read(app).await?;
    Ok(limits::view(document, revision))
}

/// Sets all bounds, in place of those of a revision.
pub(crate) async fn replace<B: Bus, R: Records>(
    app: &App<B, R>,
    request: &LimitsRequest,
    revision: u64,
) -> Result<LimitsView, Problem> {
    let document = limits::document(&request.tenants, &request.topics)?;
    match write(app, &document, revision).await? {
        Some(revision) => Ok(limits::view(document, revision)),
        None => Err(changed(revision)),
    }
}

/// Changes a part of the bounds, from the revision that is named or from whatever stands there. Returns the new revision.
pub(crate) async fn change<B: Bus, R: Records>(
    app: &App<B, R>,
    expected: Option<u64>,
    edit: impl Fn(&mut LimitsDocument) -> Result<(), Problem>,
) -> Result<u64, Problem> {
    for tries in 0..TRIES_MAX {
        let (before, revision) = read(app).await?;
        if let Some(expected) = expected.filter(|expected| *expected != revision) {
            return Err(changed(expected));
        }
        let mut document = before.clone();
        edit(&mut document)?;
        if document == before {
            return Ok(revision);
        }
        if let Some(revision) = write(app, &document, revision).await? {
            return Ok(revision);
        }
        tokio::time::sleep(PAUSE * u32::try_from(tries).unwrap_or(u32::MAX)).await;
    }
    Err(busy("others keep changing the limits"))
}

async fn read<B: Bus, R: Records>(app: &App<B, R>) -> Result<(LimitsDocument, u64), Problem> {
    let stored = app.records.read(vec![keys::LIMITS.to_owned()]).await.map_err(|error| of_store(&error))?;
    let Some(stored) = stored.into_iter().next().flatten() else { return Ok((LimitsDocument::default(), 0)) };
    let document = LimitsDocument::decode(stored.value).map_err(|error| internal(&error))?;
    Ok((document, stored.revision))
}

/// Writes the document over the revision that was read. `None` where another one stands there by now. An empty document stays as a
/// record: its revision must never begin anew.
async fn write<B: Bus, R: Records>(app: &App<B, R>, document: &LimitsDocument, revision: u64) -> Result<Option<u64>, Problem> {
    let key = keys::LIMITS.to_owned();
    let guard = match revision {
        0 => Guard::Absent { key: key.clone() },
        revision => Guard::Revision { key: key.clone(), revision },
    };
    let put = Write::Put { key, revision: revision + 1, value: document.encode_to_vec().into(), expire: None };
    let unit = Unit { id: CommitId::generate(), guards: vec![guard], writes: vec![put] };
    let answers = app.records.commit(CommitClass::Advance, vec![unit]).await.map_err(|error| of_store(&error))?;
    match answers.first() {
        Some(Answer::Applied { .. } | Answer::Already) => {}
        Some(Answer::Conflict { .. } | Answer::GuardFailed { .. }) => return Ok(None),
        None => return Err(internal(&"the store gave no answer to a change of the limits")),
    }
    announce(app).await;
    Ok(Some(revision + 1))
}

/// Says that the limits changed. Lost word costs a moment: the scheduler looks by itself as well.
async fn announce<B: Bus, R: Records>(app: &App<B, R>) {
    let message = ConfigChanged { key: keys::LIMITS.to_owned() };
    if let Err(error) = app.bus.publish(subjects::CONFIG_CHANGED, Headers::new(), message.encode_to_vec().into()).await {
        tracing::debug!(%error, "word of changed limits is lost");
    }
}

fn changed(revision: u64) -> Problem {
    Problem::new(Code::RevisionChanged, format!("the limits were changed since revision {revision}; nothing was changed"))
}
