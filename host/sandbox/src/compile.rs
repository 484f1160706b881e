//! The one place where a plugin's bytes meet the compiler.
//!
//! Compiling is the part of the sandbox that wasmtime does not bound in time or memory. It happens
//! in this process today; to move untrusted bytes into a child process with limits, [`compile`] is
//! the function to replace: bytes in, artefact out, and nothing else of the crate sees the
//! compiler.

use wasmtime::Engine;

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
