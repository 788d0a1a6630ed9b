//! Machine code on disk, so that a module is compiled once and not once a process.
//!
//! Loading machine code is running it. So nothing is taken from the folder that this user has not put there on this machine:
//!
//! - the folder must belong to this user and be closed to everybody else, or it is not used at all;
//! - each entry begins with an HMAC over what it is and what it holds. The key lies in the folder; what is signed also names the
//!   folder's own device and inode, so that a copy of the folder, from another machine or a backup, is worth nothing;
//! - the bytes that were checked are those that are loaded: the file is read once.
//!
//! An entry that does not check out is removed, and the module is compiled again.

use std::fs::{self, DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use busbar_protocol::hex;
use busbar_protocol::pointers::Sha256Hex;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::TryRng as _;
use rand::rngs::SysRng;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use wasmtime::Engine;

use crate::modules::Build;

/// What everything that is signed begins with; a change of the format changes it.
const FORMAT: &[u8] = b"busbar compiled module 1";
const KEY_FILE: &str = "key";
const LOCK_FILE: &str = "lock";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
/// What is not finished yet, or never will be.
const UNFINISHED: &str = "new-";
/// Nothing takes so long to be written.
const UNFINISHED_MAX: Duration = Duration::from_secs(3_600);
const SUFFIX: &str = ".code";
/// What others may do with a folder or a file of ours: nothing.
const OTHERS: u32 = 0o077;

/// Why a folder is not used for compiled modules.
#[derive(Debug, Error)]
pub enum CacheError {
    /// It cannot be made, read or written.
    #[error("it cannot be made, read or written")]
    Io(#[from] io::Error),
    /// It could hold machine code of somebody else's.
    #[error("it must belong to user {us} and be closed to all others (mode 0700): its owner is {owner}, its mode {:04o}", mode & 0o7777)]
    NotOurs {
        /// The user of this process.
        us: u32,
        /// Whose folder it is.
        owner: u32,
        /// Who may do what in it.
        mode: u32,
    },
    /// There is no randomness for the key.
    #[error("there is no randomness for its key: {reason}")]
    NoRandomness {
        /// The system's words.
        reason: String,
    },
}

/// The folder.
pub(crate) struct CompiledModules {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    /// Device and inode of the folder.
    place: (u64, u64),
    bytes_max: u64,
}

/// Which machine code is meant.
pub(crate) struct Entry<'a> {
    pub(crate) digest: &'a Sha256Hex,
    pub(crate) build: Build,
    /// What [`fingerprint`] says of the engine.
    pub(crate) engine: &'a [u8; 32],
}

/// An entry as it stands in its file. It is never taken apart: machine code is large, and what was checked is what is loaded.
#[derive(Debug)]
pub(crate) struct Signed(Vec<u8>);

impl Signed {
    /// The machine code.
    pub(crate) fn code(&self) -> &[u8] {
        &self.0[self.tag_end()..]
    }

    fn tag(&self) -> &[u8] {
        &self.0[..self.tag_end()]
    }

    fn tag_end(&self) -> usize {
        TAG_BYTES.min(self.0.len())
    }
}

/// Equal for engines whose machine code is interchangeable: the same wasmtime, settings and processor features.
pub(crate) fn fingerprint(engine: &Engine) -> [u8; 32] {
    struct Collected(Sha256);
    impl Hasher for Collected {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut collected = Collected(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut collected);
    collected.0.finalize().into()
}

impl CompiledModules {
    /// Makes the folder if it is absent, and refuses it if anybody else could have written to it.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> Result<Self, CacheError> {
        match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let metadata = fs::metadata(folder)?;
        let us = rustix::process::geteuid().as_raw();
        if metadata.uid() != us || metadata.mode() & OTHERS != 0 {
            return Err(CacheError::NotOurs { us, owner: metadata.uid(), mode: metadata.mode() });
        }
        let key = key(folder, us)?;
        let folder = folder.to_owned();
        let opened = Self { folder, key, place: (metadata.dev(), metadata.ino()), bytes_max };
        opened.tidy()?;
        Ok(opened)
    }

    /// The machine code, if it is there and was put there by us. Whatever else is there is removed.
    pub(crate) fn read(&self, entry: &Entry<'_>) -> Option<Signed> {
        let path = self.path(entry);
        let signed = Signed(read_own_file(&path)?);
        if self.mac(entry, signed.code()).verify_slice(signed.tag()).is_err() {
            tracing::warn!(module = %entry.digest, path = %path.display(), "a compiled module was refused: this worker has not signed it");
            self.remove(entry);
            return None;
        }
        Some(signed)
    }

    /// Removes an entry.
    pub(crate) fn remove(&self, entry: &Entry<'_>) {
        // If that fails it is refused again next time.
        let _ = fs::remove_file(self.path(entry));
    }

    /// Keeps machine code. A cache that cannot be written costs time, so that a failure is told and nothing else.
    pub(crate) fn keep(&self, entry: &Entry<'_>, code: &[u8]) {
        let kept = self.write(entry, code).and_then(|()| self.make_room());
        if let Err(error) = kept {
            tracing::warn!(module = %entry.digest, %error, "a compiled module cannot be kept");
        }
    }

    fn write(&self, entry: &Entry<'_>, code: &[u8]) -> io::Result<()> {
        if (code.len() + TAG_BYTES) as u64 > self.bytes_max {
            return Ok(());
        }
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
        file.write_all(&self.mac(entry, code).finalize().into_bytes())?;
        file.write_all(code)?;
        // Whoever reads half of it after a power cut finds that it does not check out.
        file.persist(self.path(entry)).map(drop).map_err(|error| error.error)
    }

    /// Removes what was written first until the rest fits.
    fn make_room(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
                // Another process may have removed it just now.
                let Ok(metadata) = entry.metadata() else { continue };
                entries.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), entry.path()));
            }
        }
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, len, path) in entries {
            if bytes <= self.bytes_max {
                return Ok(());
            }
            remove_if_there(&path)?;
            bytes -= len;
        }
        Ok(())
    }

    /// Removes what a killed process has left unfinished; another that uses the folder may be at work right now.
    fn tidy(&self) -> io::Result<()> {
        let old = SystemTime::now() - UNFINISHED_MAX;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let is_unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
            if is_unfinished && entry.metadata()?.modified().is_ok_and(|modified| modified < old) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, entry: &Entry<'_>) -> PathBuf {
        // Where a folder is shared by machines, each sees it on a device of its own, and has entries of its own.
        let mut maker = Sha256::new_with_prefix(entry.engine);
        maker.update(self.place.0.to_le_bytes());
        maker.update(self.place.1.to_le_bytes());
        let maker = hex::encode(&maker.finalize()[..8]);
        self.folder.join(format!("{}-{}-{maker}{SUFFIX}", entry.digest, entry.build.as_str()))
    }

    /// Every part has a fixed length, but for the code at the end.
    fn mac(&self, entry: &Entry<'_>, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(FORMAT);
        mac.update(&self.place.0.to_le_bytes());
        mac.update(&self.place.1.to_le_bytes());
        mac.update(entry.engine);
        mac.update(&[entry.build as u8]);
        mac.update(entry.digest.as_str().as_bytes());
        mac.update(code);
        mac
    }
}

