//! The `stepwell` program as a process.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::Db;

/// A folder with workflow files, and the program to run on them.
pub struct Program {
    folder: TempDir,
}

/// A run of the program that ended.
pub struct Ended {
    /// The exit code; the negative number of the signal that ended it otherwise.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new(_: &Db) -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
        }
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.folder.path().join(name), text).expect("write");
        self.path(name)
    }

    /// Returns the path of a file.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs the program to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.start(args))
    }

    /// Runs the first command that a text shows between backticks and that holds these words, as a shell does.
    pub fn run_shown(&self, text: &str, words: &str) -> Ended {
        let mut quoted = text.split('`').skip(1).step_by(2);
        let command = quoted
            .find(|command| command.contains(words))
            .unwrap_or_else(|| panic!("no command with {words:?} in {text}"));
        let program = env!("CARGO_BIN_EXE_stepwell-under-test");
        let script = format!("stepwell() {{ '{program}' \"$@\"; }}\n{command}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        Ended::of(self.spawn(shell))
    }

    /// Starts the program.
    pub fn start(&self, args: &[&str]) -> Child {
        self.start_with(args, &[])
    }

    /// Starts the program with environment variables of its own.
    pub fn start_with(&self, args: &[&str], envs: &[(&str, &str)]) -> Child {
        let mut program = Command::new(env!("CARGO_BIN_EXE_stepwell-under-test"));
        // Workflow files of the repository go where it says.
        program.args(args).env_remove("DATABASE_URL");
        program.envs(envs.iter().copied());
        self.spawn(program)
    }

    fn spawn(&self, mut command: Command) -> Child {
        command
            .current_dir(self.folder.path())
            .env(
                "XDG_CACHE_HOME",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            )
            .env_remove("STEPWELL_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    }
}

impl Ended {
    /// Waits for the end.
    pub fn of(mut child: Child) -> Self {
        use std::os::unix::process::ExitStatusExt;

        let mut stderr = child.stderr.take().expect("piped");
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("UTF-8");
            text
        });
        let mut stdout = String::new();
        child
            .stdout
            .take()
            .expect("piped")
            .read_to_string(&mut stdout)
            .expect("UTF-8");
        let status = child.wait().expect("it ends");
        let code = status
            .code()
            .unwrap_or_else(|| -status.signal().unwrap_or(0));
        Self {
            code,
            stdout,
            stderr: reading.join().expect("no panic"),
        }
    }

    /// Returns the document on stdout.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {}\n{}", self.stdout, self.stderr))
    }
}

/// A workflow file of the repository, with the url of a database.
pub fn read_with_url(db: &Db, name: &str) -> String {
    format!(
        "{}\nwarehouse: {{ url: \"{}\" }}\n",
        crate::harness::read(name),
        db.url()
    )
}
