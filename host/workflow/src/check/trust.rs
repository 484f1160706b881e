//! The `trust:` block: whose signatures count, and which plugins need one.

use crate::fields::{Fields, key, list, mismatch, text};
use crate::problem::Problems;
use crate::tree::Entry;
use crate::words::{quoted, suggest};
use crate::workflow::{Require, TrustPolicy};

/// Each kind of requirement by its word.
const REQUIRE: [(&str, Require); 3] = [
    ("nothing", Require::Nothing),
    ("third-party", Require::ThirdParty),
    ("all", Require::All),
];

pub(super) fn check(entry: Option<&Entry>, problems: &mut Problems) -> TrustPolicy {
    match entry.and_then(|entry| Fields::of(entry, problems)) {
        Some(fields) => policy(fields, problems),
        None => TrustPolicy::default(),
    }
}

/// Reads a policy. One that is wrong in part requires no less than one that is right: the problems
/// keep it from being used.
pub(super) fn policy(mut fields: Fields<'_>, problems: &mut Problems) -> TrustPolicy {
    let keys = fields.take("keys");
    let require = fields.take("require");
    fields.done(problems);
    let mut policy = TrustPolicy::default();
    if let Some(entry) = keys {
        let expected = "a public key, `ed25519:` and 64 lower-case hex digits";
        for item in list(entry, "a list of public keys", problems).unwrap_or_default() {
            let Some(written) = text(item, &key(entry), expected, problems) else {
                continue;
            };
            match written.parse() {
                Ok(found) if !policy.keys.contains(&found) => policy.keys.push(found),
                Ok(_) => {}
                Err(_) => mismatch(item, &key(entry), expected, problems),
            }
        }
        // Keys that nothing needs would be a block that looks like protection and is none.
        policy.require = Require::ThirdParty;
    }
    if let Some(entry) = require {
        let words = REQUIRE.map(|(word, _)| word);
        let expected = "`third-party`, `all` or `nothing`";
        if let Some(word) = text(&entry.value, &key(entry), expected, problems) {
            match REQUIRE.iter().find(|(known, _)| *known == word) {
                Some((_, require)) => policy.require = *require,
                None => {
                    let message = format!(
                        "{}: expected {expected}, found {}",
                        key(entry),
                        quoted(word)
                    );
                    problems.error_help(entry.value.span, message, suggest(word, "words", words));
                }
            }
        }
    }
    policy
}
