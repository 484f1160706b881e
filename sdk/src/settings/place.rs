//! Where in the settings a mistake stands.

/// What a mistake is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// The value, or the key, at which reading stopped.
    Value,
    /// What surrounds it: something is missing there.
    Whole,
}

/// Returns the JSON pointer of the value that a mistake is about. serde_json names the place at which it stopped, line
/// and column from 1: behind the value, or behind the bracket that closes a list or map if the value is its last one.
pub(super) fn pointer(json: &str, line: usize, column: usize, about: About) -> String {
    let before: usize = json
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let read = json.get(..before + column).unwrap_or(json);
    // Looking for the end of a list, it may have stepped over the comma behind the value.
    let end = read.trim_end().trim_end_matches(',').len();
    let mut path: Vec<Step> = Vec::new();
    let mut at = 0;
    while at < end {
        match json.as_bytes()[at] {
            b'{' => path.push(Step::Key(String::new())),
            b'[' => path.push(Step::Index(0)),
            b'}' | b']' if at + 1 == end && about == About::Value => {}
            b'}' | b']' => {
                path.pop();
            }
            b',' => match path.last_mut() {
                Some(Step::Index(index)) => *index += 1,
                Some(Step::Key(key)) => key.clear(),
                None => {}
            },
            b'"' => {
                let (text, length) = string(&json[at..]);
                if let Some(Step::Key(key)) = path.last_mut()
                    && key.is_empty()
                {
                    *key = text;
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    path.iter().map(Step::pointer).collect()
}

enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn pointer(&self) -> String {
        match self {
            // A map that has just begun has no key yet.
            Self::Key(key) if key.is_empty() => String::new(),
            Self::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Self::Index(index) => format!("/{index}"),
        }
    }
}

/// Returns the string that `json` begins with, and how many bytes it takes.
fn string(json: &str) -> (String, usize) {
    let mut escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    let length = end.map_or(json.len(), |end| end + 2);
    let text = serde_json::from_str(&json[..length]).unwrap_or_default();
    (text, length)
}
