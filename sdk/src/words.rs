//! Words of notes and errors.

/// Writes a number of things: `1 batch`, `12 batches`.
///
/// ```
/// use stepwell_sdk::words::count;
///
/// assert_eq!(count(1, "event is", "events are"), "1 event is");
/// assert_eq!(count(0, "event is", "events are"), "0 events are");
/// ```
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
