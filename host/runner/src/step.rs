//! What a step is told of the run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use stepwell_sandbox::contract::{Plan, Relation, RunInfo};
use stepwell_sandbox::{Component, Limits};
use stepwell_sql::TableName;
use stepwell_workflow::{LimitKey, PluginEntry, PluginKind, Step, Trust, Workflow};

use crate::conversation::{Conversation, Questions};
use crate::error::StepPlace;
use crate::policy::Rights;
use crate::run::RunOptions;

/// The id of a run that is only planned.
pub(crate) const PLANNED: &str = "planned";

/// What the steps are asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    /// What is pending.
    Pending,
    /// A comparison with a rebuild.
    Verify(Value),
    /// Batches or keys, again.
    Replay(Value),
    /// What they know about the lookback.
    Lookback,
}

/// The steps of one run with their components and rights, and what they have said about their tables.
pub(crate) struct Steps<'a> {
    pub(crate) workflow: &'a Workflow,
    pub(crate) run_id: String,
    pub(crate) as_of_us: i64,
    full_refresh: bool,
    max_batches: Option<u32>,
    pub(crate) reducer_parts: Option<u32>,
    pub(crate) reducer_batch_rows: Option<u32>,
    asked: Asked,
    /// By index. Those of steps that need not be asked to see that nothing is pending come later.
    components: Mutex<BTreeMap<usize, Component>>,
    limits: Vec<Limits>,
    rights: Vec<Rights>,
    about: Mutex<BTreeMap<String, String>>,
    /// Whether an earlier pass of this run left batches for this one.
    backlog: AtomicBool,
    /// Whether nothing will be run: scratch tables are those of an earlier run then.
    planned: bool,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(
        workflow: &'a Workflow,
        components: BTreeMap<usize, Component>,
        options: &RunOptions,
        run_id: String,
        as_of_us: i64,
    ) -> Self {
        let planned = run_id == PLANNED;
        Self {
            workflow,
            run_id,
            as_of_us,
            full_refresh: options.full_refresh,
            max_batches: options.max_batches,
            reducer_parts: options.reducer_parts,
            reducer_batch_rows: options.reducer_batch_rows,
            asked: match &options.replay {
                Some(replay) => Asked::Replay(replay.json()),
                None => Asked::Pending,
            },
            components: Mutex::new(components),
            limits: workflow
                .steps
                .iter()
                .map(|step| limits(workflow, step))
                .collect(),
            rights: workflow
                .steps
                .iter()
                .map(|step| Rights::of(workflow, step))
                .collect(),
            about: Mutex::new(BTreeMap::new()),
            backlog: AtomicBool::new(false),
            planned,
        }
    }

    /// Asks for something else.
    pub(crate) fn asking(mut self, asked: Asked) -> Self {
        self.asked = asked;
        self
    }

    /// Returns the index of the gate step.
    pub(crate) fn gate(&self) -> Option<usize> {
        gate(self.workflow)
    }

    /// Returns the component of a step, once it is loaded.
    pub(crate) fn component(&self, index: usize) -> Option<Component> {
        let components = self
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        components.get(&index).cloned()
    }

    /// Returns the steps of our own whose component is not there yet. A third party's is loaded as its step begins:
    /// nobody else waits for it to be compiled.
    pub(crate) fn without_component(&self) -> Vec<usize> {
        let components = self
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (0..self.workflow.steps.len())
            .filter(|index| !components.contains_key(index) && self.third_party(*index).is_none())
            .collect()
    }

    /// Adds components.
    pub(crate) fn add(&self, components: BTreeMap<usize, Component>) {
        self.components
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(components);
    }

    /// Whether the step folds rows.
    pub(crate) fn is_reducer(&self, index: usize) -> bool {
        self.workflow.steps[index].kind.kind == PluginKind::Reducer
    }

    /// Returns the plugin of a step if it is a third party's.
    pub(crate) fn third_party(&self, index: usize) -> Option<&'a PluginEntry> {
        third_party(self.workflow, index)
    }

    pub(crate) fn rights(&self, index: usize) -> &Rights {
        &self.rights[index]
    }

    /// Returns how long the statements of a step may take, where the workflow limits it. Built-in steps are bounded by
    /// `statement-timeout` alone: a first build takes as long as it takes.
    pub(crate) fn wall(&self, index: usize) -> Option<Duration> {
        let uses = &self.workflow.steps[index].uses;
        self.workflow
            .plugins
            .get(uses)
            .and_then(|entry| entry.limits.duration(LimitKey::Wall))
    }

    pub(crate) fn place(&self, index: usize) -> StepPlace {
        place(self.workflow, index)
    }

    /// Returns the conversation that asks step `index` what to do, with what earlier steps published.
    pub(crate) fn conversation(&self, index: usize) -> Conversation<'_> {
        Conversation {
            component: self
                .component(index)
                .expect("a step's component is loaded before the step is asked"),
            limits: &self.limits[index],
            rights: &self.rights[index],
            info: self.info(index),
            place: self.place(index),
            together: None,
            transaction: match self.asked {
                Asked::Pending | Asked::Replay(_) => Questions::OnTheirOwn,
                Asked::Verify(_) | Asked::Lookback => Questions::InTheOpenOne,
            },
        }
    }

    /// Keeps what a step published, for those after it. What it says about tables that it does not fill is not heard.
    pub(crate) fn publish(&self, index: usize, plan: &Plan) {
        let facts = self.facts(index, plan);
        self.restore(&facts);
    }

    /// Returns what a step published about the tables that it fills, by alias.
    pub(crate) fn facts(&self, index: usize, plan: &Plan) -> Vec<(String, String)> {
        // Built-in steps put what they read here into SQL that runs under the workflow's login.
        if self.third_party(index).is_some() {
            return Vec::new();
        }
        let fills = &self.workflow.steps[index].writes_scratch;
        let publications = plan.publishes.iter();
        let own = publications
            .filter(|published| fills.iter().any(|(alias, _)| *alias == published.alias));
        own.map(|published| (published.alias.clone(), published.about.clone()))
            .collect()
    }

    /// Returns the scratch tables that a step fills.
    pub(crate) fn fills(&self, index: usize) -> Vec<TableName> {
        let fills = self.workflow.steps[index].writes_scratch.iter();
        fills
            .map(|(alias, _)| self.workflow.scratch_table(alias))
            .collect()
    }

    /// Keeps what steps of an earlier run published.
    pub(crate) fn restore(&self, facts: &[(String, String)]) {
        let mut about = self.about.lock().unwrap_or_else(PoisonError::into_inner);
        about.extend(facts.iter().cloned());
    }

    /// Returns what an earlier run's gate step published, as JSON; null if it did not.
    pub(crate) fn pending_of(&self, facts: &[(String, String)]) -> Value {
        let fills = self
            .gate()
            .map(|gate| &self.workflow.steps[gate].writes_scratch);
        let published = facts.iter().find(|(alias, _)| {
            fills.is_some_and(|fills| fills.iter().any(|(filled, _)| filled == alias))
        });
        let about = published.map(|(_, about)| serde_json::from_str(about));
        about.and_then(Result::ok).unwrap_or(Value::Null)
    }

    /// Returns what the gate step published about the table that it fills, as JSON; null if it did not.
    pub(crate) fn pending(&self, plan: &Plan) -> Value {
        let fills = self
            .gate()
            .map(|index| &self.workflow.steps[index].writes_scratch);
        let is_filled = |alias: &str| {
            fills.is_some_and(|fills| fills.iter().any(|(filled, _)| filled == alias))
        };
        let published = plan
            .publishes
            .iter()
            .find(|publication| is_filled(&publication.alias))
            .map(|publication| serde_json::from_str(&publication.about));
        published.and_then(Result::ok).unwrap_or(Value::Null)
    }

    /// Forgets what was published, before a pass for what the last one left.
    pub(crate) fn next_pass(&self) {
        self.backlog.store(true, Ordering::Relaxed);
        self.about
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn info(&self, index: usize) -> RunInfo {
        let (workflow, step) = (self.workflow, &self.workflow.steps[index]);
        let mut with = step.with.clone();
        if let (Some(batches), true) = (self.max_batches, step.kind.gate) {
            with["max-batches"] = batches.into();
        }
        let source = workflow
            .source
            .as_ref()
            .map_or(Value::Null, stepwell_workflow::Source::json);
        RunInfo {
            run_id: self.run_id.clone(),
            playbook: workflow.playbook.as_str().to_owned(),
            step_id: step.id.clone(),
            as_of_us: self.as_of_us,
            dialect: "postgres".to_owned(),
            traits: self.traits(),
            source_json: source.to_string(),
            settings_json: with.to_string(),
            relations: self.relations(),
        }
    }

    fn traits(&self) -> Vec<String> {
        let traits = [
            (
                "full-refresh",
                self.full_refresh || matches!(self.asked, Asked::Verify(_)),
            ),
            ("backlog", self.backlog.load(Ordering::Relaxed)),
            (
                "planned",
                self.planned || matches!(self.asked, Asked::Lookback),
            ),
            ("verify", matches!(self.asked, Asked::Verify(_))),
            ("replay", matches!(self.asked, Asked::Replay(_))),
            ("lookback", matches!(self.asked, Asked::Lookback)),
        ];
        let set = traits.iter().filter(|(_, set)| *set);
        set.map(|(name, _)| (*name).to_owned()).collect()
    }

    fn relations(&self) -> Vec<Relation> {
        let relation = |alias: &str, schema: &str, name: &str, about: &str| Relation {
            alias: alias.to_owned(),
            schema: schema.to_owned(),
            name: name.to_owned(),
            about: about.to_owned(),
        };
        let manifest = &self.workflow.manifest;
        let prefix = self.workflow.scratch_table("");
        let mut relations = vec![
            relation("manifest", manifest.schema(), manifest.name(), ""),
            relation("scratch", prefix.schema(), prefix.name(), ""),
        ];
        if let Asked::Verify(asked) | Asked::Replay(asked) = &self.asked {
            relations.push(relation("request", "", "", &asked.to_string()));
        }
        for (alias, about) in self
            .about
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            let table = self.workflow.scratch_table(alias);
            relations.push(relation(alias, table.schema(), table.name(), about));
        }
        relations
    }
}

