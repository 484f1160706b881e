//! YAML text to a tree in which every key and value knows its place.
//!
//! Hides the YAML library. serde-saphyr's own parser is read event by event rather than through
//! `Deserialize`, which stops at the first error and knows where a list begins but not where it
//! ends. Aliases are expanded within the limits; their values stand at the place of the alias.
//! Tags, merge keys and several documents are refused: each would be a second way to write the same
//! workflow.

pub(crate) mod scalar;

use std::collections::HashMap;

use serde_json::Value;
use serde_yaml::granit_parser::{self, Event, Parser, ScalarStyle, StructureStyle};

use crate::problem::{Problem, Problems};
use crate::source_file::{Span, line_column};
use crate::words::quoted;

/// Deepest nesting of lists and maps.
pub const DEPTH_MAX: usize = 64;

/// Most keys and values in a file, those that aliases repeat included.
pub const NODES_MAX: usize = 10_000;

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// From the first byte to the last; for a value that is not written (`key:`), the place of its
    /// key.
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// The number, and how it is written: `1.10` is the number 1.1.
    Number(serde_json::Number, String),
    Text(Text),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
    /// A value that a reported problem keeps from being known. Nobody reports it again.
    Unknown,
}

/// A text, and whether it may be shown.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// How it is written, if variables were put in. Messages show this in place of the value.
    pub(crate) written: Option<String>,
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Node {
    /// Returns what a message calls this value: `text "x"`, `the number 5`, `a list`.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null | Kind::Unknown => "nothing".into(),
            Kind::Bool(value) => format!("`{value}`"),
            Kind::Number(_, written) => format!("the number {written}"),
            Kind::Text(text) if text.value.is_empty() && text.written.is_none() => {
                "empty text".into()
            }
            Kind::Text(text) => format!("text {}", quoted(text.shown())),
            Kind::Seq(_) => "a list".into(),
            Kind::Map(_) => "a map".into(),
        }
    }

    /// Returns the value as JSON. A key or value has the pointer that it has in the tree.
    pub(crate) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null | Kind::Unknown => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(number, _) => Value::Number(number.clone()),
            Kind::Text(text) => Value::String(text.value.clone()),
            Kind::Seq(items) => items.iter().map(Self::to_json).collect(),
            Kind::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    /// Returns how many values the tree has and how deep it is.
    fn measure(&self) -> (usize, usize) {
        let children: Vec<&Node> = match &self.kind {
            Kind::Seq(items) => items.iter().collect(),
            Kind::Map(entries) => entries.iter().map(|entry| &entry.value).collect(),
            _ => return (1, 0),
        };
        children.into_iter().fold((1, 1), |(nodes, depth), child| {
            let (more, deeper) = child.measure();
            // A key counts as a value.
            (nodes + more + 1, depth.max(deeper + 1))
        })
    }

    /// Moves the tree to one place: that of the alias which stands for it.
    fn move_to(&mut self, span: Span) {
        self.span = span;
        match &mut self.kind {
            Kind::Seq(items) => items.iter_mut().for_each(|item| item.move_to(span)),
            Kind::Map(entries) => {
                for entry in entries {
                    entry.key_span = span;
                    entry.value.move_to(span);
                }
            }
            _ => {}
        }
    }
}

impl Text {
    /// Returns the text that a message may show.
    pub(crate) fn shown(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.value)
    }
}

/// Reads the one document of a workflow file. Without a result, a problem says why.
pub(crate) fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    let options = granit_parser::options! {
        emit_comments: false,
        disallow_directives: true,
        emit_unresolved_aliases: true,
    };
    let mut builder = Builder {
        text,
        problems,
        stack: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        documents: 0,
        root: None,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let read = match event {
            Ok((event, span)) => builder.event(event, &span),
            Err(error) => Err(syntax_problem(text, &error)),
        };
        if let Err(problem) = read {
            problems.push(*problem);
            return None;
        }
    }
    // A file of comments alone has no document.
    Some(builder.root.unwrap_or(Node {
        span: Span::default(),
        kind: Kind::Null,
    }))
}

