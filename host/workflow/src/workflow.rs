//! A checked workflow: types that cannot be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell_signature::PublicKey;
use stepwell_sql::TableName;

use crate::kinds::StepKind;
use crate::limits::Limits;
use crate::name::Playbook;
use crate::source_file::{SourceFile, Span};

/// A workflow that holds together: every name in it means something, every setting fits its step,
/// and the order of the steps agrees with what they read and write.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// The file, for messages.
    pub source_file: SourceFile,
    /// The name under which manifest rows are kept.
    pub playbook: Playbook,
    /// What the playbook is for; empty if the file does not say.
    pub description: String,
    /// Where the tables are.
    pub warehouse: Warehouse,
    /// Where tables are made.
    pub schemas: Schemas,
    /// The table of processed batches. Default: `<derived>.manifest`.
    pub manifest: TableName,
    /// Where events come from; none in a workflow whose steps read none.
    pub source: Option<Source>,
    /// Whose signatures count, and which plugins need one.
    pub trust: TrustPolicy,
    /// Plugins that are not built in, by the name that `uses:` has.
    pub plugins: BTreeMap<String, PluginEntry>,
    /// In the order of the file, at least one. See [`Workflow::order`] for the order of running.
    pub steps: Vec<Step>,
    /// What the names of scratch tables begin with instead of the playbook's.
    pub(crate) scratch_family: Option<String>,
}

impl Workflow {
    /// Returns the scratch table of an alias: `<scratch>.<playbook>__<alias>`.
    ///
    /// The name is at most 63 bytes for every alias that the workflow writes; for any other it may
    /// be longer, and Postgres would cut it.
    pub fn scratch_table(&self, alias: &str) -> TableName {
        let family = self.scratch_family.as_deref();
        let family = family.unwrap_or(self.playbook.as_str());
        TableName::new(&self.schemas.scratch, format!("{family}__{alias}"))
    }

    /// Returns the same workflow with scratch tables of its own, `<scratch>.<family>__<alias>`, so that its steps do not
    /// meet those of a run. Names with a `$` are no playbook's.
    #[must_use]
    pub fn with_scratch_family(&self, family: &str) -> Self {
        Self {
            scratch_family: Some(family.to_owned()),
            ..self.clone()
        }
    }

    /// Returns a table as `grants:` names it: scratch tables of this playbook by their alias.
    pub fn as_granted(&self, table: &TableName) -> TableName {
        let alias = table
            .name()
            .strip_prefix(self.playbook.as_str())
            .and_then(|rest| rest.strip_prefix("__"));
        match alias {
            Some(alias) if table.schema() == self.schemas.scratch => {
                TableName::new(&self.schemas.scratch, alias)
            }
            _ => table.clone(),
        }
    }

    /// Returns the steps' indices in an order of running: after all that they need, otherwise in
    /// the order of the file.
    pub fn order(&self) -> Vec<usize> {
        let mut placed = vec![false; self.steps.len()];
        let mut order = Vec::with_capacity(self.steps.len());
        // Checked to have no cycle, so each round places at least one.
        while order.len() < self.steps.len() {
            let ready = (0..self.steps.len())
                .find(|&i| !placed[i] && self.steps[i].needs.iter().all(|&n| placed[n]));
            let Some(next) = ready else { break };
            placed[next] = true;
            order.push(next);
        }
        order
    }
}

/// Most retries that a workflow may ask for.
pub const RETRIES_MAX: u32 = 20;

/// Where the tables are, and how sessions there are set up.
#[derive(Debug, Clone, Default)]
pub struct Warehouse {
    /// The connection string; none stands for the private local Postgres.
    pub url: Option<Secret>,
    /// Longest time for one statement; none leaves it to the runner.
    pub statement_timeout: Option<Duration>,
    /// Longest wait for a lock; none leaves it to the runner.
    pub lock_timeout: Option<Duration>,
    /// How often work is tried again after a failure that may pass, 0 to [`RETRIES_MAX`]; none
    /// leaves it to the runner.
    pub retries: Option<u32>,
    /// Time without a sign of life after which a run counts as dead, 1 second to an hour; none
    /// leaves it to the runner.
    pub lease_expiry: Option<Duration>,
    /// Parameters set in each session, for example `work_mem`. None that the host sets itself.
    pub settings: BTreeMap<String, String>,
}

