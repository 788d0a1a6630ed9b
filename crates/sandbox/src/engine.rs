//! The sandbox of a process: its wasmtime engines, the modules it has compiled, and the rules for both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busbar_protocol::pointers::Sha256Hex;
use thiserror::Error;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, OptLevel, PoolingAllocationConfig, Strategy};

use crate::Limits;
use crate::cache::OnceCache;
use crate::compile::Compilers;
use crate::compiled::{self, CacheError, CompiledModules};
use crate::host::{self, GuestState};
use crate::modules::{Build, Module};
use crate::ticker::Ticker;

const MIB: usize = 1024 * 1024;
/// Stack of a run above that of WebAssembly, for the calls into the host.
const HOST_STACK_BYTES: usize = MIB;
/// A module without anything in it.
const NOTHING: &[u8] = b"\0asm\x01\0\0\0";
/// How many tables a module may have, and how much of what wasmtime itself keeps for an instance: more than compilers ever make.
const TABLES_MAX: u32 = 8;
const INSTANCE_BYTES_MAX: usize = 16 * MIB;
/// So much of the memory of a run that is over is wiped in place, for the next one; the rest goes back to the system. More would bring in pages that
/// nobody has touched: compilers put the lower end of the guest's stack there.
const KEPT_BYTES: usize = 16 * 1024;

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
    /// How long compiling a module may take, waiting for a compiler included, in milliseconds. Default 2 minutes.
    pub compile_ms_max: u64,
    /// How many modules are compiled at once, those that nobody waits for any more included. Default 2.
    pub compiles_max: usize,
    /// The largest machine code of a module, in bytes. Default 256 MiB.
    pub code_bytes_max: usize,
    /// How many guests may run at once: room for so many is reserved, which takes address space and no memory. Default 64.
    pub runs_max: u32,
    /// Where compiled modules are kept for the next process, if anywhere: a folder that belongs to this user and is closed to all
    /// others. It is made if absent. Default nowhere.
    pub cache_dir: Option<PathBuf>,
    /// How many bytes of compiled modules are kept there. Default 1 GiB.
    pub cache_bytes_max: u64,
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
    /// The folder of compiled modules cannot be used, or should not.
    #[error("the folder for compiled modules {} cannot be used", path.display())]
    Cache {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: CacheError,
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
    pub(crate) compiled: Option<Arc<CompiledModules>>,
    pub(crate) compilers: Compilers,
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
            compile_ms_max: 120_000,
            compiles_max: 2,
            code_bytes_max: 256 * MIB,
            runs_max: 64,
            cache_dir: None,
            cache_bytes_max: 1024 * MIB as u64,
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
        let compilers = Compilers::new(config.compiles_max);
        let compiled = open_cache(&config)?;
        Ok(Self { config, ticker, modules, compiled, compilers, plain, metered })
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
    /// The same for engines that can use each other's machine code.
    pub(crate) fingerprint: [u8; 32],
}

impl Target {
    fn new(config: &SandboxConfig, build: Build) -> wasmtime::Result<Self> {
        let mut engine_config = engine_config(config, build);
        // Where address space is short, room for each run is made when it starts, which takes longer.
        let pooled = Engine::new(engine_config.allocation_strategy(pool(config)));
        let engine = match pooled {
            Ok(engine) => engine,
            Err(_) => Engine::new(engine_config.allocation_strategy(InstanceAllocationStrategy::OnDemand))?,
        };
        // Whether this machine can run what the engine compiles is looked up once: now, and not for the first guest.
        wasmtime::Module::from_binary(&engine, NOTHING)?;
        let linker = host::linker(&engine)?;
        let fingerprint = compiled::fingerprint(&engine);
        Ok(Self { engine, linker, fingerprint })
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
        // Nobody reads them, and loading them costs: tables for the system's unwinder, places in the WebAssembly, backtraces.
        .native_unwind_info(false)
        .generate_address_map(false)
        .wasm_backtrace_max_frames(None)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        // 64 by 64 bits to 128 makes modular arithmetic about three times as fast.
        .wasm_wide_arithmetic(true);
    config
}

/// Room for all runs, reserved at once: starting one costs no calls of the system for its memory, its tables and its stack.
fn pool(sandbox: &SandboxConfig) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    let bytes = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    pool.total_core_instances(sandbox.runs_max)
        .total_memories(sandbox.runs_max)
        .total_stacks(sandbox.runs_max)
        .total_tables(sandbox.runs_max.saturating_mul(TABLES_MAX))
        .max_tables_per_module(TABLES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .table_elements(bytes(sandbox.ceilings.table_elements))
        .max_memory_size(bytes(sandbox.ceilings.memory_bytes))
        .linear_memory_keep_resident(KEPT_BYTES)
        .max_unused_warm_slots(sandbox.runs_max);
    pool
}

fn open_cache(config: &SandboxConfig) -> Result<Option<Arc<CompiledModules>>, SandboxError> {
    let Some(path) = &config.cache_dir else { return Ok(None) };
    let opened = CompiledModules::open(path, config.cache_bytes_max);
    opened.map(|cache| Some(Arc::new(cache))).map_err(|source| SandboxError::Cache { path: path.clone(), source })
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