fn syntax_problem(text: &str, error: &granit_parser::ScanError) -> Box<Problem> {
    let start = error.marker().byte_offset().unwrap_or(text.len());
    let start = start.min(text.len());
    if let Some(span) = indenting_tab(text, start).filter(|_| error.info().contains("tab")) {
        let message = "the file is not YAML: a tab stands where the line is indented";
        let problem = Problem::error(message).at(span);
        return problem.with_help("indent with spaces").into();
    }
    if let Some(span) = bare_variable(text, start) {
        let variable = &text[span.start..span.end];
        let message =
            format!("the file is not YAML: `{variable}` stands between brackets without quotes");
        let help = format!(
            "write `\"{variable}\"`: inside of `{{ }}` and `[ ]`, `{{` and `}}` are YAML's own"
        );
        return Problem::error(message).at(span).with_help(help).into();
    }
    let end = text[start..]
        .chars()
        .next()
        .map_or(start, |c| start + c.len_utf8());
    Box::new(
        Problem::error(format!("the file is not YAML: {}", error.info()))
            .at(Span::new(start, end))
            .with_help("mend this first; the rest of the file was not read"),
    )
}

/// Returns the first tab that indents a line, from the line at `start` on: the parser stops at a tab itself, or at the
/// value on a line before it that it takes to go on.
fn indenting_tab(text: &str, start: usize) -> Option<Span> {
    let mut line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    for line in text[line_start..].split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line[..indent].find('\t') {
            let at = line_start + tab;
            return Some(Span::new(at, at + 1));
        }
        line_start += line.len();
    }
    None
}

/// Returns the `${…}` whose bracket is at `start`: inside of `{ }` and `[ ]`, a plain text ends there.
fn bare_variable(text: &str, start: usize) -> Option<Span> {
    let rest = text.get(start..)?;
    if !rest.starts_with('{') || !text[..start].ends_with('$') {
        return None;
    }
    let line = rest.lines().next()?;
    let end = line.find('}')?;
    Some(Span::new(start - 1, start + end + 1))
}

/// Puts events together. `Err` ends the reading.
struct Builder<'a> {
    text: &'a str,
    problems: &'a mut Problems,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
}

/// A list or map that is not closed yet.
struct Frame {
    start: usize,
    flow: bool,
    anchor: usize,
    items: Items,
}

enum Items {
    Seq(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        /// The key whose value comes next; without a text if it is refused.
        key: Option<(Option<String>, Span)>,
    },
}

type Step = Result<(), Box<Problem>>;

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: &granit_parser::Span) -> Step {
        let range = span.byte_range().unwrap_or_default();
        let span = Span::new(range.start, range.end);
        if let Some(tag) = event.tag() {
            let message = format!("tag {} has no meaning here", quoted(&tag.original()));
            self.problems.error_help(
                span,
                message,
                "remove it; put a value in quotes to make it text",
            );
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(stop(span, "a second document begins here")
                        .with_help("write each workflow into a file of its own")
                        .into());
                }
            }
            Event::Scalar(value, style, anchor, _) => {
                let node = self.scalar(&value, style, span);
                self.value(node, anchor)?;
            }
            Event::SequenceStart(style, anchor, _) => {
                self.open(span, style, anchor, Items::Seq(Vec::new()))?;
            }
            Event::MappingStart(style, anchor, _) => {
                let items = Items::Map {
                    entries: Vec::new(),
                    key: None,
                };
                self.open(span, style, anchor, items)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            Event::Alias(id) => self.alias(id, span)?,
            Event::UnresolvedAlias(name) => {
                self.problems.error_help(
                    span,
                    format!("alias \"*{name}\" refers to an anchor that is not defined above"),
                    format!(
                        "define it with `&{name}`, or put the text in quotes if it is not an alias"
                    ),
                );
                let kind = Kind::Unknown;
                self.value(Node { span, kind }, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn scalar(&self, value: &str, style: ScalarStyle, span: Span) -> Node {
        let kind = if style == ScalarStyle::Plain {
            scalar::resolve(value)
        } else {
            scalar::text(value)
        };
        let written = self.text.get(span.start..span.end).unwrap_or("");
        let end = span.start + written.trim_end().len();
        Node {
            span: Span::new(span.start, end),
            kind,
        }
    }

    fn open(&mut self, span: Span, style: StructureStyle, anchor: usize, items: Items) -> Step {
        if self.stack.len() >= DEPTH_MAX {
            return Err(too_deep(span));
        }
        self.stack.push(Frame {
            start: span.start,
            flow: style == StructureStyle::Flow,
            anchor,
            items,
        });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Step {
        let Some(frame) = self.stack.pop() else {
            return Ok(());
        };
        let (kind, last) = match frame.items {
            Items::Seq(items) => {
                let last = items.last().map(|item| item.span);
                (Kind::Seq(items), last)
            }
            Items::Map { entries, .. } => {
                let last = entries.last().map(|entry| entry.value.span);
                (Kind::Map(entries), last)
            }
        };
        // A block ends with its last value; the parser says where the next token begins.
        let end = if frame.flow {
            span.end
        } else {
            last.map_or(frame.start, |last| last.end)
        };
        let span = Span::new(frame.start, end.max(frame.start));
        self.value(Node { span, kind }, frame.anchor)
    }

    fn alias(&mut self, id: usize, span: Span) -> Step {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(stop(span, "an alias stands inside the value that it refers to").into());
        };
        let (nodes, depth) = anchored.measure();
        // Counted before the copy, so that a small file cannot ask for much memory.
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(too_many(span));
        }
        if self.stack.len() + depth > DEPTH_MAX {
            return Err(too_deep(span));
        }
        let mut node = anchored.clone();
        node.move_to(span);
        self.value(node, 0)
    }

    /// Takes a finished value to where it belongs.
    fn value(&mut self, mut node: Node, anchor: usize) -> Step {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(too_many(node.span));
        }
        if let Some(Frame {
            items: Items::Map { key, .. },
            ..
        }) = self.stack.last()
            && let Some((_, key_span)) = key
            && matches!(node.kind, Kind::Null)
            && node.span.start >= node.span.end
        {
            node.span = *key_span;
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|frame| &mut frame.items) {
            None => self.root = Some(node),
            Some(Items::Seq(items)) => items.push(node),
            Some(Items::Map { entries, key }) => match key.take() {
                None => {
                    let text = key_text(self.text, &node, entries)
                        .map_err(|problem| self.problems.push(*problem))
                        .ok();
                    *key = Some((text, node.span));
                }
                Some((Some(text), key_span)) => entries.push(Entry {
                    key: text,
                    key_span,
                    value: node,
                }),
                Some((None, _)) => {}
            },
        }
        Ok(())
    }
}

