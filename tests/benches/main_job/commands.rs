//! The commands of both sides.
//!
//! Hides which files and arguments each of them takes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::program::{copy_of, repository_workflow, root, stepwell, write_workflow};

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
        fs::create_dir(&folder)?;
        for name in WORKFLOWS {
            let text = repository_workflow(name)?;
            write_workflow(&folder, name, &text, &psql, database)?;
        }
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
        let mut stepwell = stepwell(&self.folder, &self.cache);
        stepwell.args(args);
        stepwell
    }

    /// The workflow files.
    pub fn files(&self) -> [PathBuf; 2] {
        WORKFLOWS.map(|name| self.folder.join(format!("{name}.yaml")))
    }
}
