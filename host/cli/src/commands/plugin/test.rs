//! `stepwell plugin test`: a component run for real, rows in and rows expected.
//!
//! Each fixture is a run of the host's own, in a database that is made for it and dropped: the same
//! checks, the same statements, the same sandbox as in production.

mod compare;
mod fixture;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use clap::Args;
use futures_util::stream;
use serde_json::{Value, json};
use stepwell_runner::{Components, RunOptions, Stop, Unobserved};
use stepwell_sql::{TableName, quote_ident};
use stepwell_warehouse::local::{Ensured, LocalServer};
use stepwell_warehouse::{AnswerLimits, CopyFormat, Param, Session, SessionOptions, Target};
use stepwell_workflow::{Inputs, Workflow};

use self::compare::{Columns, Difference, Row, compare};
use self::fixture::{Expected, Fixture, Rows};
use super::{build, read_component};
use crate::commands::{Context, Outcome, block_on};
use crate::exit;
use crate::failed::Failed;
use crate::invocation::Invocation;
use crate::render::words::{clean, count, duration};
use crate::render::{failure, problems};
use crate::signals;

/// Differences of one table that are told.
const DIFFERENCES_MAX: usize = 50;

/// Run a plugin's component on fixtures: rows in, rows expected
///
/// Builds the crate in DIR, and runs the component on each fixture against the private PostgreSQL
/// server, in a database that is made for it and dropped. What differs is shown cell by cell. A
/// server that did not run before is stopped in the end.
///
/// A fixture is a YAML file with `source:` and `steps:` as in a workflow file, `tables:` to begin
/// with (`columns:` with types, and `rows:` or a `csv:` file with a heading), and `expect:` with
/// tables to end with: a scratch table by its alias, others as `schema.table`. Or `fails:` with
/// words of the error that is expected. The component runs as your own, under the server's
/// superuser: test only what your team wrote.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell plugin test
  stepwell plugin test plugins/engaged-time --fixture plugins/engaged-time/fixtures/tabs.yaml
  stepwell plugin test --component engaged-time.wasm --fixture tabs.yaml

Exit codes: 0 all is as expected, 9 PostgreSQL is not installed, 10 something differs, or the plugin
does not build.")]
pub(crate) struct TestArgs {
    /// The plugin's folder; without `--fixture`, all of its `fixtures/*.yaml` are run
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Run this component, and build none
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// Run this fixture; may be repeated
    #[arg(long, value_name = "FILE")]
    fixture: Vec<PathBuf>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// More arguments for `cargo build`
    #[arg(value_name = "CARGO ARGS", last = true)]
    cargo: Vec<String>,
}

/// What came of a fixture.
struct Tested {
    fixture: PathBuf,
    seconds: f64,
    result: Result<Vec<Table>, String>,
}

/// A table that was compared.
struct Table {
    name: String,
    rows: usize,
    differences: Vec<Difference>,
}

impl Tested {
    fn is_good(&self) -> bool {
        let good = |tables: &Vec<Table>| tables.iter().all(|table| table.differences.is_empty());
        self.result.as_ref().is_ok_and(good)
    }
}

pub(crate) fn execute(args: &TestArgs, context: &Context) -> Outcome {
    let component = component(args)?;
    let (_, inspection) = read_component(&component)?;
    let component = component
        .canonicalize()
        .with_context(|| format!("could not find {}", component.display()))?;
    let fixtures = fixtures(args)?;
    let name = inspection.description.name;
    let tested = block_on(async {
        let stop = signals::listen(&context.output)?;
        let server = Server::start(context).await?;
        let tested = async {
            Bench::new(context, name, component, &server, stop)
                .await?
                .test_all(&fixtures)
                .await
        };
        let tested = tested.await;
        let left = server.leave().await;
        // What was found out about the plugin says more than that the server did not stop.
        tested.and_then(|tested| left.map(|()| tested))
    })?;
    match args.json {
        true => {
            let rows: Vec<Value> = tested.iter().map(as_json).collect();
            context.output.json(&rows)?;
        }
        false => {
            let texts: Vec<String> = tested.iter().map(as_text).collect();
            context.output.result(&texts.join("\n"))?;
        }
    }
    Ok(match tested.iter().all(Tested::is_good) {
        true => exit::SUCCESS,
        false => exit::PLUGIN,
    })
}

