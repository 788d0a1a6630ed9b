//! Where a server comes from: a path that was named, `PATH`, then the cache that `tools/setup` fills.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Tried};

/// The oldest nats-server that keeps what we ask of it: older ones drop JetStream options silently.
pub const NATS_MINIMUM: Version = Version { major: 2, minor: 12 };

/// The oldest redis-server that has functions.
pub const REDIS_MINIMUM: Version = Version { major: 7, minor: 0 };

/// The part of a server's version that compatibility depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// A server program that was found and is new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The file to execute.
    pub path: PathBuf,
    /// What it says it is.
    pub version: Version,
}

/// Where to look for servers, in this order: the named path, `path`, `cache/bin`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// A nats-server named by the caller (`BUSBAR_NATS_SERVER`).
    pub nats: Option<PathBuf>,
    /// A redis-server named by the caller (`BUSBAR_REDIS_SERVER`).
    pub redis: Option<PathBuf>,
    /// The folders of `PATH`.
    pub path: Vec<PathBuf>,
    /// The folder that `tools/setup` installs into; it looks in its `bin`.
    pub cache: Option<PathBuf>,
}

struct Wanted<'a> {
    program: &'static str,
    variable: &'static str,
    minimum: Version,
    named: Option<&'a PathBuf>,
}

impl Search {
    /// The places that this process's environment names.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| env::var_os(name))
    }

    /// The places that the given variables name; empty values count as absent.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let cache_home =
            get("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| get("HOME").map(|home| Path::new(&home).join(".cache")));
        Self {
            nats: get("BUSBAR_NATS_SERVER").map(PathBuf::from),
            redis: get("BUSBAR_REDIS_SERVER").map(PathBuf::from),
            path: get("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default(),
            cache: cache_home.map(|home| home.join("busbar")),
        }
    }

    /// Finds a nats-server.
    ///
    /// # Errors
    /// [`Error::Missing`] with every place that was tried when none is new enough.
    pub fn find_nats(&self) -> Result<Binary, Error> {
        self.find(&Wanted {
            program: "nats-server",
            variable: "BUSBAR_NATS_SERVER",
            minimum: NATS_MINIMUM,
            named: self.nats.as_ref(),
        })
    }

    /// Finds a redis-server.
    ///
    /// # Errors
    /// [`Error::Missing`] with every place that was tried when none is new enough.
    pub fn find_redis(&self) -> Result<Binary, Error> {
        self.find(&Wanted {
            program: "redis-server",
            variable: "BUSBAR_REDIS_SERVER",
            minimum: REDIS_MINIMUM,
            named: self.redis.as_ref(),
        })
    }

    fn find(&self, wanted: &Wanted<'_>) -> Result<Binary, Error> {
        let mut tried = Vec::new();
        for place in self.candidates(wanted) {
            let outcome = version_of(&place).and_then(|version| new_enough(version, wanted));
            match outcome {
                Ok(version) => {
                    return Ok(Binary { path: place, version });
                }
                Err(why) => tried.push(Tried { place, why }),
            }
        }
        Err(Error::Missing { program: wanted.program, minimum: wanted.minimum, variable: wanted.variable, tried })
    }

    /// Every file worth executing. Folders of `PATH` without the program are left out, so that the
    /// message of a failed search stays readable.
    fn candidates(&self, wanted: &Wanted<'_>) -> Vec<PathBuf> {
        let on_path = self.path.iter().map(|folder| folder.join(wanted.program)).filter(|file| file.is_file());
        let in_cache = self.cache.iter().map(|cache| cache.join("bin").join(wanted.program));
        wanted.named.cloned().into_iter().chain(on_path).chain(in_cache).collect()
    }
}

fn new_enough(version: Version, wanted: &Wanted<'_>) -> Result<Version, String> {
    if version < wanted.minimum {
        return Err(format!("version {version} is too old"));
    }
    Ok(version)
}

fn version_of(file: &Path) -> Result<Version, String> {
    let output = Command::new(file).arg("--version").stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| "did not say its version".to_owned())
}

/// Reads `nats-server: v2.15.1` and `Redis server v=7.0.15 sha=…`.
fn parse_version(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let number = word.strip_prefix('v')?.trim_start_matches('=');
        let mut parts = number.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = leading_digits(parts.next()?).parse().ok()?;
        Some(Version { major, minor })
    })
}

fn leading_digits(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn version(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    /// A program that only says its version. Another process writes it: while we held it open for writing, a fork in another
    /// test would inherit that, and the program would be "busy".
    fn fake(folder: &Path, program: &str, says: &str) -> PathBuf {
        fs::create_dir_all(folder).expect("folder");
        let file = folder.join(program);
        let script = format!("#!/bin/sh\necho '{says}'\n");
        let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let written = Command::new("sh").args(["-c", write]).arg(&file).arg(script).status();
        assert!(written.expect("sh").success());
        file
    }

    #[test]
    fn versions_are_read_as_the_servers_print_them() {
        let cases = [
            ("nats-server: v2.15.1\n", Some(version(2, 15))),
            ("nats-server: v2.12.0-RC.1", Some(version(2, 12))),
            ("Redis server v=7.0.15 sha=00000000:0 bits=64", Some(version(7, 0))),
            ("Valkey server v=8.1-rc1 sha=0", Some(version(8, 1))),
            ("no such thing", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }

    #[test]
    fn the_named_path_wins_then_path_then_cache() {
        let temp = tempfile::tempdir().expect("tempdir");
        let named = fake(&temp.path().join("named"), "mine", "nats-server: v2.12.1");
        let on_path = temp.path().join("path");
        fake(&on_path, "nats-server", "nats-server: v2.13.0");
        let cache = temp.path().join("cache");
        let cached = fake(&cache.join("bin"), "nats-server", "nats-server: v2.14.0");
        let mut search = Search { nats: Some(named.clone()), redis: None, path: vec![on_path], cache: Some(cache) };
        assert_eq!(search.find_nats().expect("named").path, named);
        search.nats = None;
        assert_eq!(search.find_nats().expect("path").version, version(2, 13));
        search.path.clear();
        assert_eq!(search.find_nats().expect("cache").path, cached);
    }

    #[test]
    fn too_old_counts_as_missing_and_is_told() {
        let temp = tempfile::tempdir().expect("tempdir");
        let old = fake(temp.path(), "redis-server", "Redis server v=6.2.1 sha=0");
        let search =
            Search { redis: Some(temp.path().join("absent")), path: vec![temp.path().to_path_buf()], ..Search::default() };
        let error = search.find_redis().expect_err("too old");
        let text = error.to_string();
        let Error::Missing { tried, .. } = error else {
            panic!("{text}");
        };
        assert_eq!(tried.len(), 2);
        assert_eq!(tried[1].place, old);
        assert!(text.contains("6.2 is too old") && text.contains("BUSBAR_REDIS_SERVER"), "{text}");
    }

    #[test]
    fn empty_variables_count_as_absent() {
        let search = Search::from_variables(|name| match name {
            "HOME" => Some("/home/someone".into()),
            "PATH" => Some("/a:/b".into()),
            _ => Some(OsString::new()),
        });
        assert_eq!(search.cache, Some(PathBuf::from("/home/someone/.cache/busbar")));
        assert_eq!(search.path, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!((search.nats, search.redis), (None, None));
    }
}
