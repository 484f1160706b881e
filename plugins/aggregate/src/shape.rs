//! Which columns of the events a body needs.

use stepwell_sdk::Failure;
use stepwell_sdk::incremental::{Ids, Needed, whole_row};
use stepwell_sdk::source::Source;

use crate::{Body, With};

/// Returns what a body, with the rest of the step's settings, needs of the events.
pub fn needed(body: &Body<'_>, with: &With, ids: &Ids, source: &Source) -> Result<Needed, Failure> {
    let mut needed = Needed::default();
    match body {
        Body::Columns(columns) => columns
            .0
            .iter()
            .for_each(|(_, expr)| needed.add(expr.as_str())),
        Body::Query(query) => {
            needed.add(&query.text);
            let aliases = aliases(&query.text);
            if aliases.iter().any(|alias| whole_row(&query.text, alias)) {
                needed.add_all();
            }
        }
    }
    for expression in ids.expressions()? {
        needed.add(expression.as_str());
    }
    source
        .event_id
        .iter()
        .for_each(|name| needed.add_column(name));
    with.dedupe
        .iter()
        .for_each(|dedupe| needed.add_column(&dedupe.by));
    Ok(needed)
}

/// The words that stand for the events in a query: `ev` in `FROM {{ events }} AS ev`.
fn aliases(sql: &str) -> Vec<String> {
    let Ok(tokens) = stepwell_sdk::sql::lexer::tokens(sql) else {
        return Vec::new();
    };
    let words: Vec<_> = tokens.iter().map(|token| token.text).collect();
    let alias = |at: usize| match words.get(at) {
        Some(word) if word.eq_ignore_ascii_case("as") => tokens.get(at + 1)?.ident(),
        _ => tokens.get(at)?.ident(),
    };
    let braces = words
        .windows(5)
        .enumerate()
        .filter(|(_, five)| **five == ["{", "{", "events", "}", "}"]);
    braces.filter_map(|(at, _)| alias(at + 5)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_as_a_whole_is_found_under_any_alias() {
        let query =
            "SELECT to_jsonb(ev) FROM {{ events }} AS ev JOIN {{events}} two ON ev.a = two.b";
        assert_eq!(aliases(query), ["ev", "two"]);
        assert!(whole_row(query, "ev"));
        assert!(!whole_row(query, "two"));
    }
}
