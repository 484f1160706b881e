//! How plugins are compiled and run, the same for all of them but for who compiles.

use wasmtime::{Config, Engine, OptLevel, Strategy, WasmBacktraceDetails};

/// Native stack of a plugin's call, in bytes; deeper recursion traps.
const STACK_BYTES: usize = 512 * 1024;

/// Which of wasmtime's compilers translates a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Cranelift, which optimises: for everything whose bytes we do not know.
    Optimising,
    /// Winch, which reads a function once and emits as it goes: a sixth of the time for code that runs slower. It takes
    /// less of WebAssembly and does not make the bits of a NaN the same everywhere, so it is for our own steps alone.
    Baseline,
}

impl Compiler {
    /// The one for our own steps, which answer within milliseconds and wait for their compiler longer than for anything.
    ///
    /// Winch is of wasmtime's first tier on x86-64 and of a lower one elsewhere.
    /// Source: <https://docs.wasmtime.dev/stability-tiers.html>.
    pub(crate) const BUILTIN: Self = if cfg!(target_arch = "x86_64") {
        Self::Baseline
    } else {
        Self::Optimising
    };
}

/// Returns an engine with what Rust's compiler emits switched on, and little else: every further
/// feature of WebAssembly is code of the compiler that a hostile plugin could reach.
pub(crate) fn new(compiler: Compiler) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    match compiler {
        // Without it the bits of a NaN depend on the processor, and the same plugin could answer
        // differently elsewhere.
        Compiler::Optimising => config
            .strategy(Strategy::Cranelift)
            .cranelift_opt_level(OptLevel::Speed)
            .cranelift_nan_canonicalization(true),
        Compiler::Baseline => config.strategy(Strategy::Winch),
    };
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .shared_memory(false)
        // Otherwise an environment variable decides what a backtrace holds.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    Engine::new(&config)
}
