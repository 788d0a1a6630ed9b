//! Which files are meant: paths, folders and patterns, in an order that does not depend on the file system.
//!
//! - A file is itself, also through a symbolic link.
//! - A folder stands for the text files below it, by name. Hidden files and folders and symbolic links are passed over, and so are files with
//!   a zero byte among their first 8 KiB, which are no text.
//! - A pattern (`*`, `?`, `[…]`, `{a,b}`, `**` for any folders) stands for the files that match it, as a folder does. What exists under the
//!   very name is no pattern.
//!
//! A file that is meant twice is counted once. Of each, the first 8 KiB say whether it is UTF-8.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use walkdir::{DirEntry, WalkDir};

use crate::failure::Failure;

const PROBE: u64 = 8 * 1024;
/// What makes a pattern of an argument.
const SPECIAL: [char; 4] = ['*', '?', '[', '{'];

/// The files that arguments mean.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// In the order in which they are counted.
    pub(crate) paths: Vec<PathBuf>,
    /// Their sizes, together.
    pub(crate) bytes: u64,
    /// How many were passed over: links, and files that are no text. Hidden ones are not counted.
    pub(crate) passed_over: u64,
    /// How many do not begin as UTF-8: their words are not all that a person sees in them.
    pub(crate) not_utf8: u64,
    seen: HashSet<PathBuf>,
}

/// Finds them.
///
/// # Errors
/// [`Failure::Usage`] names the argument that means nothing, or what cannot be read.
pub(crate) fn find(arguments: &[PathBuf]) -> Result<Files, Failure> {
    let mut files = Files::default();
    for argument in arguments {
        files.take(argument)?;
    }
    if files.bytes == 0 {
        let named: Vec<String> = arguments.iter().map(|argument| argument.display().to_string()).collect();
        return Err(Failure::Usage(format!("there is nothing to count in {}: no text, or only empty files", named.join(", "))));
    }
    Ok(files)
}

impl Files {
    fn take(&mut self, argument: &Path) -> Result<(), Failure> {
        match fs::metadata(argument) {
            Ok(found) if found.is_dir() => self.walk(argument, None),
            Ok(found) if found.is_file() => self.add(argument.to_owned()),
            Ok(_) => Err(Failure::Usage(format!("{} is neither a file nor a folder", argument.display()))),
            Err(error) => match pattern(argument)? {
                Some((folder, matcher)) => self.matching(argument, &folder, &matcher),
                None => Err(unreadable(argument, &error)),
            },
        }
    }

    fn matching(&mut self, argument: &Path, folder: &Path, matcher: &GlobMatcher) -> Result<(), Failure> {
        let before = (self.seen.len(), self.passed_over);
        if folder.is_dir() {
            self.walk(folder, Some(matcher))?;
        }
        if before == (self.seen.len(), self.passed_over) {
            return Err(Failure::Usage(format!("nothing matches {}", argument.display())));
        }
        Ok(())
    }

