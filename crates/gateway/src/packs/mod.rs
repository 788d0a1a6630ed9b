//! Packs: the one installer.
//!
//! ```text
//!  POST /api/v1/packs ─► unpack, check ─► lock:packs ─► ask: kernel, engine, scheduler ─► blobs ─► cfg:pack:<id> APPLYING
//!                                                                                                         │
//!      cfg:pack:<id> ACTIVE and cfg:topics in one unit ◄── kernel: publish ◄── engine: define ◄───────────┘
//!  DELETE ─► lock:packs ─► ask ─► REMOVING, topics gone ─► engine: remove ─► kernel: remove ─► blobs ─► nothing
//! ```
//!
//! Everything that can be asked is asked before anything is changed. Then the record says what is to be, and every step after it
//! follows from the record alone and may be done again: whoever holds `lock:packs` and finds a pack that is not at rest goes on
//! with it, and takes it back where it turns out to be impossible. The lease's epoch guards every change of a record.
//!
//! Whoever is answered may rely on it at once: the answer waits until the scheduler works with the topics that stand there now.

mod ask;
mod drive;
mod in_force;
mod lease;
mod records;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use busbar_api::{PackChange, PackOutcome, PackReply, Problem};
use busbar_blobs::Blobs;
use busbar_protocol::busbar::{PackPartKind, PackRelease};
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Bus, Records};
use busbar_rules::pack::Pack;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::drive::{Rest, Stuck};
use self::lease::Held;
use crate::core::pack::{self, Installed, Phase, changes, names};
use crate::error::{internal, of_store};

/// How many archives are in memory at once: each has up to 64 MiB, and up to 256 MiB unpacked.
const UPLOADS_AT_ONCE: usize = 2;
/// How long one waits for another installation to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The installer. All clones are the same one.
#[derive(Debug)]
pub(crate) struct Packs<B, R> {
    world: Arc<World<B, R>>,
}

impl<B, R> Clone for Packs<B, R> {
    fn clone(&self) -> Self {
        Self { world: Arc::clone(&self.world) }
    }
}

/// What an installation touches.
#[derive(Debug)]
struct World<B, R> {
    bus: B,
    records: R,
    blobs: Blobs,
    lease_ttl: Duration,
    uploads: Arc<Semaphore>,
}

/// A pack as it was uploaded, checked by itself.
#[derive(Debug)]
pub(crate) struct Upload {
    pack: Pack,
    archive: Bytes,
    _place: OwnedSemaphorePermit,
}

impl Upload {
    /// Unpacks and checks an archive, which takes the place until all is done with it.
    pub(crate) async fn open(archive: Bytes, place: OwnedSemaphorePermit) -> Result<Self, Problem> {
        Ok(Self { pack: drive::open(archive.clone()).await?, archive, _place: place })
    }
}

/// How to install.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Install {
    /// Only say what it would mean.
    pub(crate) dry_run: bool,
    /// Another release may be replaced.
    pub(crate) upgrade: bool,
}

impl<B: Bus, R: Records> Packs<B, R> {
    pub(crate) fn new(bus: B, records: R, blobs: Blobs, lease_ttl: Duration) -> Self {
        let uploads = Arc::new(Semaphore::new(UPLOADS_AT_ONCE));
        Self { world: Arc::new(World { bus, records, blobs, lease_ttl, uploads }) }
    }

    /// A place in memory for an archive.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.world.uploads).acquire_owned().await.map_err(|error| internal(&error))
    }

    /// Installs a pack, or says what that would mean. Once begun, it does not end with the caller.
    pub(crate) async fn install(&self, upload: Upload, how: Install, by: String) -> Result<PackReply, Problem> {
        let world = Arc::clone(&self.world);
        let reply = to_its_end(async move {
            let held = Held::take(&world.records, world.lease_ttl, PATIENCE).await?;
            let installed = world.install(&held, &upload, how, &by).await;
            held.release().await;
            installed
        })
        .await?;
        // Also where nothing was to do: somebody asks again because the first answer was lost.
        if reply.outcome != PackOutcome::Planned {
            self.world.await_in_force(&reply.id).await;
        }
        Ok(reply)
    }

    /// Takes a pack away. Once begun, it does not end with the caller.
    pub(crate) async fn uninstall(&self, pack_id: String) -> Result<PackReply, Problem> {
        let world = Arc::clone(&self.world);
        let reply = to_its_end(async move {
            let held = Held::take(&world.records, world.lease_ttl, PATIENCE).await?;
            let uninstalled = world.uninstall(&held, &pack_id).await;
            held.release().await;
            uninstalled
        })
        .await?;
        self.world.await_in_force(&reply.id).await;
        Ok(reply)
    }

    /// All packs, by id.
    pub(crate) async fn list(&self) -> Result<Vec<Installed>, Problem> {
        records::all(&self.world.records).await.map_err(|error| of_store(&error))
    }

    /// One pack.
    pub(crate) async fn get(&self, pack_id: &str) -> Result<Installed, Problem> {
        let found = records::find(&self.world.records, pack_id).await.map_err(|error| of_store(&error))?;
        found.map(|found| found.pack).ok_or_else(|| not_found(pack_id))
    }

    /// Goes on with packs that somebody left on their way, until nobody asks any more.
    pub(crate) async fn tend(self) {
        let every = self.world.lease_ttl / 2;
        loop {
            if let Err(problem) = self.world.tend().await {
                tracing::warn!(%problem, "a pack is still on its way");
            }
            tokio::time::sleep(every).await;
        }
    }
}

