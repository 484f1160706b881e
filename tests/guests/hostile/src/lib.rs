//! Says the SQL that its settings hold. `{into}` in it is the scratch table that the step fills.

use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop, question};
use stepwell_sdk::settings::{DerivedTable, ReadTable, ScratchInput, ScratchOutput};
use stepwell_sdk::sql::{Sql, TableName};
use stepwell_sdk::{Settings, export_planner, scratch};

#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// Takes the rows of `fill`.
    into: Option<ScratchOutput>,
    /// A query.
    fill: Option<String>,
    /// Questions; the first value of each answer is a note of the plan.
    #[serde(default)]
    questions: Vec<String>,
    /// One question, put sixteen times at once.
    sixteen: Option<String>,
    /// Statements after the fill.
    #[serde(default)]
    statements: Vec<String>,
    /// Tables that the statements say they read.
    #[serde(default)]
    reads: Vec<ReadTable>,
    /// Scratch tables that they say they read.
    #[serde(default)]
    uses: Vec<ScratchInput>,
    /// Tables that they say they write.
    #[serde(default)]
    writes: Vec<DerivedTable>,
    /// What to publish about `into`: JSON.
    about: Option<String>,
}

fn plan(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let into = with.into.as_ref().map(|into| run.scratch(into.alias()));
    let text = |sql: &str| match &into {
        Some(into) => Sql::trusted(sql.replace("{into}", &into.to_string())),
        None => Sql::trusted(sql),
    };
    let mut plan = Plan::new();
    for sql in &with.questions {
        let rows = ask.one(question("ask", text(sql), vec![]))?;
        let said = rows.first().and_then(|row| row.text("said")).unwrap_or("-");
        plan = plan.note(format!("said {said}"));
    }
    if let Some(sql) = &with.sixteen {
        ask.all::<16>(std::array::from_fn(|_| question("ask", text(sql), vec![])))?;
    }
    let uses = with.uses.iter().map(|table| run.scratch(table.alias()));
    let reads: Vec<TableName> = with.reads.iter().map(|table| table.0.clone()).chain(uses).collect();
    if let (Some(into), Some(select)) = (&into, &with.fill) {
        plan = plan.run_all(scratch::fill(run, into, "fill", &text(select), &reads));
    }
    let mut writes: Vec<TableName> = with.writes.iter().map(|table| table.0.clone()).collect();
    writes.extend(into.clone());
    for (at, sql) in with.statements.iter().enumerate() {
        let statement = Statement::new(format!("statement {at}"), text(sql)).reads_all(&reads);
        plan = plan.run(writes.iter().fold(statement, Statement::writes));
    }
    if let (Some(into), Some(about)) = (&with.into, &with.about) {
        let about: serde_json::Value = serde_json::from_str(about).expect("JSON");
        plan = plan.publish(into.alias(), &about);
    }
    Ok(plan)
}

export_planner! {
    name: "hostile",
    summary: "Says the SQL that its settings hold",
    settings: With,
    plan: plan,
}
