//! The components behind the steps: embedded ones and those that workflows declare.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{self, Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use stepwell_sandbox::{
    COMPONENT_BYTES_MAX, ChildCompiler, Component, Digest, Kind, STRANGER_BYTES_MAX, Sandbox,
    SandboxError, SandboxOptions, describe,
};
use stepwell_workflow::{
    LimitKey, LoadError, PluginEntry, PluginKind, Step, StepKind, StepKinds, Trust, TrustPolicy,
    Workflow,
};

use crate::conversation::blocking;
use crate::error::{Problem, RunError, one_line};
use crate::trust;

/// The step components that workflows may use. Clones share what is loaded.
///
/// Reading a description runs and compiles nothing; the engine starts when the first step is to run.
#[derive(Clone)]
pub struct Components(Arc<Inner>);

struct Inner {
    builtin: &'static [(&'static str, &'static [u8])],
    /// What built-in steps say of themselves, by name, once somebody asked: several steps of a workflow, and several
    /// workflows, use the same ones.
    kinds: Mutex<BTreeMap<String, StepKind>>,
    cache_dir: Option<PathBuf>,
    /// Who compiles the components of third parties.
    compiler: Option<ChildCompiler>,
    /// Bytes of declared plugins by their file, as they were when it was first read: each file is read once, so that what
    /// was pinned, signed and described is also what runs, whichever workflow names it again.
    declared: Mutex<BTreeMap<PathBuf, Arc<[u8]>>>,
    sandbox: OnceLock<Sandbox>,
    /// What the site requires of plugins, whatever a workflow says.
    site: Vec<TrustPolicy>,
    loaded: Mutex<BTreeMap<Name, Slot>>,
}

/// Where a component stands once it is loaded.
type Slot = Arc<Mutex<Option<Component>>>;

/// What tells one component from another within a process, which reads each file once.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Builtin(String),
    Declared(PathBuf),
}

/// A component's bytes.
enum Bytes {
    Embedded(&'static [u8]),
    Read(Arc<[u8]>, Trust),
}

impl Components {
    /// Returns the built-in steps, and a place for compiled code; nowhere if none, which makes every start slow.
    pub fn new(
        builtin: &'static [(&'static str, &'static [u8])],
        cache_dir: Option<PathBuf>,
    ) -> Self {
        Self(Arc::new(Inner {
            builtin,
            kinds: Mutex::new(BTreeMap::new()),
            cache_dir,
            compiler: None,
            declared: Mutex::new(BTreeMap::new()),
            sandbox: OnceLock::new(),
            site: Vec::new(),
            loaded: Mutex::new(BTreeMap::new()),
        }))
    }

    /// Returns the same with a program that compiles the components of third parties: this one, or another that calls
    /// [`compile_for_parent`](stepwell_sandbox::compile_for_parent). To be called before the first clone is made.
    #[must_use]
    pub fn with_compiler(mut self, program: PathBuf) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.compiler = Some(ChildCompiler::new(program));
        }
        self
    }

    /// Returns the same, holding all plugins to these policies too, whatever a workflow says of itself.
    ///
    /// # Panics
    ///
    /// If there is a clone already: it would go without them.
    #[must_use]
    pub fn with_site_trust(mut self, policies: Vec<TrustPolicy>) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("set up before it is shared");
        inner.site = policies;
        self
    }

    /// Returns the components of steps, given by their index, compiling side by side what is not cached.
    pub(crate) async fn load(
        &self,
        workflow: &Workflow,
        steps: impl Iterator<Item = usize>,
    ) -> Result<BTreeMap<usize, Component>, RunError> {
        let steps: Vec<usize> = steps.collect();
        let mut wanted = BTreeMap::new();
        for step in steps.iter().map(|&index| &workflow.steps[index]) {
            wanted.insert(step.uses.clone(), self.bytes(workflow, step)?);
        }
        let inner = Arc::clone(&self.0);
        let components = blocking(move || inner.load_each(wanted)).await?;
        let component = |index: usize| components[&workflow.steps[index].uses].clone();
        Ok(steps
            .into_iter()
            .map(|index| (index, component(index)))
            .collect())
    }

    fn bytes(&self, workflow: &Workflow, step: &Step) -> Result<(Name, Bytes), RunError> {
        let declared = self
            .0
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = match workflow.plugins.get(&step.uses) {
            Some(entry) => {
                let file = file(entry, workflow.source_file.folder());
                declared.get(&file).map(|bytes| {
                    let bytes = Bytes::Read(Arc::clone(bytes), entry.trust);
                    (Name::Declared(file), bytes)
                })
            }
            None => self
                .0
                .embedded(&step.uses)
                .map(|bytes| (Name::Builtin(step.uses.clone()), Bytes::Embedded(bytes))),
        };
        found.ok_or_else(|| {
            RunError::new(Problem::Refused(format!(
                "plugin \"{}\" was not there when the workflow was checked",
                step.uses
            )))
        })
    }
}

