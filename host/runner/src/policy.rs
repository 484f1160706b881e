//! What a step may do: its rights, and whether a plan stays within them.
//!
//! Built-in steps and a team's own go through the same check. It reads what a plan declares and how its statements
//! begin, so it keeps a step from doing by mistake what it did not say. It is no boundary against SQL that lies about
//! the tables it touches; that one is the database's, under a login of its own for the plugin.

use std::collections::BTreeSet;

use stepwell_sandbox::contract::{Plan, Question, Shape, Statement};
use stepwell_sql::lexer::{Token, TokenKind, tokens};
use stepwell_sql::{StatementKind, TableName, split, statement_kind};
use stepwell_workflow::{Step, Trust, Workflow};

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
}

impl Rights {
    /// Returns what the step's settings and description name; for a declared plugin only so much of it as the workflow
    /// grants.
    pub(crate) fn of(workflow: &Workflow, step: &Step) -> Self {
        let mut rights = Self {
            derived_schema: workflow.schemas.derived.clone(),
            manifest: Some(workflow.manifest.clone()),
            ..Self::default()
        };
        for (alias, _) in &step.reads_scratch {
            rights.reads.insert(workflow.scratch_table(alias));
        }
        for (alias, _) in &step.writes_scratch {
            rights.writes.insert(workflow.scratch_table(alias));
            rights
                .scratch
                .push(workflow.scratch_table(&format!("{alias}__")));
        }
        let granted =
            |table: &&TableName, list: fn(&stepwell_workflow::Grants) -> &Vec<TableName>| {
                let entry = workflow.plugins.get(&step.uses);
                entry.is_none_or(|entry| {
                    entry.trust == Trust::Own || list(&entry.grants).contains(table)
                })
            };
        rights.reads.extend(
            step.reads_tables
                .iter()
                .filter(|table| granted(table, |g| &g.read))
                .cloned(),
        );
        rights
            .maintains
            .extend(step.maintains_tables.iter().cloned());
        rights.writes.extend(
            step.writes_tables
                .iter()
                .filter(|table| granted(table, |g| &g.write))
                .cloned(),
        );
        if let Some(entry) = workflow.plugins.get(&step.uses) {
            rights.reads.extend(entry.grants.read.iter().cloned());
            rights.writes.extend(entry.grants.write.iter().cloned());
        }
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
    pub(crate) fn check_question(question: &Question) -> Result<(), String> {
        match one_statement(&question.sql)? {
            StatementKind::Query => Ok(()),
            kind => Err(format!(
                "question \"{}\" is {}, expected a SELECT",
                question.label,
                words(&kind)
            )),
        }
    }

    /// Checks the shape of a reducer that fills `target`: its SELECT can only read, and says that it reads what was
    /// granted, its own target not among it.
    pub(crate) fn check_shape(&self, shape: &Shape, target: &TableName) -> Result<(), String> {
        let select = |problem: String| format!("the shape's SELECT {problem}");
        match one_statement(&shape.select_sql).map_err(select)? {
            StatementKind::Query if !may_change(&shape.select_sql) => {}
            StatementKind::Query => return Err(select("can change tables".into())),
            kind => return Err(select(format!("is {}, expected a SELECT", words(&kind)))),
        }
        let tokens = tokens(&shape.select_sql).map_err(|error| error.to_string())?;
        let semicolon = |token: &Token<'_>| token.kind == TokenKind::Semicolon;
        if tokens.iter().any(semicolon) {
            return Err(select("ends with a semicolon".into()));
        }
        for name in &shape.reads {
            let table = table(name).map_err(select)?;
            if table == *target {
                return Err(select(format!(
                    "reads {table}, which the step itself makes"
                )));
            }
            if !self.may_read(&table) {
                return Err(select(format!(
                    "reads table {table}, which the step was not granted"
                )));
            }
        }
        Ok(())
    }

    /// Checks a whole plan; the first thing that is not allowed is the error.
    pub(crate) fn check(&self, plan: &Plan) -> Result<(), String> {
        for statement in &plan.statements {
            self.check_statement(statement, plan.atomic)
                .map_err(|error| format!("statement \"{}\" {error}", statement.label))?;
        }
        if !plan.atomic && self.commits(plan) {
            return Err(
                "the manifest must be written in one transaction with the derived rows".into(),
            );
        }
        Ok(())
    }

    fn check_statement(&self, statement: &Statement, atomic: bool) -> Result<(), String> {
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
                return Err(format!("is {}, which no step may run", words(&kind)));
            }
            _ => {}
        }
        for name in &statement.reads {
            let table = table(name)?;
            if !self.may_read(&table) {
                return Err(format!(
                    "reads table {table}, which the step was not granted"
                ));
            }
        }
        for name in &statement.writes {
            let table = table(name)?;
            if !(self.may_write(&table) || maintenance && self.maintains.contains(&table)) {
                return Err(format!(
                    "writes table {table}, which the step was not granted"
                ));
            }
            if !atomic
                && !maintenance
                && (table.schema() == self.derived_schema || Some(&table) == self.manifest.as_ref())
            {
                return Err(format!("changes table {table} outside of a transaction"));
            }
        }
        Ok(())
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
            assert_eq!(rights.check(&plan), Ok(()), "{plan:?}");
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
            let error = rights.check(&plan).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn questions_only_read() {
        let question = |sql: &str| Question {
            label: "q".into(),
            sql: sql.into(),
            params: vec![],
        };
        assert_eq!(Rights::check_question(&question("SELECT 1")), Ok(()));
        for sql in ["DELETE FROM a", "SELECT 1; SELECT 2", "SET ROLE x", ""] {
            assert!(Rights::check_question(&question(sql)).is_err(), "{sql}");
        }
    }
}
