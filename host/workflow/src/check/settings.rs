//! The `with:` block of a step, against the schema that its plugin carries.

use std::collections::BTreeMap;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use stepwell_sql::{ColumnPath, ExpressionError, TableName, brackets, expression, lexer};

use super::marks::{self, Mark, escaped};
use super::schema_cost;
use super::settings_words;
use super::source::RESERVED_ALIASES;
use super::steps::Surroundings;
use crate::fields::mismatch;
use crate::kinds::StepKind;
use crate::name::is_alias;
use crate::problem::{Problem, Problems};
use crate::read::read_text;
use crate::source_file::Span;
use crate::tree::{Entry, Kind, Node, scalar};
use crate::words::quoted;
use crate::workflow::PluginEntry;

/// Largest compiled pattern of a schema, in bytes: schemas come from third parties.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Longest name that Postgres keeps, in bytes.
const IDENT_BYTES_MAX: usize = 63;

/// Checked settings.
pub(super) struct Settings {
    /// As JSON, with SQL files read.
    pub(super) value: Value,
    /// Places by JSON pointer; `with:` itself under "".
    pub(super) spans: BTreeMap<String, Span>,
    pub(super) marks: Marks,
    /// Whether all that the settings write is in `marks`.
    pub(super) complete: bool,
}

/// What settings name, with the places.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) reads_scratch: Vec<(String, Span)>,
    pub(super) writes_scratch: Vec<(String, Span)>,
    pub(super) reads_tables: Vec<(TableName, Span)>,
    pub(super) writes_tables: Vec<(TableName, Span)>,
    pub(super) maintains_tables: Vec<(TableName, Span)>,
}

impl Settings {
    /// Returns settings of which nothing is known.
    pub(super) fn unknown(value: Value) -> Self {
        Self {
            value,
            spans: BTreeMap::new(),
            marks: Marks::default(),
            complete: false,
        }
    }
}

/// The step whose settings are checked.
pub(super) struct StepContext<'a> {
    pub(super) label: &'a str,
    /// Where a missing setting is reported: the key `with`, or without it the plugin's name.
    pub(super) place: Span,
    pub(super) kind: &'a StepKind,
    /// None for a built-in step.
    pub(super) plugin: Option<&'a PluginEntry>,
    pub(super) around: &'a Surroundings<'a>,
}

/// Compiled schemas, by the name that `uses:` has, and apart from each other those of built-in steps and of plugins.
#[derive(Default)]
pub(super) struct Validators(BTreeMap<(bool, String), Result<Validator, String>>);

impl Validators {
    fn of(&mut self, step: &StepContext<'_>) -> &Result<Validator, String> {
        // Not by what a description says: a plugin may give itself the name and version of another one, whose settings
        // would then be held against its schema.
        let key = match step.plugin {
            Some(plugin) => (true, plugin.name.clone()),
            None => (false, step.kind.name.clone()),
        };
        self.0
            .entry(key)
            .or_insert_with(|| compile(&step.kind.settings))
    }
}

/// Compiles a schema; references to other documents are refused, patterns take linear time, and so does the rest.
pub(crate) fn compile(schema: &Value) -> Result<Validator, String> {
    schema_cost::bounded(schema)?;
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX))
        .offline()
        .build(schema)
        .map_err(|error| error.to_string())
}

/// Places and values of settings by JSON pointer.
pub(super) struct Places<'a> {
    /// Keys; a list's items have none.
    pub(super) keys: BTreeMap<String, Span>,
    pub(super) nodes: BTreeMap<String, &'a Node>,
    /// Where the settings as a whole are reported.
    pub(super) root: Span,
}

