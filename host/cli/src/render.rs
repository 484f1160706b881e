//! What people and programs read, as text. Everything here is pure: it neither prints nor asks
//! whether there is a terminal.

pub(crate) mod failure;
pub(crate) mod json;
pub(crate) mod lookback;
pub(crate) mod message;
pub(crate) mod plan;
pub(crate) mod problems;
pub(crate) mod report;
pub(crate) mod table;
pub(crate) mod verify;
pub(crate) mod words;
