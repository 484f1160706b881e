//! Wording that messages share.

/// Returns the candidate closest to `word`, if one is close enough to be a misspelling.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = word.chars().count();
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&plain(word), &plain(candidate));
            (distance, candidate)
        })
        .filter(|&(distance, candidate)| {
            let longest = length.max(candidate.chars().count());
            distance <= (longest / 3).max(1) && distance < longest
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Spelling that people mix up: case, and dash for underscore.
fn plain(word: &str) -> String {
    word.to_lowercase().replace('_', "-")
}

/// Returns `did you mean "x"?` or, with no close candidate, `known <what>: a, b, c`.
pub(crate) fn suggest<'a>(
    word: &str,
    what: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    if let Some(candidate) = closest(word, candidates.clone()) {
        return format!("did you mean \"{candidate}\"?");
    }
    let names: Vec<&str> = candidates.into_iter().collect();
    if names.is_empty() {
        format!("there are no {what}")
    } else {
        format!("{what}: {}", listed(&names))
    }
}

/// Returns `a, b, c`, cut after 20 names.
pub(crate) fn listed(names: &[&str]) -> String {
    const SHOWN_MAX: usize = 20;
    let mut text = names[..names.len().min(SHOWN_MAX)].join(", ");
    if names.len() > SHOWN_MAX {
        text.push_str(&format!(", and {} more", names.len() - SHOWN_MAX));
    }
    text
}

/// Returns `"text"` on one line, cut at 60 characters.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    let mut shown: String = text
        .chars()
        .take(SHOWN_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().count() > SHOWN_MAX {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
        let known = ["lookback", "event-id", "events"];
        assert_eq!(closest("lookbak", known), Some("lookback"));
        assert_eq!(closest("event_id", known), Some("event-id"));
        assert_eq!(closest("event", known), Some("events"));
        assert_eq!(closest("warehouse", known), None);
        assert_eq!(closest("x", ["y"]), None);
        assert_eq!(suggest("zzz", "keys here", ["a", "b"]), "keys here: a, b");
    }

    #[test]
    fn quotes_on_one_line() {
        assert_eq!(quoted("a\nb"), "\"a b\"");
        assert_eq!(quoted(&"é".repeat(70)).chars().count(), 63);
    }
}
