//! Loading: from bytes that nobody trusts to a component that may be called.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use crate::bindings::{planner::Planner, wasi::Wasi};
use crate::cache::Cache;
use crate::compile::child::{self, ChildCompiler, ChildError};
use crate::component::{Component, Program};
use crate::describe::{DescribeError, Inspection, Kind, inspect};
use crate::imports::{self, RefusedImport};
use crate::state::State;
use crate::ticker::Ticker;
use crate::{compile, engine};

/// Loads components. One per process is enough; it may be shared between threads.
pub struct Sandbox {
    runtime: Arc<Runtime>,
    linker: Linker<State>,
    cache: Option<Cache>,
    compiler: Option<ChildCompiler>,
}

/// Who made a component, and so where it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// We, or the people who run it: in this process.
    Own,
    /// A stranger: in a child with limits.
    Stranger,
}

/// How to set up a [`Sandbox`].
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Where compiled components are kept between starts; nowhere if none. Made if it is missing. A
    /// directory that others may write to is not used, with a warning in the log.
    pub cache_dir: Option<PathBuf>,
    /// Size up to which compiled components are kept, in bytes; those used longest ago go first.
    pub cache_bytes_max: u64,
    /// Who compiles components of strangers; without it they are loaded from the cache alone.
    pub compiler: Option<ChildCompiler>,
}

impl Default for SandboxOptions {
    /// No cache directory; 512 MiB in it; no compiler for strangers.
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_bytes_max: 512 * 1024 * 1024,
            compiler: None,
        }
    }
}

/// What all components of a sandbox share, and what keeps running while one of them is in use.
pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) ticker: Ticker,
}

/// An error of wasmtime; its own type is not part of this crate's interface.
pub type EngineError = Box<dyn std::error::Error + Send + Sync>;

/// A component cannot be loaded, or nothing can.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SandboxError {
    #[error("could not set up the WebAssembly engine")]
    Engine { source: EngineError },
    #[error("could not start the thread that interrupts plugins")]
    Ticker { source: std::io::Error },
    #[error(transparent)]
    Describe(#[from] DescribeError),
    #[error("the step imports {}", Listed(.0))]
    Imports(Vec<RefusedImport>),
    #[error(
        "the step says that it is a {}, but does not export `{}` of contract {}",
        kind.as_str(), kind.interface(), crate::contract::CONTRACT
    )]
    Export { kind: Kind, exports: Vec<String> },
    #[error("could not compile the component")]
    Compile { source: EngineError },
    #[error("could not compile the component of a third party")]
    CompileInChild { source: ChildError },
    #[error("there is no process in which the component of a third party could be compiled")]
    NoCompiler,
    #[error("the component does not fit the interfaces that it imports or exports")]
    Link { source: EngineError },
}

impl Sandbox {
    /// Starts an engine.
    ///
    /// # Errors
    ///
    /// If the processor or the system cannot run it. An unusable cache directory is no error.
    pub fn new(options: SandboxOptions) -> Result<Self, SandboxError> {
        let on_engine = |error: wasmtime::Error| SandboxError::Engine {
            source: error.into(),
        };

        let engine = engine::new().map_err(on_engine)?;
        let linker = linker(&engine).map_err(on_engine)?;
        let ticker =
            Ticker::start(engine.weak()).map_err(|source| SandboxError::Ticker { source })?;
        let cache = options
            .cache_dir
            .and_then(|dir| Cache::open(&dir, &engine, options.cache_bytes_max));
        Ok(Self {
            runtime: Arc::new(Runtime { engine, ticker }),
            linker,
            cache,
            compiler: options.compiler,
        })
    }

    /// Checks a component against the contract and compiles it, or takes it from the cache. None of
    /// its code runs.
    ///
    /// A component from the cache is ready within a millisecond or two; compiling takes a second or
    /// so for each MiB. Blocks, so an async caller puts it on a thread for blocking work.
    ///
    /// # Errors
    ///
    /// If the bytes are no component, do not describe themselves, import what steps are not given,
    /// do not export what they describe, or do not compile.
    pub fn load(&self, bytes: &[u8]) -> Result<Component, SandboxError> {
        self.load_of(bytes, Maker::Own)
    }

    /// As [`load`](Self::load), for a component of a stranger: it is compiled in a child process with limits.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); also if compiling takes too much, or there is no child to do it.
    pub fn load_stranger(&self, bytes: &[u8]) -> Result<Component, SandboxError> {
        self.load_of(bytes, Maker::Stranger)
    }

    fn load_of(&self, bytes: &[u8], maker: Maker) -> Result<Component, SandboxError> {
        let inspection = inspect(bytes)?;
        let refused = imports::refused(&inspection.imports);
        if !refused.is_empty() {
            return Err(SandboxError::Imports(refused));
        }
        let kind = inspection.description.kind;
        if inspection.missing_export().is_some() {
            return Err(SandboxError::Export {
                kind,
                exports: inspection.exports,
            });
        }
        let (compiled, artefact_bytes, cached) = self.compiled(bytes, &inspection, maker)?;
        let program =
            Program::link(kind, &self.linker, &compiled).map_err(|error| SandboxError::Link {
                source: error.into(),
            })?;
        Ok(Component::new(
            inspection,
            program,
            artefact_bytes,
            cached,
            Arc::clone(&self.runtime),
        ))
    }

    /// Returns the compiled component, the size of its artefact, and whether it came from the
    /// cache.
    fn compiled(
        &self,
        bytes: &[u8],
        inspection: &Inspection,
        maker: Maker,
    ) -> Result<(wasmtime::component::Component, u64, bool), SandboxError> {
        let engine = &self.runtime.engine;
        let digest = inspection.digest;
        if let Some((component, size)) = self.cache.as_ref().and_then(|c| c.load(engine, digest)) {
            return Ok((component, size, true));
        }
        let on_compile = |error: wasmtime::Error| SandboxError::Compile {
            source: error.into(),
        };
        let artefact = match (maker, &self.compiler) {
            (Maker::Own, _) => compile::compile(engine, bytes).map_err(on_compile)?,
            (Maker::Stranger, Some(compiler)) => child::compile_in(compiler, bytes)
                .map_err(|source| SandboxError::CompileInChild { source })?,
            (Maker::Stranger, None) => return Err(SandboxError::NoCompiler),
        };
        let size = artefact.len() as u64;
        if let Some(cache) = &self.cache {
            cache.store(digest, &artefact);
        }
        // SAFETY: the compiler made these bytes for this engine just now, here or in a child that is this program.
        let component = unsafe { wasmtime::component::Component::deserialize(engine, &artefact) }
            .map_err(on_compile)?;
        Ok((component, size, false))
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("is_cached", &self.cache.is_some())
            .finish_non_exhaustive()
    }
}

/// Returns everything that a step may import. `imports::SERVED` is the same list as names.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    Wasi::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Planner::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

struct Listed<'a>(&'a [RefusedImport]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, import) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}`{}`: {}", import.name, import.reason)?;
        }
        Ok(())
    }
}
