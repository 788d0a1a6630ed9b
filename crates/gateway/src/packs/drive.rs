//! From what a pack's record says to a pack at rest. Every step may be done again.

use busbar_api::Problem;
use busbar_blobs::BlobError;
use busbar_protocol::busbar::{ConfigChanged, PackPartKind, PackRelease};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Answer, Bus, CommitClass, CommitId, Guard, Headers, Records, StoreError, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_rules::pack::{Pack, UPLOAD_BYTES_MAX, unpack};
use bytes::Bytes;

use super::lease::Held;
use super::records::{self, Found};
use super::{World, invalid};
use crate::core::pack::{Installed, Phase, names, with_topics, without_topics};
use crate::error::{internal, of_store};

/// How many changes of a record one drive may take: there and back, and each again when somebody wrote the topics meanwhile.
const CHANGES_MAX: usize = 16;

/// Why a pack is not at rest.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stuck {
    /// Somebody says no, and will again.
    Refused(Problem),
    /// Somebody is away: it can be done later.
    Away(Problem),
    /// The lease is lost, or others keep changing things.
    Lost,
}

impl Stuck {
    /// What the caller is told.
    pub(super) fn into_problem(self) -> Problem {
        match self {
            Self::Refused(problem) | Self::Away(problem) => problem,
            Self::Lost => Problem::new(Code::PackBusy, "somebody else is at work on packs").retry_after_ms(1000),
        }
    }
}

impl From<StoreError> for Stuck {
    fn from(error: StoreError) -> Self {
        Self::Away(of_store(&error))
    }
}

/// A pack at rest; `undone` tells why it is not what it was to become.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rest {
    Active { pack: Box<Installed>, undone: Option<Problem> },
    Gone { undone: Option<Problem> },
}

/// Whether a change was committed, or met a record that had changed.
enum Committed {
    Yes,
    Changed,
}

impl<B: Bus, R: Records> World<B, R> {
    /// Goes on with a pack until it is at rest. `known` is the content of the release that is to be, where it is at hand.
    pub(super) async fn drive(&self, held: &Held<R>, pack_id: &str, known: Option<&Pack>) -> Result<Rest, Stuck> {
        let mut undone = None;
        for _ in 0..CHANGES_MAX {
            let Some(found) = records::find(&self.records, pack_id).await? else { return Ok(Rest::Gone { undone }) };
            let step = match &found.pack.phase {
                Phase::Active => return Ok(Rest::Active { pack: Box::new(found.pack), undone }),
                Phase::Applying { replaced, .. } => self.apply(held, &found, replaced.as_ref(), known).await,
                Phase::Removing { .. } => self.remove(held, &found).await,
            };
            match step {
                Ok(()) => {}
                Err(Stuck::Refused(problem)) => {
                    let Some(back) = found.pack.undo() else { return Err(Stuck::Away(problem)) };
                    tracing::warn!(pack = pack_id, %problem, "what was begun with the pack is being taken back");
                    self.put(held, &back, Some(found.revision), None).await?;
                    undone = Some(problem);
                }
                Err(stuck) => return Err(stuck),
            }
        }
        Err(Stuck::Lost)
    }

    /// Writes down what is to be. Where a pack is to go, its topics go in the same unit: nothing new begins.
    pub(super) async fn intend(&self, held: &Held<R>, next: &Installed) -> Result<(), Stuck> {
        let found = records::find(&self.records, &next.pack_id).await?;
        let topics = match next.phase {
            Phase::Removing { .. } => {
                let topics = records::topics(&self.records).await?;
                let without = without_topics(&topics.documents, &next.pack_id);
                Some(topics.replaced_by(without))
            }
            Phase::Active | Phase::Applying { .. } => None,
        };
        let changes_topics = topics.is_some();
        match self.put(held, next, found.map(|found| found.revision), topics).await? {
            Committed::Yes if changes_topics => self.announce().await,
            Committed::Yes => {}
            Committed::Changed => return Err(Stuck::Lost),
        }
        Ok(())
    }

