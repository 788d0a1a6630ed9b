//! `xtask packs`: from the sources in `packs/` to what is installed.
//!
//! ```text
//! packs/<id>/ ─► manifest ─► cargo (fmt, clippy, test) ─► cargo build ─► bundle ─► target/packs/<id>/ and <id>.tgz
//!                  checked      skipped while the sources, and so the fingerprint, are what they were
//! ```

mod bundle;
mod fingerprint;
mod guest;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use busbar_rules::pack::{Broken, GatherError, MANIFEST, Manifest, Pack, gather};

use self::fingerprint::Fingerprint;
use self::guest::{Guest, GuestError};

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
    /// A pack breaks a rule.
    #[error("packs/{id}: {broken}")]
    Broken {
        /// Which pack.
        id: String,
        /// The rule, and where it is broken.
        broken: Broken,
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
        if entry.path().join(MANIFEST).is_file() {
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
    let manifest = read_manifest(&folder, id)?;
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
    let pack = collect(&folder, &manifest, &guest)?;
    let changed = bundle::write(&pack, &places.output)?;
    Ok(if changed && done == "is unchanged" { "bundled" } else { done })
}

/// The manifest, with what must hold for a pack of this repository besides: its folder has its name, and each module is made by
/// the guests' workspace.
fn read_manifest(folder: &Path, id: &str) -> Result<Manifest, PacksError> {
    let path = folder.join(MANIFEST);
    let text = std::fs::read_to_string(&path).map_err(PacksError::file(&path))?;
    let broken = |broken| PacksError::Broken { id: id.to_owned(), broken };
    let manifest = Manifest::parse(&text).map_err(broken)?;
    if manifest.metadata.id != id {
        return Err(broken(Broken::new("pack.yaml: metadata.id", "must be the name of its folder")));
    }
    let is_plain = |file: &str| file.ends_with(".wasm") && !file.contains('/');
    match manifest.modules.iter().find(|module| !is_plain(&module.file)) {
        Some(module) => Err(broken(Broken::new(
            format!("pack.yaml: modules: {}", module.name),
            "the file must be a plain name that ends in .wasm",
        ))),
        None => Ok(manifest),
    }
}

/// Gathers what belongs to the pack: documents from its folder, modules from where they were built.
fn collect(folder: &Path, manifest: &Manifest, guest: &Guest<'_>) -> Result<Pack, PacksError> {
    let path_of = |file: &str| {
        let is_module = manifest.modules.iter().any(|module| module.file == file);
        if is_module { guest.module(file) } else { folder.join(file) }
    };
    let read = |file: &str| match std::fs::read(path_of(file)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    gather(read).map_err(|error| match error {
        GatherError::Broken(broken) => PacksError::Broken { id: manifest.metadata.id.clone(), broken },
        GatherError::Unreadable { file, source } => PacksError::File { path: path_of(&file), source },
    })
}
