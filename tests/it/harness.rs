//! A server for the test run, a database for each test, and workflows run in it.
//!
//! The server is a private one as users get it, but for its durability. It is stopped when the test process ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use stepwell_demo::{Batch, Stream, StreamOptions};
use stepwell_runner::{Components, RunError, RunOptions, RunReport, Unobserved};
use stepwell_sql::TableName;
use stepwell_warehouse::local::{Durability, LocalOptions, LocalServer, Status};
use stepwell_warehouse::{AnswerLimits, CopyFormat, Session, SessionOptions, Target};
use stepwell_workflow::{Inputs, Workflow};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where files of this test run go.
fn temp() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("server-{}", std::process::id()))
}

fn server() -> &'static LocalServer {
    static SERVER: OnceLock<LocalServer> = OnceLock::new();
    extern "C" fn stop() {
        if let Some(server) = SERVER.get() {
            let _ = server.remove();
        }
        let _ = std::fs::remove_dir_all(temp());
    }
    SERVER.get_or_init(|| {
        let options = LocalOptions {
            durability: Durability::OffForTests,
            settings: vec![("max_connections".into(), "200".into())],
        };
        let server = LocalServer::at(&temp(), options);
        server.ensure_running().unwrap_or_else(|error| {
            // Debug would hide the command that installs what is missing.
            let help = error.help().unwrap_or_default();
            panic!("the tests run on a PostgreSQL server of their own: {error}; {help}")
        });
        // SAFETY: `stop` touches only what outlives `main`: a static and the file system.
        unsafe { libc::atexit(stop) };
        server
    })
}

/// Makes `folder` a project whose private server is that of the tests.
pub fn share_server_with(folder: &Path) {
    server();
    std::os::unix::fs::symlink(temp(), folder.join(".stepwell")).expect("a link");
}

/// A server of one test's own, which may crash. It goes with the test.
pub struct OwnServer {
    server: LocalServer,
    directory: PathBuf,
}

impl OwnServer {
    /// Starts it. A commit is on the disk, as far as a crash of the server alone can tell.
    pub fn start(name: &str) -> Self {
        let options = LocalOptions {
            durability: Durability::OffForTests,
            settings: vec![("synchronous_commit".into(), "on".into())],
        };
        let directory = temp().with_extension(name);
        let server = LocalServer::at(&directory, options);
        server.ensure_running().expect("it starts");
        Self { server, directory }
    }

    pub fn target(&self) -> Target {
        self.server.target().expect("it was started")
    }

    /// Stops it in the way that rolls nothing back and writes nothing out, and starts it again.
    pub fn crash(&self) {
        let Ok(Status::Running { pid }) = self.server.status() else {
            panic!("it does not run");
        };
        // SAFETY: a signal to a process that this test started.
        unsafe { libc::kill(pid.try_into().expect("a pid"), libc::SIGQUIT) };
        while self.server.status().expect("a directory") != Status::Stopped {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.server.ensure_running().expect("it starts again");
    }
}

impl OwnServer {
    /// Makes it the private server of the programs that run in a folder.
    pub fn share_with(&self, folder: &Path) {
        std::os::unix::fs::symlink(&self.directory, folder.join(".stepwell")).expect("a link");
    }

    pub fn status(&self) -> Status {
        self.server.status().expect("a directory")
    }

    /// Stops it in good order.
    pub fn stop(&self) {
        self.server.stop().expect("it stops");
    }

