//! The store on a real disk: what goes in comes out, and what is damaged, too large or interrupted does not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use busbar_blobs::{BlobError, Blobs, url_of};
use busbar_protocol::pointers::Sha256Hex;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

const ANY_SIZE: u64 = u64::MAX;

fn store() -> (TempDir, Blobs) {
    let folder = tempfile::tempdir().expect("a temp folder");
    let blobs = Blobs::open(&url_of(folder.path())).expect("opened");
    (folder, blobs)
}

/// Content that spans several chunks and is different everywhere.
fn large() -> Bytes {
    (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "door") {
            found.push(path);
        }
    }
    found
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Makes a blob two days old.
fn age(folder: &Path, sha256: &Sha256Hex) {
    let (shard, name) = sha256.as_str().split_at(2);
    let file = fs::File::open(folder.join("sha256").join(shard).join(name)).expect("a blob");
    file.set_modified(SystemTime::now() - 2 * DAY).expect("aged");
}

/// Makes the blob's file writable again and changes it.
fn damage(path: &Path, content: &[u8]) {
    fs::remove_file(path).expect("removed");
    fs::write(path, content).expect("written");
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let (folder, blobs) = store();
    for content in [Bytes::new(), Bytes::from_static(b"abc"), large()] {
        let stored = blobs.put(content.as_ref(), ANY_SIZE).await.expect("stored");
        assert_eq!((&stored.sha256, stored.size_bytes), (&Sha256Hex::of(&content), content.len() as u64));
        assert_eq!(blobs.read(&stored.sha256, ANY_SIZE).await.expect("read"), content);
        assert_eq!(blobs.size_bytes(&stored.sha256).await.expect("looked"), Some(stored.size_bytes));
        let mut reader = blobs.get(&stored.sha256).await.expect("opened");
        assert_eq!(reader.size_bytes(), stored.size_bytes);
        let mut streamed = Vec::new();
        reader.read_to_end(&mut streamed).await.expect("streamed");
        assert_eq!(streamed, content);
        let path = blobs.verified_path(&stored.sha256).await.expect("verified");
        assert_eq!(fs::read(path).expect("readable"), content);
    }
    assert_eq!(files(folder.path()).len(), 3);
}

#[tokio::test]
async fn the_same_content_is_one_blob_however_many_store_it() {
    let (folder, blobs) = store();
    let content = large();
    let puts: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let (blobs, content) = (blobs.clone(), content.clone());
                async move { blobs.put_bytes(content).await }
            })
        })
        .collect();
    for put in puts {
        assert_eq!(put.await.expect("no panic").expect("stored").sha256, Sha256Hex::of(&content));
    }
    assert_eq!(files(folder.path()).len(), 1);
    assert_eq!(blobs.read(&Sha256Hex::of(&content), ANY_SIZE).await.expect("read"), content);
}

#[tokio::test]
async fn what_is_not_there_is_missing() {
    let (_folder, blobs) = store();
    let none = Sha256Hex::of(b"none");
    assert!(matches!(blobs.get(&none).await, Err(BlobError::Missing { .. })));
    assert!(matches!(blobs.read(&none, ANY_SIZE).await, Err(BlobError::Missing { .. })));
    assert!(matches!(blobs.verified_path(&none).await, Err(BlobError::Missing { .. })));
    assert_eq!(blobs.size_bytes(&none).await.expect("looked"), None);
    assert!(!blobs.delete(&none).await.expect("nothing to do"));
}

#[tokio::test]
async fn deleting_removes_it_and_a_reader_reads_on() {
    let (folder, blobs) = store();
    let stored = blobs.put_bytes(large()).await.expect("stored");
    let mut reader = blobs.get(&stored.sha256).await.expect("opened");
    assert!(blobs.delete(&stored.sha256).await.expect("deleted"));
    assert!(files(folder.path()).is_empty());
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.expect("still there for it");
    assert_eq!(bytes, large());
}

#[tokio::test]
async fn only_what_is_old_is_collected_and_storing_it_again_makes_it_young() {
    let (folder, blobs) = store();
    let [old, young] = [b"old", b"new"].map(|content| Bytes::from_static(content));
    let old_one = blobs.put_bytes(old.clone()).await.expect("stored").sha256;
    let young_one = blobs.put_bytes(young).await.expect("stored").sha256;
    age(folder.path(), &old_one);
    assert_eq!(blobs.older_than(DAY).await.expect("listed"), std::slice::from_ref(&old_one));
    assert_eq!(blobs.older_than(3 * DAY).await.expect("listed"), []);
    blobs.put_bytes(old.clone()).await.expect("stored again");
    assert_eq!(blobs.older_than(DAY).await.expect("listed"), []);
    assert!(!blobs.delete_older_than(&old_one, DAY).await.expect("looked"), "it was stored since it was listed");
    age(folder.path(), &old_one);
    assert!(blobs.delete_older_than(&old_one, DAY).await.expect("removed"));
    assert!(!blobs.delete_older_than(&old_one, DAY).await.expect("nothing to do"));
    assert!(!blobs.delete_older_than(&young_one, DAY).await.expect("looked"));
    assert_eq!(blobs.size_bytes(&young_one).await.expect("looked"), Some(3));
}

