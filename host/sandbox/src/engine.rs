//! How plugins are compiled and run, the same for all of them.

use wasmtime::{Config, Engine, OptLevel, Strategy, WasmBacktraceDetails};

/// Native stack of a plugin's call, in bytes; deeper recursion traps.
const STACK_BYTES: usize = 512 * 1024;

/// Returns an engine with what Rust's compiler emits switched on, and little else: every further
/// feature of WebAssembly is code of the compiler that a hostile plugin could reach.
pub(crate) fn new() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        // Without it the bits of a NaN depend on the processor, and the same plugin could answer
        // differently elsewhere.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .shared_memory(false)
        // Otherwise an environment variable decides what a backtrace holds.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    Engine::new(&config)
}
