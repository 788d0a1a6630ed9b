//! Runs cargo on a pack's guest workspace.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use busbar_rules::pack::Manifest;

const TARGET: &str = "wasm32-wasip1";

/// The cargo workspace of one pack.
pub(crate) struct Guest<'a> {
    /// The pack's folder, which holds the workspace's `Cargo.toml` if there is one.
    pub(crate) folder: &'a Path,
    /// The repository.
    pub(crate) root: &'a Path,
    /// The build folder that all guests share, so that they share what they depend on.
    pub(crate) target: &'a Path,
}

/// Why a guest is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// Cargo could not be started.
    #[error("cannot run cargo: {0}")]
    Start(io::Error),
    /// Cargo ran and was not content.
    #[error("cargo {arguments} failed with {status}")]
    Failed {
        /// What cargo was asked.
        arguments: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The manifest lists a file that the workspace does not make.
    #[error("the workspace has no binary that makes {0}")]
    NotMade(String),
}

impl Guest<'_> {
    /// Whether the pack has guests at all.
    pub(crate) fn exists(&self) -> bool {
        self.folder.join("Cargo.toml").is_file()
    }

    /// Where cargo puts the module called `file`.
    pub(crate) fn module(&self, file: &str) -> PathBuf {
        self.target.join(TARGET).join("release").join(file)
    }

    /// Whether every module of the manifest is there.
    pub(crate) fn is_built(&self, manifest: &Manifest) -> bool {
        manifest.modules.iter().all(|module| self.module(&module.file).is_file())
    }

    /// Builds the modules. Paths of this machine are kept out of them, so that equal sources have a chance of equal digests.
    pub(crate) fn build(&self, manifest: &Manifest) -> Result<(), GuestError> {
        let mut command = self.cargo(&["build", "--release", "--locked", "--target", TARGET]);
        // As configuration and not as RUSTFLAGS, which would replace the flags that the pack's own .cargo/config.toml sets.
        command.arg("--config").arg(format!("target.{TARGET}.rustflags=[{}]", self.remapped_paths().join(",")));
        finish(command)?;
        match manifest.modules.iter().find(|module| !self.module(&module.file).is_file()) {
            Some(module) => Err(GuestError::NotMade(module.file.clone())),
            None => Ok(()),
        }
    }

    /// Formatting, lints (of the native and of the wasm build, which differ) and tests.
    pub(crate) fn check(&self) -> Result<(), GuestError> {
        finish(self.cargo(&["fmt", "--all", "--check"]))?;
        finish(self.cargo(&["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]))?;
        finish(self.cargo(&["clippy", "--locked", "--target", TARGET, "--", "-D", "warnings"]))?;
        finish(self.cargo(&["test", "--locked", "--quiet"]))
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments).current_dir(self.folder).env("CARGO_TARGET_DIR", self.target);
        // What is meant for the native build must not change guests.
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_BUILD_RUSTFLAGS"] {
            command.env_remove(name);
        }
        command
    }

    /// `--remap-path-prefix` for the repository and for cargo's downloads, each as a string of TOML.
    fn remapped_paths(&self) -> Vec<String> {
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
        let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
        let cargo = cargo_home.map(|folder| remapped(&folder, "/cargo"));
        std::iter::once(remapped(self.root, "/busbar")).chain(cargo).collect()
    }
}

fn remapped(from: &Path, to: &str) -> String {
    let flag = format!("--remap-path-prefix={}={to}", from.display());
    format!("\"{}\"", flag.replace('\\', "\\\\").replace('"', "\\\""))
}

fn finish(mut command: Command) -> Result<(), GuestError> {
    let status = command.status().map_err(GuestError::Start)?;
    if status.success() {
        return Ok(());
    }
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    Err(GuestError::Failed { arguments: arguments.join(" "), status })
}
