//! `xtask packs`: from the sources in `packs/` to what is installed.
//!
//! ```text
//! packs/<id>/ ─► manifest ─► cargo (fmt, clippy, test) ─► cargo build ─► bundle ─► target/packs/<id>/ and <id>.tgz
//!                  checked      skipped while the sources, and so the fingerprint, are what they were
//! ```

mod bundle;
mod fingerprint;
mod guest;
mod manifest;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use self::bundle::Bundle;
use self::fingerprint::Fingerprint;
use self::guest::{Guest, GuestError};
use self::manifest::{Manifest, ManifestError};

/// What `xtask packs` can be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build only: no tests and no lints of the guests.
    #[arg(long)]
    no_test: bool,
    /// The packs to build; all when none is named.
    packs: Vec<String>,
}

/// Why the packs could not be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PacksError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name on the command line is no pack.
    #[error("there is no pack {0} in packs/")]
    Unknown(String),
    /// A manifest, or what it refers to, is wrong.
    #[error("packs/{id}: {error}")]
    Manifest {
        /// Which pack.
        id: String,
        /// What is wrong.
        error: ManifestError,
    },
    /// A guest does not build, or its tests or lints fail.
    #[error("packs/{id}: {error}")]
    Guest {
        /// Which pack.
        id: String,
        /// What failed.
        error: GuestError,
    },
}

impl PacksError {
    /// For `map_err`: names the path in an I/O error.
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// The folders that the work takes place in.
struct Places {
    root: PathBuf,
    packs: PathBuf,
    guests: PathBuf,
    output: PathBuf,
}

impl Places {
    fn of_this_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("xtask lies in tools/xtask");
        Self {
            root: root.to_owned(),
            packs: root.join("packs"),
            guests: root.join("target/guests"),
            output: root.join("target/packs"),
        }
    }
}

/// Builds the packs.
pub(crate) fn run(arguments: &Arguments) -> Result<(), PacksError> {
    let places = Places::of_this_repository();
    for id in chosen(&places.packs, &arguments.packs)? {
        let began = Instant::now();
        let done = build(&places, &id, !arguments.no_test)?;
        eprintln!("packs: {id} {done} ({:.1} s)", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The named packs, or all of them, sorted.
fn chosen(packs: &Path, named: &[String]) -> Result<Vec<String>, PacksError> {
    let mut found = Vec::new();
    for entry in packs.read_dir().map_err(PacksError::file(packs))? {
        let entry = entry.map_err(PacksError::file(packs))?;
        if entry.path().join(manifest::FILE).is_file() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    if let Some(unknown) = named.iter().find(|name| !found.contains(name)) {
        return Err(PacksError::Unknown(unknown.clone()));
    }
    found.retain(|id| named.is_empty() || named.contains(id));
    Ok(found)
}

/// Builds one pack and says what was done.
fn build(places: &Places, id: &str, test: bool) -> Result<&'static str, PacksError> {
    let folder = places.packs.join(id);
    let manifest = Manifest::read(&folder).map_err(|error| PacksError::Manifest { id: id.to_owned(), error })?;
    let guest = Guest { folder: &folder, root: &places.root, target: &places.guests };
    let fingerprint = Fingerprint::of(&[&folder, &places.root.join("rust-toolchain.toml")])?;
    let stamps = places.guests.join("stamps");
    let failed = |error| PacksError::Guest { id: id.to_owned(), error };
    let mut done = "is unchanged";

    let (built, checked) = (stamps.join(format!("{id}.built")), stamps.join(format!("{id}.checked")));
    if guest.exists() && !(fingerprint.is_stamped(&built) && guest.is_built(&manifest)) {
        guest.build(&manifest).map_err(failed)?;
        fingerprint.stamp(&built)?;
        done = "built, not tested";
    }
    if test && guest.exists() && !fingerprint.is_stamped(&checked) {
        guest.check().map_err(failed)?;
        fingerprint.stamp(&checked)?;
        done = "built and tested";
    }
    let bundle = Bundle::collect(&folder, &manifest, &guest)?;
    let changed = bundle.write(&places.output, id)?;
    Ok(if changed && done == "is unchanged" { "bundled" } else { done })
}
