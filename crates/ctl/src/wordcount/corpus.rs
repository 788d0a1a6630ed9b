//! All files as one stream, cut into artifacts, never in memory.
//!
//! Between two files stands a line break: no word goes across it. Thousands of small files are one artifact so; a file larger than an
//! artifact is continued in the next one, cut behind white space. Where so much comes without any white space as guests cut by themselves,
//! the artifact ends there.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

/// Artifacts are cut behind the first white space after so many bytes.
const ARTIFACT_BYTES: u64 = 256 << 20;
/// Or so many bytes later: what has no white space for that long is cut by the guest, too.
const OVERHANG_BYTES: u64 = 128 << 10;
const BUFFER: usize = 128 << 10;
const BREAK: &[u8] = b"\n";

/// What is counted.
#[derive(Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Text(String),
}

/// The stream.
pub(crate) struct Corpus {
    rest: VecDeque<Source>,
    current: Option<Box<dyn BufRead + Send>>,
    /// Whose bytes these are.
    name: String,
    /// Bytes were read already, so that the next file begins after a line break.
    begun: bool,
    broken: bool,
    artifact_bytes: u64,
}

impl Corpus {
    pub(crate) fn new(sources: impl IntoIterator<Item = Source>) -> Self {
        Self {
            rest: sources.into_iter().collect(),
            current: None,
            name: String::new(),
            begun: false,
            broken: false,
            artifact_bytes: ARTIFACT_BYTES,
        }
    }

    /// The bytes of the next artifact; `None` at the end.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub(crate) fn next_artifact(&mut self) -> io::Result<Option<ArtifactBytes<'_>>> {
        if self.fill_buf()?.is_empty() {
            return Ok(None);
        }
        Ok(Some(ArtifactBytes { corpus: self, taken: 0, is_over: false }))
    }

    /// The file that is being read.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn open(&mut self, source: Source) -> io::Result<()> {
        self.current = Some(match source {
            Source::File(path) => {
                self.name = path.display().to_string();
                Box::new(BufReader::with_capacity(BUFFER, File::open(path)?))
            }
            Source::Text(text) => {
                self.name = "the text".to_owned();
                Box::new(io::Cursor::new(text))
            }
        });
        self.broken = self.begun;
        Ok(())
    }
}

impl Read for Corpus {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Corpus {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            if self.broken {
                return Ok(BREAK);
            }
            let is_empty = match &mut self.current {
                Some(current) => current.fill_buf()?.is_empty(),
                None => true,
            };
            match (is_empty, self.rest.pop_front()) {
                (true, Some(source)) => self.open(source)?,
                (true, None) => return Ok(&[]),
                (false, next) => {
                    if let Some(next) = next {
                        self.rest.push_front(next);
                    }
                    // Filled above: this gives what is there.
                    return self.current.as_mut().map_or(Ok(&[]), |current| current.fill_buf());
                }
            }
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.begun |= bytes > 0;
        match &mut self.current {
            _ if self.broken => self.broken = bytes == 0,
            Some(current) => current.consume(bytes),
            None => {}
        }
    }
}

/// One artifact's share of the stream.
pub(crate) struct ArtifactBytes<'a> {
    corpus: &'a mut Corpus,
    taken: u64,
    is_over: bool,
}

impl Read for ArtifactBytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_over || buffer.is_empty() {
            return Ok(0);
        }
        let target = self.corpus.artifact_bytes;
        let left = if self.taken < target { target - self.taken } else { target + OVERHANG_BYTES - self.taken };
        let there = self.corpus.fill_buf()?;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(there.len()).min(buffer.len());
        let space = there[..most].iter().position(u8::is_ascii_whitespace).filter(|_| self.taken >= target);
        let read = space.map_or(most, |space| space + 1);
        buffer[..read].copy_from_slice(&there[..read]);
        self.corpus.consume(read);
        self.taken += read as u64;
        self.is_over = read == 0 || space.is_some() || self.taken == target + OVERHANG_BYTES;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifacts(texts: &[&str], artifact_bytes: u64) -> Vec<String> {
        let sources = texts.iter().map(|text| Source::Text((*text).to_owned()));
        let mut corpus = Corpus { artifact_bytes, ..Corpus::new(sources) };
        let mut found = Vec::new();
        while let Some(mut artifact) = corpus.next_artifact().expect("texts can be read") {
            let mut text = String::new();
            artifact.read_to_string(&mut text).expect("texts can be read");
            found.push(text);
        }
        found
    }

    #[test]
    fn files_stand_behind_one_another() {
        assert_eq!(artifacts(&["a b", "", "c"], 100), ["a b\n\nc"]);
        assert_eq!(artifacts(&["", ""], 100), Vec::<String>::new());
        assert_eq!(artifacts(&["", "a"], 100), ["a"]);
    }

    #[test]
    fn artifacts_are_cut_behind_white_space() {
        assert_eq!(artifacts(&["one two three", "four"], 4), ["one two ", "three\n", "four"]);
        assert_eq!(artifacts(&["one two three"], 3), ["one ", "two ", "three"]);
        let overhang = usize::try_from(OVERHANG_BYTES).expect("small");
        let long = "x".repeat(overhang + 10);
        assert_eq!(artifacts(&[&long], 3).iter().map(String::len).collect::<Vec<_>>(), [overhang + 3, 7]);
    }

    #[test]
    fn a_file_that_is_gone_is_named() {
        let mut corpus = Corpus::new([Source::Text("a".to_owned()), Source::File("/nonexistent/b".into())]);
        let told = corpus.next_artifact().expect("begins").expect("bytes").read_to_end(&mut Vec::new());
        assert_eq!(told.expect_err("gone").kind(), io::ErrorKind::NotFound);
        assert_eq!(corpus.name(), "/nonexistent/b");
    }
}