/// Runs as a task of its own, so that a client that goes away leaves nothing half done.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T, Problem>> + Send + 'static) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => Err(internal(&error)),
    }
}

impl<B: Bus, R: Records> World<B, R> {
    async fn install(&self, held: &Held<R>, upload: &Upload, how: Install, by: &str) -> Result<PackReply, Problem> {
        let Upload { pack, archive, .. } = upload;
        pack.manifest.check_compatible(env!("CARGO_PKG_VERSION")).map_err(|broken| invalid(&broken))?;
        let present = self.at_rest(held, pack.id()).await?;
        let now = self.records.time().await.map_err(|error| of_store(&error))?;
        let release = pack::release(pack, &Sha256Hex::of(archive), now.millis(), by);
        let before = present.as_ref().map(|present| present.release.clone());
        let reply = |outcome| reply(pack.id(), before.as_ref(), &release, outcome);
        if let Some(before) = before.as_ref().filter(|before| before.digest == release.digest) {
            if !how.dry_run && before.archive == release.archive {
                // Costs little, and brings back what the disk may have lost.
                self.keep(upload).await?;
            }
            return Ok(reply(PackOutcome::Unchanged));
        }
        if let Some(before) = &before
            && !how.upgrade
        {
            return Err(other_release(pack.id(), before, &release));
        }
        self.check(pack, before.as_ref(), &release).await?;
        if how.dry_run {
            return Ok(reply(PackOutcome::Planned));
        }
        let next = Installed::begin(pack.id(), present, release.clone());
        self.keep(upload).await?;
        self.begin(held, next, Some(pack)).await?;
        tracing::info!(pack = pack.id(), version = release.pack_version, by, "a pack is installed");
        Ok(reply(if before.is_some() { PackOutcome::Upgraded } else { PackOutcome::Installed }))
    }

    async fn uninstall(&self, held: &Held<R>, pack_id: &str) -> Result<PackReply, Problem> {
        let present = self.at_rest(held, pack_id).await?.ok_or_else(|| not_found(pack_id))?;
        let release = present.release.clone();
        for workflow in names(&release, PackPartKind::Workflow) {
            self.remove_workflow(pack_id, workflow, true).await.map_err(Stuck::into_problem)?;
        }
        self.refuse_live_jobs(names(&release, PackPartKind::Topic)).await?;
        self.begin(held, present.end(), None).await?;
        tracing::info!(pack = pack_id, "a pack is uninstalled");
        Ok(PackReply {
            id: pack_id.to_owned(),
            version: release.pack_version.clone(),
            replaces: None,
            digest: release.digest.clone(),
            outcome: PackOutcome::Uninstalled,
            plan: changes(Some(&release), None),
        })
    }

    /// The pack, after whatever somebody began with it is done.
    async fn at_rest(&self, held: &Held<R>, pack_id: &str) -> Result<Option<Installed>, Problem> {
        match self.drive(held, pack_id, None).await.map_err(Stuck::into_problem)? {
            Rest::Gone { .. } => Ok(None),
            Rest::Active { pack, .. } => Ok(Some(*pack)),
        }
    }

    /// Asks everybody who could refuse later.
    async fn check(&self, pack: &Pack, before: Option<&PackRelease>, release: &PackRelease) -> Result<(), Problem> {
        let topics = records::topics(&self.records).await.map_err(|error| of_store(&error))?;
        pack::with_topics(&topics.documents, pack.id(), &pack.topics).map_err(|taken| conflict(&taken))?;
        if let Some(policy) = &pack.policy {
            self.check_policy(pack, policy).await.map_err(Stuck::into_problem)?;
        }
        for workflow in &pack.workflows {
            self.define_workflow(pack.id(), workflow, true).await.map_err(Stuck::into_problem)?;
        }
        let Some(before) = before else { return records::refuse_more(&self.records).await };
        let dropped = |kind| names(before, kind).difference(&names(release, kind)).copied().collect::<BTreeSet<&str>>();
        for workflow in dropped(PackPartKind::Workflow) {
            self.remove_workflow(pack.id(), workflow, true).await.map_err(Stuck::into_problem)?;
        }
        self.refuse_live_jobs(dropped(PackPartKind::Topic)).await
    }