impl Inner {
    /// Returns the bytes of a file that was read before.
    fn declared(&self, file: &Path) -> Option<Arc<[u8]>> {
        let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.get(file).cloned()
    }

    fn embedded(&self, name: &str) -> Option<&'static [u8]> {
        self.builtin
            .iter()
            .find(|(found, _)| *found == name)
            .map(|(_, bytes)| *bytes)
    }

    fn load_each(
        &self,
        wanted: BTreeMap<String, (Name, Bytes)>,
    ) -> Result<BTreeMap<String, Component>, RunError> {
        let sandbox = self.sandbox()?;
        std::thread::scope(|scope| {
            let loading: Vec<_> = wanted
                .into_iter()
                .map(|(uses, (name, bytes))| {
                    (uses, scope.spawn(|| self.load(sandbox, name, bytes)))
                })
                .collect();
            let loaded = loading.into_iter().map(|(name, thread)| {
                let loaded = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                match loaded {
                    Ok(component) => Ok((name, component)),
                    Err(source) => Err(RunError::new(Problem::Load { name, source })),
                }
            });
            loaded.collect()
        })
    }

    fn sandbox(&self) -> Result<&Sandbox, RunError> {
        if self.sandbox.get().is_none() {
            let options = SandboxOptions {
                cache_dir: self.cache_dir.clone(),
                compiler: self.compiler.clone(),
                ..SandboxOptions::default()
            };
            let sandbox = Sandbox::new(options).map_err(|source| {
                RunError::new(Problem::Load {
                    name: "engine".into(),
                    source,
                })
            })?;
            // Two runs may start at once; the second engine is dropped unused.
            let _ = self.sandbox.set(sandbox);
        }
        Ok(self.sandbox.get().expect("it was just set"))
    }

    /// Loads a component unless somebody did; two who want the same one at once load it once.
    fn load(&self, sandbox: &Sandbox, name: Name, bytes: Bytes) -> Result<Component, SandboxError> {
        let slot = {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(loaded.entry(name).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = &*slot {
            return Ok(component.clone());
        }
        let component = match bytes {
            Bytes::Embedded(bytes) => sandbox.load_builtin(bytes)?,
            Bytes::Read(bytes, Trust::Own) => sandbox.load(&bytes)?,
            Bytes::Read(bytes, Trust::ThirdParty) => sandbox.load_stranger(&bytes)?,
        };
        *slot = Some(component.clone());
        Ok(component)
    }
}

impl StepKinds for Components {
    fn builtin(&self, name: &str) -> Option<StepKind> {
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = kinds.get(name) {
            return Some(kind.clone());
        }
        let description = describe(self.0.embedded(name)?)
            .expect("built-in steps describe themselves; a test loads each");
        let kind = kind(description);
        kinds.insert(name.to_owned(), kind.clone());
        Some(kind)
    }

    fn names(&self) -> Vec<String> {
        self.0
            .builtin
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect()
    }

    fn load(
        &mut self,
        plugin: &PluginEntry,
        trust: &TrustPolicy,
        base: &Path,
    ) -> Result<StepKind, LoadError> {
        let file = file(plugin, base);
        let error = |message: String, help: &str| LoadError {
            message,
            help: Some(help.to_owned()),
            at: None,
        };
        let most = match (plugin.limits.get(LimitKey::Component), plugin.trust) {
            (Some(most), _) => most,
            (None, Trust::Own) => COMPONENT_BYTES_MAX as u64,
            (None, Trust::ThirdParty) => STRANGER_BYTES_MAX as u64,
        };
        let bytes = match self.0.declared(&file) {
            Some(bytes) => bytes,
            None => read(&file, most).map_err(|source| {
                error(
                    format!("could not read component {}: {source}", file.display()),
                    &how_to_build(&file),
                )
            })?,
        };
        if bytes.len() as u64 > most {
            let help = format!(
                "If a component of this size is wanted, raise `plugins.{}.limits.component`.",
                plugin.name
            );
            let message = format!(
                "component {} has more than {most} bytes, which is the limit",
                file.display()
            );
            return Err(error(message, &help));
        }
        let found = Digest::of(&bytes);
        if let Some(pinned) = &plugin.digest
            && found.to_string() != format!("sha256:{pinned}")
        {
            let message = format!(
                "component {} is not the one that is pinned: - sha256:{pinned}, + {found}{}",
                file.display(),
                says(&bytes)
            );
            let help = match describe(&bytes) {
                Ok(_) => {
                    "If the change is wanted, look at what it is granted; `stepwell plugin pin <workflow>` writes the new \
                     digest there."
                }
                // There is nothing that could be pinned.
                Err(_) => "Put the component back that was pinned, or a new one in its place.",
            };
            return Err(LoadError {
                at: plugin.digest_span,
                ..error(message, help)
            });
        }
        trust::check(plugin, base, found, &self.0.site, trust)?;
        let description = describe(&bytes).map_err(|source| {
            error(
                format!(
                    "{} is no step component: {}",
                    file.display(),
                    one_line(&source)
                ),
                "Build it with the SDK for wasm32-wasip2.",
            )
        })?;
        let mut declared = self
            .0
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        declared.entry(file).or_insert(bytes);
        Ok(kind(description))
    }
}

/// Reads a file, and stops one byte beyond the limit: how large it is, only reading says.
fn read(file: &Path, most: u64) -> io::Result<Arc<[u8]>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// What to do about a component that is not there: `<root>/target/plugins/<name>.wasm` is built from the sources in
/// `<root>/plugins/<name>`, where they are.
fn how_to_build(component: &Path) -> String {
    let component = tidied(component);
    let sources = || {
        let plugins = component.parent()?;
        let name = component.file_stem()?.to_str()?.replace('_', "-");
        let root = plugins.parent()?.parent()?;
        Some(root.join("plugins").join(name))
    };
    match sources() {
        Some(sources) if sources.join("Cargo.toml").is_file() => {
            format!("build it: `stepwell plugin build {}`", sources.display())
        }
        Some(sources) if sources.join("README.md").is_file() => {
            let readme = sources.join("README.md");
            format!("build it: {} says how", readme.display())
        }
        _ => "build it, or correct `component:`".to_owned(),
    }
}

/// Returns a path without `x/..` in it, as people would write it.
fn tidied(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for part in path.components() {
        let named = matches!(
            tidied.components().next_back(),
            Some(path::Component::Normal(_))
        );
        // Where `x` is a link, `x/..` is elsewhere.
        match part {
            path::Component::ParentDir if named && !tidied.is_symlink() => {
                tidied.pop();
            }
            part => tidied.push(part),
        }
    }
    tidied
}

/// What a component that is not the pinned one says of itself.
fn says(bytes: &[u8]) -> String {
    match describe(bytes) {
        Err(_) => ", which is no step component".into(),
        Ok(found) => format!(
            ", which says that it is {} {}, reads [{}], writes [{}]",
            found.name,
            found.version,
            found.reads.join(", "),
            found.writes.join(", ")
        ),
    }
}

fn file(plugin: &PluginEntry, base: &Path) -> PathBuf {
    base.join(&plugin.component)
}

fn kind(description: stepwell_sandbox::Description) -> StepKind {
    StepKind {
        name: description.name,
        version: description.version,
        kind: match description.kind {
            Kind::Planner => PluginKind::Planner,
            Kind::Reducer => PluginKind::Reducer,
        },
        gate: description.gate,
        summary: description.summary,
        settings: description.settings,
        reads: description.reads,
        writes: description.writes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_that_is_not_built_says_how_it_is() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = |name: &str, file: &str| {
            let folder = root.path().join("plugins").join(name);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(file), "").expect("a file");
        };
        folder("in-rust", "Cargo.toml");
        folder("in-python", "README.md");
        fs::create_dir(root.path().join("workflows")).expect("a folder");
        let help = |name: &str| {
            let file = format!("workflows/../target/plugins/{name}.wasm");
            let help = how_to_build(&root.path().join(file));
            help.replace(&root.path().display().to_string(), "ROOT")
        };
        assert_eq!(
            help("in-rust"),
            "build it: `stepwell plugin build ROOT/plugins/in-rust`"
        );
        assert_eq!(help("in_rust"), help("in-rust"));
        assert_eq!(
            help("in-python"),
            "build it: ROOT/plugins/in-python/README.md says how"
        );
        assert_eq!(help("elsewhere"), "build it, or correct `component:`");
    }

    #[test]
    fn tidied_paths_lead_to_the_same_place() {
        let tidy = |path: &str| tidied(Path::new(path)).display().to_string();
        assert_eq!(tidy("workflows/../target/x"), "target/x");
        assert_eq!(tidy("../a/b/../c"), "../a/c");
        assert_eq!(tidy("../../a"), "../../a");
        assert_eq!(tidy("/../a"), "/../a");
    }
}
