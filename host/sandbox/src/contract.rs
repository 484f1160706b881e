//! The step contract as plain types: what goes to a plugin and what comes back. Generated from
//! `sdk/wit/`, where each field is documented.

pub use crate::bindings::planner::stepwell::step::columnar::{
    Batch, Column, Field, Layout, Values, Varlen,
};
pub use crate::bindings::planner::stepwell::step::plans::{
    Answer, Plan, Publication, Question, Reply, Statement,
};
pub use crate::bindings::planner::stepwell::step::types::{Failure, Param, Relation, RunInfo};
pub use crate::bindings::reducer::stepwell::step::shapes::{Shape, ShapeReply};

pub use crate::version::CONTRACT;
