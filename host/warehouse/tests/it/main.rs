//! The crate against a real server, which `LocalServer` runs in a temporary directory.

mod columns;
mod copy;
mod harness;
mod local;
mod login;
mod session;
mod tls;
mod types;
