//! The programs that are measured, and the workflow files that they are given.
//!
//! Hides how each of them is told where the database is, and keeps the user's own settings from them.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use futures_util::stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use stepwell_demo::Chunks;
use stepwell_sql::TableName;
use stepwell_warehouse::{CopyFormat, Session};

/// `stepwell`, as users build it, in a folder and with compiled steps in another.
pub fn stepwell(folder: &Path, cache: &Path) -> Command {
    let mut stepwell = Command::new(env!("CARGO_BIN_EXE_stepwell-under-test"));
    stepwell.current_dir(folder);
    // Not the user's own cache, log or server.
    stepwell
        .env("XDG_CACHE_HOME", cache)
        .env_remove("STEPWELL_LOG");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            stepwell.env_remove(name);
        }
    }
    stepwell
}

/// Writes a workflow file into `folder` that says where the database is. `psql` connects to its server.
pub fn write_workflow(
    folder: &Path,
    name: &str,
    text: &str,
    psql: &Command,
    database: &str,
) -> Result<()> {
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
    // A URL in JSON's quotes is one in YAML's.
    let url = serde_json::to_string(&url)?;
    let text = format!("{text}\nwarehouse: {{ url: {url} }}\n");
    fs::write(folder.join(format!("{name}.yaml")), text)?;
    Ok(())
}

/// Reads a workflow file of the repository, without its line that says where the database is.
pub fn repository_workflow(name: &str) -> Result<String> {
    let source = root().join("workflows").join(format!("{name}.yaml"));
    let text = fs::read_to_string(&source).with_context(|| format!("read {}", source.display()))?;
    let here = |line: &&str| !line.starts_with("warehouse: ");
    Ok(text.split_inclusive('\n').filter(here).collect())
}

/// Returns a command that does the same.
pub fn copy_of(command: &Command) -> Command {
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

/// Copies rows of the demonstration into all columns of a table of `atomic`, which are in the order in which the chunks
/// have them.
pub async fn copy_chunks(session: &Session, table: &str, chunks: Chunks) -> Result<()> {
    let table = TableName::new("atomic", table);
    let chunks = stream::iter(chunks.map(|chunk| Ok::<_, Infallible>(chunk.into())));
    let copied = session.copy_in(&table, &[], CopyFormat::Text, chunks).await;
    copied.with_context(|| format!("copy into {table}"))?;
    Ok(())
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
