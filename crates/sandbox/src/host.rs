//! What a guest can call: WASI preview 1 with tighter rules for a few functions, and the two imports of `busbar`.
//!
//! WASI has no quota on files, so the functions that fill a disk are wrapped: each counts against `tmp_bytes` first and answers
//! "no space left" when it is spent. The bound is on what is written in all, so deleting does not give any of it back and an
//! unlinked open file hides nothing.

use std::time::{Duration, Instant};

use busbar_protocol::imports::ImportGroup;
use bytes::Bytes;
use wasmtime::{AsContextMut, Caller, Engine, Extern, Linker};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as preview1, WasiSnapshotPreview1};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wiggle::GuestMemory;

use crate::budget::Budget;
use crate::imports::{Imports, group_of_wasi};
use crate::listing;
use crate::stdio::{SharedEvents, lock};
use crate::task::CHECKPOINT_BYTES_MAX;

pub(crate) const WASI: &str = "wasi_snapshot_preview1";
const BUSBAR: &str = "busbar";
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Signs of life no more often than this.
const ALIVE_INTERVAL: Duration = Duration::from_millis(200);

/// `__WASI_ERRNO_NOSPC`.
const ERRNO_NO_SPACE: i32 = 51;
/// `__WASI_ERRNO_NOTSUP`.
const ERRNO_NOT_SUPPORTED: i32 = 58;
/// `__WASI_OFLAGS_CREAT`.
const OPEN_CREATE: i32 = 1;
/// What a new name in a directory counts for.
const ENTRY_BYTES: u64 = 4096;
/// What one call to the host's randomness draws at most.
pub(crate) const RANDOM_PIECE_BYTES: u32 = 64 * 1024;
/// Descriptors below are standard input, output and error.
const FIRST_FILE: i32 = 3;

/// What belongs to one running guest.
pub(crate) struct GuestState {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) budget: Budget,
    pub(crate) tmp: TmpQuota,
    pub(crate) signals: Signals,
    /// Whether everything that it can see must be the same in every run.
    pub(crate) repeatable: bool,
}

/// What is left of `tmp_bytes` and `tmp_files`.
pub(crate) struct TmpQuota {
    bytes: u64,
    bytes_max: u64,
    files: u64,
    files_max: u64,
    refused: bool,
}

/// Passes progress and checkpoints on, no more often than anyone wants to hear.
pub(crate) struct Signals {
    events: SharedEvents,
    percent: Option<u8>,
    alive_at: Option<Instant>,
    checkpoint_at: Option<Instant>,
}

impl TmpQuota {
    pub(crate) fn new(bytes_max: u64, files_max: u64) -> Self {
        Self { bytes: 0, bytes_max, files: 0, files_max, refused: false }
    }

    fn take(&mut self, bytes: u64) -> bool {
        let wanted = self.bytes.saturating_add(bytes);
        let fits = wanted <= self.bytes_max;
        if fits {
            self.bytes = wanted;
        }
        self.refused |= !fits;
        fits
    }

    fn take_entry(&mut self) -> bool {
        let fits = self.files < self.files_max && self.take(ENTRY_BYTES);
        self.files += u64::from(fits);
        self.refused |= !fits;
        fits
    }

    fn give_back(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Bytes and files that count so far.
    pub(crate) fn used(&self) -> (u64, u64) {
        (self.bytes, self.files)
    }

    /// What a person must know of a guest that failed: the guest itself was told no more than that there is no space left.
    pub(crate) fn complaint(&self) -> Option<String> {
        let (bytes, files) = self.used();
        self.refused.then(|| {
            format!(
                "; its /tmp was full: {bytes} of {} bytes (tmp_bytes) and {files} of {} files (tmp_files) were used",
                self.bytes_max, self.files_max
            )
        })
    }
}

impl Signals {
    pub(crate) fn new(events: SharedEvents) -> Self {
        Self { events, percent: None, alive_at: None, checkpoint_at: None }
    }

    fn progress(&mut self, percent: i32, now: Instant) {
        let percent = u8::try_from(percent.clamp(0, 100)).unwrap_or(100);
        if self.percent.is_none_or(|before| percent > before) {
            self.percent = Some(percent);
            lock(&self.events).progress(percent);
        } else if is_due(self.alive_at, ALIVE_INTERVAL, now) {
            self.alive_at = Some(now);
            lock(&self.events).alive();
        }
    }

