//! What a step may do: its rights, and whether what it asks and plans stays within them.
//!
//! Every step goes through this one check, whatever made it and whichever world of the contract it has: what a plugin
//! said becomes a [`Checked`] here and nowhere else, and only that is put to a database. The check reads what a plan
//! declares and how its statements begin. Against SQL that lies about the tables it touches the boundary is the
//! database's: a third party's runs under a login of its own (`confined.rs`).

pub(crate) mod forms;

use std::collections::BTreeSet;

use stepwell_sandbox::contract::{Plan, Question, Shape, Statement};
use stepwell_sql::lexer::{Token, TokenKind, tokens};
use stepwell_sql::{StatementKind, TableName, split, statement_kind};
use stepwell_workflow::{StatementGrant, Step, Trust, Workflow};

use forms::{Form, form};

/// Something that a plugin said and that its rights cover. [`Rights`] alone makes one: the field is private.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checked<T>(T);

impl<T> std::ops::Deref for Checked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Why something that a plugin said is not let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What is wrong with it, in the workflow file's own names.
    pub(crate) what: String,
    /// The key of the workflow file that would allow it, where one would.
    pub(crate) mend: Option<String>,
}

impl From<String> for Refusal {
    fn from(what: String) -> Self {
        Self { what, mend: None }
    }
}

impl From<&str> for Refusal {
    fn from(what: &str) -> Self {
        what.to_owned().into()
    }
}

impl Refusal {
    /// Returns the same of a part of what was said.
    fn of(self, part: &str) -> Self {
        Self {
            what: format!("{part} {}", self.what),
            ..self
        }
    }
}

/// The tables that a step may touch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rights {
    reads: BTreeSet<TableName>,
    writes: BTreeSet<TableName>,
    /// Tables whose rows stay as they are: VACUUM and ANALYZE only.
    maintains: BTreeSet<TableName>,
    /// Whole families of scratch tables: those whose name begins so.
    scratch: Vec<TableName>,
    manifest: Option<TableName>,
    derived_schema: String,
    /// What the names of this playbook's scratch tables begin with, which the workflow file leaves out.
    family: Option<TableName>,
    /// The name under `plugins:`; none of a built-in step, which nothing is granted.
    plugin: Option<String>,
    /// Set for a third party's step.
    confined: Option<Confinement>,
}

/// What bounds a third party's step besides its tables.
#[derive(Debug, Clone)]
struct Confinement {
    plugin: String,
    statements: BTreeSet<StatementGrant>,
    scratch_schema: String,
}

/// The list under `grants:` that a table is missing from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GrantKey {
    Read,
    Write,
}

impl GrantKey {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl Rights {
    /// Returns what the step's settings and description name, and what the workflow grants; for a third party's step
    /// what the workflow grants alone.
    pub(crate) fn of(workflow: &Workflow, step: &Step) -> Self {
        let mut rights = Self {
            derived_schema: workflow.schemas.derived.clone(),
            manifest: Some(workflow.manifest.clone()),
            family: Some(workflow.scratch_table("")),
            ..Self::default()
        };
        if let Some(entry) = workflow.plugins.get(&step.uses) {
            rights.plugin = Some(entry.name.clone());
            rights.reads.extend(entry.grants.read.iter().cloned());
            rights.writes.extend(entry.grants.write.iter().cloned());
            if entry.trust == Trust::ThirdParty {
                rights.confined = Some(Confinement {
                    plugin: entry.name.clone(),
                    statements: entry.grants.statements.clone(),
                    scratch_schema: workflow.schemas.scratch.clone(),
                });
                return rights;
            }
        }
        for (alias, _) in &step.reads_scratch {
            rights.reads.insert(workflow.scratch_table(alias));
        }
        for (alias, _) in &step.writes_scratch {
            rights.writes.insert(workflow.scratch_table(alias));
            rights
                .scratch
                .push(workflow.scratch_table(&format!("{alias}__")));
        }
        rights.reads.extend(step.reads_tables.iter().cloned());
        rights
            .maintains
            .extend(step.maintains_tables.iter().cloned());
        rights.writes.extend(step.writes_tables.iter().cloned());
        rights.implicit(workflow, step);
        rights
    }

