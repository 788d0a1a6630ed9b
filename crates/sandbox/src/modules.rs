//! From bytes and a digest to a guest that can be run: verified, compiled, checked, kept.

use std::time::Duration;

use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Sha256Hex;
use bytes::Bytes;
use thiserror::Error;
use wasmtime::{ExternType, InstancePre};

use crate::budget::TABLES_MAX;
use crate::cache::Made;
use crate::compile::NotMade;
use crate::compiled::Entry;
use crate::host::{self, GuestState};
use crate::{Imports, Sandbox};

/// What the machine code of a module counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Build {
    /// Nothing.
    Plain,
    /// Its own instructions.
    Metered,
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
    /// Compiling it costs more than the host allows.
    #[error("the module {digest} is too costly to compile: {limit}")]
    TooCostly {
        /// Which module.
        digest: Sha256Hex,
        /// How much it took of how much.
        limit: String,
    },
}

/// A verified, compiled guest. Clones share the code.
#[derive(Clone)]
pub struct Module {
    digest: Sha256Hex,
    pub(crate) build: Build,
    /// What its job must allow it to import.
    pub(crate) needs: Imports,
    pub(crate) instance: InstancePre<GuestState>,
}

impl ModuleError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::ModuleMissing,
            Self::DigestMismatch { .. } => Code::ModuleDigestMismatch,
            Self::Invalid { .. } => Code::ModuleInvalid,
            Self::TooCostly { .. } => Code::LimitCompile,
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

impl Build {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Metered => "metered",
        }
    }
}

