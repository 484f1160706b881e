//! The built-in steps as components, embedded in the binary.
//!
//! ```
//! let names: Vec<_> = stepwell_builtin::STEPS.iter().map(|(name, _)| *name).collect();
//! assert!(names.contains(&"aggregate"));
//! ```
//!
//! They have no privilege: the host loads them as it loads a component of yours. What this crate does not know is what
//! they do.

/// Name and component of each built-in step, sorted by name.
pub const STEPS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/steps.rs"));
