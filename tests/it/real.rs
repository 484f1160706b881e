//! Real events.
