//! Whole runs against a real Postgres.
//!
//! [`harness`] starts one server for all tests, with a database for each; a module a promise.

mod commands;
mod competition;
mod demo;
mod drill;
mod examples;
mod faults;
mod from;
mod harness;
mod hostile_reducers;
mod hostile_sql;
mod inputs;
mod plugins;
mod program;
mod property;
mod proxy;
mod python;
mod real;
mod reducers;
mod refresh;
mod retain;
mod run;
mod strangers;
mod verify_reducers;
mod workflows;