/// The component that is to be tested, built if none is given.
fn component(args: &TestArgs) -> Result<PathBuf, Failed> {
    if let Some(component) = &args.component {
        return Ok(component.clone());
    }
    let mut built = build::build(&args.folder, &args.cargo)?;
    match (built.pop(), built.len()) {
        (Some(built), 0) => Ok(built.file),
        (_, more) => Err(Failed::Usage {
            message: format!("{} makes {} components", args.folder.display(), more + 1),
            help: "name one with `--component`, or the folder of one crate".into(),
        }),
    }
}

fn fixtures(args: &TestArgs) -> Result<Vec<PathBuf>, Failed> {
    if !args.fixture.is_empty() {
        return Ok(args.fixture.clone());
    }
    let folder = args.folder.join("fixtures");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let is_yaml = |path: &PathBuf| {
        let extension = path.extension();
        extension.is_some_and(|extension| extension == "yaml" || extension == "yml")
    };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_yaml).collect();
    found.sort();
    match found.is_empty() {
        false => Ok(found),
        true => Err(Failed::Usage {
            message: format!("there is no fixture in {}", folder.display()),
            help: "write one, or name one with `--fixture`; `stepwell plugin test --help` says what it holds".into(),
        }),
    }
}

/// The private server, which is left as it was found.
struct Server {
    local: LocalServer,
    /// Where, and whether it was started for these tests.
    ensured: Ensured,
}

impl Server {
    async fn start(context: &Context) -> Result<Self, Failed> {
        let local = stepwell_runner::local_server(&context.project);
        let starting = local.clone();
        let ensured = tokio::task::spawn_blocking(move || starting.ensure()).await;
        Ok(Self {
            ensured: ensured.context("the thread that starts the server crashed")??,
            local,
        })
    }

    /// Stops it if it was started for these tests, and nobody else has come to work on it since.
    async fn leave(self) -> Result<(), Failed> {
        if !self.ensured.started || self.is_in_use().await {
            return Ok(());
        }
        let local = self.local;
        let stopped = tokio::task::spawn_blocking(move || local.stop()).await;
        stopped.context("the thread that stops the server crashed")??;
        Ok(())
    }

    async fn is_in_use(&self) -> bool {
        let Ok(session) = connect(&self.ensured.target).await else {
            return false;
        };
        // Sessions of this program's own may not have ended yet.
        let sql = "SELECT 1 FROM pg_catalog.pg_stat_activity
            WHERE backend_type = 'client backend' AND application_name <> $1 LIMIT 1";
        let own = [Param::Text(application_name())];
        let others = session.ask(sql, &own, &AnswerLimits::default()).await;
        others.is_ok_and(|others| others.rows > 0)
    }
}

/// What this program's own sessions are called. Two tests at once are told apart.
fn application_name() -> String {
    format!("stepwell plugin test {}", std::process::id())
}

/// Where fixtures are run.
struct Bench<'a> {
    context: &'a Context,
    plugin: String,
    component: PathBuf,
    server: Target,
    admin: Session,
    stop: Stop,
}

impl<'a> Bench<'a> {
    async fn new(
        context: &'a Context,
        plugin: String,
        component: PathBuf,
        server: &Server,
        stop: Stop,
    ) -> Result<Self, Failed> {
        let server = server.ensured.target.clone();
        let admin = connect(&server)
            .await
            .map_err(Failed::warehouse("connect to the private server"))?;
        Ok(Self {
            context,
            plugin,
            component,
            server,
            admin,
            stop,
        })
    }

    async fn test_all(&self, fixtures: &[PathBuf]) -> Result<Vec<Tested>, Failed> {
        let mut tested = Vec::new();
        for fixture in fixtures {
            let begun = Instant::now();
            let result = self.test(fixture).await;
            if let Some(signal) = self.stop.is_asked() {
                return Err(Failed::Stopped(signal));
            }
            tested.push(Tested {
                fixture: fixture.clone(),
                seconds: begun.elapsed().as_secs_f64(),
                result,
            });
        }
        Ok(tested)
    }

