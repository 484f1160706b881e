//! A reducer without limits: no interruption, no limiter, no bound on what crosses, nothing checked that comes back.
//!
//! The sandbox has no switch for that, on purpose. So this is wasmtime by itself, set up as `host/sandbox/src/engine.rs`
//! does but for the interruption; what the component imports beyond that is not called.

use stepwell_sandbox::contract::{Batch, Failure, Field, RunInfo};
use wasmtime::component::{
    Component, ComponentNamedList, Func, Instance, Lift, Linker, Lower, ResourceAny,
};
use wasmtime::{Config, Engine, Error, OptLevel, Result, Store, StoreContextMut};

const INTERFACE: &str = "stepwell:step/reducing@0.1.0";

/// Compiled code.
pub struct Program {
    engine: Engine,
    component: Component,
}

/// An instance for one partition.
pub struct Unlimited {
    store: Store<()>,
    push: Func,
    finish: Func,
    reducer: ResourceAny,
}

impl Program {
    pub fn compile(bytes: &[u8]) -> Result<Self> {
        let mut config = Config::new();
        config
            .cranelift_opt_level(OptLevel::Speed)
            .concurrency_support(false)
            .max_wasm_stack(512 * 1024)
            .cranelift_nan_canonicalization(true)
            .wasm_relaxed_simd(false);
        let engine = Engine::new(&config)?;
        let component = Component::new(&engine, bytes)?;
        Ok(Self { engine, component })
    }

    pub fn open(&self, run: &RunInfo, input: &[Field]) -> Result<Unlimited> {
        let mut store = Store::new(&self.engine, ());
        store.set_hostcall_fuel(usize::MAX);
        let linker = self.linker()?;
        let instance = linker.instantiate(&mut store, &self.component)?;
        let open = function(&instance, &mut store, "[static]reducer.open")?;
        Ok(Unlimited {
            push: function(&instance, &mut store, "[method]reducer.push")?,
            finish: function(&instance, &mut store, "[method]reducer.finish")?,
            reducer: call(&mut store, open, (run, input))?,
            store,
        })
    }

    /// What hash tables begin with, and nothing else.
    fn linker(&self) -> Result<Linker<()>> {
        let mut linker = Linker::new(&self.engine);
        let imported = self.component.component_type();
        for (name, _) in imported.imports(&self.engine) {
            if name.starts_with("wasi:random/insecure-seed@") {
                let seed = |_: StoreContextMut<()>, ()| Ok(((1_u64, 2_u64),));
                linker.instance(name)?.func_wrap("insecure-seed", seed)?;
            }
        }
        linker.define_unknown_imports_as_traps(&self.component)?;
        Ok(linker)
    }
}

impl Unlimited {
    pub fn push(&mut self, batch: &Batch) -> Result<Option<Batch>> {
        call(&mut self.store, self.push, (self.reducer, batch, false))
    }

    pub fn finish(&mut self) -> Result<Option<Batch>> {
        call(&mut self.store, self.finish, (self.reducer,))
    }
}

fn function(instance: &Instance, store: &mut Store<()>, name: &str) -> Result<Func> {
    let interface = instance.get_export_index(&mut *store, None, INTERFACE);
    let index = instance.get_export_index(&mut *store, interface.as_ref(), name);
    let function = index.and_then(|index| instance.get_func(store, index));
    function.ok_or_else(|| Error::msg(format!("the component does not export {name}")))
}

fn call<P, R>(store: &mut Store<()>, function: Func, params: P) -> Result<R>
where
    P: ComponentNamedList + Lower,
    R: Lift + 'static,
    (std::result::Result<R, Failure>,): ComponentNamedList + Lift,
{
    let function = function.typed::<P, (std::result::Result<R, Failure>,)>(&*store)?;
    let (outcome,) = function.call(store, params)?;
    outcome.map_err(|failure| Error::msg(failure.message))
}