/// Returns the text of a key, or why it is refused. A key that came before is refused here, so that
/// its value is left out: which of two values is meant, nobody can tell.
fn key_text(text: &str, node: &Node, before: &[Entry]) -> Result<String, Box<Problem>> {
    let key = match &node.kind {
        Kind::Text(key) => key.value.clone(),
        Kind::Number(_, written) => written.clone(),
        Kind::Bool(value) => value.to_string(),
        Kind::Null | Kind::Seq(_) | Kind::Map(_) | Kind::Unknown => {
            let message = format!("expected text as a key, found {}", node.describe());
            let help = "put text that begins with `{`, `[` or `*` in quotes";
            return Err(Problem::error(message).at(node.span).with_help(help).into());
        }
    };
    if key == "<<" {
        return Err(Problem::error("merge keys (`<<`) are not read")
            .at(node.span)
            .with_help("write the keys out, or use an alias for the whole value")
            .into());
    }
    // Linear, and bounded with the number of values; only maps of thousands of keys would feel it.
    if let Some(first) = before.iter().find(|entry| entry.key == key) {
        let (line, _) = line_column(text, first.key_span.start);
        let message = format!("key {} stands twice in this map", quoted(&key));
        return Err(Problem::error(message)
            .at(node.span)
            .with_detail(format!("first on line {line}"))
            .with_help("remove one of the two")
            .into());
    }
    Ok(key)
}

fn stop(span: Span, message: &str) -> Problem {
    Problem::error(message).at(span)
}

fn too_deep(span: Span) -> Box<Problem> {
    stop(span, "lists and maps are nested too deep")
        .with_help(format!(
            "a workflow file is at most {DEPTH_MAX} levels deep"
        ))
        .into()
}