    /// Runs one fixture in a database of its own; why it could not be compared is the error.
    async fn test(&self, path: &Path) -> Result<Vec<Table>, String> {
        let fixture = Fixture::read(path, &self.plugin, &self.component)?;
        let mut components = self.context.components();
        let Some(workflow) = self.workflow(&fixture, &mut components)? else {
            return Ok(Vec::new());
        };
        let database = format!("stepwell_test_{}", std::process::id());
        let name = quote_ident(&database);
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        let made = async {
            self.admin.batch(&drop).await?;
            self.admin
                .batch(&format!("CREATE DATABASE {name} TEMPLATE template0"))
                .await
        };
        made.await
            .map_err(|error| format!("could not make a database: {error}"))?;
        let target = self.server.with_database(&database);
        let tested = self.within(&fixture, &workflow, &components, &target).await;
        self.admin
            .batch(&drop)
            .await
            .map_err(|error| format!("could not drop database {database}: {error}"))?;
        tested.map_err(|error| format!("{error:#}"))
    }

    /// The fixture's workflow; none if it was to be refused and was.
    fn workflow(
        &self,
        fixture: &Fixture,
        components: &mut Components,
    ) -> Result<Option<Workflow>, String> {
        let inputs = Inputs {
            vars: Default::default(),
            env: &|_| None,
        };
        match Workflow::parse(&fixture.path, &fixture.workflow, &inputs, components) {
            Ok((workflow, _)) => Ok(Some(workflow)),
            Err((file, found)) => {
                let rendered = problems::render(&file, &found, &self.context.output.renderer());
                match &fixture.fails {
                    Some(words) if rendered.contains(words) => Ok(None),
                    _ => Err(rendered),
                }
            }
        }
    }

    async fn within(
        &self,
        fixture: &Fixture,
        workflow: &Workflow,
        components: &Components,
        target: &Target,
    ) -> anyhow::Result<Vec<Table>> {
        let session = connect(target).await.context("could not connect")?;
        for (table, input) in &fixture.tables {
            let made = make(&session, table, &input.columns).await;
            made.with_context(|| format!("could not make table {table}"))?;
            let columns: Vec<&str> = match &input.rows.heading {
                Some(heading) => heading.iter().map(String::as_str).collect(),
                None => input
                    .columns
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .collect(),
            };
            let filled = fill(&session, table, &columns, &input.rows).await;
            filled.with_context(|| format!("could not fill table {table}"))?;
        }
        let options = RunOptions {
            target: Some(target.clone()),
            ..self.context.run_options()
        };
        let run = stepwell_runner::run(
            workflow,
            components,
            &options,
            &Unobserved,
            self.stop.clone(),
        );
        match (run.await, &fixture.fails) {
            (Ok(_), None) => {}
            (Ok(_), Some(words)) => {
                return Err(anyhow!(
                    "the run succeeded, expected it to fail with \"{words}\""
                ));
            }
            (Err(error), fails) => {
                let rendered = failure::message(workflow, &error, &Invocation::run());
                let rendered = rendered.render(&self.context.output.renderer());
                if fails.as_ref().is_none_or(|words| !rendered.contains(words)) {
                    return Err(anyhow!("{rendered}"));
                }
            }
        }
        let mut tables = Vec::new();
        for (name, expected) in &fixture.expect {
            let table = match name.contains('.') {
                true => name
                    .parse()
                    .map_err(|_| anyhow!("\"{name}\" is no name of a table"))?,
                false => workflow.scratch_table(name),
            };
            let compared = compared(&session, name, &table, expected).await;
            tables.push(compared.with_context(|| format!("could not compare {name}"))?);
        }
        Ok(tables)
    }
}

async fn connect(target: &Target) -> Result<Session, stepwell_warehouse::WarehouseError> {
    let options = SessionOptions {
        application_name: application_name(),
        ..SessionOptions::default()
    };
    Session::connect(target, &options).await
}

async fn make(
    session: &Session,
    table: &TableName,
    columns: &[(String, String)],
) -> anyhow::Result<()> {
    let schema = quote_ident(table.schema());
    session
        .batch(&format!("CREATE SCHEMA IF NOT EXISTS {schema}"))
        .await?;
    let columns: Vec<String> = columns
        .iter()
        .map(|(name, kind)| format!("{} {kind}", quote_ident(name)))
        .collect();
    session
        .batch(&format!("CREATE TABLE {table} ({})", columns.join(", ")))
        .await?;
    Ok(())
}

async fn fill(
    session: &Session,
    table: &TableName,
    columns: &[&str],
    rows: &Rows,
) -> anyhow::Result<u64> {
    let bytes = rows.csv.clone().into_bytes();
    let chunks = stream::iter([Ok::<_, Infallible>(bytes.into())]);
    Ok(session
        .copy_in(table, columns, CopyFormat::Csv, chunks)
        .await?)
}

