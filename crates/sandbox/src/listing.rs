//! What a guest sees of files beside their content: directories in the order of their names, and, where a run must be repeatable,
//! no inode, device, link count or time of this machine.
//!
//! A file system lists names in whatever order it keeps them. WASI's own listing is therefore written into a buffer of ours first,
//! whole, and copied to the guest in order.

use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as preview1;
use wiggle::GuestMemory;

use crate::host::{GuestState, WASI, address, split};
use crate::repeatable::REPEATABLE_START;

/// `__WASI_ERRNO_OVERFLOW`.
const ERRNO_OVERFLOW: i32 = 61;
/// `__WASI_ERRNO_FAULT`.
const ERRNO_FAULT: i32 = 21;
const LISTING_BYTES_MIN: usize = 16 * 1024;
/// A directory whose names need more is not listed: about 60,000 files.
const LISTING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// `__wasi_dirent_t`: next cookie, inode, length of the name, type.
const ENTRY_BYTES: usize = 24;
/// `.` and `..` come first everywhere.
const FIRST_NAMES: usize = 2;
/// `__wasi_filestat_t`.
const STAT_BYTES: usize = 64;
const TYPE_DIRECTORY: u8 = 3;

/// Takes the place of the functions that list and describe.
pub(crate) fn add(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    add_listing(linker)?;
    linker.func_wrap_async(WASI, "fd_filestat_get", |mut caller: Caller<'_, GuestState>, (fd, stat): (i32, i32)| {
        Box::new(async move {
            let (bytes, state) = split(&mut caller)?;
            let mut memory = GuestMemory::Unshared(&mut *bytes);
            let errno = preview1::fd_filestat_get(&mut state.wasi, &mut memory, fd, stat).await?;
            described(errno, state.repeatable, bytes, stat);
            Ok(errno)
        })
    })?;
    linker.func_wrap_async(
        WASI,
        "path_filestat_get",
        |mut caller: Caller<'_, GuestState>, (fd, flags, path, len, stat): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (bytes, state) = split(&mut caller)?;
                let mut memory = GuestMemory::Unshared(&mut *bytes);
                let errno = preview1::path_filestat_get(&mut state.wasi, &mut memory, fd, flags, path, len, stat).await?;
                described(errno, state.repeatable, bytes, stat);
                Ok(errno)
            })
        },
    )?;
    Ok(())
}

fn add_listing(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        WASI,
        "fd_readdir",
        |mut caller: Caller<'_, GuestState>, (fd, to, len, cookie, used): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let (bytes, state) = split(&mut caller)?;
                let whole = match read_whole(state, fd).await? {
                    Ok(whole) => whole,
                    Err(errno) => return Ok(errno),
                };
                let ordered = in_order(&whole, state.repeatable);
                let rest = usize::try_from(cookie).ok().and_then(|skipped| ordered.get(skipped..)).unwrap_or_default().concat();
                let count = rest.len().min(address(len));
                let Some(target) = bytes.get_mut(address(to)..address(to).saturating_add(count)) else { return Ok(ERRNO_FAULT) };
                target.copy_from_slice(&rest[..count]);
                let Some(target) = bytes.get_mut(address(used)..address(used).saturating_add(4)) else { return Ok(ERRNO_FAULT) };
                target.copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
                Ok(0)
            })
        },
    )?;
    Ok(())
}

/// WASI's listing of a directory from its beginning, or the errno that it gives instead.
async fn read_whole(state: &mut GuestState, fd: i32) -> wasmtime::Result<Result<Vec<u8>, i32>> {
    let mut len = LISTING_BYTES_MIN;
    while len <= LISTING_BYTES_MAX {
        // The number of bytes that were used stands before them.
        let mut ours = vec![0; 4 + len];
        let asked = i32::try_from(len).unwrap_or(i32::MAX);
        let errno = preview1::fd_readdir(&mut state.wasi, &mut GuestMemory::Unshared(&mut ours), fd, 4, asked, 0, 0).await?;
        if errno != 0 {
            return Ok(Err(errno));
        }
        let (used, listing) = ours.split_at(4);
        let used = u32::from_le_bytes([used[0], used[1], used[2], used[3]]) as usize;
        if used < len {
            return Ok(Ok(listing[..used].to_vec()));
        }
        len *= 2;
    }
    Ok(Err(ERRNO_OVERFLOW))
}

/// The entries, each whole, in the order of their names; each cookie is the number of the next entry.
fn in_order(listing: &[u8], repeatable: bool) -> Vec<Vec<u8>> {
    let mut entries = entries(listing);
    let first = FIRST_NAMES.min(entries.len());
    entries[first..].sort_by(|one, other| one[ENTRY_BYTES..].cmp(&other[ENTRY_BYTES..]));
    for (next, entry) in (1_u64..).zip(&mut entries) {
        entry[..8].copy_from_slice(&next.to_le_bytes());
        if repeatable {
            entry[8..16].fill(0);
        }
    }
    entries
}

fn entries(mut listing: &[u8]) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    while let Some(length) = listing.get(16..20).and_then(|length| length.try_into().ok()) {
        let end = ENTRY_BYTES + u32::from_le_bytes(length) as usize;
        let Some((entry, rest)) = listing.split_at_checked(end) else { break };
        entries.push(entry.to_vec());
        listing = rest;
    }
    entries
}

/// Makes a description that WASI has just written the same everywhere: type and size stay, and a directory has no size.
fn described(errno: i32, repeatable: bool, memory: &mut [u8], at: i32) {
    let range = address(at)..address(at).saturating_add(STAT_BYTES);
    if errno != 0 || !repeatable {
        return;
    }
    let Some(stat) = memory.get_mut(range) else { return };
    let time = u64::try_from(REPEATABLE_START.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
    // Device and inode, type, number of links, size, three times.
    stat[..16].fill(0);
    stat[24..32].copy_from_slice(&1_u64.to_le_bytes());
    if stat[16] == TYPE_DIRECTORY {
        stat[32..40].fill(0);
    }
    for start in [40, 48, 56] {
        stat[start..start + 8].copy_from_slice(&time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(next: u64, inode: u64, name: &str) -> Vec<u8> {
        let length = u32::try_from(name.len()).expect("short").to_le_bytes();
        [&next.to_le_bytes()[..], &inode.to_le_bytes(), &length, &[4, 0, 0, 0], name.as_bytes()].concat()
    }

    #[test]
    fn names_are_ordered_and_cookies_follow_them() {
        let listing = [entry(1, 9, "."), entry(2, 9, ".."), entry(3, 7, "b"), entry(4, 8, "aa"), entry(5, 6, "-")].concat();
        let expected = [entry(1, 9, "."), entry(2, 9, ".."), entry(3, 6, "-"), entry(4, 8, "aa"), entry(5, 7, "b")];
        assert_eq!(in_order(&listing, false), expected);
        assert_eq!(in_order(&listing, true)[3], entry(4, 0, "aa"));
        assert_eq!(in_order(&listing[..30], false), [entry(1, 9, ".")], "what is cut is left out");
    }

    #[test]
    fn a_description_says_nothing_of_this_machine() {
        let mut memory = [0xff; 72];
        described(0, true, &mut memory, 8);
        assert_eq!(memory[..8], [0xff; 8]);
        assert_eq!(memory[8..24], [0; 16]);
        assert_eq!((memory[24], memory[32]), (0xff, 1));
        let before = memory;
        described(1, true, &mut memory, 0);
        described(0, false, &mut memory, 0);
        described(0, true, &mut memory, -1);
        assert_eq!(memory, before);
    }
}