/// Whoever has stored a blob has it, however many store the same bytes and collect at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_stored_while_others_collect_is_there() {
    let (folder, blobs) = store();
    let content = Bytes::from_static(b"the same bytes");
    let sha256 = blobs.put_bytes(content.clone()).await.expect("stored").sha256;
    for round in 0..200 {
        age(folder.path(), &sha256);
        // Another handle, as another process has one.
        let other = Blobs::open(&url_of(folder.path())).expect("opened");
        let collecting = [blobs.clone(), other.clone()].map(|blobs| {
            let sha256 = sha256.clone();
            tokio::spawn(async move { blobs.delete_older_than(&sha256, DAY).await.expect("looked") })
        });
        let storing = [blobs.clone(), other].map(|blobs| {
            let content = content.clone();
            tokio::spawn(async move {
                let stored = blobs.put_bytes(content).await.expect("stored");
                blobs.read(&stored.sha256, ANY_SIZE).await.map(drop)
            })
        });
        for stored in storing {
            stored.await.expect("no panic").unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        for collected in collecting {
            collected.await.expect("no panic");
        }
        assert_eq!(blobs.read(&sha256, ANY_SIZE).await.expect("it is there"), content, "round {round}");
    }
}

#[tokio::test]
async fn damage_is_found_by_every_way_of_reading_and_repaired_by_storing_again() {
    let (_folder, blobs) = store();
    let content = large();
    let stored = blobs.put_bytes(content.clone()).await.expect("stored");
    let path = blobs.verified_path(&stored.sha256).await.expect("verified");
    let mut flipped = content.to_vec();
    flipped[700_000] ^= 1;
    for damaged in [&content[..content.len() - 1], &flipped, b""] {
        damage(&path, damaged);
        assert!(matches!(blobs.read(&stored.sha256, ANY_SIZE).await, Err(BlobError::Corrupt { .. })));
        assert!(matches!(blobs.verified_path(&stored.sha256).await, Err(BlobError::Corrupt { .. })));
        let mut reader = blobs.get(&stored.sha256).await.expect("opened");
        let error = reader.read_to_end(&mut Vec::new()).await.expect_err("damaged");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    blobs.put_bytes(content.clone()).await.expect("stored again");
    assert_eq!(blobs.read(&stored.sha256, ANY_SIZE).await.expect("repaired"), content);
}

#[tokio::test]
async fn sizes_are_bounded_both_ways() {
    let (folder, blobs) = store();
    let content = large();
    let size = content.len() as u64;
    assert!(matches!(blobs.put(content.as_ref(), size - 1).await, Err(BlobError::TooLarge { .. })));
    assert!(files(folder.path()).is_empty());
    let stored = blobs.put(content.as_ref(), size).await.expect("exactly the bound");
    assert!(matches!(blobs.read(&stored.sha256, size - 1).await, Err(BlobError::TooLarge { .. })));
    assert!(blobs.read(&stored.sha256, size).await.is_ok());
}

/// Yields some bytes, then what it is told.
struct Then<F>(usize, F);

impl<F: FnMut() -> Poll<io::Result<()>> + Unpin> AsyncRead for Then<F> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0 == 0 {
            return (self.1)();
        }
        let now = self.0.min(buffer.remaining());
        buffer.put_slice(&vec![7; now]);
        self.0 -= now;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_interrupted_store_leaves_nothing() {
    let (folder, blobs) = store();
    let broken = Then(600_000, || Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())));
    assert!(matches!(blobs.put(broken, ANY_SIZE).await, Err(BlobError::Source(_))));
    assert!(files(folder.path()).is_empty());

    let (told, hanging) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let hangs = Then(600_000, move || {
        if let Some(told) = told.take() {
            let _ = told.send(());
        }
        Poll::Pending
    });
    let put = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.put(hangs, ANY_SIZE).await }
    });
    hanging.await.expect("it came so far");
    assert_eq!(files(folder.path()).len(), 1, "a temporary file");
    put.abort();
    assert!(put.await.expect_err("aborted").is_cancelled());
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn leftovers_are_removed_when_old() {
    let (folder, _blobs) = store();
    let (old, young) = (folder.path().join("tmp/put-old"), folder.path().join("tmp/put-young"));
    fs::write(&old, "x").expect("written");
    fs::write(&young, "x").expect("written");
    let then = SystemTime::now() - Duration::from_secs(2 * 3600);
    fs::File::options().write(true).open(&old).expect("opened").set_modified(then).expect("aged");
    Blobs::open(&url_of(folder.path())).expect("opened again");
    assert!(!old.exists() && young.exists());
}

#[tokio::test]
async fn a_disk_that_refuses_is_an_error_that_says_where() {
    let (folder, blobs) = store();
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("written");
    assert!(matches!(Blobs::open(&url_of(&file.join("store"))), Err(BlobError::Disk { .. })));

    fs::remove_dir(folder.path().join("tmp")).expect("removed");
    let Err(BlobError::Disk { path, .. }) = blobs.put_bytes(Bytes::from_static(b"x")).await else { panic!("a disk error") };
    assert!(path.ends_with("tmp"), "{}", path.display());
    fs::create_dir(folder.path().join("tmp")).expect("made");

    fs::remove_dir(folder.path().join("sha256")).expect("removed");
    fs::write(folder.path().join("sha256"), "in the way").expect("written");
    assert!(matches!(blobs.put_bytes(Bytes::from_static(b"x")).await, Err(BlobError::Disk { .. })));
    assert!(files(&folder.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn blobs_are_protected_from_accidents() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_folder, blobs) = store();
    let stored = blobs.put_bytes(Bytes::from_static(b"x")).await.expect("stored");
    let path = blobs.verified_path(&stored.sha256).await.expect("verified");
    assert_eq!(fs::metadata(path).expect("there").permissions().mode() & 0o777, 0o444);
}