    fn checkpoint(&mut self, state: &[u8], now: Instant) {
        if is_due(self.checkpoint_at, CHECKPOINT_INTERVAL, now) {
            self.checkpoint_at = Some(now);
            lock(&self.events).checkpoint(Bytes::copy_from_slice(state));
        }
    }
}

fn is_due(before: Option<Instant>, interval: Duration, now: Instant) -> bool {
    before.is_none_or(|before| now.duration_since(before) >= interval)
}

/// Whether a guest may import this, and the group that its job must allow for it.
pub(crate) fn offered(module: &str, name: &str) -> Option<Imports> {
    let needed = match module {
        WASI if !name.starts_with("sock_") => group_of_wasi(name),
        BUSBAR if matches!(name, "progress" | "checkpoint") => Some(ImportGroup::Reports),
        _ => return None,
    };
    Some(needed.into_iter().collect())
}

/// Everything that guests may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |state: &mut GuestState| &mut state.wasi)?;
    add_busbar(&mut linker)?;
    linker.allow_shadowing(true);
    // The shipped one turns exit codes above 125 into traps; ours reports what the guest said.
    linker.func_wrap(WASI, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(wasmtime::Error::new(I32Exit(code))) })?;
    // A file moved onto standard output would escape its count.
    linker.func_wrap(WASI, "fd_renumber", |_from: i32, _to: i32| ERRNO_NOT_SUPPORTED)?;
    bound_writes(&mut linker)?;
    bound_sizes(&mut linker)?;
    bound_names(&mut linker)?;
    bound_open(&mut linker)?;
    bound_random(&mut linker)?;
    listing::add(&mut linker)?;
    Ok(linker)
}

fn add_busbar(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.func_wrap(BUSBAR, "progress", |mut caller: Caller<'_, GuestState>, percent: i32| {
        caller.data_mut().signals.progress(percent, Instant::now());
    })?;
    linker.func_wrap(BUSBAR, "checkpoint", |mut caller: Caller<'_, GuestState>, start: i32, len: i32| {
        let (memory, state) = split(&mut caller)?;
        let range = address(start)..address(start).saturating_add(address(len));
        let Some(bytes) = memory.get(range) else { wasmtime::bail!("the checkpoint lies outside of memory") };
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            wasmtime::bail!("a checkpoint of {} bytes is more than {CHECKPOINT_BYTES_MAX}", bytes.len());
        }
        state.signals.checkpoint(bytes, Instant::now());
        Ok(())
    })?;
    Ok(())
}

fn bound_writes(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        WASI,
        "fd_write",
        |mut caller: Caller<'_, GuestState>, (fd, vectors, count, written): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (bytes, GuestState { wasi, tmp, .. }) = split(&mut caller)?;
                let asked = if fd < FIRST_FILE { 0 } else { first_length(bytes, vectors, count) };
                if !tmp.take(asked) {
                    return Ok(ERRNO_NO_SPACE);
                }
                let mut memory = GuestMemory::Unshared(&mut *bytes);
                let errno = preview1::fd_write(wasi, &mut memory, fd, vectors, count, written).await?;
                tmp.give_back(not_written(asked, errno, bytes, written));
                Ok(errno)
            })
        },
    )?;
    linker.func_wrap_async(
        WASI,
        "fd_pwrite",
        |mut caller: Caller<'_, GuestState>, (fd, vectors, count, offset, written): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let (bytes, GuestState { wasi, tmp, .. }) = split(&mut caller)?;
                let asked = first_length(bytes, vectors, count);
                if !tmp.take(asked) {
                    return Ok(ERRNO_NO_SPACE);
                }
                let mut memory = GuestMemory::Unshared(&mut *bytes);
                let errno = preview1::fd_pwrite(wasi, &mut memory, fd, vectors, count, offset, written).await?;
                tmp.give_back(not_written(asked, errno, bytes, written));
                Ok(errno)
            })
        },
    )?;
    Ok(())
}

/// Growing a file writes nothing, but reads as zeros and may be filled by the file system: no file is larger than the whole quota.
fn bound_sizes(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(WASI, "fd_filestat_set_size", |mut caller: Caller<'_, GuestState>, (fd, size): (i32, i64)| {
        Box::new(async move {
            let (bytes, state) = split(&mut caller)?;
            if u64::try_from(size).map_or(true, |size| size > state.tmp.bytes_max) {
                return Ok(ERRNO_NO_SPACE);
            }
            let mut memory = GuestMemory::Unshared(bytes);
            preview1::fd_filestat_set_size(&mut state.wasi, &mut memory, fd, size).await
        })
    })?;
    Ok(())
}

fn bound_names(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        WASI,
        "path_create_directory",
        |mut caller: Caller<'_, GuestState>, (fd, path, len): (i32, i32, i32)| {
            Box::new(async move {
                let (bytes, state) = split(&mut caller)?;
                if !state.tmp.take_entry() {
                    return Ok(ERRNO_NO_SPACE);
                }
                let mut memory = GuestMemory::Unshared(bytes);
                preview1::path_create_directory(&mut state.wasi, &mut memory, fd, path, len).await
            })
        },
    )?;
    // No guest needs links in its own scratch space, and every way out of a directory begins with one.
    linker.func_wrap(WASI, "path_symlink", |_: i32, _: i32, _: i32, _: i32, _: i32| ERRNO_NOT_SUPPORTED)?;
    linker.func_wrap(WASI, "path_link", |_: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| ERRNO_NOT_SUPPORTED)?;
    Ok(())
}

type OpenArguments = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