    /// Puts modules and archive where everybody finds them. They mean nothing as long as no record names them.
    async fn keep(&self, upload: &Upload) -> Result<(), Problem> {
        let Upload { pack, archive, .. } = upload;
        self.blobs.put_bytes(archive.clone()).await.map_err(|error| internal(&error))?;
        for module in &pack.modules {
            let content = pack.module(module);
            self.blobs.put(content, content.len() as u64).await.map_err(|error| internal(&error))?;
        }
        Ok(())
    }

    /// Writes down what is to be, and does it. What cannot be done is taken back, and told.
    async fn begin(&self, held: &Held<R>, next: Installed, pack: Option<&Pack>) -> Result<(), Problem> {
        let removing = matches!(next.phase, Phase::Removing { .. });
        self.intend(held, &next).await.map_err(Stuck::into_problem)?;
        let rest = self.drive(held, &next.pack_id, pack).await.map_err(|stuck| begun(&next.pack_id, stuck))?;
        match rest {
            Rest::Active { undone: Some(problem), .. } | Rest::Gone { undone: Some(problem) } => Err(problem),
            Rest::Active { pack, .. } if !removing && pack.release.digest == next.release.digest => Ok(()),
            Rest::Gone { .. } if removing => Ok(()),
            Rest::Active { .. } | Rest::Gone { .. } => Err(Stuck::Lost.into_problem()),
        }
    }

    async fn tend(&self) -> Result<(), Problem> {
        let all = records::all(&self.records).await.map_err(|error| of_store(&error))?;
        let restless: Vec<Installed> = all.into_iter().filter(|pack| pack.phase != Phase::Active).collect();
        if restless.is_empty() {
            return Ok(());
        }
        // Who holds the lease is at work on them.
        let Ok(held) = Held::take(&self.records, self.lease_ttl, Duration::ZERO).await else { return Ok(()) };
        let mut outcome = Ok(());
        for pack in restless {
            tracing::info!(pack = pack.pack_id, state = pack.state(), "going on with a pack that was left on its way");
            match self.drive(&held, &pack.pack_id, None).await {
                Ok(Rest::Active { undone: Some(problem), .. } | Rest::Gone { undone: Some(problem) }) => {
                    tracing::warn!(pack = pack.pack_id, %problem, "what was begun with a pack is taken back");
                }
                Ok(Rest::Active { undone: None, .. } | Rest::Gone { undone: None }) => {}
                Err(stuck) => outcome = Err(stuck.into_problem()),
            }
        }
        held.release().await;
        outcome
    }
}

fn reply(pack_id: &str, before: Option<&PackRelease>, release: &PackRelease, outcome: PackOutcome) -> PackReply {
    let plan: Vec<PackChange> = changes(before, Some(release));
    let replaces = before.map(|before| before.pack_version.clone());
    PackReply {
        id: pack_id.to_owned(),
        version: release.pack_version.clone(),
        replaces: replaces.filter(|_| outcome != PackOutcome::Unchanged),
        digest: release.digest.clone(),
        outcome,
        plan,
    }
}

pub(crate) fn invalid(broken: &impl std::fmt::Display) -> Problem {
    Problem::new(Code::PackInvalid, broken.to_string())
}

fn conflict(why: &impl std::fmt::Display) -> Problem {
    Problem::new(Code::PackConflict, why.to_string())
}

fn not_found(pack_id: &str) -> Problem {
    Problem::new(Code::PackNotFound, format!("no pack {:?} is installed", pack_id.chars().take(64).collect::<String>()))
}

fn other_release(pack_id: &str, before: &PackRelease, after: &PackRelease) -> Problem {
    let (old, new) = (&before.pack_version, &after.pack_version);
    let which = if old == new { format!("another content under the same version {old}") } else { format!("version {old}") };
    conflict(&format!("{pack_id} is installed with {which}; upgrade=true replaces it with version {new}"))
}

/// Something was begun and could not be done for now: it goes on without the caller.
fn begun(pack_id: &str, stuck: Stuck) -> Problem {
    let problem = stuck.into_problem();
    let detail =
        format!("{}; what was begun with the pack {pack_id} goes on by itself as soon as that is possible", problem.detail);
    Problem { detail, ..problem }
}