/// The key, if it is one that only we could have made.
fn read_key(path: &Path, us: u32) -> Option<[u8; KEY_BYTES]> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() || metadata.uid() != us || metadata.mode() & OTHERS != 0 {
        return None;
    }
    fs::read(path).ok()?.try_into().ok()
}

/// The key, made anew if there is none that can be trusted. Of several processes that come at the same time one makes it, and all take it.
fn key(folder: &Path, us: u32) -> Result<[u8; KEY_BYTES], CacheError> {
    let path = folder.join(KEY_FILE);
    let turn = File::create(folder.join(LOCK_FILE))?;
    turn.lock()?;
    if let Some(key) = read_key(&path, us) {
        return Ok(key);
    }
    let mut key = [0; KEY_BYTES];
    SysRng.try_fill_bytes(&mut key).map_err(|error| CacheError::NoRandomness { reason: error.to_string() })?;
    // A temporary file belongs to its maker alone from the start.
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
    file.write_all(&key)?;
    remove_if_there(&path)?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(key)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A regular file's bytes; no link is followed out of the folder.
fn read_own_file(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() {
        return None;
    }
    // In one piece: what is cut off or added meanwhile is not what was signed.
    let mut bytes = vec![0; usize::try_from(metadata.len()).ok()?];
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ENGINE: [u8; 32] = [7; 32];

    fn entry<'a>(digest: &'a Sha256Hex, build: Build) -> Entry<'a> {
        Entry { digest, build, engine: &ENGINE }
    }

    fn private() -> tempfile::TempDir {
        let closed = fs::Permissions::from_mode(0o700);
        tempfile::Builder::new().permissions(closed).tempdir().expect("a temp folder")
    }

    fn open(folder: &Path) -> CompiledModules {
        CompiledModules::open(folder, 1_000).expect("ours")
    }

    #[test]
    fn what_was_kept_is_found_again_under_its_own_name_only() {
        let temp = private();
        let (one, other) = (Sha256Hex::of(b"1"), Sha256Hex::of(b"2"));
        open(temp.path()).keep(&entry(&one, Build::Plain), b"code");
        let again = open(temp.path());
        assert_eq!(again.read(&entry(&one, Build::Plain)).expect("kept").code(), b"code");
        assert!(again.read(&entry(&other, Build::Plain)).is_none());
        fs::rename(again.path(&entry(&one, Build::Plain)), again.path(&entry(&other, Build::Plain))).expect("renamed");
        assert!(again.read(&entry(&other, Build::Plain)).is_none(), "the name is signed, too");
        assert!(!again.path(&entry(&other, Build::Plain)).exists(), "what was refused is gone");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let temp = private();
        let (cache, digest) = (open(temp.path()), Sha256Hex::of(b"1"));
        let entry = entry(&digest, Build::Metered);
        let path = cache.path(&entry);
        cache.keep(&entry, b"code");
        let good = fs::read(&path).expect("kept");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).expect("written");
            assert!(cache.read(&entry).is_none(), "byte {at}");
        }
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).expect("written");
            assert!(cache.read(&entry).is_none(), "{len} bytes");
        }
    }

    #[test]
    fn a_copy_of_the_whole_folder_is_worth_nothing() {
        let (temp, copy) = (private(), private());
        let digest = Sha256Hex::of(b"1");
        open(temp.path()).keep(&entry(&digest, Build::Plain), b"code");
        for file in fs::read_dir(temp.path()).expect("readable") {
            let file = file.expect("an entry");
            fs::copy(file.path(), copy.path().join(file.file_name())).expect("copied");
        }
        let copied = open(copy.path());
        assert_eq!(copied.key, open(temp.path()).key);
        assert!(copied.read(&entry(&digest, Build::Plain)).is_none());
    }

    #[test]
    fn folders_and_keys_that_others_can_reach_are_not_trusted() {
        let temp = private();
        let digest = Sha256Hex::of(b"1");
        open(temp.path()).keep(&entry(&digest, Build::Plain), b"code");
        fs::set_permissions(temp.path().join(KEY_FILE), fs::Permissions::from_mode(0o644)).expect("set");
        assert!(open(temp.path()).read(&entry(&digest, Build::Plain)).is_none(), "a new key was made");
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o770)).expect("set");
        assert!(matches!(CompiledModules::open(temp.path(), 1_000), Err(CacheError::NotOurs { .. })));
    }

    #[test]
    fn a_link_is_not_followed() {
        let (temp, elsewhere) = (private(), private());
        let (cache, digest) = (open(temp.path()), Sha256Hex::of(b"1"));
        let entry = entry(&digest, Build::Plain);
        cache.keep(&entry, b"code");
        let moved = elsewhere.path().join("code");
        fs::copy(cache.path(&entry), &moved).expect("copied");
        fs::remove_file(cache.path(&entry)).expect("removed");
        std::os::unix::fs::symlink(&moved, cache.path(&entry)).expect("linked");
        assert!(cache.read(&entry).is_none());
    }

    #[test]
    fn the_oldest_make_room_and_what_is_too_large_is_not_kept() {
        let temp = private();
        let cache = CompiledModules::open(temp.path(), 100).expect("ours");
        let digests = [b"1", b"2", b"3"].map(|text| Sha256Hex::of(text));
        let entries = digests.each_ref().map(|digest| entry(digest, Build::Plain));
        for (age, entry) in [30, 20, 10].into_iter().zip(&entries) {
            cache.keep(entry, b"code");
            let old = SystemTime::now() - Duration::from_secs(age);
            if let Ok(file) = File::options().write(true).open(cache.path(entry)) {
                file.set_modified(old).expect("set");
            }
        }
        let found = entries.each_ref().map(|entry| cache.read(entry).is_some());
        assert_eq!(found, [false, true, true]);
        let large = Sha256Hex::of(b"4");
        cache.keep(&entry(&large, Build::Plain), &[0; 101]);
        assert!(cache.read(&entry(&large, Build::Plain)).is_none());
        assert!(cache.read(&entries[1]).is_some());
    }

    #[test]
    fn what_a_killed_process_left_unfinished_is_removed_after_a_while() {
        let temp = private();
        drop(open(temp.path()));
        for (name, age) in [("new-old", 2 * UNFINISHED_MAX), ("new-now", Duration::ZERO)] {
            let file = File::create(temp.path().join(name)).expect("made");
            file.set_modified(SystemTime::now() - age).expect("set");
        }
        drop(open(temp.path()));
        let there = ["new-old", "new-now", KEY_FILE].map(|name| temp.path().join(name).exists());
        assert_eq!(there, [false, true, true]);
    }

    #[test]
    fn those_who_come_at_the_same_time_have_one_key() {
        let temp = private();
        let all = std::sync::Barrier::new(8);
        let open = || {
            all.wait();
            open(temp.path()).key
        };
        let keys = std::thread::scope(|scope| {
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            opening.into_iter().map(|opened| opened.join().expect("no panic")).collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(keys.len(), 1);
    }
}
