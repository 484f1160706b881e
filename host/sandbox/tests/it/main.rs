//! Loads and calls real components, most of them hostile.
#![expect(
    clippy::print_stderr,
    reason = "a failed build of the guests is shown as cargo wrote it"
)]

mod answers;
mod bounds;
mod crafted;
mod guests;
mod loading;
mod reducing;
