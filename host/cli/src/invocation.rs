//! Command lines that are shown to be run next: they do what the one at hand did.
//!
//! A command that is shown without the flags that it was given does something else: a full refresh that was interrupted
//! goes on as a plain run, and a workflow with a variable is refused. Flags that say only how results are shown are left
//! out.

use std::path::{Path, PathBuf};

use stepwell_workflow::Workflow;

use crate::files::{self, Vars};

/// The command line at hand, as far as another one has to repeat it.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    /// The subcommand: `run`, `manifest replay`.
    command: &'static str,
    /// Words behind the file that decide what is done, as the program gets them.
    options: Vec<String>,
    /// The first so many of them mean the same to `stepwell plan`.
    shared: usize,
    vars: Vec<(String, String)>,
    /// The folder of the private server, if one was named.
    project: Option<PathBuf>,
}

impl Invocation {
    pub(crate) fn new(command: &'static str, vars: &Vars, project: Option<&Path>) -> Self {
        Self {
            command,
            vars: vars.given.clone(),
            project: project.map(Path::to_owned),
            options: Vec::new(),
            shared: 0,
        }
    }

    /// A run without options.
    pub(crate) fn run() -> Self {
        Self::new("run", &Vars::default(), None)
    }

    /// The demo, which has workflows of its own.
    pub(crate) fn demo() -> Self {
        Self::new("demo", &Vars::default(), None)
    }

    /// Whether it runs what is pending, so that `stepwell plan` shows the same.
    pub(crate) fn is_run(&self) -> bool {
        matches!(self.command, "run" | "plan")
    }

    /// Adds a flag.
    pub(crate) fn flag(mut self, name: &str, given: bool) -> Self {
        self.options.extend(given.then(|| name.to_owned()));
        self
    }

    /// Adds an option once for each value.
    pub(crate) fn option(
        mut self,
        name: &str,
        values: impl IntoIterator<Item = impl ToString>,
    ) -> Self {
        for value in values {
            self.options.extend([name.to_owned(), value.to_string()]);
        }
        self
    }

    /// Says that `stepwell plan` takes all that was added so far.
    pub(crate) fn shared_with_plan(self) -> Self {
        Self {
            shared: self.options.len(),
            ..self
        }
    }

    /// Returns the command line that does the same for one workflow: `stepwell run w.yaml --full-refresh`.
    pub(crate) fn again(&self, workflow: &Workflow) -> String {
        if self.command == "demo" {
            return "stepwell demo".to_owned();
        }
        self.line(self.command, workflow, &self.options)
    }

    /// Returns the command line of a plan for it.
    pub(crate) fn plan(&self, workflow: &Workflow) -> String {
        self.line("plan", workflow, &self.options[..self.shared])
    }

    /// Returns the command line of a run that goes on at a step. What else was asked for it takes from the run that failed,
    /// but for where it is to stop.
    pub(crate) fn from(&self, step: &str, workflow: &Workflow) -> String {
        let stops = self.options.iter().position(|word| word == "--max-slices");
        let stops = stops.and_then(|at| self.options.get(at..at + 2));
        let from = [stops.unwrap_or_default(), &["--from".into(), step.into()]].concat();
        self.line("run", workflow, &from)
    }

    /// Returns the line of another command for the same workflow, with these words behind the file.
    pub(crate) fn line(&self, command: &str, workflow: &Workflow, options: &[String]) -> String {
        let words = options.iter().map(|word| quoted(word));
        let words: Vec<String> = [self.file(workflow)].into_iter().chain(words).collect();
        format!("stepwell {command} {}", words.join(" "))
    }

    /// Returns the file with what every command on it needs: variables, and the folder of the private server.
    pub(crate) fn file(&self, workflow: &Workflow) -> String {
        let file = &workflow.source_file;
        let mut words = vec![quoted(&file.path.display().to_string())];
        for (name, value) in &self.vars {
            // One that another file takes is refused by this one.
            if !files::mentions(&file.text, name) {
                continue;
            }
            words.push("--var".to_owned());
            words.push(match is_secret(&file.text, name) {
                true => format!("{name}=…"),
                false => quoted(&format!("{name}={value}")),
            });
        }
        if let (Some(project), None) = (&self.project, &workflow.warehouse.url) {
            words.push("--project".to_owned());
            words.push(quoted(&project.display().to_string()));
        }
        words.join(" ")
    }
}

/// Whether a variable goes into a connection string or a password, which are never shown.
fn is_secret(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        files::mentions(line, name)
            && ["url", "password"]
                .iter()
                .any(|key| line.contains(&format!("{key}:")))
    })
}

/// Returns a word as a shell reads it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::failure::tests::workflow_of;

    #[test]
    fn a_command_does_what_the_one_before_did() {
        let workflow = workflow_of(
            "w/my sessions.yaml",
            "stepwell: 1\nplaybook: sessions\nwarehouse: { url: \"postgres://app:${var:PW}@db/events\" }\n\
             schemas: { scratch: \"${var:SCRATCH}\" }\n\
             steps: [{ id: truncate, uses: truncate-scratch }]\n",
            &[("PW", "hunter2"), ("SCRATCH", "it")],
        );
        let vars = [("PW", "hunter2"), ("SCRATCH", "it"), ("OTHER", "a file's")];
        let vars = Vars {
            given: vars.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        let run = Invocation::new("run", &vars, Some(Path::new("p")))
            .flag("--full-refresh", true)
            .flag("--never", false)
            .option("--as-of", Some("2026-01-31T06:00:00Z"))
            .shared_with_plan()
            .option("--max-batches", Some(3))
            .option("--max-slices", None::<u32>);
        // The variable of another file is left out, a password is not shown, and the private server has no part in it.
        assert_eq!(
            run.again(&workflow),
            "stepwell run 'w/my sessions.yaml' --var PW=… --var SCRATCH=it --full-refresh --as-of 2026-01-31T06:00:00Z \
             --max-batches 3"
        );
        assert_eq!(
            run.clone()
                .option("--max-slices", Some(7))
                .from("commit", &workflow),
            "stepwell run 'w/my sessions.yaml' --var PW=… --var SCRATCH=it --max-slices 7 --from commit"
        );
        assert_eq!(
            run.plan(&workflow),
            "stepwell plan 'w/my sessions.yaml' --var PW=… --var SCRATCH=it --full-refresh --as-of 2026-01-31T06:00:00Z"
        );
        let private = workflow_of(
            "w.yaml",
            "stepwell: 1\nplaybook: sessions\nsteps: [{ id: truncate, uses: truncate-scratch }]\n",
            &[],
        );
        let replay = Invocation::new("manifest replay", &vars, Some(Path::new("p")))
            .option("--batch", ["2026-01-07 10:00:00", "it's"]);
        assert_eq!(
            replay.again(&private),
            r"stepwell manifest replay w.yaml --project p --batch '2026-01-07 10:00:00' --batch 'it'\''s'"
        );
    }
}
