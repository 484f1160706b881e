//! Whole files in, types or messages out.

mod corpus;
mod good;
mod kinds;
mod schema;
