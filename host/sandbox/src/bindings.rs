//! Generated from the WIT files; nothing here is written by hand, and nothing outside this crate
//! sees it but the plain types that [`crate::contract`] names.

/// The world `planner` of the step contract.
#[expect(
    missing_docs,
    reason = "generated; the WIT files carry the documentation"
)]
pub mod planner {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "planner",
        imports: { default: trappable },
        additional_derives: [PartialEq],
    });
}

/// The part of WASI that a step may import.
pub mod wasi {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "wasi",
        imports: { default: trappable },
    });
}