impl Sandbox {
    /// The module with this digest: a kept one, or the one whose bytes `fetch` returns, verified and compiled. However many ask at
    /// the same time, it is fetched and compiled once; with a folder for compiled modules, once for all processes that use it one after
    /// another. Blocks: compiling takes about a quarter of a second for 200 kB, and at most `compile_ms_max`.
    ///
    /// # Errors
    /// [`ModuleError`]: not to be had, not what the digest names, no guest of ABI 1, or too costly to compile.
    pub fn load<E>(&self, digest: &Sha256Hex, fetch: impl FnOnce() -> Result<Bytes, E>) -> Result<Module, ModuleError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.load_as(digest, Build::Plain, fetch)
    }

    /// The same module, compiled so that its instructions are counted: for tasks whose limits name fuel.
    ///
    /// # Errors
    /// As for [`Sandbox::load`].
    pub fn load_metered<E>(&self, digest: &Sha256Hex, fetch: impl FnOnce() -> Result<Bytes, E>) -> Result<Module, ModuleError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.load_as(digest, Build::Metered, fetch)
    }

    /// The module with this digest, if it is kept in memory. Does not block.
    #[must_use]
    pub fn loaded(&self, digest: &Sha256Hex) -> Option<Module> {
        self.modules.get(&(digest.clone(), Build::Plain))
    }

    /// The same of those whose instructions are counted.
    #[must_use]
    pub fn loaded_metered(&self, digest: &Sha256Hex) -> Option<Module> {
        self.modules.get(&(digest.clone(), Build::Metered))
    }

    fn load_as<E>(
        &self,
        digest: &Sha256Hex,
        build: Build,
        fetch: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Module, ModuleError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.modules.get_or_make(&(digest.clone(), build), || {
            if let Some(made) = self.compiled_before(digest, build) {
                return Ok(made);
            }
            let bytes = fetch().map_err(|error| ModuleError::Missing { digest: digest.clone(), source: error.into() })?;
            self.verify(digest, &bytes)?;
            let counted = bytes.len();
            let code = self.compile(digest, build, bytes)?;
            Ok(Made { value: self.checked(digest, build, &code)?, bytes: counted })
        })
    }

    /// What an earlier process has compiled. What we have signed was verified then.
    fn compiled_before(&self, digest: &Sha256Hex, build: Build) -> Option<Made<Module>> {
        let cache = self.compiled.as_ref()?;
        let target = self.target(build);
        let entry = Entry { digest, build, engine: &target.fingerprint };
        let signed = cache.read(&entry)?;
        #[expect(unsafe_code, reason = "machine code is loaded; `read` returns only what this user's own sandbox has signed")]
        // SAFETY: the bytes are those that `wasmtime::Module::serialize` gave this user on this machine: `CompiledModules` checks
        // an HMAC over them whose key nobody else can read.
        let loaded = unsafe { wasmtime::Module::deserialize(&target.engine, signed.code()) };
        let made = loaded.map_err(|error| format!("{error:#}")).and_then(|module| {
            let value = self.checked(digest, build, &module).map_err(|error| error.to_string())?;
            Ok(Made { value, bytes: signed.code().len() })
        });
        made.inspect_err(|error| {
            tracing::warn!(module = %digest, error, "a compiled module does not fit any more, and is made again");
            cache.remove(&entry);
        })
        .ok()
    }

    fn verify(&self, digest: &Sha256Hex, bytes: &[u8]) -> Result<(), ModuleError> {
        if bytes.len() > self.config.module_bytes_max {
            let reason = format!("{} bytes are more than {}", bytes.len(), self.config.module_bytes_max);
            return Err(ModuleError::Invalid { digest: digest.clone(), reason });
        }
        let actual = Sha256Hex::of(bytes);
        if actual == *digest { Ok(()) } else { Err(ModuleError::DigestMismatch { expected: digest.clone(), actual }) }
    }

    /// The machine code of bytes that were verified; it is kept on disk even if nobody waits for it any more.
    fn compile(&self, digest: &Sha256Hex, build: Build, bytes: Bytes) -> Result<wasmtime::Module, ModuleError> {
        let costly = |limit: String| ModuleError::TooCostly { digest: digest.clone(), limit };
        let target = self.target(build);
        let (engine, fingerprint, cache) = (target.engine.clone(), target.fingerprint, self.compiled.clone());
        let (keeper, code_bytes_max) = (digest.clone(), self.config.code_bytes_max);
        let work = move || {
            let module = wasmtime::Module::from_binary(&engine, &bytes)?;
            let size = module.image_range().end.addr() - module.image_range().start.addr();
            if let Some(cache) = cache.filter(|_| size <= code_bytes_max) {
                cache.keep(&Entry { digest: &keeper, build, engine: &fingerprint }, &module.serialize()?);
            }
            Ok::<_, wasmtime::Error>((module, size))
        };
        let made = self.compilers.run(Duration::from_millis(self.config.compile_ms_max), work);
        match made {
            Ok(Ok((module, size))) if size <= code_bytes_max => Ok(module),
            Ok(Ok((_, size))) => Err(costly(format!("{size} bytes of machine code are more than {code_bytes_max}"))),
            Ok(Err(error)) => Err(ModuleError::Invalid { digest: digest.clone(), reason: format!("{error:#}") }),
            Err(NotMade::TooLong) => Err(costly(format!("compiling takes longer than {} ms", self.config.compile_ms_max))),
            Err(NotMade::Broken) => Err(costly("the compiler broke down".to_owned())),
        }
    }

    /// A guest of ABI 1, ready to be instantiated.
    fn checked(&self, digest: &Sha256Hex, build: Build, module: &wasmtime::Module) -> Result<Module, ModuleError> {
        let invalid = |reason: String| ModuleError::Invalid { digest: digest.clone(), reason };
        let needs = imports(module).map_err(invalid)?;
        check_exports(module).map_err(invalid)?;
        check_tables(module).map_err(invalid)?;
        let instance = self.target(build).linker.instantiate_pre(module).map_err(|error| invalid(format!("{error:#}")))?;
        Ok(Module { digest: digest.clone(), build, needs, instance })
    }
}

/// The groups of what it imports, all of which must be offered.
fn imports(module: &wasmtime::Module) -> Result<Imports, String> {
    let mut needs = Imports::NONE;
    for import in module.imports() {
        let Some(needed) = host::offered(import.module(), import.name()) else {
            return Err(format!("it imports {}.{}, which is not offered", import.module(), import.name()));
        };
        needs = needs.and(needed);
    }
    Ok(needs)
}

fn check_tables(module: &wasmtime::Module) -> Result<(), String> {
    let tables = module.resources_required().num_tables;
    if tables > TABLES_MAX { Err(format!("it has {tables} tables; at most {TABLES_MAX} are given")) } else { Ok(()) }
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
