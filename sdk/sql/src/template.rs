//! SQL files with names of relations in double braces: `FROM {{ events }} AS e`.
//!
//! A placeholder stands for a relation that the workflow knows and for nothing else: no values, no conditions. What is put
//! in its place is a quoted name, so a template cannot be broken out of.

use std::fmt::Write;

/// One `{{ name }}` and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder<'a> {
    /// The word between the braces.
    pub name: &'a str,
    /// Byte offset of the opening braces.
    pub start: usize,
    /// Byte offset just after the closing braces.
    pub end: usize,
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Braces that open and never close.
    #[error("\"{{{{\" on line {line} has no \"}}}}\" after it")]
    Open {
        /// Line of the braces, from 1.
        line: usize,
    },
    /// A placeholder that names nothing known.
    #[error("\"{{{{ {name} }}}}\" on line {line} is no table of this step")]
    Unknown {
        /// The word between the braces.
        name: String,
        /// Its line, from 1.
        line: usize,
    },
}

/// Returns the placeholders of `text` in their order.
///
/// # Errors
///
/// [`TemplateError::Open`] if braces are not closed.
pub fn placeholders(text: &str) -> Result<Vec<Placeholder<'_>>, TemplateError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find("{{") {
        let start = at + open;
        let close = text[start..].find("}}").ok_or(TemplateError::Open {
            line: line(text, start),
        })?;
        let end = start + close + 2;
        found.push(Placeholder {
            name: text[start + 2..end - 2].trim(),
            start,
            end,
        });
        at = end;
    }
    Ok(found)
}

/// Returns `text` with each placeholder replaced by what `relation` gives for its name.
///
/// # Errors
///
/// [`TemplateError::Unknown`] if `relation` knows no such name, [`TemplateError::Open`] if braces are not closed.
pub fn render(
    text: &str,
    mut relation: impl FnMut(&str) -> Option<String>,
) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for Placeholder { name, start, end } in placeholders(text)? {
        let sql = relation(name).ok_or_else(|| TemplateError::Unknown {
            name: name.to_owned(),
            line: line(text, start),
        })?;
        write!(out, "{}{sql}", &text[at..start]).expect("a String takes every write");
        at = end;
    }
    out.push_str(&text[at..]);
    Ok(out)
}

fn line(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_and_unknown_ones_refused() {
        let relation = |name: &str| (name == "events").then(|| "scratch.e".to_owned());
        assert_eq!(
            render("FROM {{events}} x, {{ events }}", relation).unwrap(),
            "FROM scratch.e x, scratch.e"
        );
        assert_eq!(
            render("a\nFROM {{ evnts }}", relation).unwrap_err(),
            TemplateError::Unknown {
                name: "evnts".into(),
                line: 2
            }
        );
        assert_eq!(
            render("a {{ b", relation).unwrap_err(),
            TemplateError::Open { line: 1 }
        );
    }
}