    /// Relations that the description names by a word.
    fn implicit(&mut self, workflow: &Workflow, step: &Step) {
        for word in &step.kind.reads {
            match word.as_str() {
                "events" => {
                    let source = workflow.source.iter();
                    self.reads
                        .extend(source.clone().map(|source| source.events.clone()));
                    self.reads.extend(
                        source.flat_map(|source| source.contexts.values().map(|c| c.table.clone())),
                    );
                    // Ids say which batches they come from.
                    let earlier = workflow.steps.iter().flat_map(|step| &step.writes_scratch);
                    self.reads
                        .extend(earlier.map(|(alias, _)| workflow.scratch_table(alias)));
                }
                "manifest" => {
                    self.reads.insert(workflow.manifest.clone());
                }
                _ => {}
            }
        }
        for word in &step.kind.writes {
            match word.as_str() {
                "manifest" => {
                    self.writes.insert(workflow.manifest.clone());
                }
                "scratch" => self.scratch.push(workflow.scratch_table("")),
                _ => {}
            }
        }
    }

    /// Whether the step's statements may run under a login of the plugin's own alone.
    pub(crate) fn is_confined(&self) -> bool {
        self.confined.is_some()
    }

    /// Refuses a table that was not granted, by the name that the workflow file has for it.
    fn not_granted(&self, does: &str, table: &TableName, key: GrantKey, what: &str) -> Refusal {
        let shown = self.as_granted(table);
        let mend = match (&self.plugin, key) {
            _ if key == GrantKey::Write && Some(table) == self.manifest.as_ref() => Some(
                "Nobody can be granted that: the commit step alone writes the manifest.".into(),
            ),
            (Some(plugin), key) => Some(format!(
                "If that is meant, add {shown} to `plugins.{plugin}.grants.{}` in the workflow file.",
                key.word()
            )),
            (None, _) => None,
        };
        Refusal {
            what: format!("{does} table {shown}, {what}"),
            mend,
        }
    }

    fn not_read(&self, table: &TableName) -> Refusal {
        let what = "which the step was not granted";
        self.not_granted("reads", table, GrantKey::Read, what)
    }

    /// Refuses to fill what is no scratch table, or none that was granted.
    fn not_filled(&self, table: &TableName) -> Refusal {
        let what = "which is no scratch table that it was granted";
        let refusal = self.not_granted("fills", table, GrantKey::Write, what);
        let own = self.as_granted(table) != *table;
        Refusal {
            // Another table cannot be granted to be filled, whatever is written there.
            mend: refusal.mend.filter(|_| own),
            ..refusal
        }
    }

    /// Returns a table as `grants:` names it: scratch tables of this playbook by their alias.
    fn as_granted(&self, table: &TableName) -> TableName {
        let own = self.family.as_ref().and_then(|family| {
            let alias = table.name().strip_prefix(family.name())?;
            (table.schema() == family.schema() && !alias.is_empty())
                .then(|| TableName::new(table.schema(), alias))
        });
        own.unwrap_or_else(|| table.clone())
    }

    fn may_read(&self, table: &TableName) -> bool {
        self.reads.contains(table) || self.may_write(table)
    }

    fn may_write(&self, table: &TableName) -> bool {
        let family = |prefix: &TableName| {
            table.schema() == prefix.schema() && table.name().starts_with(prefix.name())
        };
        self.writes.contains(table) || self.scratch.iter().any(family)
    }

    /// Whether the plan writes the manifest, so that its transaction also carries the journal.
    pub(crate) fn commits(&self, plan: &Plan) -> bool {
        let names = |statement: &Statement| {
            statement
                .writes
                .iter()
                .any(|name| name.parse().ok() == self.manifest && self.manifest.is_some())
        };
        plan.statements.iter().any(names)
    }

    /// Checks that a question is one statement that can only read.
    pub(crate) fn check_question(&self, question: Question) -> Result<Checked<Question>, Refusal> {
        let refused =
            |why: String| Err(Refusal::from(why).of(&format!("question \"{}\"", question.label)));
        match one_statement(&question.sql)? {
            StatementKind::Query if self.confined.is_none() => Ok(Checked(question)),
            StatementKind::Query => match form(&question.sql) {
                Ok(Form::Read(_)) => Ok(Checked(question)),
                Ok(_) => refused("can change tables, expected a SELECT that cannot".into()),
                Err(why) => refused(why),
            },
            kind => refused(format!("is {}, expected a SELECT", words(&kind))),
        }
    }

