//! From bytes and a digest to a guest that can be run: verified, compiled, checked, kept.

use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Sha256Hex;
use bytes::Bytes;
use thiserror::Error;
use wasmtime::{ExternType, InstancePre};

use crate::budget::TABLES_MAX;
use crate::cache::Made;
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
    /// The module with this digest: a kept one, or the one whose bytes `fetch` returns, verified and compiled. However many ask at
    /// the same time, it is fetched and compiled once. Blocks: compiling takes about a quarter of a second for 200 kB.
    ///
    /// # Errors
    /// [`ModuleError`]: not to be had, not what the digest names, or no guest of ABI 1.
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
            let bytes = fetch().map_err(|error| ModuleError::Missing { digest: digest.clone(), source: error.into() })?;
            let module = self.verify_and_compile(digest, build, &bytes)?;
            Ok(Made { value: module, bytes: bytes.len() })
        })
    }

    fn verify_and_compile(&self, digest: &Sha256Hex, build: Build, bytes: &[u8]) -> Result<Module, ModuleError> {
        let invalid = |reason: String| ModuleError::Invalid { digest: digest.clone(), reason };
        if bytes.len() > self.config.module_bytes_max {
            return Err(invalid(format!("{} bytes are more than {}", bytes.len(), self.config.module_bytes_max)));
        }
        let actual = Sha256Hex::of(bytes);
        if actual != *digest {
            return Err(ModuleError::DigestMismatch { expected: digest.clone(), actual });
        }
        let target = self.target(build);
        let module = wasmtime::Module::from_binary(&target.engine, bytes).map_err(|error| invalid(format!("{error:#}")))?;
        let needs = imports(&module).map_err(invalid)?;
        check_exports(&module).map_err(invalid)?;
        check_tables(&module).map_err(invalid)?;
        let instance = target.linker.instantiate_pre(&module).map_err(|error| invalid(format!("{error:#}")))?;
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
