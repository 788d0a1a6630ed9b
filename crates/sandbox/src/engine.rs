//! The sandbox of a process: one wasmtime engine, the modules it has compiled, and the rules for both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Sha256Hex;
use bytes::Bytes;
use thiserror::Error;
use wasmtime::{Config, Engine, ExternType, InstancePre, Linker, OptLevel, Strategy};

use crate::Limits;
use crate::cache::{Made, OnceCache};
use crate::host::{self, GuestState};
use crate::ticker::Ticker;

const MIB: usize = 1024 * 1024;
/// Stack of WebAssembly frames. Rust guests keep their large values on a stack of their own, in linear memory.
const WASM_STACK_BYTES: usize = MIB;
/// Stack of a whole run: that of WebAssembly and, above it, that of the calls into the host.
const RUN_STACK_BYTES: usize = 2 * MIB;

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

/// A module could not be loaded.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// Its bytes could not be had.
    #[error("the module {digest} could not be fetched: {source}")]
    Missing {
        /// Which module.
        digest: Sha256Hex,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its bytes are not those that the digest names.
    #[error("the module's bytes are {actual}, not {expected}")]
    DigestMismatch {
        /// What was asked for.
        expected: Sha256Hex,
        /// What came.
        actual: Sha256Hex,
    },
    /// It is not a guest that we run.
    #[error("the module {digest} is invalid: {reason}")]
    Invalid {
        /// Which module.
        digest: Sha256Hex,
        /// What is wrong with it.
        reason: String,
    },
}

/// A verified, compiled guest. Clones share the code.
#[derive(Clone)]
pub struct Module {
    digest: Sha256Hex,
    pub(crate) instance: InstancePre<GuestState>,
}

/// Loads and runs guests. Share it: all its methods take `&self`.
pub struct Sandbox {
    pub(crate) config: SandboxConfig,
    pub(crate) engine: Engine,
    pub(crate) ticker: Ticker,
    linker: Linker<GuestState>,
    modules: OnceCache<Sha256Hex, Module>,
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
        }
    }
}

impl ModuleError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::ModuleMissing,
            Self::DigestMismatch { .. } => Code::ModuleDigestMismatch,
            Self::Invalid { .. } => Code::ModuleInvalid,
        }
    }
}

impl Module {
    /// The SHA-256 of the module's bytes.
    #[must_use]
    pub fn digest(&self) -> &Sha256Hex {
        &self.digest
    }
}

impl Sandbox {
    /// Sets up the engine, the scratch folder and the ticker.
    ///
    /// # Errors
    /// [`SandboxError`] when one of them cannot be had.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        clean_scratch(&config.scratch_dir)
            .map_err(|source| SandboxError::Scratch { path: config.scratch_dir.clone(), source })?;
        let failed = |error: wasmtime::Error| SandboxError::Engine { reason: format!("{error:#}") };
        let engine = Engine::new(&engine_config()).map_err(failed)?;
        let linker = host::linker(&engine).map_err(failed)?;
        let ticker = Ticker::start(engine.clone()).map_err(SandboxError::Ticker)?;
        let modules = OnceCache::new(config.modules_kept_max, config.module_bytes_kept_max);
        Ok(Self { config, engine, ticker, linker, modules })
    }

    /// The module with this digest: a kept one, or the one whose bytes `fetch` returns, verified and compiled. However many ask at
    /// the same time, it is fetched and compiled once. Blocks: compiling takes about a quarter of a second for 200 kB.
    ///
    /// # Errors
    /// [`ModuleError`]: not to be had, not what the digest names, or no guest of ABI 1.
    pub fn load<E>(&self, digest: &Sha256Hex, fetch: impl FnOnce() -> Result<Bytes, E>) -> Result<Module, ModuleError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.modules.get_or_make(digest, || {
            let bytes = fetch().map_err(|error| ModuleError::Missing { digest: digest.clone(), source: error.into() })?;
            let module = self.verify_and_compile(digest, &bytes)?;
            Ok(Made { value: module, bytes: bytes.len() })
        })
    }

    fn verify_and_compile(&self, digest: &Sha256Hex, bytes: &[u8]) -> Result<Module, ModuleError> {
        let invalid = |reason: String| ModuleError::Invalid { digest: digest.clone(), reason };
        if bytes.len() > self.config.module_bytes_max {
            return Err(invalid(format!("{} bytes are more than {}", bytes.len(), self.config.module_bytes_max)));
        }
        let actual = Sha256Hex::of(bytes);
        if actual != *digest {
            return Err(ModuleError::DigestMismatch { expected: digest.clone(), actual });
        }
        let module = wasmtime::Module::from_binary(&self.engine, bytes).map_err(|error| invalid(format!("{error:#}")))?;
        check_imports(&module).map_err(invalid)?;
        check_exports(&module).map_err(invalid)?;
        let instance = self.linker.instantiate_pre(&module).map_err(|error| invalid(format!("{error:#}")))?;
        Ok(Module { digest: digest.clone(), instance })
    }
}

/// Cranelift alone compiles; what a guest of ABI 1 does not need is off; what differs between machines is made equal.
fn engine_config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(RUN_STACK_BYTES)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        // 64 by 64 bits to 128 makes modular arithmetic about three times as fast.
        .wasm_wide_arithmetic(true);
    config
}

fn check_imports(module: &wasmtime::Module) -> Result<(), String> {
    for import in module.imports() {
        if !host::is_offered(import.module(), import.name()) {
            return Err(format!("it imports {}.{}, which is not offered", import.module(), import.name()));
        }
    }
    Ok(())
}

fn check_exports(module: &wasmtime::Module) -> Result<(), String> {
    let is_start = |kind: ExternType| match kind {
        ExternType::Func(function) => function.params().len() == 0 && function.results().len() == 0,
        _ => false,
    };
    if !module.get_export("_start").is_some_and(is_start) {
        return Err("it exports no function _start without parameters and results: it is no wasm32-wasip1 command".to_owned());
    }
    if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
        return Err("it exports no memory".to_owned());
    }
    Ok(())
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
