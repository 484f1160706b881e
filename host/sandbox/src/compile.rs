//! The one place where a plugin's bytes meet the compiler: bytes in, artefact out.
//!
//! Compiling is the part of the sandbox that wasmtime does not bound in time or memory. Components of our own are
//! compiled in this process; a stranger's in a child, see [`child`].

use wasmtime::Engine;

pub(crate) mod child;

/// Returns the artefact for this engine, as [`wasmtime::component::Component::deserialize`] takes
/// it.
///
/// # Errors
///
/// If the bytes are no valid component, or use a feature of WebAssembly that the engine has
/// switched off.
pub(crate) fn compile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
    engine.precompile_component(bytes)
}