fn too_many(span: Span) -> Box<Problem> {
    stop(span, "the file has too many values")
        .with_detail("a value counts once more for each alias that repeats it")
        .with_help(format!(
            "a workflow file has at most {NODES_MAX} keys and values"
        ))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut problems = Problems::default();
        let node = parse(text, &mut problems);
        let file = crate::SourceFile::new("f", text);
        let list = problems.finish(text);
        (node, list.iter().map(|p| p.to_plain(&file)).collect())
    }

    /// Writes each key and value with the text that its span covers.
    fn spans(node: &Node, text: &str, out: &mut Vec<String>) {
        out.push(text[node.span.start..node.span.end].into());
        match &node.kind {
            Kind::Seq(items) => items.iter().for_each(|item| spans(item, text, out)),
            Kind::Map(entries) => {
                for entry in entries {
                    out.push(text[entry.key_span.start..entry.key_span.end].into());
                    spans(&entry.value, text, out);
                }
            }
            _ => {}
        }
    }

    fn all_spans(text: &str) -> Vec<String> {
        let (node, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new());
        let mut out = Vec::new();
        spans(&node.unwrap(), text, &mut out);
        out
    }

    #[test]
    fn spans_cover_what_is_written() {
        assert_eq!(
            all_spans("a: 'é x'  # why\nb: [1, {c: d}] # why\n"),
            [
                "a: 'é x'  # why\nb: [1, {c: d}]",
                "a",
                "'é x'",
                "b",
                "[1, {c: d}]",
                "1",
                "{c: d}",
                "c",
                "d"
            ]
        );
        assert_eq!(
            all_spans("a:\r\n  - x y\r\n  - z\r\nb: 2\r\n")[1..],
            ["a", "- x y\r\n  - z", "x y", "z", "b", "2"]
        );
        assert_eq!(
            all_spans("sql: |\n  SELECT 1\n\nb: >-\n  x\n  y\n")[1..],
            ["sql", "SELECT 1", "b", "x\n  y"]
        );
        assert_eq!(all_spans("a:\nb: ~\n")[1..], ["a", "a", "b", "~"]);
        assert_eq!(
            all_spans("a: &x { k: v }\nb: *x\n")[1..],
            ["a", "{ k: v }", "k", "v", "b", "*x", "*x", "*x"]
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_character() {
        let text = "\u{feff}a: 1\n";
        let (node, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new());
        let Kind::Map(entries) = node.unwrap().kind else {
            panic!("not a map");
        };
        let span = entries[0].key_span;
        assert_eq!(entries[0].key, "a");
        assert_eq!(&text[span.start..span.end], "a");
    }

    #[test]
    fn refuses_with_a_place() {
        for (text, expected) in [
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3:1: error: key \"a\" stands twice in this map",
            ),
            (
                "{[a]: 1, b: 2}",
                "f:1:2: error: expected text as a key, found a list",
            ),
            (
                "a: &x {b: 1}\nc: {<<: *x}\n",
                "f:2:5: error: merge keys (`<<`) are not read",
            ),
            (
                "a: *nope\n",
                "f:1:4: error: alias \"*nope\" refers to an anchor",
            ),
            ("a: !x 1\n", "f:1:7: error: tag \"!x\" has no meaning here"),
            ("a: &x [*x]\n", "f:1:8: error: an alias stands inside"),
            ("a: 1\n---\nb: 2\n", "f:2:1: error: a second document"),
            ("a: 1\n  b: 2\n", "f:2:4: error: the file is not YAML: "),
            ("a: [1, 2\n", "f:1:4: error: the file is not YAML: unclosed"),
        ] {
            let (_, problems) = read(text);
            assert!(
                problems.len() == 1 && problems[0].starts_with(expected),
                "{text:?} gave {problems:?}"
            );
        }
    }

    #[test]
    fn several_problems_of_one_file_are_all_reported() {
        let (node, problems) = read("a: 1\na: 2\nb: 1\nb: 2\nc: *x\n");
        assert_eq!(problems.len(), 3);
        assert!(node.is_some());
    }

    #[test]
    fn limits_hold_for_aliases_too() {
        // Nine levels of nine aliases: 9^9 values if they were expanded.
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let line = vec![format!("*a{}", level - 1); 9].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{line}]\n"));
        }
        let (node, problems) = read(&bomb);
        assert!(node.is_none());
        assert!(problems[0].contains("too many values"), "{problems:?}");

        let (_, problems) = read(&format!("{}{}", "[".repeat(65), "]".repeat(65)));
        assert!(problems[0].contains("nested too deep"), "{problems:?}");
        let (node, _) = read(&format!("{}{}", "[".repeat(64), "]".repeat(64)));
        assert!(node.is_some());
        let (_, problems) = read(&"- x\n".repeat(NODES_MAX + 1));
        assert!(problems[0].contains("too many values"), "{problems:?}");
    }
}
