//! Archives of every bad kind.

use std::io::Write as _;

use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::Builder;

use super::*;

fn good() -> Files {
    let files = [("pack.yaml", &b"a: 1\n"[..]), ("schemas/x.json", b"{}"), ("m.wasm", b"\0asm\x01\0\0\0")];
    files.into_iter().map(|(name, content)| (name.to_owned(), content.to_vec())).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

/// An archive of entries whose names are written as they are, also where no honest tool would.
fn raw(entries: &[(&[u8], EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        if matches!(kind, EntryType::Link | EntryType::Symlink) {
            header.set_link_name("target").expect("a name");
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).expect("in memory");
    }
    gzip(&builder.into_inner().expect("in memory"))
}

fn refused(archive: &[u8]) -> String {
    unpack(archive).expect_err("a bad archive").to_string()
}

#[test]
fn what_is_packed_comes_out_again_and_equal_files_give_equal_bytes() {
    let archive = pack(&good());
    assert_eq!(unpack(&archive), Ok(good()));
    assert_eq!(pack(&good()), archive);
    let long = Files::from([("a/".repeat(120) + "b", vec![1])]);
    assert_eq!(unpack(&pack(&long)), Ok(long));
}

#[test]
fn folders_and_leading_dots_are_harmless() {
    let file = EntryType::Regular;
    let folder = EntryType::Directory;
    let archive = raw(&[(b"./", folder, b""), (b"./schemas/", folder, b""), (b"./schemas/x.json", file, b"{}")]);
    assert_eq!(unpack(&archive), Ok(Files::from([("schemas/x.json".to_owned(), b"{}".to_vec())])));
}

#[test]
fn every_strange_entry_is_named() {
    let file = EntryType::Regular;
    let cases: [(&[u8], EntryType, &str); 14] = [
        (b"/etc/passwd", file, "/etc/passwd: it must be a file in the pack"),
        (b"../x", file, "../x: it must be"),
        (b"a/../../x", file, "it must be"),
        (b"a//b", file, "it must be"),
        (b"a\\b", file, "no backslashes"),
        (b"a\nb", file, "a\\nb: the name of a file has no control"),
        (b"\xff\xfe", file, "\\xff\\xfe: the name of a file is UTF-8"),
        (b"", file, "1 to 255 bytes"),
        (b"../x/", EntryType::Directory, "it must be"),
        (b"l", EntryType::Symlink, "l: a symbolic link"),
        (b"l", EntryType::Link, "a hard link"),
        (b"d", EntryType::Char, "a device"),
        (b"d", EntryType::Block, "a device"),
        (b"f", EntryType::Fifo, "a pipe"),
    ];
    for (name, kind, told) in cases {
        let error = refused(&raw(&[(b"ok", file, b"1"), (name, kind, b"")]));
        assert!(error.contains(told), "{}: {error}", name.escape_ascii());
    }
    assert_eq!(refused(&raw(&[(b"a", file, b"1"), (b"./a", file, b"2")])), "a: the name is there twice");
}

#[test]
fn what_is_damaged_or_left_over_is_refused() {
    let archive = pack(&good());
    for cut in 0..archive.len() {
        assert!(refused(&archive[..cut]).starts_with("the archive: "), "{cut}");
    }
    assert!(refused(b"not an archive at all").contains("damaged"));
    assert!(refused(&[&archive[..], b"more"].concat()).contains("follows its end"));
    assert!(refused(&[&archive[..], &archive].concat()).contains("follows its end"));
    let mut wrong_sum = archive;
    let place = wrong_sum.len() - 6;
    wrong_sum[place] ^= 1;
    assert!(refused(&wrong_sum).contains("damaged"));
    assert!(refused(&gzip(b"text, but no tar")).contains("damaged"));

    let mut tar = Builder::new(Vec::new()).into_inner().expect("in memory");
    tar.extend_from_slice(&[b'x'; 512]);
    assert!(refused(&gzip(&tar)).contains("follows the last file"));
}

#[test]
fn bombs_are_cut_off_early() {
    let file = EntryType::Regular;
    let zeros = vec![0; 20 * 1024 * 1024];
    let error = refused(&raw(&[(b"a", file, &zeros)]));
    assert!(error.contains("200 times"), "{error}");
    // A header may promise anything: nothing is set aside for it.
    let mut header = Header::new_gnu();
    header.set_path("a").expect("a name");
    header.set_size(u64::MAX / 2);
    header.set_cksum();
    assert!(refused(&gzip(header.as_bytes())).contains("a: a file has at most"));
    header.set_size(1000);
    header.set_cksum();
    assert!(refused(&gzip(header.as_bytes())).contains("damaged"));
    let names: Vec<String> = (0..=ENTRIES_MAX).map(|n| format!("f{n}")).collect();
    let entries: Vec<(&[u8], EntryType, &[u8])> = names.iter().map(|name| (name.as_bytes(), file, &b""[..])).collect();
    assert!(refused(&raw(&entries)).contains("more than 2048 entries"));
    assert!(refused(&vec![0; UPLOAD_BYTES_MAX + 1]).contains("more than"));
}

proptest! {
    /// Whatever happens to the bytes on their way: the same files come out, or none.
    #[test]
    fn damage_to_an_archive_gives_all_or_nothing(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut archive = pack(&good());
        for (place, byte) in changes {
            let place = place.index(archive.len());
            archive[place] = byte;
        }
        if let Ok(files) = unpack(&archive) {
            prop_assert_eq!(files, good());
        }
    }

    /// Below the compression nothing is certain, but nothing panics, and names stay inside.
    #[test]
    fn damage_below_the_compression_is_judged(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut tar = Vec::new();
        GzDecoder::new(&pack(&good())[..]).read_to_end(&mut tar).expect("good");
        for (place, byte) in changes {
            let place = place.index(tar.len());
            tar[place] = byte;
        }
        if let Ok(files) = unpack(&gzip(&tar)) {
            prop_assert!(files.keys().all(|name| check_file(name).is_ok()));
            let _ = super::super::Pack::open(files);
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(unpack(&noise).is_err());
        prop_assert!(unpack(&gzip(&noise)).map_or(true, |files| files.is_empty()));
    }
}