/// Returns the plugin of a step if it is a third party's.
pub(crate) fn third_party(workflow: &Workflow, index: usize) -> Option<&PluginEntry> {
    let entry = workflow.plugins.get(&workflow.steps[index].uses);
    entry.filter(|entry| entry.trust == Trust::ThirdParty)
}

/// Returns where a step is, without a setting or statement of it.
pub(crate) fn place(workflow: &Workflow, index: usize) -> StepPlace {
    let step = &workflow.steps[index];
    StepPlace {
        index,
        id: step.id.clone(),
        plugin: format!("{} {}", step.uses, step.kind.version),
        setting: None,
        statement: None,
    }
}

/// Returns the index of the gate step.
pub(crate) fn gate(workflow: &Workflow) -> Option<usize> {
    workflow.steps.iter().position(|step| step.kind.gate)
}

/// The limits of a step: those of our own plugins or of a stranger's, changed by what the workflow says.
fn limits(workflow: &Workflow, step: &Step) -> Limits {
    let Some(entry) = workflow.plugins.get(&step.uses) else {
        return Limits::own();
    };
    let limits = match entry.trust {
        Trust::Own => Limits::own(),
        Trust::ThirdParty => Limits::third_party(),
    };
    entry
        .limits
        .iter()
        .fold(limits, |limits, (key, value)| with(limits, key, value))
}