/// Compares a table with what is expected. The expected values go through a table with the same types, so that each has
/// the one text form that Postgres gives it.
async fn compared(
    session: &Session,
    name: &str,
    table: &TableName,
    expected: &Expected,
) -> anyhow::Result<Table> {
    let names = match &expected.columns {
        Some(columns) => columns.clone(),
        None => columns(session, table).await?,
    };
    let key = |column: &String| {
        let place = names.iter().position(|name| name == column);
        place.with_context(|| format!("the table has no column \"{column}\""))
    };
    let key: Vec<usize> = match expected.key.is_empty() {
        true => (0..names.len()).collect(),
        false => expected.key.iter().map(key).collect::<Result<_, _>>()?,
    };
    let idents: Vec<String> = names.iter().map(|name| quote_ident(name)).collect();
    let like = TableName::new("stepwell_fixture", "expected");
    session
        .batch(&format!(
            "CREATE SCHEMA IF NOT EXISTS stepwell_fixture;
             DROP TABLE IF EXISTS {like};
             CREATE TABLE {like} AS SELECT {} FROM {table} LIMIT 0",
            idents.join(", ")
        ))
        .await?;
    let columns: Vec<&str> = names.iter().map(String::as_str).collect();
    fill(session, &like, &columns, &expected.rows).await?;
    let wanted = rows(session, &like, &idents).await?;
    let found = rows(session, table, &idents).await?;
    let rows = found.len();
    Ok(Table {
        name: name.to_owned(),
        rows,
        differences: compare(&Columns { names, key }, wanted, found),
    })
}

async fn columns(session: &Session, table: &TableName) -> anyhow::Result<Vec<String>> {
    let limits = AnswerLimits::default();
    let answer = session
        .ask(&format!("SELECT * FROM {table} LIMIT 0"), &[], &limits)
        .await?;
    Ok(answer
        .fields
        .iter()
        .map(|field| field.name.clone())
        .collect())
}

async fn rows(session: &Session, table: &TableName, idents: &[String]) -> anyhow::Result<Vec<Row>> {
    let texts: Vec<String> = (0..)
        .zip(idents)
        .map(|(at, ident)| format!("{ident}::text AS c{at}"))
        .collect();
    let sql = format!("SELECT {} FROM {table}", texts.join(", "));
    let answer = session.ask(&sql, &[], &AnswerLimits::default()).await?;
    let value = |row: usize, at: usize| answer.text(row, &format!("c{at}")).map(str::to_owned);
    Ok((0..answer.rows as usize)
        .map(|row| (0..idents.len()).map(|at| value(row, at)).collect())
        .collect())
}

fn as_json(tested: &Tested) -> Value {
    let tables = tested.result.as_ref().map(|tables| {
        let table = |table: &Table| {
            let differences: Vec<Value> = table.differences.iter().map(Difference::json).collect();
            json!({ "table": table.name, "rows": table.rows, "differences": differences })
        };
        tables.iter().map(table).collect::<Vec<_>>()
    });
    json!({
        "fixture": tested.fixture.display().to_string(),
        "good": tested.is_good(),
        "tables": tables.as_ref().ok(),
        "error": tested.result.as_ref().err(),
    })
}

fn as_text(tested: &Tested) -> String {
    let took = duration(std::time::Duration::from_secs_f64(tested.seconds));
    let fixture = tested.fixture.display();
    let tables = match &tested.result {
        Err(error) => return format!("{fixture}: failed ({took})\n{}", indented(error)),
        Ok(tables) => tables,
    };
    let rows: usize = tables.iter().map(|table| table.rows).sum();
    let rows = count(rows as u64, "row", "rows");
    if tested.is_good() {
        return match tables.is_empty() {
            true => format!("{fixture}: ok, fails as expected ({took})"),
            false => format!("{fixture}: ok, {rows} as expected ({took})"),
        };
    }
    let mut text = format!("{fixture}: differs ({took})");
    for table in tables.iter().filter(|table| !table.differences.is_empty()) {
        let differences = count(table.differences.len() as u64, "difference", "differences");
        text.push_str(&format!("\n  {}: {differences}", table.name));
        for difference in table.differences.iter().take(DIFFERENCES_MAX) {
            text.push_str(&format!("\n    {}", clean(&difference.words())));
        }
        if table.differences.len() > DIFFERENCES_MAX {
            text.push_str("\n    …");
        }
    }
    text
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}
