//! Writes steps for Stepwell.
//!
//! A step is a WebAssembly component that is asked and answers; it never holds a connection. A **planner** answers with
//! SQL that the host checks, shows and runs. A **reducer** names rows and folds them into others: for what SQL cannot say.
//!
//! # From nothing to a run
//!
//! ```console
//! $ stepwell plugin new count-rows --kind planner    # or: --kind reducer
//! $ cd count-rows
//! $ cargo test                                       # natively, without a database
//! $ stepwell plugin build                            # target/plugins/count-rows.wasm
//! $ stepwell plugin test                             # the component, on rows in and rows expected
//! $ stepwell run workflow.yaml
//! ```
//!
//! What `plugin new` writes compiles, passes its tests and runs as it stands; its README goes through it file by file.
//! The rest of this page is what you change then.
//!
//! # A planner
//!
//! One function from settings to SQL. This is a whole one, the `src/lib.rs` of a crate with
//! `crate-type = ["cdylib", "rlib"]`: the first becomes the component, the second is what `cargo test` uses.
//!
//! ```
//! use stepwell_sdk::planner::{Ask, Plan, Run, Stop};
//! use stepwell_sdk::settings::{ScratchInput, ScratchOutput};
//! use stepwell_sdk::{Settings, export_planner, scratch, sql};
//!
//! /// The `with:` of the step. The types say which tables it touches: `stepwell check` finds one that nobody fills, and
//! /// the step can name no other.
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
//!     let select = sql!("SELECT count(*) AS n\nFROM {from}", from = from);
//!     Ok(Plan::new().run_all(scratch::fill(run, &into, "count", &select, [&from])))
//! }
//!
//! export_planner! {
//!     name: "count-rows",
//!     summary: "Counts the rows of a scratch table",
//!     settings: With,
//!     plan: plan,
//! }
//! # fn main() {
//!
//! // Its test: what it says for these settings.
//! use stepwell_sdk::testing::Conversation;
//!
//! let text = Conversation::new(plan, r#"{ "from": "sessions", "into": "counted" }"#).golden();
//! assert!(text.contains("FROM scratch.sessions__sessions;"), "{text}");
//! # }
//! ```
//!
//! The workflow names the component, and uses the step like one that is built in:
//!
//! ```yaml
//! plugins:
//!   count-rows: { component: target/plugins/count-rows.wasm, trust: own }
//! steps:
//!   - id: counted
//!     uses: count-rows
//!     with: { from: sessions, into: counted }
//! ```
//!
//! `stepwell check workflow.yaml` holds `with:` against the settings, `stepwell plan` shows the statements, `stepwell run`
//! runs them. A step that computes the rows of this run's ids reads their events with
//! [`Ids::events`](incremental::Ids::events), as the template does, and so keeps what the built-in steps promise: after
//! any sequence of batches, its table equals a rebuild.
//!
//! # A reducer
//!
//! A struct with the state of one group: `fold` takes a row, `finish` gives rows back.
//!
//! ```
//! use std::rc::Rc;
//!
//! use stepwell_sdk::incremental::EventRows;
//! use stepwell_sdk::planner::{Ask, Run, Stop};
//! use stepwell_sdk::reducer::{Out, Reducer, Shape};
//! use stepwell_sdk::settings::{Expr, ScratchInput, ScratchOutput};
//! use stepwell_sdk::values::Timestamp;
//! use stepwell_sdk::{Failure, Row, Settings, export_reducer};
//!
//! #[derive(serde::Deserialize, Settings)]
//! #[serde(deny_unknown_fields, rename_all = "kebab-case")]
//! pub struct With {
//!     /// The sessions whose rows are computed, from `collect-ids`.
//!     ids: ScratchInput,
//!     /// Takes the rows.
//!     into: ScratchOutput,
//!     /// When an event happened.
//!     time: Expr,
//! }
//!
//! /// A row that comes: `key` groups, `order` sorts within a group.
//! #[derive(Row)]
//! pub struct Event<'a> {
//!     #[row(key)]
//!     session_id: &'a str,
//!     #[row(order)]
//!     at: Timestamp,
//! }
//!
//! /// A row that goes.
//! #[derive(Row)]
//! pub struct Gap<'a> {
//!     session_id: &'a str,
//!     longest_gap_us: i64,
//! }
//!
//! fn shape(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Shape, Stop> {
//!     let events = EventRows::of(run, &with.ids)?.key(&["session_id"])?;
//!     Ok(Shape::of::<Session>(events.column("at", &with.time).select(ask)?, &with.into))
//! }
//!
//! pub struct Session {
//!     last: Option<Timestamp>,
//!     longest_us: i64,
//! }
//!
//! impl Reducer for Session {
//!     type With = With;
//!     type Input = Event<'static>;
//!     type Output = Gap<'static>;
//!
//!     fn begin(_: &Rc<With>) -> Self {
//!         Self { last: None, longest_us: 0 }
//!     }
//!
//!     fn fold(&mut self, event: Event<'_>, _: &mut Out<Self::Output>) -> Result<(), Failure> {
//!         let gap_us = self.last.map_or(0, |last| event.at.us_since(last));
//!         self.longest_us = self.longest_us.max(gap_us);
//!         self.last = Some(event.at);
//!         Ok(())
//!     }
//!
//!     fn finish(self, last: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
//!         out.push(Gap { session_id: last.session_id, longest_gap_us: self.longest_us });
//!         Ok(())
//!     }
//! }
//!
//! export_reducer! {
//!     name: "gaps",
//!     summary: "The longest time without an event in each session",
//!     settings: With,
//!     shape: shape,
//!     fold: Session,
//!     reads: ["events", "manifest"],
//! }
//! # fn main() {
//!
//! // Its test: rows in, rows out, however the host cuts them.
//! use stepwell_sdk::testing::Reduction;
//!
//! let with = r#"{ "ids": "ids", "into": "gaps", "time": "derived_tstamp" }"#;
//! let reduction = Reduction::of::<Session>(with).table(
//!     "session_id | at
//!      a          | 2024-01-01 10:00:00
//!      a          | 2024-01-01 10:00:07",
//! );
//! reduction.check_table(
//!     "session_id | longest_gap_us
//!      a          | 7000000",
//! );
//! reduction.check_invariance(1);
//! # }
//! ```
//!
//! In the workflow nothing tells it from a planner. To send rows out and back costs about as much as a GROUP BY over them,
//! so what SQL says well, say in SQL.
//!
//! # Where to read on
//!
//! [`planner`] (what a step is given, what it answers), [`settings`] (the types of its `with:`), [`mod@sql`] and [`sql!`]
//! (statements from checked pieces), [`incremental`] (the events of this run's ids), [`catalog`] (questions about tables),
//! [`reducer`] and [`batch`] (rows in, rows out), [`testing`] (all of it under `cargo test`, without a host), [`request`]
//! (verify, replay, lookback: what only steps that keep the manifest need).
//!
//! A failure that can name the setting at fault does: [`Failure::with_setting`] puts it under the user's own line in the
//! workflow file.
//!
//! What the SDK does not do: give a step a connection, a clock, a file or the network. None of these crosses the boundary.

extern crate self as stepwell_sdk;

pub mod batch;
pub mod bindings;
pub mod catalog;
pub mod incremental;
#[cfg(any(test, target_family = "wasm"))]
mod memory;
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
pub mod words;

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
/// naming them: `events` (and contexts, and the batches that ids come from), `manifest`, `scratch` (all scratch tables of
/// the playbook).
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
/// the SELECT uses without a setting naming them: `events` (and contexts, and the batches that ids come from), `manifest`.
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