/// Changes one limit. Those of the database's time are for the session that the step's statements run on.
fn with(mut limits: Limits, key: LimitKey, value: u64) -> Limits {
    let field = match key {
        LimitKey::Cpu => {
            limits.cpu = Duration::from_micros(value);
            return limits;
        }
        LimitKey::CpuPerCall => {
            limits.call_cpu = Duration::from_micros(value);
            return limits;
        }
        LimitKey::Wall => {
            limits.wall = Duration::from_micros(value);
            return limits;
        }
        LimitKey::Memory => &mut limits.memory_bytes,
        LimitKey::TableElements => &mut limits.table_elements,
        LimitKey::Handover => &mut limits.hostcall_bytes,
        LimitKey::LogLines => &mut limits.log_lines,
        LimitKey::LogBytes => &mut limits.log_bytes,
        LimitKey::LogLine => &mut limits.line_bytes,
        LimitKey::Sql => &mut limits.sql_bytes,
        LimitKey::Statements => &mut limits.statements,
        LimitKey::Questions => &mut limits.questions,
        LimitKey::Params => &mut limits.params,
        LimitKey::Text => &mut limits.text_bytes,
        LimitKey::Reply => &mut limits.reply_bytes,
        LimitKey::Handles => &mut limits.handles,
        LimitKey::BytesOut => &mut limits.output_bytes,
        LimitKey::RowsOut => {
            // Who says how many rows there may be knows better than a ratio.
            limits.output_rows_per_row = u64::MAX;
            &mut limits.output_rows
        }
        LimitKey::Component
        | LimitKey::StatementTimeout
        | LimitKey::LockTimeout
        | LimitKey::DatabaseTime => return limits,
    };
    *field = value;
    limits
}

#[cfg(test)]
mod tests {
    use stepwell_sandbox::Limit;
    use stepwell_workflow::LimitUnit;

    use super::*;

    /// A message that tells people to raise a key which does not exist would send them round in circles.
    #[test]
    fn each_limit_that_can_be_broken_has_a_key_that_raises_it() {
        for limit in Limit::ALL {
            let named = LimitKey::ALL
                .into_iter()
                .find(|key| key.name() == limit.key());
            let key = named.unwrap_or_else(|| panic!("{limit:?} has no key"));
            assert_ne!(with(Limits::own(), key, 7), Limits::own(), "{limit:?}");
        }
    }

    #[test]
    fn values_arrive_in_their_unit() {
        for key in LimitKey::ALL {
            let changed = with(Limits::own(), key, 1_500_000);
            let cpu = [changed.cpu, changed.call_cpu, changed.wall];
            match key.unit() {
                LimitUnit::Duration if changed != Limits::own() => {
                    assert!(cpu.contains(&Duration::from_millis(1_500)), "{key:?}");
                }
                _ => assert!(!cpu.contains(&Duration::from_millis(1_500)), "{key:?}"),
            }
        }
    }
}