    /// Checks the shape of a reducer that fills `target`: its SELECT can only read, and says that it reads what was
    /// granted, its own target not among it. Of a third party's also the target must be granted.
    pub(crate) fn check_shape(
        &self,
        shape: Shape,
        target: &TableName,
    ) -> Result<Checked<Shape>, Refusal> {
        let select = |problem: String| Refusal::from(problem).of("the shape's SELECT");
        if let Some(confinement) = &self.confined {
            match form(&shape.select_sql).map_err(select)? {
                Form::Read(_) => {}
                _ => return Err(select("can change tables".into())),
            }
            if target.schema() != confinement.scratch_schema || !self.writes.contains(target) {
                return Err(self.not_filled(target).of("the shape"));
            }
            if !confinement.statements.contains(&StatementGrant::Insert) {
                return Err(confinement.missing("the shape", &[StatementGrant::Insert]));
            }
        }
        match one_statement(&shape.select_sql).map_err(select)? {
            StatementKind::Query if !may_change(&shape.select_sql) => {}
            StatementKind::Query => return Err(select("can change tables".into())),
            kind => return Err(select(format!("is {}, expected a SELECT", words(&kind)))),
        }
        let tokens = tokens(&shape.select_sql).map_err(|error| select(error.to_string()))?;
        let semicolon = |token: &Token<'_>| token.kind == TokenKind::Semicolon;
        if tokens.iter().any(semicolon) {
            return Err(select("ends with a semicolon".into()));
        }
        // The server refuses it as well: it is asked about the text by itself before it gets it between brackets.
        if !is_balanced(&tokens) {
            return Err(select("closes a bracket that it did not open".into()));
        }
        for name in &shape.reads {
            let table = table(name).map_err(select)?;
            if table == *target {
                return Err(select(format!(
                    "reads {}, which the step itself makes",
                    self.as_granted(&table)
                )));
            }
            if !self.may_read(&table) {
                return Err(self.not_read(&table).of("the shape's SELECT"));
            }
        }
        Ok(Checked(shape))
    }

    /// Checks a whole plan; the first thing that is not allowed is the error.
    pub(crate) fn check(&self, plan: Plan) -> Result<Checked<Plan>, Refusal> {
        for statement in &plan.statements {
            self.check_statement(statement, plan.atomic)
                .map_err(|refusal| refusal.of(&format!("statement \"{}\"", statement.label)))?;
        }
        if !plan.atomic && self.commits(&plan) {
            return Err(
                "the manifest must be written in one transaction with the derived rows".into(),
            );
        }
        if let Some(confinement) = &self.confined {
            self.check_confined(confinement, &plan)?;
        }
        Ok(Checked(plan))
    }