impl<'a> Places<'a> {
    fn add(&mut self, node: &'a Node, pointer: String) {
        match &node.kind {
            Kind::Seq(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.add(item, format!("{pointer}/{index}"));
                }
            }
            Kind::Map(entries) => {
                for entry in entries {
                    let pointer = format!("{pointer}/{}", escaped(&entry.key));
                    self.keys.insert(pointer.clone(), entry.key_span);
                    self.add(&entry.value, pointer);
                }
            }
            _ => {}
        }
        self.nodes.insert(pointer, node);
    }

    /// Returns the place of a value, or of the nearest thing above it.
    pub(super) fn value(&self, pointer: &str) -> Span {
        let mut pointer = pointer;
        while !pointer.is_empty() {
            if let Some(node) = self.nodes.get(pointer) {
                return node.span;
            }
            pointer = &pointer[..pointer.rfind('/').unwrap_or(0)];
        }
        self.root
    }

    /// Whether a value, or one inside it, could not be known.
    fn unknown_within(&self, pointer: &str) -> bool {
        self.unknown()
            .any(|unknown| unknown == pointer || unknown.starts_with(&format!("{pointer}/")))
    }

    fn unknown(&self) -> impl Iterator<Item = &str> {
        self.nodes
            .iter()
            .filter(|(_, node)| matches!(node.kind, Kind::Unknown))
            .map(|(pointer, _)| pointer.as_str())
    }
}

pub(super) fn check(
    with: Option<&Entry>,
    step: &StepContext<'_>,
    validators: &mut Validators,
    problems: &mut Problems,
) -> Settings {
    let mut value = Value::Object(serde_json::Map::new());
    let mut places = Places {
        keys: BTreeMap::new(),
        nodes: BTreeMap::new(),
        root: step.place,
    };
    if let Some(with) = with {
        if !matches!(with.value.kind, Kind::Map(_)) {
            mismatch(&with.value, "key \"with\"", "a map of settings", problems);
            return Settings::unknown(value);
        }
        value = with.value.to_json();
        places.add(&with.value, String::new());
    }
    let validator = match validators.of(step) {
        Ok(validator) => validator,
        Err(why) => {
            let (name, version) = (&step.kind.name, &step.kind.version);
            let message = format!(
                "the settings schema of plugin \"{name}\" {version} is not one that can be used"
            );
            problems.push(
                Problem::error(message)
                    .at(step.place)
                    .with_detail(why)
                    .with_help("this is for the plugin's author to mend"),
            );
            return Settings::unknown(value);
        }
    };
    take_values_of_variables(validator, &places, &mut value);
    let wrong = validate(validator, &value, &places, step, problems);
    let mut reader = MarkReader {
        step,
        places: &places,
        marks: Marks::default(),
        all_writes_known: true,
        problems: &mut *problems,
    };
    for (pointer, mark) in marks::find(&step.kind.settings, &value) {
        if !wrong.iter().any(|wrong| wrong == &pointer) && !places.unknown_within(&pointer) {
            reader.read(&pointer, mark, &mut value);
        }
    }
    let complete = reader.all_writes_known && wrong.is_empty() && places.unknown().next().is_none();
    let marks = reader.marks;
    let mut spans: BTreeMap<String, Span> = places
        .nodes
        .iter()
        .map(|(pointer, node)| (pointer.clone(), node.span))
        .collect();
    spans.insert(String::new(), places.root);
    Settings {
        value,
        spans,
        marks,
        complete,
    }
}

/// Where a number or `true` is expected and a variable stands, takes the variable's text for one: a
/// substituted text is text, or else `${var:max}` could never be a number.
fn take_values_of_variables(validator: &Validator, places: &Places<'_>, value: &mut Value) {
    let pointers: Vec<String> = validator
        .iter_errors(value)
        .filter(|error| {
            matches!(
                error.kind(),
                jsonschema::error::ValidationErrorKind::Type { .. }
            )
        })
        .map(|error| error.instance_path().as_str().to_owned())
        .collect();
    for pointer in pointers {
        let Some(Node {
            kind: Kind::Text(text),
            span,
        }) = places.nodes.get(&pointer)
        else {
            continue;
        };
        if text.written.is_some()
            && let Some(place) = value.pointer_mut(&pointer)
        {
            let kind = scalar::resolve(&text.value);
            *place = Node { span: *span, kind }.to_json();
        }
    }
}

