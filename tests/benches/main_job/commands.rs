//! The commands of both sides.
//!
//! Hides how each of them is told where the database is, and keeps the user's own settings from
//! them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The workflow files, and the derived table of each.
pub const WORKFLOWS: [&str; 2] = ["sessions", "visitor_days"];

/// What a careful analyst sets for such a job, on request. With the server's defaults the planner
/// may read the whole table rather than go by BRIN, and compile what is over before it pays.
pub const TUNED: &str = "-c jit=off -c random_page_cost=1.1";

/// The commands on one database.
pub struct Commands {
    /// `psql` without arguments of its own.
    psql: Command,
    /// Folder of the workflow files.
    folder: PathBuf,
    /// Where Stepwell keeps compiled steps.
    cache: PathBuf,
}

impl Commands {
    /// Writes the workflow files into `folder`, which is made. `psql` connects to the server.
    pub fn new(mut psql: Command, database: &str, folder: PathBuf, cache: PathBuf) -> Result<Self> {
        psql.args(["-d", database]);
        write_workflows(&psql, database, &folder)?;
        Ok(Self {
            psql,
            folder,
            cache,
        })
    }

    /// `psql` on a script of the hand-written side.
    pub fn psql_file(&self, name: &str) -> Command {
        let file = root().join("tests/benches/hand").join(name);
        let mut psql = copy_of(&self.psql);
        psql.arg("-qX").arg("-f").arg(file);
        psql
    }

    /// `stepwell`, as users build it.
    pub fn stepwell(&self, args: &[&str]) -> Command {
        let mut stepwell = Command::new(env!("CARGO_BIN_EXE_stepwell-under-test"));
        stepwell.args(args).current_dir(&self.folder);
        // Not the user's own cache, log or server.
        stepwell
            .env("XDG_CACHE_HOME", &self.cache)
            .env_remove("STEPWELL_LOG");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                stepwell.env_remove(name);
            }
        }
        stepwell
    }

    /// The workflow files.
    pub fn files(&self) -> [PathBuf; 2] {
        WORKFLOWS.map(|name| self.folder.join(format!("{name}.yaml")))
    }
}

/// Writes the repository's workflow files with the database in them.
fn write_workflows(psql: &Command, database: &str, folder: &Path) -> Result<()> {
    let args: Vec<_> = psql.get_args().filter_map(|arg| arg.to_str()).collect();
    let after = |flag| {
        let at = args.iter().position(|arg| *arg == flag);
        at.and_then(|at| args.get(at + 1))
            .copied()
            .context("psql's arguments say where the server is")
    };
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let (host, port, user) = (encode(after("-h")?), after("-p")?, encode(after("-U")?));
    let url = format!(
        "postgres://{user}@/{}?host={host}&port={port}",
        encode(database)
    );
    fs::create_dir(folder)?;
    for name in WORKFLOWS {
        let source = root().join("workflows").join(format!("{name}.yaml"));
        let mut text =
            fs::read_to_string(&source).with_context(|| format!("read {}", source.display()))?;
        // A URL in JSON's quotes is one in YAML's.
        text += &format!("\nwarehouse: {{ url: {} }}\n", serde_json::to_string(&url)?);
        fs::write(folder.join(format!("{name}.yaml")), text)?;
    }
    Ok(())
}

fn copy_of(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    copy
}

/// Runs what is not measured.
pub fn finish(mut command: Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The repository's root.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