    fn walk(&mut self, folder: &Path, wanted: Option<&GlobMatcher>) -> Result<(), Failure> {
        let shown = |entry: &DirEntry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".");
        for entry in WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(shown) {
            let entry = entry.map_err(|error| Failure::Usage(error.to_string()))?;
            let path = entry.path();
            // `./a` is `a` to whoever wrote the pattern.
            let name = path.strip_prefix(".").unwrap_or(path);
            if entry.file_type().is_dir() || wanted.is_some_and(|wanted| !wanted.is_match(name)) {
                continue;
            }
            if entry.file_type().is_file() && !head(path).map_err(|error| unreadable(path, &error))?.contains(&0) {
                self.add(path.to_owned())?;
            } else {
                self.passed_over += 1;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf) -> Result<(), Failure> {
        let failed = |error| unreadable(&path, &error);
        let size = File::open(&path).and_then(|file| file.metadata()).map_err(failed)?.len();
        if self.seen.insert(fs::canonicalize(&path).map_err(failed)?) {
            self.bytes += size;
            self.not_utf8 += u64::from(!begins_as_utf8(&head(&path).map_err(failed)?));
            self.paths.push(path);
        }
        Ok(())
    }
}

/// The folder in which a pattern looks, and what it accepts; `None` for what is no pattern.
fn pattern(argument: &Path) -> Result<Option<(PathBuf, GlobMatcher)>, Failure> {
    let Some(text) = argument.to_str().filter(|text| text.contains(SPECIAL)) else { return Ok(None) };
    let text = text.strip_prefix("./").unwrap_or(text);
    let glob = GlobBuilder::new(text).literal_separator(true).build();
    let glob = glob.map_err(|error| Failure::Usage(format!("{text} is no pattern: {}", error.kind())))?;
    let plain = text.find(SPECIAL).map_or(text, |at| &text[..at]);
    let folder = match plain.rfind('/') {
        Some(0) => "/",
        Some(end) => &plain[..end],
        None => ".",
    };
    Ok(Some((PathBuf::from(folder), glob.compile_matcher())))
}

/// The first bytes of a file.
fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(PROBE).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether it is UTF-8, but for a character that is cut at the end.
fn begins_as_utf8(head: &[u8]) -> bool {
    std::str::from_utf8(head).err().is_none_or(|error| error.error_len().is_none())
}

pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(dir.path().join("b/.git")).expect("made");
        for (name, content) in [
            ("z.md", &b"text"[..]),
            ("b/a.txt", b"more"),
            ("b/c.md", b"md"),
            ("b/.git/x", b"hidden"),
            ("bin", b"a\0b"),
            ("empty", b""),
        ] {
            fs::write(dir.path().join(name), content).expect("written");
        }
        std::os::unix::fs::symlink("z.md", dir.path().join("link")).expect("linked");
        std::os::unix::fs::symlink("..", dir.path().join("b/up")).expect("linked");
        dir
    }

    fn names(dir: &Path, arguments: &[&str]) -> Result<(Vec<String>, u64), String> {
        let arguments: Vec<PathBuf> = arguments.iter().map(|argument| dir.join(argument)).collect();
        let files = find(&arguments).map_err(|failure| failure.to_string())?;
        let names = files.paths.iter().map(|path| path.strip_prefix(dir).expect("below").display().to_string()).collect();
        Ok((names, files.passed_over))
    }

    fn expected(names: &[&str], passed_over: u64) -> Result<(Vec<String>, u64), String> {
        Ok((names.iter().map(|name| (*name).to_owned()).collect(), passed_over))
    }

    #[test]
    fn folders_stand_for_the_texts_below_them() {
        let dir = folder();
        assert_eq!(names(dir.path(), &["."]), expected(&["b/a.txt", "b/c.md", "empty", "z.md"], 3));
        assert_eq!(names(dir.path(), &["z.md", "b", "b/a.txt"]), expected(&["z.md", "b/a.txt", "b/c.md"], 1), "each once");
        assert_eq!(names(dir.path(), &["link"]), expected(&["link"], 0), "a link that is named is followed");
        assert_eq!(names(dir.path(), &["bin"]), expected(&["bin"], 0), "whoever names a file means it");
    }

    #[test]
    fn what_is_not_utf8_is_seen() {
        let dir = folder();
        let cut = "é".repeat(usize::try_from(PROBE).expect("small"));
        for (name, content) in [("latin1", &b"caf\xe9 na\xefve"[..]), ("long", &cut.as_bytes()[..cut.len() - 1])] {
            fs::write(dir.path().join(name), content).expect("written");
        }
        let not_utf8 = |name| find(&[dir.path().join(name)]).expect("files").not_utf8;
        assert_eq!(["latin1", "long", "z.md", "."].map(not_utf8), [1, 0, 0, 1]);
    }

    #[test]
    fn patterns_stand_for_what_they_match() {
        let dir = folder();
        assert_eq!(names(dir.path(), &["*.md"]), expected(&["z.md"], 0));
        assert_eq!(names(dir.path(), &["**/*.md"]), expected(&["b/c.md", "z.md"], 0));
        assert_eq!(names(dir.path(), &["b/{a,c}.*"]), expected(&["b/a.txt", "b/c.md"], 0));
        fs::write(dir.path().join("[x].md"), "x").expect("written");
        assert_eq!(names(dir.path(), &["[x].md"]), expected(&["[x].md"], 0), "it exists under that name");
    }

    #[test]
    fn what_means_nothing_is_told() {
        let dir = folder();
        let told = |argument| names(dir.path(), &[argument]).expect_err("refused");
        assert!(told("none").contains("none cannot be read: No such file"), "{}", told("none"));
        assert!(told("*.rs").starts_with("nothing matches "));
        assert!(told("none/*.md").starts_with("nothing matches "));
        assert!(told("a[").contains("is no pattern"));
        assert!(told("empty").starts_with("there is nothing to count in "));
    }
}