/// Reports what the schema refuses and returns the JSON pointers of those values.
fn validate(
    validator: &Validator,
    value: &Value,
    places: &Places<'_>,
    step: &StepContext<'_>,
    problems: &mut Problems,
) -> Vec<String> {
    let words = settings_words::Words {
        label: step.label,
        schema: &step.kind.settings,
        places,
    };
    let errors: Vec<_> = validator.iter_errors(value).collect();
    for error in &errors {
        let pointer = error.instance_path().as_str();
        let keys_only = matches!(error.kind().keyword(), "required" | "additionalProperties");
        let known = keys_only || !places.unknown_within(pointer);
        if known && !settings_words::is_misspelt(error, &errors) {
            words.report(error, problems);
        }
    }
    let pointers = errors.iter().map(|error| error.instance_path().as_str());
    pointers.map(str::to_owned).collect()
}

/// Reads marked values.
struct MarkReader<'a> {
    step: &'a StepContext<'a>,
    places: &'a Places<'a>,
    marks: Marks,
    /// Whether each alias that the step writes could be read.
    all_writes_known: bool,
    problems: &'a mut Problems,
}

impl MarkReader<'_> {
    fn read(&mut self, pointer: &str, mark: Mark, value: &mut Value) {
        if mark == Mark::Sql {
            if let Some(sql) = value.pointer_mut(pointer) {
                self.sql(pointer, sql);
            }
            return;
        }
        let Some(text) = value.pointer(pointer).and_then(Value::as_str) else {
            return;
        };
        let span = self.places.value(pointer);
        match mark {
            Mark::ReadsScratch => {
                if self.alias(text, pointer) {
                    self.marks.reads_scratch.push((text.to_owned(), span));
                }
            }
            Mark::WritesScratch => {
                if self.alias(text, pointer) {
                    self.alias_is_free(text, span);
                    self.marks.writes_scratch.push((text.to_owned(), span));
                } else {
                    self.all_writes_known = false;
                }
            }
            Mark::ReadsTable => match text.parse() {
                Ok(table) => self.marks.reads_tables.push((table, span)),
                Err(_) => self.expected("a table as `schema.table`", pointer),
            },
            Mark::MaintainsTable => match text.parse() {
                Ok(table) => self.marks.maintains_tables.push((table, span)),
                Err(_) => self.expected("a table as `schema.table`", pointer),
            },
            Mark::ReadsColumn => match text.parse::<ColumnPath>() {
                Ok(path) => self.marks.reads_tables.push((path.table, span)),
                Err(_) => self.expected("a column as `schema.table.column`", pointer),
            },
            Mark::WritesDerived => match text.parse() {
                Ok(table) => self.writes_derived(table, span),
                Err(_) => self.expected("a table as `schema.table`", pointer),
            },
            Mark::Expression => {
                // That it is not empty, the schema says.
                if let Err(error) = expression(text)
                    && error != ExpressionError::Empty
                {
                    let message = format!("{}: {error}", self.name(pointer));
                    self.problems.error(span, message);
                }
            }
            Mark::Sql => {}
        }
    }

    /// Returns what messages call a setting.
    fn name(&self, pointer: &str) -> String {
        settings_words::setting(pointer, self.step.label)
    }

    fn expected(&mut self, expected: &str, pointer: &str) {
        let what = self.name(pointer);
        if let Some(node) = self.places.nodes.get(pointer) {
            mismatch(node, &what, expected, self.problems);
        }
    }

    fn alias(&mut self, alias: &str, pointer: &str) -> bool {
        let fits = is_alias(alias);
        if !fits {
            self.expected("an alias (lower-case words joined by `_`)", pointer);
        }
        fits
    }

    /// Checks that a step may write a scratch table of this alias.
    fn alias_is_free(&mut self, alias: &str, span: Span) {
        let around = self.step.around;
        if RESERVED_ALIASES.contains(&alias) || around.contexts.contains(&alias) {
            let message = format!(
                "{} writes alias {}, which names a table of the source or the manifest",
                self.step.label,
                quoted(alias)
            );
            self.problems
                .error_help(span, message, "choose another alias");
            return;
        }
        let name = around
            .playbook
            .map_or_else(String::new, |playbook| format!("{playbook}__{alias}"));
        if name.len() > IDENT_BYTES_MAX {
            let message = format!(
                "scratch table {} has a name of {} bytes, and Postgres keeps {}",
                quoted(&name),
                name.len(),
                IDENT_BYTES_MAX
            );
            self.problems
                .error_help(span, message, "choose a shorter alias or playbook");
        }
    }

    fn writes_derived(&mut self, table: TableName, span: Span) {
        let around = self.step.around;
        let granted = self
            .step
            .plugin
            .is_some_and(|plugin| plugin.grants.write.contains(&table));
        let shown = quoted(&table.to_string());
        let label = self.step.label;
        if around.manifest == Some(&table) {
            let message = format!("{label} writes table {shown}, which is the manifest");
            self.problems
                .error_help(span, message, "write into a table of its own");
        } else if table.schema() != around.schemas.derived && !granted {
            let derived = &around.schemas.derived;
            let message = format!(
                "{label} writes table {shown}, which is not in schema {}",
                quoted(derived)
            );
            let help = if self.step.plugin.is_some() {
                format!("write into schema \"{derived}\", or grant it: `write: [{table}]`")
            } else {
                format!("write into schema \"{derived}\", or set `schemas: {{ derived: … }}`")
            };
            self.problems.error_help(span, message, help);
        } else {
            self.marks.writes_tables.push((table, span));
        }
    }

    /// Checks that SQL is closed, and puts the contents of a file beside its path.
    fn sql(&mut self, pointer: &str, value: &mut Value) {
        if let Value::String(sql) = value {
            if let Err(error) = closed(sql) {
                let message = format!("{}: {error}", self.name(pointer));
                self.problems.error(self.places.value(pointer), message);
            }
            return;
        }
        let Some(file) = value.get("file").and_then(Value::as_str) else {
            return;
        };
        let at = format!("{pointer}/file");
        let path = self.step.around.folder.join(file);
        let span = self.places.value(&at);
        match read_text(&path) {
            Ok(text) => {
                if let Err(error) = closed(&text) {
                    let shown = self.shown_path(&at, &path);
                    let message =
                        format!("{}: {}", self.name(pointer), error.within(&text, &shown));
                    self.problems.error(span, message);
                }
                *value = serde_json::json!({"file": file, "text": text});
            }
            Err(why) => {
                let shown = self.shown_path(&at, &path);
                let message = format!("{}: could not read SQL file {shown}", self.name(pointer));
                self.problems.push(
                    Problem::error(message)
                        .at(span)
                        .with_detail(why)
                        .with_help("paths are relative to the folder of the workflow file"),
                );
            }
        }
    }

    /// Returns a path for a message; as written if part of it is from the environment, which may be
    /// secret.
    fn shown_path(&self, pointer: &str, path: &std::path::Path) -> String {
        match self.places.nodes.get(pointer).map(|node| &node.kind) {
            Some(Kind::Text(text)) if text.shown().contains("${env:") => quoted(text.shown()),
            _ => format!("\"{}\"", path.display()),
        }
    }
}

/// A part of SQL text that is left open, or a bracket that closes none.
#[derive(Debug, thiserror::Error)]
enum NotClosed {
    #[error(transparent)]
    Lex(#[from] lexer::LexError),
    #[error(transparent)]
    Bracket(#[from] stepwell_sql::BracketError),
}

/// Looks whether literals, comments and brackets are closed.
fn closed(sql: &str) -> Result<(), NotClosed> {
    Ok(brackets(&lexer::tokens(sql)?)?)
}

impl NotClosed {
    /// Returns the words for a file, where a line says more than a byte.
    fn within(&self, text: &str, file: &str) -> String {
        let start = match self {
            Self::Lex(error) => error.start,
            Self::Bracket(error) => error.start,
        };
        let (line, column) = crate::source_file::line_column(text, start);
        let place = format!("line {line}, column {column} of file {file}");
        self.to_string().replace(&format!("byte {start}"), &place)
    }
}