    /// Puts a release in force: workflows and policy first, topics last, so that no job comes before it can be judged.
    async fn apply(
        &self,
        held: &Held<R>,
        found: &Found,
        replaced: Option<&PackRelease>,
        known: Option<&Pack>,
    ) -> Result<(), Stuck> {
        let Installed { pack_id, release, .. } = &found.pack;
        let read;
        let pack = match known.filter(|known| known.digest.as_str() == release.digest) {
            Some(known) => known,
            None => {
                read = self.read_archive(release).await?;
                &read
            }
        };
        for workflow in &pack.workflows {
            held.confirm().await?;
            self.define_workflow(pack_id, workflow, false).await?;
        }
        held.confirm().await?;
        match &pack.policy {
            Some(policy) => self.publish_policy(pack, policy).await?,
            None if replaced.is_some_and(has_policy) => self.remove_policy(pack_id).await?,
            None => {}
        }
        let own = names(release, PackPartKind::Workflow);
        let before = replaced.map(|replaced| names(replaced, PackPartKind::Workflow)).unwrap_or_default();
        for workflow in before.difference(&own) {
            held.confirm().await?;
            self.remove_workflow(pack_id, workflow, false).await?;
        }
        let topics = records::topics(&self.records).await?;
        let with = with_topics(&topics.documents, pack_id, &pack.topics)
            .map_err(|taken| Stuck::Refused(Problem::new(Code::PackConflict, taken.to_string())))?;
        let settled = found.pack.clone().settle();
        if let Committed::Yes = self.put(held, &settled, Some(found.revision), Some(topics.replaced_by(with))).await? {
            self.announce().await;
        }
        Ok(())
    }

    /// Takes a pack away. Its blobs are collected later, unless somebody else names them.
    async fn remove(&self, held: &Held<R>, found: &Found) -> Result<(), Stuck> {
        let Installed { pack_id, release, .. } = &found.pack;
        for workflow in names(release, PackPartKind::Workflow) {
            held.confirm().await?;
            self.remove_workflow(pack_id, workflow, false).await?;
        }
        if has_policy(release) {
            held.confirm().await?;
            self.remove_policy(pack_id).await?;
        }
        let key = keys::pack(pack_id);
        let guards = vec![held.guard(), Guard::Revision { key: key.clone(), revision: found.revision }];
        let index = Write::IndexRemove { index: keys::INDEX_PACKS.to_owned(), member: pack_id.clone() };
        self.commit(guards, vec![Write::Delete { key }, index]).await.map(drop)
    }

    async fn read_archive(&self, release: &PackRelease) -> Result<Pack, Stuck> {
        let sha256 = Sha256Hex::parse(&release.archive).map_err(|error| Stuck::Refused(internal(&error)))?;
        let archive = self.blobs.read(&sha256, UPLOAD_BYTES_MAX as u64).await.map_err(|error| match error {
            error @ (BlobError::Missing { .. } | BlobError::Corrupt { .. }) => Stuck::Refused(internal(&error)),
            error => Stuck::Away(internal(&error)),
        })?;
        open(archive).await.map_err(Stuck::Refused)
    }

    /// Writes a pack's record; with new topics, in the same unit.
    async fn put(
        &self,
        held: &Held<R>,
        pack: &Installed,
        revision: Option<u64>,
        topics: Option<(Guard, Option<Write>)>,
    ) -> Result<Committed, Stuck> {
        let key = keys::pack(&pack.pack_id);
        let guard = match revision {
            None => Guard::Absent { key: key.clone() },
            Some(revision) => Guard::Revision { key: key.clone(), revision },
        };
        let value = pack.to_record().encode_to_vec().into();
        let put = Write::Put { key, revision: revision.unwrap_or(0) + 1, value, expire: None };
        let (mut guards, mut writes) = (vec![held.guard(), guard], vec![put]);
        if revision.is_none() {
            let score = i64::try_from(pack.release.installed_ms).unwrap_or(i64::MAX);
            writes.push(Write::IndexAdd { index: keys::INDEX_PACKS.to_owned(), member: pack.pack_id.clone(), score });
        }
        if let Some((guard, write)) = topics {
            guards.push(guard);
            writes.extend(write);
        }
        self.commit(guards, writes).await
    }

    /// The first guard is the lease's.
    async fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<Committed, Stuck> {
        let unit = Unit { id: CommitId::generate(), guards, writes };
        match self.records.commit(CommitClass::Advance, vec![unit]).await?.first() {
            Some(Answer::Applied { .. } | Answer::Already) => Ok(Committed::Yes),
            Some(Answer::GuardFailed { guard: 0 }) | None => Err(Stuck::Lost),
            Some(Answer::Conflict { .. } | Answer::GuardFailed { .. }) => Ok(Committed::Changed),
        }
    }

    /// Says that the topics changed. Lost word costs a moment: the scheduler looks by itself as well.
    async fn announce(&self) {
        let message = ConfigChanged { key: keys::TOPICS.to_owned() };
        if let Err(error) = self.bus.publish(subjects::CONFIG_CHANGED, Headers::new(), message.encode_to_vec().into()).await {
            tracing::debug!(%error, "word of changed topics is lost");
        }
    }
}

fn has_policy(release: &PackRelease) -> bool {
    !names(release, PackPartKind::Policy).is_empty()
}

/// Unpacks and checks an archive on a thread that may compute.
pub(super) async fn open(archive: Bytes) -> Result<Pack, Problem> {
    let opened = tokio::task::spawn_blocking(move || Pack::open(unpack(&archive)?)).await;
    opened.map_err(|error| internal(&error))?.map_err(|broken| invalid(&broken))
}