/// A text that is not printed: `Debug` writes `***` and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret around `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text. It must not go into a message, a log or a row.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The two schemas in which a workflow makes tables. They differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schemas {
    /// Tables that a run may empty. Default: `scratch`.
    pub scratch: String,
    /// Tables that readers query. Default: `derived`.
    pub derived: String,
}

/// Where events come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The table of events.
    pub events: TableName,
    /// The column whose values are batches, or an SQL expression over the table's columns.
    pub batch: String,
    /// The column that every scan is bounded on: the sort key.
    pub time: String,
    /// The column that names an event, by which duplicates are found.
    pub event_id: Option<String>,
    /// How far back new batches are looked for.
    pub lookback: Lookback,
    /// Tables with more about an event, by alias.
    pub contexts: BTreeMap<String, Context>,
    /// Places of values by JSON pointer.
    pub(crate) spans: BTreeMap<String, Span>,
}

impl Source {
    /// Returns the place of the value at a JSON pointer below `source`, for example `/time` or
    /// `/contexts/page/columns/0`; the nearest one above it if it is not in the file.
    pub fn span(&self, pointer: &str) -> Option<Span> {
        nearest(&self.spans, pointer)
    }

    /// Returns the block as plugins get it, with the keys of the workflow file; the lookback is
    /// `lookback-seconds`, a whole number, rounded up. Keys that the file does not have are left
    /// out; `contexts` is always there.
    pub fn json(&self) -> Value {
        let contexts: serde_json::Map<String, Value> = self
            .contexts
            .iter()
            .map(|(alias, context)| (alias.clone(), context.json()))
            .collect();
        let lookback = self.lookback.0;
        let seconds = lookback.as_secs() + u64::from(lookback.subsec_nanos() > 0);
        let mut json = json!({
            "events": self.events.to_string(),
            "batch": self.batch,
            "time": self.time,
            "lookback-seconds": seconds,
            "contexts": contexts,
        });
        if let Some(event_id) = &self.event_id {
            json["event-id"] = event_id.as_str().into();
        }
        json
    }
}

/// How far back on the source's time column new batches are looked for: more than zero, exact (a
/// day is 24 hours, UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lookback(pub(crate) Duration);

impl Lookback {
    /// Returns the exact length.
    pub fn duration(self) -> Duration {
        self.0
    }
}

/// Writes the lookback as a workflow file may: `7 days`, `6h`.
impl fmt::Display for Lookback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::quantity::duration_text(self.0))
    }
}

/// A table with more about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The table.
    pub table: TableName,
    /// Its column that names the event.
    pub event_id: String,
    /// Its column to bound scans on, with the same values as the source's time column.
    pub time: Option<String>,
    /// The columns that steps may use, at least one.
    pub columns: Vec<String>,
}

impl Context {
    fn json(&self) -> Value {
        let mut json = json!({
            "table": self.table.to_string(),
            "event-id": self.event_id,
            "columns": self.columns,
        });
        if let Some(time) = &self.time {
            json["time"] = time.as_str().into();
        }
        json
    }
}

/// A plugin that is not built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginEntry {
    /// The name that `uses:` has.
    pub name: String,
    /// The component's file, relative to the folder of the workflow file.
    pub component: PathBuf,
    /// SHA-256 of the component's bytes, 64 lower-case hexadecimal digits; none if it is not
    /// pinned.
    pub digest: Option<String>,
    /// The file with its signatures, relative to the folder of the workflow file. Default: the
    /// component's with `.sig` behind.
    pub signature: PathBuf,
    /// Who wrote it.
    pub trust: Trust,
    /// What its statements may touch: for a third party's all of it, for one of our own apart from
    /// what the settings of its steps name.
    pub grants: Grants,
    /// How a third party's plugin logs in; none on the private local Postgres, where its role is
    /// made by itself, and for plugins of our own.
    pub connection: Option<Connection>,
    /// What it may use; what is not set is left to the runner.
    pub limits: Limits,
    /// The plugin's name in the file.
    pub span: Span,
    /// The path in the file.
    pub component_span: Span,
    /// The digest in the file.
    pub digest_span: Option<Span>,
    /// The path of the signature file in the file; none where it has its default.
    pub signature_span: Option<Span>,
}

/// Who wrote a plugin, and hence whose role its statements run under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// The team that owns the workflow.
    Own,
    /// Anybody else. The default.
    #[default]
    ThirdParty,
}

/// Whose signatures count, and which plugins need one: the `trust:` block of a workflow file, or a
/// site's file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustPolicy {
    /// Keys whose signatures count.
    pub keys: Vec<PublicKey>,
    /// Which plugins need a signature by one of the keys.
    pub require: Require,
}