fn bound_open(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(WASI, "path_open", |mut caller: Caller<'_, GuestState>, arguments: OpenArguments| {
        Box::new(async move {
            let (fd, lookup, path, len, open, rights, inherited, flags, opened) = arguments;
            let (bytes, state) = split(&mut caller)?;
            let creates = open & OPEN_CREATE != 0 && state.tmp.bytes_max > 0;
            if creates && !state.tmp.take_entry() {
                return Ok(ERRNO_NO_SPACE);
            }
            let mut memory = GuestMemory::Unshared(bytes);
            let wasi = &mut state.wasi;
            preview1::path_open(wasi, &mut memory, fd, lookup, path, len, open, rights, inherited, flags, opened).await
        })
    })?;
    Ok(())
}

/// Many bytes at once are drawn in pieces, so that no call copies much.
fn bound_random(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.func_wrap(WASI, "random_get", |mut caller: Caller<'_, GuestState>, start: i32, len: i32| {
        let (bytes, state) = split(&mut caller)?;
        let (mut at, mut left) = (start.cast_unsigned(), len.cast_unsigned());
        state.budget.take_random(u64::from(left))?;
        while left > 0 {
            let piece = left.min(RANDOM_PIECE_BYTES);
            let mut memory = GuestMemory::Unshared(&mut *bytes);
            let errno = preview1::random_get(&mut state.wasi, &mut memory, at.cast_signed(), piece.cast_signed())?;
            if errno != 0 {
                return Ok(errno);
            }
            at = at.saturating_add(piece);
            left -= piece;
        }
        Ok(0)
    })?;
    Ok(())
}

/// The guest's memory and our state beside each other, ready for a call of WASI's.
pub(crate) fn split<'a>(caller: &'a mut Caller<'_, GuestState>) -> wasmtime::Result<(&'a mut [u8], &'a mut GuestState)> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { wasmtime::bail!("the guest has no memory") };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, state) = memory.data_and_store_mut(caller);
    state.wasi.set_hostcall_fuel(fuel);
    Ok((bytes, state))
}

/// WebAssembly's addresses are unsigned, its integers have no sign of their own.
pub(crate) fn address(value: i32) -> usize {
    value.cast_unsigned() as usize
}

pub(crate) fn word(memory: &[u8], at: usize) -> Option<u32> {
    let bytes = memory.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The length of the first vector that is not empty: what one write writes at most. Vectors outside of memory count for nothing,
/// since WASI refuses them.
fn first_length(memory: &[u8], vectors: i32, count: i32) -> u64 {
    let lengths = (0..address(count)).map_while(|index| word(memory, address(vectors) + index * 8 + 4));
    lengths.map(u64::from).find(|length| *length > 0).unwrap_or(0)
}

fn not_written(asked: u64, errno: i32, memory: &[u8], written: i32) -> u64 {
    let written = if errno == 0 { word(memory, address(written)).map_or(asked, u64::from) } else { 0 };
    asked.saturating_sub(written)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::GuestEvents;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl GuestEvents for Heard {
        fn progress(&mut self, percent: u8) {
            lock(&self.0).push(format!("{percent}%"));
        }

        fn alive(&mut self) {
            lock(&self.0).push("alive".to_owned());
        }

        fn checkpoint(&mut self, state: Bytes) {
            lock(&self.0).push(format!("{state:?}"));
        }
    }

    #[test]
    fn progress_only_rises_else_it_is_a_sign_of_life_and_checkpoints_come_once_a_second() {
        let heard = Heard::default();
        let mut signals = Signals::new(Arc::new(Mutex::new(Box::new(heard.clone()))));
        let now = Instant::now();
        for percent in [-5, 0, 10, 10, 5, 250] {
            signals.progress(percent, now);
        }
        signals.progress(100, now + ALIVE_INTERVAL);
        signals.checkpoint(b"a", now);
        signals.checkpoint(b"b", now + Duration::from_millis(999));
        signals.checkpoint(b"c", now + CHECKPOINT_INTERVAL);
        assert_eq!(*lock(&heard.0), ["0%", "alive", "10%", "100%", "alive", "b\"a\"", "b\"c\""]);
    }

    #[test]
    fn the_quota_is_never_exceeded() {
        let mut quota = TmpQuota::new(10_000, 2);
        assert!(quota.take(7_000));
        assert_eq!(quota.complaint(), None);
        assert!(!quota.take(3_001));
        quota.give_back(2_000);
        assert!(quota.take_entry());
        assert!(!quota.take_entry(), "an entry counts for bytes, too");
        assert_eq!(quota.used(), (9_096, 1));
        let complaint = quota.complaint().expect("full");
        assert!(complaint.contains("9096 of 10000 bytes") && complaint.contains("1 of 2 files"), "{complaint}");
    }

    #[test]
    fn files_are_counted() {
        let mut quota = TmpQuota::new(1 << 20, 2);
        assert!(quota.take_entry() && quota.take_entry() && !quota.take_entry());
        assert_eq!(quota.used(), (2 * ENTRY_BYTES, 2));
    }

    #[test]
    fn vectors_outside_of_memory_count_for_nothing() {
        let mut memory = [0_u8; 32];
        memory[12] = 9;
        assert_eq!(first_length(&memory, 0, 2), 9);
        assert_eq!(first_length(&memory, -8, 2), 0);
        assert_eq!(first_length(&memory, 30, -1), 0);
    }
}
