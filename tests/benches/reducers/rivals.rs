//! Who else could do a reducer's work: psql with files, SQL, and a script in Python.
//!
//! All of them start from the rows that the reducer gets, by its own SELECT. Their tables are made anew each time, without
//! a log, as Stepwell makes its scratch tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stepwell_warehouse::Session;

use crate::program::{copy_of, finish, root};
use crate::server::count;

/// What Stepwell gives its own sessions; and a table that is not there yet is no news.
const PGOPTIONS: &str = "-c work_mem=64MB -c jit=off -c client_min_messages=warning";

/// The heartbeat and the tolerance of `workflows/engaged_time.yaml`, in seconds.
const HEARTBEAT: &str = "10";
const TOLERANCE: &str = "1";

/// Commands on the rows of one reducer, and the tables that they fill.
pub struct Rivals {
    psql: Command,
    folder: PathBuf,
    /// The reducer's table, whose columns theirs have.
    given: String,
    /// What their tables and files are named after.
    name: String,
    /// The reducer's rows, without an order.
    rows: String,
}

impl Rivals {
    /// Writes the scripts of one reducer. `select` gives its rows in their order, and `given` is the table that it has
    /// filled.
    pub fn new(
        psql: &Command,
        folder: &Path,
        name: &str,
        select: &str,
        given: &str,
    ) -> Result<Self> {
        let mut psql = copy_of(psql);
        psql.env("PGOPTIONS", PGOPTIONS);
        let (rows, order) = select
            .rsplit_once("\nORDER BY ")
            .context("the rows have an order")?;
        let rivals = Self {
            psql,
            folder: folder.to_owned(),
            given: given.to_owned(),
            name: name.to_owned(),
            rows: rows.to_owned(),
        };
        let copy = |file: &str, filter: &str, format: &str| {
            let sql =
                format!("COPY (\n{rows}{filter}\nORDER BY {order}\n) TO STDOUT (FORMAT {format})");
            fs::write(rivals.path(file), sql)
        };
        copy("out.sql", "", "binary")?;
        copy("csv.sql", "", "csv")?;
        for part in 0..2 {
            let filter = format!("\nWHERE hashtext(rows.visitor) & 1 = {part}");
            copy(&format!("part-{part}.sql"), &filter, "binary")?;
        }
        // What the reducer has given, for psql to copy in.
        let sql = format!("COPY {given} TO STDOUT (FORMAT binary)");
        fs::write(rivals.path("given.sql"), sql)?;
        finish(rivals.shell(&format!(
            "{} > given.bin && {} -c 'CREATE SCHEMA IF NOT EXISTS hand'",
            rivals.file("given.sql"),
            rivals.psql()
        )))?;
        Ok(rivals)
    }

    /// COPY out to a file, COPY in from a file.
    pub fn copies(&self) -> Command {
        let out = self.file("out.sql");
        let copy_in = self.copy_in("copies", "binary");
        self.shell(&format!("{out} > out.bin && {copy_in} < given.bin"))
    }

    /// COPY out in two parts side by side, COPY in as one.
    pub fn copies_in_parts(&self) -> Command {
        let [first, second] = ["part-0.sql", "part-1.sql"].map(|file| self.file(file));
        let copy_in = self.copy_in("copies", "binary");
        self.shell(&format!(
            "{first} > part-0.bin & {second} > part-1.bin && wait $! && {copy_in} < given.bin"
        ))
    }

    /// `engaged.sql`.
    pub fn sql(&self) -> Command {
        let mut psql = copy_of(&self.psql);
        psql.args(["-qX", "-v", "ON_ERROR_STOP=1"]);
        for (name, value) in [
            ("rows", self.rows.as_str()),
            ("heartbeat", HEARTBEAT),
            ("tolerance", TOLERANCE),
            ("into", &self.table("sql")),
        ] {
            psql.arg("-v").arg(format!("{name}={value}"));
        }
        psql.arg("-f").arg(script("engaged.sql"));
        psql
    }

    /// The rows in their order through `engaged.py`, and what it writes into a table.
    pub fn python(&self) -> Command {
        let (out, copy_in) = (self.file("csv.sql"), self.copy_in("python", "csv"));
        self.shell(&format!("{out} | {} | {copy_in}", python()))
    }

    /// `engaged.py` alone, on the rows in a file.
    pub fn script(&self) -> Command {
        self.shell(&format!("{} < rows.csv > days.csv", python()))
    }

    /// Writes that file.
    pub fn rows_to_file(&self) -> Command {
        self.shell(&format!("{} > rows.csv", self.file("csv.sql")))
    }

    /// Makes sure that a rival came to the rows that the reducer gave.
    ///
    /// # Errors
    ///
    /// If it did not.
    pub async fn check(&self, session: &Session, rival: &str) -> Result<()> {
        let (given, table) = (&self.given, self.table(rival));
        let only = |left: &str, right: &str| {
            format!(
                "SELECT count(*) AS it FROM (TABLE {left} EXCEPT ALL TABLE {right}) AS only_left"
            )
        };
        let by_rival = count(session, &only(&table, given)).await?;
        let by_stepwell = count(session, &only(given, &table)).await?;
        let rows = count(session, &format!("SELECT count(*) AS it FROM {given}")).await?;
        ensure!(
            by_rival == 0 && by_stepwell == 0 && rows > 0,
            "{given} of {rows} rows: {by_stepwell} rows are only stepwell's, {by_rival} only those of {rival}"
        );
        Ok(())
    }

    fn table(&self, rival: &str) -> String {
        format!("hand.{}_{rival}", self.name)
    }

    /// psql that makes a table and fills it from its input.
    fn copy_in(&self, rival: &str, format: &str) -> String {
        let (table, like) = (self.table(rival), &self.given);
        format!(
            "{} -1 -c 'DROP TABLE IF EXISTS {table}' -c 'CREATE UNLOGGED TABLE {table} (LIKE {like})' \
             -c 'COPY {table} FROM STDIN (FORMAT {format})'",
            self.psql()
        )
    }

    /// psql on a file of [`new`](Self::new).
    fn file(&self, file: &str) -> String {
        format!("{} -f {}", self.psql(), quoted(&self.path(file)))
    }

    fn psql(&self) -> String {
        let words = std::iter::once(self.psql.get_program()).chain(self.psql.get_args());
        let words: Vec<_> = words.map(|word| quoted(Path::new(word))).collect();
        format!("{} -qX -v ON_ERROR_STOP=1", words.join(" "))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(format!("{}-{file}", self.name))
    }

    /// A command of the shell, with psql's environment.
    fn shell(&self, text: &str) -> Command {
        let mut shell = Command::new("sh");
        for (name, value) in self.psql.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.arg("-c").arg(text).current_dir(&self.folder);
        shell
    }
}

fn python() -> String {
    let script = quoted(&script("engaged.py"));
    format!("python3 -S {script} {HEARTBEAT} {TOLERANCE}")
}

fn script(name: &str) -> PathBuf {
    root().join("tests/benches/reducers").join(name)
}

/// In quotes for the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