/// Which plugins need a signature. Built-in steps are part of the program and need none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Require {
    /// None does.
    #[default]
    Nothing,
    /// Those of third parties do.
    ThirdParty,
    /// All that are not built in do.
    All,
}

impl Require {
    /// Whether a plugin of this origin needs a signature.
    pub fn concerns(self, trust: Trust) -> bool {
        match self {
            Self::Nothing => false,
            Self::ThirdParty => trust == Trust::ThirdParty,
            Self::All => true,
        }
    }
}

/// What a plugin's statements may touch, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// Tables it may read. Scratch tables stand here under their whole names.
    pub read: Vec<TableName>,
    /// Tables it may write, and hence read.
    pub write: Vec<TableName>,
    /// What it may do to the tables of `write`: [`StatementGrant::Select`] and
    /// [`StatementGrant::Insert`] unless the file says otherwise. Asked of third parties alone.
    pub statements: BTreeSet<StatementGrant>,
    /// The key in the file; none without it.
    pub span: Option<Span>,
}

/// A kind of statement that a third party's plugin may be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatementGrant {
    /// Reading what is granted; always granted.
    Select,
    /// Adding rows, and filling scratch tables.
    Insert,
    /// Changing rows.
    Update,
    /// Deleting rows.
    Delete,
    /// Emptying tables.
    Truncate,
}

impl StatementGrant {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Select,
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
    ];

    /// Returns the word of the workflow file, which is SQL's in lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        }
    }
}

/// How a plugin logs in to the workflow's warehouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// As whom.
    pub login: Login,
    /// The key in the file.
    pub span: Span,
}

/// A login of a plugin's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A connection string of its own, to the same database.
    Url(Secret),
    /// The warehouse's connection string with another role.
    Role {
        /// The role, as it is stored.
        name: String,
        /// Its password; none where the server lets it in by other means.
        password: Option<Secret>,
    },
}

/// One entry of `steps:`.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name, unlike that of any other step.
    pub id: String,
    /// The built-in step or declared plugin that it uses.
    pub uses: String,
    /// What that plugin says of itself.
    pub kind: StepKind,
    /// The settings, checked against the kind's schema; `{}` without any. Defaults are not filled
    /// in. Where SQL was given as a file, this is `{"file": path, "text": contents}`.
    pub with: Value,
    /// Indices of the steps that must be done before this one, each once, in rising order.
    pub needs: Vec<usize>,
    /// Whether the step's failure fails the run.
    pub critical: bool,
    /// The step's id in the file.
    pub span: Span,
    /// Scratch aliases that the settings read, with their places.
    pub reads_scratch: Vec<(String, Span)>,
    /// Scratch aliases that the settings write, with their places.
    pub writes_scratch: Vec<(String, Span)>,
    /// Tables that the settings read, each once.
    pub reads_tables: Vec<TableName>,
    /// Derived tables that the settings write, each once.
    pub writes_tables: Vec<TableName>,
    /// Tables that the settings name for maintenance, each once; their rows stay as they are.
    pub maintains_tables: Vec<TableName>,
    /// Places of `with:` (under "") and of each setting, by JSON pointer.
    pub(crate) settings_spans: BTreeMap<String, Span>,
}

impl Step {
    /// Returns the place of the setting at a JSON pointer below `with`, for example
    /// `/columns/page_views`; the nearest one above it if it is not in the file. None without any
    /// settings.
    pub fn setting_span(&self, pointer: &str) -> Option<Span> {
        nearest(&self.settings_spans, pointer)
    }

    /// Returns the place of the first setting that is this table by name; that of the step's id if none is.
    pub fn table_span(&self, table: &TableName) -> Span {
        let names = |pointer: &str| {
            let text = self.with.pointer(pointer).and_then(Value::as_str);
            text.and_then(|text| text.parse().ok()).as_ref() == Some(table)
        };
        let mut spans = self.settings_spans.iter();
        let found = spans.find(|(pointer, _)| names(pointer));
        found.map_or(self.span, |(_, span)| *span)
    }
}

/// Returns the place at a JSON pointer, or the nearest one above it.
fn nearest(spans: &BTreeMap<String, Span>, pointer: &str) -> Option<Span> {
    let mut pointer = pointer;
    loop {
        if let Some(span) = spans.get(pointer) {
            return Some(*span);
        }
        pointer = &pointer[..pointer.rfind('/')?];
    }
}
