//! The sandbox of a process: its wasmtime engines, the modules it has compiled, and the rules for both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use busbar_protocol::pointers::Sha256Hex;
use thiserror::Error;
use wasmtime::{Config, Engine, Linker, OptLevel, Strategy};

use crate::Limits;
use crate::cache::OnceCache;
use crate::host::{self, GuestState};
use crate::modules::{Build, Module};
use crate::ticker::Ticker;

const MIB: usize = 1024 * 1024;
/// Stack of a run above that of WebAssembly, for the calls into the host.
const HOST_STACK_BYTES: usize = MIB;

/// How a sandbox is set up. Everything has a default but the folder.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Where tasks have their private folders. It belongs to this sandbox alone: it is made if absent, and what an earlier process
    /// left there is removed. On the file system of the artifacts, granting one costs a link instead of a copy.
    pub scratch_dir: PathBuf,
    /// What no task may exceed, whatever its own limits say. Default [`Limits::CEILING`].
    pub ceilings: Limits,
    /// The largest module, in bytes. Default 32 MiB.
    pub module_bytes_max: usize,
    /// How many compiled modules are kept. Default 64.
    pub modules_kept_max: usize,
    /// How many bytes of modules (before compilation) are kept. Default 256 MiB.
    pub module_bytes_kept_max: usize,
    /// Stack of WebAssembly frames, in bytes. Rust guests keep their large values on a stack of their own, in linear memory. Default
    /// 1 MiB.
    pub stack_bytes: usize,
}

/// The sandbox could not be set up.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// wasmtime refuses this machine or our settings.
    #[error("wasmtime cannot be used here: {reason}")]
    Engine {
        /// wasmtime's words.
        reason: String,
    },
    /// The scratch folder cannot be made or cleaned.
    #[error("the scratch folder {} cannot be used", path.display())]
    Scratch {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread for the ticker.
    #[error("the ticker thread cannot be started")]
    Ticker(#[source] io::Error),
}

/// Loads and runs guests. Share it: all its methods take `&self`.
pub struct Sandbox {
    pub(crate) config: SandboxConfig,
    pub(crate) ticker: Ticker,
    pub(crate) modules: OnceCache<(Sha256Hex, Build), Module>,
    plain: Target,
    metered: Target,
}

impl SandboxConfig {
    /// The defaults, with this scratch folder.
    #[must_use]
    pub fn new(scratch_dir: impl Into<PathBuf>) -> Self {
        Self {
            scratch_dir: scratch_dir.into(),
            ceilings: Limits::CEILING,
            module_bytes_max: 32 * MIB,
            modules_kept_max: 64,
            module_bytes_kept_max: 256 * MIB,
            stack_bytes: MIB,
        }
    }
}

impl Sandbox {
    /// Sets up the engines, the scratch folder and the ticker.
    ///
    /// # Errors
    /// [`SandboxError`] when one of them cannot be had.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        clean_scratch(&config.scratch_dir)
            .map_err(|source| SandboxError::Scratch { path: config.scratch_dir.clone(), source })?;
        let failed = |error: wasmtime::Error| SandboxError::Engine { reason: format!("{error:#}") };
        let plain = Target::new(&config, Build::Plain).map_err(failed)?;
        let metered = Target::new(&config, Build::Metered).map_err(failed)?;
        let ticker = Ticker::start(vec![plain.engine.clone(), metered.engine.clone()]).map_err(SandboxError::Ticker)?;
        let modules = OnceCache::new(config.modules_kept_max, config.module_bytes_kept_max);
        Ok(Self { config, plain, metered, ticker, modules })
    }

    pub(crate) fn target(&self, build: Build) -> &Target {
        match build {
            Build::Plain => &self.plain,
            Build::Metered => &self.metered,
        }
    }
}

/// What modules are compiled for.
pub(crate) struct Target {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<GuestState>,
}

impl Target {
    fn new(config: &SandboxConfig, build: Build) -> wasmtime::Result<Self> {
        let engine = Engine::new(&engine_config(config, build))?;
        let linker = host::linker(&engine)?;
        Ok(Self { engine, linker })
    }
}

/// Cranelift alone compiles; what a guest of ABI 1 does not need is off; what differs between machines is made equal.
fn engine_config(sandbox: &SandboxConfig, build: Build) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .consume_fuel(build == Build::Metered)
        .max_wasm_stack(sandbox.stack_bytes)
        .async_stack_size(sandbox.stack_bytes + HOST_STACK_BYTES)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        // 64 by 64 bits to 128 makes modular arithmetic about three times as fast.
        .wasm_wide_arithmetic(true);
    config
}

/// Folders of tasks that a killed process left are removed: nobody else knows of them.
fn clean_scratch(scratch: &Path) -> io::Result<()> {
    fs::create_dir_all(scratch)?;
    for entry in fs::read_dir(scratch)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("task-") && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
