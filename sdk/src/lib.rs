//! Writes steps for Stepwell.
//!
//! A step is a WebAssembly component that is asked and answers; it never holds a connection. A **planner** answers with
//! SQL that the host checks, shows and runs. This is a whole one, a crate with `crate-type = ["cdylib", "rlib"]` built
//! for `wasm32-wasip2`:
//!
//! ```
//! use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop};
//! use stepwell_sdk::settings::{ScratchInput, ScratchOutput};
//! use stepwell_sdk::{Settings, export_planner, sql};
//!
//! #[derive(serde::Deserialize, Settings)]
//! #[serde(deny_unknown_fields, rename_all = "kebab-case")]
//! pub struct With {
//!     /// Rows to count.
//!     from: ScratchInput,
//!     /// Takes the count.
//!     into: ScratchOutput,
//! }
//!
//! fn plan(run: &Run, with: &With, _ask: &mut Ask<'_>) -> Result<Plan, Stop> {
//!     let (from, into) = (run.scratch(with.from.alias()), run.scratch(with.into.alias()));
//!     let create = sql!("CREATE TABLE {into} AS\nSELECT count(*) AS n\nFROM {from}", into = into, from = from);
//!     Ok(Plan::new().run(Statement::new("count", create).reads(&from).writes(&into)))
//! }
//!
//! export_planner! {
//!     name: "count-rows",
//!     summary: "Counts the rows of a scratch table",
//!     settings: With,
//!     plan: plan,
//! }
//! # fn main() {}
//! ```
//!
//! Reading order: [`planner`] (what a step is given, what it answers), [`settings`] (the types of its `with:`), [`mod@sql`]
//! and [`sql!`] (statements from checked pieces), [`catalog`] (questions about tables), [`testing`] (golden SQL under
//! `cargo test`, without a host).
//!
//! What it does not do: give a step a connection, a clock, a file or the network. None of these crosses the boundary.

extern crate self as stepwell_sdk;

pub mod bindings;
pub mod catalog;
pub mod incremental;
pub mod planner;
pub mod rows;
pub mod schema;
pub mod scratch;
pub mod settings;
pub mod source;
pub mod sql;
pub mod testing;

pub use bindings::stepwell::step::columnar;
pub use bindings::stepwell::step::log;
pub use bindings::stepwell::step::plans::{Answer, Question};
pub use bindings::stepwell::step::types::{Failure, Param};
pub use schema::Settings;
pub use stepwell_sdk_macros::Settings;
#[doc(hidden)]
pub use stepwell_sdk_macros::planner_bindings;
#[doc(hidden)]
pub use wit_bindgen;

/// Version of the contract that this SDK speaks.
pub const CONTRACT: &str = "0.1.0";

/// Exports a planner from the crate that calls it, and writes its description.
///
/// `name`, `summary`, `settings` and `plan` are required and stand in this order; then may follow `gate: true` for a step
/// that decides whether there is a run at all, and `reads:`, `writes:` with relations that the step uses without a setting
/// naming them: `events` (and contexts), `manifest`, `scratch` (all scratch tables of the playbook).
///
/// Where the target is not WebAssembly only the description is made, as `DESCRIPTION`, so that the crate can be tested
/// natively.
#[macro_export]
macro_rules! export_planner {
    (
        name: $name:literal,
        summary: $summary:literal,
        settings: $settings:ty,
        plan: $plan:path
        $(, gate: $gate:literal)?
        $(, reads: [$($reads:literal),*])?
        $(, writes: [$($writes:literal),*])?
        $(,)?
    ) => {
        /// What the host reads about this step without running it.
        pub const DESCRIPTION: $crate::schema::Json = $crate::schema::Json::new()
            .text("{\"name\":").string($name)
            .text(",\"version\":").string(env!("CARGO_PKG_VERSION"))
            .text(",\"kind\":\"planner\",\"contract\":").string($crate::CONTRACT)
            .text(",\"summary\":").string($summary)
            .text(concat!(",\"gate\":", $crate::__or!($($gate)?, false)))
            .text(",\"reads\":").strings(&[$($($reads),*)?])
            .text(",\"writes\":").strings(&[$($($writes),*)?])
            .text(",\"settings\":").json(&<$settings as $crate::Settings>::SCHEMA)
            .text("}");

        #[cfg(target_family = "wasm")]
        const _: () = {
            #[allow(warnings, reason = "generated code")]
            mod generated {
                $crate::planner_bindings!();

                pub struct Exported;
                export!(Exported with_types_in self);
            }

            impl generated::exports::stepwell::step::planning::Guest for generated::Exported {
                fn next(
                    run: $crate::bindings::stepwell::step::types::RunInfo,
                    answers: Vec<$crate::Answer>,
                ) -> Result<$crate::bindings::stepwell::step::plans::Reply, $crate::Failure> {
                    $crate::__next::<$settings>(run, &answers, $plan)
                }
            }

            #[unsafe(link_section = "stepwell:step")]
            #[used]
            static SECTION: [u8; DESCRIPTION.len()] = DESCRIPTION.to_array();
        };
    };
}

/// The first of its arguments that is there.
#[doc(hidden)]
#[macro_export]
macro_rules! __or {
    (, $default:literal) => {
        $default
    };
    ($given:literal, $default:literal) => {
        $given
    };
}

/// One call across the boundary: reads the settings, runs the planner's function, sorts its outcome.
#[doc(hidden)]
pub fn __next<S: serde::de::DeserializeOwned>(
    run: bindings::stepwell::step::types::RunInfo,
    answers: &[Answer],
    plan: fn(&planner::Run, &S, &mut planner::Ask<'_>) -> Result<planner::Plan, planner::Stop>,
) -> Result<bindings::stepwell::step::plans::Reply, Failure> {
    use bindings::stepwell::step::plans::Reply;

    let settings = serde_json::from_str(&run.settings_json)
        .map_err(|error| Failure::new("settings", error.to_string()))?;
    let run = planner::Run::new(run)?;
    match plan(&run, &settings, &mut planner::Ask::new(answers)) {
        Ok(plan) => Ok(Reply::Ready(plan.into_contract())),
        Err(planner::Stop::Unanswered(questions)) => Ok(Reply::Ask(questions)),
        Err(planner::Stop::Failed(failure)) => Err(failure),
    }
}
