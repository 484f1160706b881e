//! What all components have in common that one compiler translates.

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use crate::bindings::{planner::Planner, wasi::Wasi};
use crate::cache::{Cache, Folder};
use crate::engine::{self, Compiler};
use crate::sandbox::SandboxError;
use crate::state::State;
use crate::ticker::Ticker;

/// An engine, what its components may import, and what keeps running while one of them is in use.
pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) cache: Option<Cache>,
    pub(crate) ticker: Ticker,
}

impl Runtime {
    pub(crate) fn start(compiler: Compiler, folder: Option<&Folder>) -> Result<Self, SandboxError> {
        let on_engine = |error: wasmtime::Error| SandboxError::Engine {
            source: error.into(),
        };

        let engine = engine::new(compiler).map_err(on_engine)?;
        let linker = linker(&engine).map_err(on_engine)?;
        let ticker =
            Ticker::start(engine.weak()).map_err(|source| SandboxError::Ticker { source })?;
        let cache = folder.map(|folder| Cache::new(folder.clone(), &engine));
        Ok(Self {
            engine,
            linker,
            cache,
            ticker,
        })
    }
}

/// Returns everything that a step may import. `imports::SERVED` is the same list as names.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    Wasi::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Planner::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}
