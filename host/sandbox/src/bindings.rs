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

/// The world `reducer`; the types that it shares with the other one are that one's.
#[expect(
    missing_docs,
    reason = "generated; the WIT files carry the documentation"
)]
pub mod reducer {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "reducer",
        imports: { default: trappable },
        with: {
            "stepwell:step/columnar": super::planner::stepwell::step::columnar,
            "stepwell:step/log": super::planner::stepwell::step::log,
            "stepwell:step/plans": super::planner::stepwell::step::plans,
            "stepwell:step/types": super::planner::stepwell::step::types,
        },
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
