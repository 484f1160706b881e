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
//! and [`sql!`] (statements from checked pieces), [`catalog`] (questions about tables), [`request`] (verify, replay,
//! lookback), [`testing`] (golden SQL under
//! `cargo test`, without a host).
//!
//! What it does not do: give a step a connection, a clock, a file or the network. None of these crosses the boundary.

extern crate self as stepwell_sdk;

pub mod batch;
pub mod bindings;
pub mod catalog;
pub mod incremental;
pub mod planner;
pub mod reducer;
pub mod request;
pub mod rows;
pub mod schema;
pub mod scratch;
pub mod settings;
pub mod source;
pub mod sql;
pub mod testing;
pub mod values;

pub use batch::Row;
pub use bindings::stepwell::step::columnar;
pub use bindings::stepwell::step::log;
pub use bindings::stepwell::step::plans::{Answer, Question};
pub use bindings::stepwell::step::types::{Failure, Param};
pub use schema::Settings;
pub use stepwell_sdk_macros::{Row, Settings};
#[doc(hidden)]
pub use stepwell_sdk_macros::{planner_bindings, reducer_bindings};
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
        $crate::__description! {
            "planner", $name, $summary, $settings,
            gate: [$($gate)?], reads: [$($($reads),*)?], writes: [$($($writes),*)?]
        }

        // Natively too, so that a mistake shows in the tests.
        const _: $crate::planner::Asked<$settings, $crate::planner::Plan> = $plan;

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
                    Ok($crate::__next::<$settings, _>(run, &answers, $plan)?.into())
                }
            }
        };
    };
}

/// Exports a reducer from the crate that calls it, and writes its description.
///
/// `name`, `summary`, `settings` and `shape` are as for [`export_planner!`], but that `shape` answers with a
/// [`Shape`](reducer::Shape). `fold` is a type that implements [`Reducer`](reducer::Reducer); one that implements
/// [`BatchReducer`](reducer::BatchReducer) is named with `batches` instead. Then may follow `reads:`, with relations that
/// the SELECT uses without a setting naming them: `events` (and contexts), `manifest`.
#[macro_export]
macro_rules! export_reducer {
    (
        name: $name:literal,
        summary: $summary:literal,
        settings: $settings:ty,
        shape: $shape:path,
        fold: $reducer:ty
        $(, reads: [$($reads:literal),*])?
        $(,)?
    ) => {
        $crate::export_reducer! {
            name: $name,
            summary: $summary,
            settings: $settings,
            shape: $shape,
            batches: $crate::reducer::Folding<$reducer>
            $(, reads: [$($reads),*])?
        }
    };
    (
        name: $name:literal,
        summary: $summary:literal,
        settings: $settings:ty,
        shape: $shape:path,
        batches: $reducer:ty
        $(, reads: [$($reads:literal),*])?
        $(,)?
    ) => {
        $crate::__description! {
            "reducer", $name, $summary, $settings, gate: [], reads: [$($($reads),*)?], writes: []
        }

        // Natively too, so that a mistake shows in the tests.
        const _: $crate::planner::Asked<$settings, $crate::reducer::Shape> = $shape;
        const _: () = $crate::__is_reducer::<$settings, $reducer>();

        #[cfg(target_family = "wasm")]
        const _: () = {
            #[allow(warnings, reason = "generated code")]
            mod generated {
                $crate::reducer_bindings!();

                pub struct Exported;
                export!(Exported with_types_in self);
            }

            impl generated::exports::stepwell::step::reducing::Guest for generated::Exported {
                type Reducer = Instance;

                fn shape_of(
                    run: $crate::bindings::stepwell::step::types::RunInfo,
                    answers: Vec<$crate::Answer>,
                ) -> Result<$crate::bindings::stepwell::step::shapes::ShapeReply, $crate::Failure> {
                    Ok($crate::__next::<$settings, _>(run, &answers, $shape)?.into())
                }
            }

            pub struct Instance(std::cell::RefCell<$reducer>);

            impl generated::exports::stepwell::step::reducing::GuestReducer for Instance {
                fn open(
                    run: $crate::bindings::stepwell::step::types::RunInfo,
                    input: Vec<$crate::columnar::Field>,
                ) -> Result<generated::exports::stepwell::step::reducing::Reducer, $crate::Failure> {
                    let reducer = $crate::reducer::__open::<$reducer>(run, input)?;
                    let instance = Self(std::cell::RefCell::new(reducer));
                    Ok(generated::exports::stepwell::step::reducing::Reducer::new(instance))
                }

                fn push(
                    &self,
                    input: $crate::columnar::Batch,
                    continues: bool,
                ) -> Result<Option<$crate::columnar::Batch>, $crate::Failure> {
                    $crate::reducer::BatchReducer::push(&mut *self.0.borrow_mut(), input, continues)
                }

                fn finish(&self) -> Result<Option<$crate::columnar::Batch>, $crate::Failure> {
                    $crate::reducer::BatchReducer::finish(&mut *self.0.borrow_mut())
                }
            }
        };
    };
}

/// Writes what the host reads about a step without running it.
#[doc(hidden)]
#[macro_export]
macro_rules! __description {
    (
        $kind:literal, $name:literal, $summary:literal, $settings:ty,
        gate: [$($gate:literal)?], reads: [$($reads:literal),*], writes: [$($writes:literal),*]
    ) => {
        /// What the host reads about this step without running it.
        pub const DESCRIPTION: $crate::schema::Json = $crate::schema::Json::new()
            .text("{\"name\":").string($name)
            .text(",\"version\":").string(env!("CARGO_PKG_VERSION"))
            .text(concat!(",\"kind\":\"", $kind, "\",\"contract\":")).string($crate::CONTRACT)
            .text(",\"summary\":").string($summary)
            .text(concat!(",\"gate\":", $crate::__or!($($gate)?, false)))
            .text(",\"reads\":").strings(&[$($reads),*])
            .text(",\"writes\":").strings(&[$($writes),*])
            .text(",\"settings\":").json(&<$settings as $crate::Settings>::SCHEMA)
            .text("}");

        #[cfg(target_family = "wasm")]
        const _: () = {
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

/// Compiles if `B` is a reducer with the settings `S`.
#[doc(hidden)]
pub const fn __is_reducer<S, B: reducer::BatchReducer<With = S>>() {}

/// One call across the boundary: reads the settings, runs the step's function, sorts its outcome.
#[doc(hidden)]
pub fn __next<S: serde::de::DeserializeOwned, P>(
    run: bindings::stepwell::step::types::RunInfo,
    answers: &[Answer],
    function: planner::Asked<S, P>,
) -> Result<planner::Outcome<P>, Failure> {
    let settings = settings::read(&run.settings_json)?;
    let run = planner::Run::new(run)?;
    match function(&run, &settings, &mut planner::Ask::new(answers)) {
        Ok(ready) => Ok(planner::Outcome::Ready(ready)),
        Err(planner::Stop::Unanswered(questions)) => Ok(planner::Outcome::Ask(questions)),
        Err(planner::Stop::Failed(failure)) => Err(failure),
    }
}
