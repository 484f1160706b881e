//! Loading: from bytes that nobody trusts to a component that may be called.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::cache::Folder;
use crate::compile;
use crate::compile::child::{self, ChildCompiler, ChildError};
use crate::component::{Component, Program};
use crate::describe::{DescribeError, Inspection, Kind, inspect};
use crate::engine::Compiler;
use crate::imports::{self, RefusedImport};
use crate::runtime::Runtime;

/// Loads components. One per process is enough; it may be shared between threads.
pub struct Sandbox {
    /// For components whose bytes we do not know.
    runtime: Arc<Runtime>,
    /// For our own.
    builtin: Arc<Runtime>,
    compiler: Option<ChildCompiler>,
}

/// Who made a component, and so how and where it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// We: in this process, quickly.
    Builtin,
    /// The people who run it: in this process.
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
        let folder = options
            .cache_dir
            .and_then(|dir| Folder::open(&dir, options.cache_bytes_max));
        let start = |compiler| Runtime::start(compiler, folder.as_ref()).map(Arc::new);
        let runtime = start(Compiler::Optimising)?;
        let builtin = match Compiler::BUILTIN {
            Compiler::Optimising => Arc::clone(&runtime),
            compiler @ Compiler::Baseline => start(compiler)?,
        };
        Ok(Self {
            runtime,
            builtin,
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

    /// As [`load`](Self::load), for a component that came with the host: it is compiled several times as fast, to code
    /// that runs slower.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); also if it uses what the quick compiler does not know, as SIMD on an old processor.
    pub fn load_builtin(&self, bytes: &[u8]) -> Result<Component, SandboxError> {
        self.load_of(bytes, Maker::Builtin)
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
        let runtime = match maker {
            Maker::Builtin => &self.builtin,
            Maker::Own | Maker::Stranger => &self.runtime,
        };
        let (compiled, artefact_bytes, cached) =
            self.compiled(runtime, bytes, &inspection, maker)?;
        let program = Program::link(kind, &runtime.linker, &compiled).map_err(|error| {
            SandboxError::Link {
                source: error.into(),
            }
        })?;
        Ok(Component::new(
            inspection,
            program,
            artefact_bytes,
            cached,
            Arc::clone(runtime),
        ))
    }

    /// Returns the compiled component, the size of its artefact, and whether it came from the
    /// cache.
    fn compiled(
        &self,
        Runtime { engine, cache, .. }: &Runtime,
        bytes: &[u8],
        inspection: &Inspection,
        maker: Maker,
    ) -> Result<(wasmtime::component::Component, u64, bool), SandboxError> {
        let digest = inspection.digest;
        if let Some((component, size)) = cache.as_ref().and_then(|c| c.load(engine, digest)) {
            return Ok((component, size, true));
        }
        let on_compile = |error: wasmtime::Error| SandboxError::Compile {
            source: error.into(),
        };
        let artefact = match (maker, &self.compiler) {
            (Maker::Builtin | Maker::Own, _) => {
                compile::compile(engine, bytes).map_err(on_compile)?
            }
            (Maker::Stranger, Some(compiler)) => child::compile_in(compiler, bytes)
                .map_err(|source| SandboxError::CompileInChild { source })?,
            (Maker::Stranger, None) => return Err(SandboxError::NoCompiler),
        };
        let size = artefact.len() as u64;
        if let Some(cache) = cache {
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
            .field("is_cached", &self.runtime.cache.is_some())
            .finish_non_exhaustive()
    }
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