    /// Stops it in good order, and starts it again.
    pub fn restart(&self) {
        self.server.stop().expect("it stops");
        self.server.ensure_running().expect("it starts again");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.server.remove();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Components, with a cache that test runs share: compiling them is not what is tested here.
pub fn components() -> Components {
    static COMPONENTS: OnceLock<Components> = OnceLock::new();
    COMPONENTS.get_or_init(fresh_components).clone()
}

/// The same, without what other tests have loaded.
pub fn fresh_components() -> Components {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("components");
    Components::new(stepwell_builtin::STEPS, Some(cache))
        .with_compiler(env!("CARGO_BIN_EXE_stepwell-under-test").into())
}

/// A database of its own.
pub struct Db {
    pub target: Target,
    pub session: Session,
}

impl Db {
    /// Returns an empty database.
    pub async fn empty() -> Self {
        let target = tokio::task::spawn_blocking(|| server().target().expect("it runs"))
            .await
            .expect("no panic");
        Self::empty_on(target).await
    }

    /// Returns an empty database of another server.
    pub async fn empty_on(target: Target) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let admin = Session::connect(&target, &SessionOptions::default())
            .await
            .expect("connect");
        admin
            .batch(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .expect("create database");
        let target = target.with_database(&name);
        let session = Session::connect(&target, &SessionOptions::default())
            .await
            .expect("connect");
        Self { target, session }
    }

    /// Returns a database with the demo's tables and indexes, without rows.
    pub async fn with_tables() -> Self {
        Self::empty().await.and_tables().await
    }

    /// Makes the demo's tables and indexes.
    pub async fn and_tables(self) -> Self {
        let db = self;
        for sql in stepwell_demo::schema_sql() {
            db.sql(&sql).await;
        }
        for sql in stepwell_demo::indexes_sql() {
            db.sql(sql).await;
        }
        db
    }

    /// Returns the database's connection string.
    pub fn url(&self) -> String {
        self.target.socket_url().expect("it is on a socket")
    }

    /// Returns the database's connection string by way of a socket in another directory.
    pub fn url_by(&self, directory: &Path) -> String {
        let url = self.url();
        let (user, _) = url.split_once("?host=").expect("a socket's url");
        format!("{user}?host={}&port=5432", directory.display())
    }

    /// Returns the directory of the server's socket.
    pub fn socket_directory(&self) -> PathBuf {
        let url = self.url();
        let (_, rest) = url.split_once("?host=").expect("a socket's url");
        let directory = rest.split('&').next().expect("a directory");
        percent_encoding::percent_decode_str(directory)
            .decode_utf8()
            .expect("UTF-8")
            .as_ref()
            .into()
    }

    /// Runs statements of the test's own.
    pub async fn sql(&self, sql: &str) {
        self.session
            .batch(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Returns the rows of a query, each value in its text form.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let sql = format!("SELECT row_to_json(t)::text AS row FROM ({sql}) AS t");
        let answer = self.session.ask(&sql, &[], &AnswerLimits::default()).await;
        let answer = answer.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let text = |value: serde_json::Value| match value {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text),
            other => Some(other.to_string()),
        };
        (0..answer.rows as usize)
            .map(|row| {
                let row: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(answer.text(row, "row").expect("a row")).expect("JSON");
                row.into_iter().map(|(_, value)| text(value)).collect()
            })
            .collect()
    }

    /// Returns the number that a query selects.
    pub async fn number(&self, sql: &str) -> i64 {
        let answer = self
            .session
            .ask(
                &format!("SELECT ({sql})::int8 AS n"),
                &[],
                &AnswerLimits::default(),
            )
            .await;
        answer
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
            .int64(0, "n")
            .unwrap_or_else(|| panic!("{sql}: NULL"))
    }

    /// Returns the text that a query selects.
    pub async fn text(&self, sql: &str) -> String {
        let answer = self
            .session
            .ask(
                &format!("SELECT ({sql})::text AS t"),
                &[],
                &AnswerLimits::default(),
            )
            .await;
        let answer = answer.unwrap_or_else(|error| panic!("{sql}: {error}"));
        answer
            .text(0, "t")
            .unwrap_or_else(|| panic!("{sql}: NULL"))
            .to_owned()
    }

    /// Lands a batch.
    pub async fn land(&self, batch: &Batch) {
        let mut columns = (stepwell_demo::copy_events_sql(), batch.event_chunks());
        self.copy(&columns.0, &mut columns.1).await;
        let mut columns = (
            stepwell_demo::copy_page_contexts_sql(),
            batch.page_context_chunks(),
        );
        self.copy(&columns.0, &mut columns.1).await;
    }

    /// `COPY table (columns) FROM STDIN`, taken apart for the warehouse.
    async fn copy(&self, sql: &str, chunks: &mut stepwell_demo::Chunks) {
        let rest = sql.strip_prefix("COPY ").expect("a COPY");
        let (table, rest) = rest.split_once(" (").expect("columns");
        let columns: Vec<_> = rest
            .split(')')
            .next()
            .expect("a bracket")
            .split(", ")
            .collect();
        let table: TableName = table.parse().expect("a table");
        let chunks: Vec<_> = chunks
            .map(|chunk| Ok::<_, std::io::Error>(chunk.into()))
            .collect();
        let source = futures_util::stream::iter(chunks);
        self.session
            .copy_in(&table, &columns, CopyFormat::Text, source)
            .await
            .expect("copy");
    }

    /// Runs a workflow.
    pub async fn run(&self, workflow: &Workflow) -> Result<RunReport, RunError> {
        self.run_with(workflow, &RunOptions::default()).await
    }

    /// Runs a workflow with options; where to is this database.
    pub async fn run_with(
        &self,
        workflow: &Workflow,
        options: &RunOptions,
    ) -> Result<RunReport, RunError> {
        let (_stopper, stop) = stepwell_runner::stop();
        stepwell_runner::run(
            workflow,
            &components(),
            &self.options(options),
            &Unobserved,
            stop,
        )
        .await
    }

    pub fn options(&self, options: &RunOptions) -> RunOptions {
        RunOptions {
            target: Some(self.target.clone()),
            ..options.clone()
        }
    }

    /// Asserts that `table` equals what a first build of the workflow over all its processed batches gives.
    pub async fn assert_equals_rebuild(&self, workflow: &str, table: &str) {
        self.sql("DROP SCHEMA IF EXISTS rebuilt, rebuild_scratch CASCADE")
            .await;
        let text = rebuild_text(&read(workflow));
        let rebuild = parse_at(&root().join("workflows").join(workflow), &text);
        self.run(&rebuild)
            .await
            .unwrap_or_else(|error| panic!("rebuild: {error}"));
        let name = table.strip_prefix("derived.").expect("a derived table");
        let difference = format!(
            "SELECT count(*) FROM ((SELECT * FROM {table} EXCEPT ALL SELECT * FROM rebuilt.{name})
             UNION ALL (SELECT * FROM rebuilt.{name} EXCEPT ALL SELECT * FROM {table})) AS d"
        );
        let differing = self.number(&difference).await;
        assert_eq!(differing, 0, "rows of {table} differ from a rebuild");
        assert!(
            self.number(&format!("SELECT count(*) FROM {table}")).await > 0,
            "{table} is empty"
        );
    }
}

/// The workflow with every derived table elsewhere and a manifest of its own.
fn rebuild_text(text: &str) -> String {
    let moved = text.replace("derived.", "rebuilt.");
    format!("{moved}\nschemas: {{ scratch: rebuild_scratch, derived: rebuilt }}\n")
}

/// The text of a workflow file of the repository.
pub fn read(name: &str) -> String {
    let text = std::fs::read_to_string(root().join("workflows").join(name));
    let text = text.expect("a workflow file");
    // Tests say by themselves where the tables are.
    let here = |line: &&str| !line.starts_with("warehouse: ");
    let without: String = text.split_inclusive('\n').filter(here).collect();
    assert_ne!(
        without, text,
        "{name} takes its warehouse from the environment"
    );
    without
}

/// A workflow file of the repository, checked.
pub fn workflow(name: &str) -> Workflow {
    parse_at(&root().join("workflows").join(name), &read(name))
}

/// A workflow text, checked as if it stood in `workflows/`.
pub fn parse(text: &str) -> Workflow {
    parse_at(&root().join("workflows/test.yaml"), text)
}

fn parse_at(path: &Path, text: &str) -> Workflow {
    let inputs = Inputs {
        vars: BTreeMap::new(),
        env: &|_| None,
    };
    let (workflow, _) = Workflow::parse(path, text, &inputs, &mut components()).unwrap_or_else(
        |(file, problems)| {
            let problems: Vec<_> = problems
                .iter()
                .map(|problem| problem.to_plain(&file))
                .collect();
            panic!("{}", problems.join("\n"))
        },
    );
    workflow
}

/// A stream of about 100 events an hour for ten days, in batches of six hours.
pub fn stream(seed: u64) -> Stream {
    let options = StreamOptions {
        seed,
        events: 6_000,
        days: 10,
        batch_minutes: 360,
        ..StreamOptions::default()
    };
    Stream::new(&options).expect("options")
}