    /// Checks what is asked of a third party's plan besides: its statements have forms that the host knows, it fills
    /// scratch tables first, and its changes come after that, in one transaction.
    fn check_confined(&self, confinement: &Confinement, plan: &Plan) -> Result<(), Refusal> {
        if !plan.atomic {
            return Err(
                "a third party's statements run in a transaction, and the plan wants none".into(),
            );
        }
        // A run that ends so counts as a success, with its batches still pending.
        const ENDS: &str = "would end the run, which no third party can be granted";
        if plan.ends_run.is_some() {
            return Err(format!("a third party's plan {ENDS}").into());
        }
        let quoted = |statement: &Statement| format!("statement \"{}\"", statement.label);
        let mut changed = false;
        for statement in &plan.statements {
            let refused = |why: String| Refusal::from(why).of(&quoted(statement));
            if statement.ends_run_when_zero.is_some() {
                return Err(refused(ENDS.into()));
            }
            match form(&statement.sql).map_err(refused)? {
                Form::Clear(table) | Form::Fill { table, .. } | Form::Measure(table) => {
                    if table.schema() != confinement.scratch_schema || !self.writes.contains(&table)
                    {
                        return Err(self.not_filled(&table).of(&quoted(statement)));
                    }
                    if !confinement.statements.contains(&StatementGrant::Insert) {
                        return Err(
                            confinement.missing(&quoted(statement), &[StatementGrant::Insert])
                        );
                    }
                    if changed {
                        return Err(refused(
                            "fills a scratch table after others were changed; it must come first"
                                .into(),
                        ));
                    }
                }
                Form::Read(_) => {}
                Form::Change(_, needs) => {
                    changed = true;
                    let missing: Vec<_> = needs
                        .into_iter()
                        .filter(|kind| !confinement.statements.contains(kind))
                        .collect();
                    if !missing.is_empty() {
                        return Err(confinement.missing(&quoted(statement), &missing));
                    }
                    if statement.writes.is_empty() {
                        return Err(refused("can change tables, and does not say which".into()));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_statement(&self, statement: &Statement, atomic: bool) -> Result<(), Refusal> {
        let kind = one_statement(&statement.sql)?;
        let maintenance = matches!(kind, StatementKind::Maintain | StatementKind::Analyze);
        match kind {
            StatementKind::Maintain if atomic => {
                return Err("is maintenance, which runs outside of a transaction".into());
            }
            StatementKind::Query if statement.writes.is_empty() && may_change(&statement.sql) => {
                return Err("can change tables, and does not say which".into());
            }
            StatementKind::Other(_) | StatementKind::Empty => {
                return Err(format!("is {}, which no step may run", words(&kind)).into());
            }
            _ => {}
        }
        for name in &statement.reads {
            let table = table(name)?;
            if !self.may_read(&table) {
                return Err(self.not_read(&table));
            }
        }
        for name in &statement.writes {
            let table = table(name)?;
            if !(self.may_write(&table) || maintenance && self.maintains.contains(&table)) {
                let what = "which the step was not granted";
                return Err(self.not_granted("writes", &table, GrantKey::Write, what));
            }
            if !atomic
                && !maintenance
                && (table.schema() == self.derived_schema || Some(&table) == self.manifest.as_ref())
            {
                return Err(format!("changes table {table} outside of a transaction").into());
            }
        }
        Ok(())
    }
}

impl Confinement {
    /// Says as a diff which kinds of statements are not granted.
    fn missing(&self, label: &str, missing: &[StatementGrant]) -> Refusal {
        let list = |kinds: &mut dyn Iterator<Item = &StatementGrant>| {
            kinds.map(|kind| kind.word()).collect::<Vec<_>>().join(", ")
        };
        let mut wanted = self.statements.clone();
        wanted.extend(missing);
        Refusal {
            what: format!(
                "{label} needs more than plugin \"{}\" is granted: + {} (granted: `statements: [{}]`)",
                self.plugin,
                list(&mut missing.iter()),
                list(&mut self.statements.iter()),
            ),
            mend: Some(format!(
                "If that is meant, write `statements: [{}]` under `plugins.{}.grants` in the workflow file.",
                list(&mut wanted.iter()),
                self.plugin
            )),
        }
    }
}

fn one_statement(sql: &str) -> Result<StatementKind, String> {
    let statements = split(sql).map_err(|error| error.to_string())?;
    if statements.len() > 1 {
        return Err(format!(
            "holds {} statements, expected one",
            statements.len()
        ));
    }
    statement_kind(sql).map_err(|error| error.to_string())
}

/// Whether a query holds a word that lets it change tables: `WITH x AS (DELETE …) SELECT`, `SELECT … INTO`.
fn may_change(sql: &str) -> bool {
    const WORDS: [&str; 5] = ["insert", "update", "delete", "merge", "into"];
    let changes = |token: &Token<'_>| {
        token.kind == TokenKind::Word
            && WORDS
                .iter()
                .any(|word| token.text.eq_ignore_ascii_case(word))
    };
    tokens(sql).is_ok_and(|tokens| tokens.iter().any(changes))
}

/// Whether each bracket is closed, and none that was not opened.
fn is_balanced(tokens: &[Token<'_>]) -> bool {
    let mut open = 0_u32;
    for token in tokens {
        match token.text {
            "(" => open += 1,
            ")" => match open.checked_sub(1) {
                Some(left) => open = left,
                None => return false,
            },
            _ => {}
        }
    }
    open == 0
}

fn table(name: &str) -> Result<TableName, String> {
    name.parse()
        .map_err(|error| format!("names a table that is none: {error}"))
}

fn words(kind: &StatementKind) -> String {
    match kind {
        StatementKind::Other(word) => format!("\"{word}\""),
        StatementKind::Empty => "empty".into(),
        kind => format!("{kind:?}").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights() -> Rights {
        Rights {
            reads: [TableName::new("atomic", "events")].into(),
            writes: [
                TableName::new("derived", "sessions"),
                TableName::new("derived", "manifest"),
            ]
            .into(),
            maintains: [TableName::new("derived", "old")].into(),
            scratch: vec![TableName::new("scratch", "p__a__")],
            manifest: Some(TableName::new("derived", "manifest")),
            derived_schema: "derived".into(),
            family: Some(TableName::new("scratch", "p__")),
            plugin: Some("acme".into()),
            confined: None,
        }
    }

    fn confined() -> Rights {
        Rights {
            writes: [
                TableName::new("scratch", "p__a"),
                TableName::new("derived", "own"),
            ]
            .into(),
            maintains: BTreeSet::new(),
            scratch: vec![],
            confined: Some(Confinement {
                plugin: "acme".into(),
                statements: [StatementGrant::Select, StatementGrant::Insert].into(),
                scratch_schema: "scratch".into(),
            }),
            ..rights()
        }
    }

    fn plan(atomic: bool, sql: &str, reads: &[&str], writes: &[&str]) -> Plan {
        let strings = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        let statement = Statement {
            label: "s".into(),
            sql: sql.into(),
            params: vec![],
            reads: strings(reads),
            writes: strings(writes),
            ends_run_when_zero: None,
            measure: None,
        };
        Plan {
            statements: vec![statement],
            atomic,
            publishes: vec![],
            notes: vec![],
            ends_run: None,
        }
    }

    #[test]
    fn what_is_granted_passes() {
        let rights = rights();
        for plan in [
            plan(
                true,
                "INSERT INTO derived.sessions SELECT 1",
                &["atomic.events"],
                &["derived.sessions"],
            ),
            plan(
                true,
                "CREATE TABLE scratch.p__a__b AS SELECT 1",
                &[],
                &["scratch.p__a__b"],
            ),
            plan(false, "VACUUM derived.old", &[], &["derived.old"]),
            plan(true, "SELECT 1", &["derived.sessions"], &[]),
        ] {
            assert!(rights.check(plan.clone()).is_ok(), "{plan:?}");
        }
        assert!(rights.commits(&plan(
            true,
            "DELETE FROM derived.manifest",
            &[],
            &["derived.manifest"]
        )));
    }

    #[test]
    fn what_is_not_granted_is_refused() {
        let rights = rights();
        for (plan, part) in [
            (
                plan(true, "SELECT 1", &["core.secret"], &[]),
                "reads table core.secret",
            ),
            (
                plan(true, "DELETE FROM x.y", &[], &["x.y"]),
                "writes table x.y",
            ),
            (
                plan(true, "DELETE FROM derived.old", &[], &["derived.old"]),
                "writes table derived.old",
            ),
            (plan(true, "COMMIT", &[], &[]), "is \"commit\""),
            (plan(true, "/* x */ ;", &[], &[]), "is empty"),
            (
                plan(true, "SELECT 1; COMMIT", &[], &[]),
                "holds 2 statements",
            ),
            (
                plan(true, "VACUUM derived.old", &[], &["derived.old"]),
                "outside of a transaction",
            ),
            (
                plan(
                    false,
                    "DELETE FROM derived.sessions",
                    &[],
                    &["derived.sessions"],
                ),
                "outside of a transaction",
            ),
            (plan(true, "SELECT 'a", &[], &[]), "never closed"),
            (
                plan(
                    true,
                    "WITH x AS (Delete FROM a RETURNING 1) SELECT 1 FROM x",
                    &[],
                    &[],
                ),
                "does not say which",
            ),
        ] {
            let error = rights.check(plan).unwrap_err();
            assert!(error.what.contains(part), "{error:?}");
        }
    }

    #[test]
    fn questions_only_read() {
        let question = |sql: &str| Question {
            label: "q".into(),
            sql: sql.into(),
            params: vec![],
        };
        for rights in [rights(), confined()] {
            assert!(rights.check_question(question("SELECT 1")).is_ok());
            for sql in ["DELETE FROM a", "SELECT 1; SELECT 2", "SET ROLE x", ""] {
                assert!(rights.check_question(question(sql)).is_err(), "{sql}");
            }
        }
        for sql in [
            "WITH x AS (DELETE FROM a.b RETURNING 1) SELECT 1",
            "SELECT 1 INTO a.b",
        ] {
            assert!(confined().check_question(question(sql)).is_err(), "{sql}");
        }
    }

    #[test]
    fn a_third_partys_shape_reads_and_fills_what_it_was_granted() {
        let shape = |sql: &str, reads: &[&str]| Shape {
            select_sql: sql.into(),
            params: vec![],
            reads: reads.iter().map(|&name| name.to_owned()).collect(),
            key: vec!["a".into()],
            order_by: vec![],
            output: vec![],
            target: "a".into(),
            publishes: vec![],
            notes: vec![],
        };
        let target = TableName::new("scratch", "p__a");
        let good = shape("SELECT (1) AS a, ')' AS b -- )", &["atomic.events"]);
        assert!(confined().check_shape(good.clone(), &target).is_ok());
        for (shape, target, part) in [
            (
                good.clone(),
                "scratch.p__b",
                "no scratch table that it was granted",
            ),
            (
                good.clone(),
                "derived.own",
                "no scratch table that it was granted",
            ),
            (
                shape("SELECT 1 AS a", &["core.secret"]),
                "scratch.p__a",
                "was not granted",
            ),
            (
                shape("SELECT 1 AS a", &["scratch.p__a"]),
                "scratch.p__a",
                "itself makes",
            ),
            (
                shape("SELECT 1) TO STDOUT", &[]),
                "scratch.p__a",
                "closes a bracket",
            ),
            (shape("SELECT (1", &[]), "scratch.p__a", "closes a bracket"),
            (
                shape("SELECT 1) TO STDOUT; SELECT (1", &[]),
                "scratch.p__a",
                "holds 2 statements",
            ),
            (shape("SELECT 1 AS a;", &[]), "scratch.p__a", "semicolon"),
            (
                shape("SELECT 1 AS a FOR UPDATE", &[]),
                "scratch.p__a",
                "can change tables",
            ),
            (
                shape(
                    "WITH d AS (DELETE FROM derived.own RETURNING 1) SELECT 1 FROM d",
                    &[],
                ),
                "scratch.p__a",
                "can change tables",
            ),
            (
                shape("SELECT 1 AS a INTO scratch.x", &[]),
                "scratch.p__a",
                "INTO",
            ),
            (
                shape("COPY atomic.events TO STDOUT", &[]),
                "scratch.p__a",
                "is \"copy\"",
            ),
            (
                shape("EXPLAIN ANALYZE SELECT 1", &[]),
                "scratch.p__a",
                "is \"explain\"",
            ),
            (
                shape("DELETE FROM derived.own", &[]),
                "scratch.p__a",
                "can change tables",
            ),
        ] {
            let target = target.parse().expect("a table");
            let error = confined().check_shape(shape, &target).unwrap_err();
            assert!(error.what.contains(part), "{error:?}");
        }
        let mut select_alone = confined();
        let confinement = select_alone.confined.as_mut().expect("confined");
        confinement.statements = [StatementGrant::Select].into();
        let error = select_alone.check_shape(good, &target).unwrap_err();
        assert!(error.what.contains("+ insert"), "{error:?}");
    }

    #[test]
    fn a_third_party_fills_scratch_tables_and_changes_what_it_was_granted() {
        let fill = |statements: &[(&str, &str)]| {
            let plans = statements
                .iter()
                .map(|(sql, table)| plan(true, sql, &["atomic.events"], &[table]));
            let mut plans: Vec<_> = plans.collect();
            let more = plans.split_off(1);
            let mut first = plans.remove(0);
            first
                .statements
                .extend(more.into_iter().flat_map(|plan| plan.statements));
            first
        };
        let own = ("INSERT INTO derived.own SELECT 1", "derived.own");
        let (clear, make, measure) = (
            ("DROP TABLE IF EXISTS scratch.p__a", "scratch.p__a"),
            (
                "CREATE UNLOGGED TABLE scratch.p__a AS SELECT 1",
                "scratch.p__a",
            ),
            ("ANALYZE scratch.p__a", "scratch.p__a"),
        );
        assert!(confined().check(fill(&[clear, make, measure, own])).is_ok());
        let mut ends = fill(&[make]);
        ends.ends_run = Some("nothing new".into());
        let mut ends_when_zero = fill(&[make]);
        ends_when_zero.statements[0].ends_run_when_zero = Some("nothing new".into());
        for (plan, part) in [
            (ends, "plan would end the run"),
            (ends_when_zero, "statement \"s\" would end the run"),
            (fill(&[own, make]), "must come first"),
            (
                fill(&[("DELETE FROM derived.own", "derived.own")]),
                "+ delete (granted: `statements: [select, insert]`)",
            ),
            (
                fill(&[("CREATE TABLE scratch.p__a AS SELECT 1", "scratch.p__a")]),
                "none that may run",
            ),
            (
                fill(&[("DROP TABLE IF EXISTS derived.own", "derived.own")]),
                "no scratch table that it was granted",
            ),
            (
                fill(&[(
                    "CREATE UNLOGGED TABLE scratch.p__b AS SELECT 1",
                    "scratch.p__a",
                )]),
                "no scratch table",
            ),
            (
                fill(&[("ALTER ROLE acme PASSWORD 'x'", "derived.own")]),
                "none that may run",
            ),
            (plan(false, "SELECT 1", &[], &[]), "wants none"),
            (
                plan(true, "SELECT 1", &["atomic.other"], &[]),
                "reads table atomic.other",
            ),
        ] {
            let error = confined().check(plan).unwrap_err();
            assert!(error.what.contains(part), "{error:?}");
        }
    }

    /// Goal: who wrote the workflow file finds what is refused in it, by the name that stands there, and reads which key
    /// would allow it; where nothing would, no key is named.
    #[test]
    fn a_refusal_says_which_key_would_grant_it() {
        let refusal = |rights: &Rights, sql: &str, reads: &[&str], writes: &[&str]| {
            let refusal = rights.check(plan(true, sql, reads, writes)).unwrap_err();
            (refusal.what, refusal.mend.unwrap_or_default())
        };
        let grant = |table: &str, key: &str| {
            format!(
                "If that is meant, add {table} to `plugins.acme.grants.{key}` in the workflow file."
            )
        };
        for rights in [rights(), confined()] {
            assert_eq!(
                refusal(&rights, "SELECT 1", &["scratch.p__batches"], &[]),
                (
                    "statement \"s\" reads table scratch.batches, which the step was not granted"
                        .into(),
                    grant("scratch.batches", "read")
                )
            );
            // Another playbook's table has no other name.
            let (what, _) = refusal(&rights, "SELECT 1", &["scratch.q__batches"], &[]);
            assert!(what.contains(" scratch.q__batches,"), "{what}");
            let (_, mend) = refusal(&rights, "DELETE FROM a.b", &[], &["a.b"]);
            assert_eq!(mend, grant("a.b", "write"));
        }
        let fill = "CREATE UNLOGGED TABLE scratch.p__b AS SELECT 1";
        let (what, mend) = refusal(&confined(), fill, &[], &["scratch.p__a"]);
        assert!(
            what.contains("fills table scratch.b, which is no"),
            "{what}"
        );
        assert_eq!(mend, grant("scratch.b", "write"));
        let clear = "DROP TABLE IF EXISTS derived.own";
        assert_eq!(refusal(&confined(), clear, &[], &["derived.own"]).1, "");
        let delete = "DELETE FROM derived.own";
        assert_eq!(
            refusal(&confined(), delete, &[], &["derived.own"]).1,
            "If that is meant, write `statements: [select, insert, delete]` under `plugins.acme.grants` in the workflow \
             file."
        );
        let mut no_manifest = confined();
        no_manifest.writes.clear();
        let (_, mend) = refusal(
            &no_manifest,
            "DELETE FROM derived.manifest",
            &[],
            &["derived.manifest"],
        );
        assert!(mend.contains("the commit step alone"), "{mend}");
        let builtin = Rights {
            plugin: None,
            ..rights()
        };
        assert_eq!(refusal(&builtin, "SELECT 1", &["a.b"], &[]).1, "");
    }
}
