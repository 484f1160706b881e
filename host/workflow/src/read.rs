//! From a path to a checked workflow: the one way in.

use std::io::Read;
use std::path::Path;

use crate::check::{self, Pins};
use crate::kinds::StepKinds;
use crate::problem::{Problem, Problems};
use crate::source_file::SourceFile;
use crate::substitute::{Inputs, substitute};
use crate::tree;
use crate::workflow::{PluginEntry, TrustPolicy, Workflow};

/// Largest workflow file, and largest SQL file that one refers to, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// A workflow with its warnings, or the file with all its problems, at least one of them an error.
/// Problems are in file order; those without a place come last.
pub type Outcome = Result<(Workflow, Vec<Problem>), (SourceFile, Vec<Problem>)>;

impl Workflow {
    /// Reads and checks the workflow file at `path`.
    ///
    /// Files that it refers to are read too: SQL files here, plugins by `kinds`. Nothing is run and
    /// nothing connected.
    ///
    /// # Errors
    ///
    /// Every problem that can be found without a database, at most
    /// [`PROBLEMS_MAX`](crate::PROBLEMS_MAX).
    pub fn read(path: &Path, inputs: &Inputs<'_>, kinds: &mut dyn StepKinds) -> Outcome {
        Self::read_with(path, inputs, kinds, Pins::Required)
    }

    /// Reads and checks the workflow file at `path`, whose third-party plugins need not be pinned yet.
    ///
    /// For tools that look after plugins. What this returns is not to be run: what a plugin is granted holds for one file,
    /// and without a digest nobody says which.
    ///
    /// # Errors
    ///
    /// As [`Workflow::read`].
    pub fn read_unpinned(path: &Path, inputs: &Inputs<'_>, kinds: &mut dyn StepKinds) -> Outcome {
        Self::read_with(path, inputs, kinds, Pins::Later)
    }

    fn read_with(
        path: &Path,
        inputs: &Inputs<'_>,
        kinds: &mut dyn StepKinds,
        pins: Pins,
    ) -> Outcome {
        match read_text(path) {
            Ok(text) => Self::parse_with(path, &text, inputs, kinds, pins),
            Err(reason) => Err((SourceFile::new(path, ""), vec![unreadable(path, reason)])),
        }
    }

    /// Checks a workflow whose text is at hand; `path` names it and is where relative paths begin.
    ///
    /// # Errors
    ///
    /// As [`Workflow::read`].
    pub fn parse(
        path: &Path,
        text: &str,
        inputs: &Inputs<'_>,
        kinds: &mut dyn StepKinds,
    ) -> Outcome {
        Self::parse_with(path, text, inputs, kinds, Pins::Required)
    }

    fn parse_with(
        path: &Path,
        text: &str,
        inputs: &Inputs<'_>,
        kinds: &mut dyn StepKinds,
        pins: Pins,
    ) -> Outcome {
        let file = SourceFile::new(path, text);
        let mut problems = Problems::default();
        if text.len() as u64 > FILE_BYTES_MAX {
            problems.push(Problem::error("the workflow file is larger than 1 MiB"));
            return Err((file, problems.finish(text)));
        }
        let workflow = tree::parse(text, &mut problems).and_then(|mut root| {
            substitute(&mut root, inputs, &mut problems);
            check::check(&root, &file, kinds, pins, &mut problems)
        });
        match workflow {
            Some(workflow) if !problems.fatal() => Ok((workflow, problems.finish(text))),
            _ => Err((file, problems.finish(text))),
        }
    }
}

/// What a workflow file declares of plugins, whether or not the rest of it holds together.
///
/// For tools that look after plugins: a workflow whose plugin is not pinned yet, or not built, has
/// problems until they have done their work.
#[derive(Debug, Clone)]
pub struct Declarations {
    /// The file, for messages.
    pub source_file: SourceFile,
    /// Whose signatures count.
    pub trust: TrustPolicy,
    /// Plugins that could be read, in the order of the file.
    pub plugins: Vec<PluginEntry>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

impl Declarations {
    /// Reads the file at `path`.
    pub fn read(path: &Path, inputs: &Inputs<'_>) -> Self {
        match read_text(path) {
            Ok(text) => Self::parse(path, &text, inputs),
            Err(reason) => Self {
                source_file: SourceFile::new(path, ""),
                trust: TrustPolicy::default(),
                plugins: Vec::new(),
                problems: vec![unreadable(path, reason)],
            },
        }
    }

    /// Reads a text that is at hand; `path` names it.
    pub fn parse(path: &Path, text: &str, inputs: &Inputs<'_>) -> Self {
        let mut problems = Problems::default();
        let read = tree::parse(text, &mut problems).map(|mut root| {
            // Variables that are not given, or that nothing uses, are the whole check's to report.
            substitute(&mut root, inputs, &mut Problems::default());
            check::declarations(&root, &mut problems)
        });
        let (trust, plugins) = read.unwrap_or_default();
        Self {
            source_file: SourceFile::new(path, text),
            trust,
            plugins,
            problems: problems.finish(text),
        }
    }
}

impl TrustPolicy {
    /// Reads a site's policy: a file with `keys:` and `require:`, as a workflow has them under
    /// `trust:`.
    ///
    /// # Errors
    ///
    /// Every problem of the file, which must not be passed over: a policy that cannot be read would
    /// otherwise require nothing.
    pub fn read(path: &Path) -> Result<Self, (SourceFile, Vec<Problem>)> {
        let text = read_text(path).map_err(|reason| {
            let message = format!("could not read trust file \"{}\"", path.display());
            let problem = Problem::error(message).with_detail(reason);
            (SourceFile::new(path, ""), vec![problem])
        })?;
        let mut problems = Problems::default();
        let policy =
            tree::parse(&text, &mut problems).map(|root| check::site_trust(&root, &mut problems));
        match policy {
            Some(policy) if !problems.fatal() => Ok(policy),
            _ => Err((SourceFile::new(path, &text), problems.finish(&text))),
        }
    }
}

/// The problem of a workflow file that cannot be read.
fn unreadable(path: &Path, reason: String) -> Problem {
    let message = format!("could not read workflow file \"{}\"", path.display());
    let problem = Problem::error(message).with_detail(reason);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        _ if path.is_dir() => {
            let files = path.join("*.yaml");
            problem.with_help(format!("name the files in it: {}", files.display()))
        }
        Some(folder) if !folder.exists() => {
            let help = format!(
                "there is no folder \"{}\"; relative paths begin at the current folder",
                folder.display()
            );
            problem.with_help(help)
        }
        folder if !path.exists() => {
            let folder = folder.unwrap_or(Path::new(".")).display();
            problem.with_help(format!("`ls {folder}` shows which files are there"))
        }
        _ => problem,
    }
}

/// Reads a text file of at most [`FILE_BYTES_MAX`], or says why not.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // One byte more than allowed, and never the whole of a file that grows or has no end.
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("the file is larger than 1 MiB".into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("the file is not UTF-8 text (byte {at})")
    })
}
