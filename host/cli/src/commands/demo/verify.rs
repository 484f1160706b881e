//! The comparison of the derived tables with a rebuild.

use std::fmt;

use stepwell_sql::{TableName, quote_ident};
use stepwell_warehouse::AnswerLimits;
use stepwell_workflow::Workflow;

use super::super::run::Runs;
use super::stage::Stage;
use crate::failed::Failed;
use crate::render::words::{count, number};

/// Where the derived tables wait while the rebuild is made, and where the rebuild stays.
const ASIDE: &str = "incremental";
const REBUILD: &str = "rebuild";

/// A derived table beside its rebuild.
pub(super) struct Compared {
    table: TableName,
    rows: u64,
    /// Rows that only the derived table has, as often as it has them more.
    only_derived: u64,
    /// Rows that only the rebuild has.
    only_rebuilt: u64,
}

impl Compared {
    pub(super) fn differing(&self) -> u64 {
        self.only_derived + self.only_rebuilt
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, rows, .. } = self;
        write!(f, "{table}: {}", count(*rows, "row", "rows"))?;
        match self.differing() {
            0 => f.write_str(", each as in the rebuild"),
            _ => write!(
                f,
                ", {} not in the rebuild; {} of the rebuild missing",
                number(self.only_derived),
                number(self.only_rebuilt)
            ),
        }
    }
}

/// Runs the same workflows again over all batches, and compares each derived table.
///
/// Manifest and derived tables lie in the derived schema. With it put aside, nothing is processed
/// yet: a run is a first build from the events alone.
pub(super) async fn against_rebuild(
    stage: &Stage,
    workflows: &[Workflow],
    runs: &Runs<'_>,
) -> Result<Vec<Compared>, Failed> {
    let derived = workflows.first().map_or("derived", |w| &w.schemas.derived);
    stage.doing("rebuild");
    rename(stage, &[(derived, ASIDE)]).await?;
    super::init(workflows, runs).await?;
    super::run(workflows, runs).await?;
    rename(stage, &[(derived, REBUILD), (ASIDE, derived)]).await?;
    let mut compared = Vec::new();
    for table in workflows
        .iter()
        .flat_map(|w| &w.steps)
        .flat_map(|step| &step.writes_tables)
    {
        stage.check_stop()?;
        stage.doing(&format!("comparing {table}"));
        compared.push(compare(stage, table).await?);
    }
    Ok(compared)
}

/// Renames schemas, all or none.
async fn rename(stage: &Stage, names: &[(&str, &str)]) -> Result<(), Failed> {
    let statements = names.iter().map(|(old, new)| {
        let (old, new) = (quote_ident(old), quote_ident(new));
        format!("ALTER SCHEMA {old} RENAME TO {new}")
    });
    let sql = statements.collect::<Vec<_>>().join("; ");
    let renamed = stage.session.batch(&sql).await;
    renamed.map_err(Failed::warehouse("put the derived tables aside"))
}

async fn compare(stage: &Stage, table: &TableName) -> Result<Compared, Failed> {
    let answer = stage
        .session
        .ask(&compare_sql(table), &[], &AnswerLimits::default())
        .await
        .map_err(Failed::warehouse(format!(
            "compare {table} with its rebuild"
        )))?;
    let number = |column| answer.int64(0, column).unwrap_or(0).unsigned_abs();
    Ok(Compared {
        table: table.clone(),
        rows: number("derived_rows"),
        only_derived: number("only_derived"),
        only_rebuilt: number("only_rebuilt"),
    })
}

/// `ALL`, so that a row that is there twice differs from one that is there once.
fn compare_sql(table: &TableName) -> String {
    let rebuilt = TableName::new(REBUILD, table.name());
    let only = |left: &TableName, right: &TableName| {
        let rows = format!("SELECT * FROM {left} EXCEPT ALL SELECT * FROM {right}");
        format!("(SELECT count(*) FROM ({rows}) AS differ)")
    };
    format!(
        "SELECT (SELECT count(*) FROM {table}) AS derived_rows, {} AS only_derived, \
         {} AS only_rebuilt",
        only(table, &rebuilt),
        only(&rebuilt, table),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_in_both_directions() {
        let table: TableName = "derived.sessions".parse().expect("a table");
        let sql = compare_sql(&table);
        for part in [
            "FROM derived.sessions EXCEPT ALL SELECT * FROM rebuild.sessions",
            "FROM rebuild.sessions EXCEPT ALL SELECT * FROM derived.sessions",
        ] {
            assert!(sql.contains(part), "{sql}");
        }
    }

    #[test]
    fn what_differs_is_counted() {
        let mut compared = Compared {
            table: "derived.sessions".parse().expect("a table"),
            rows: 1234,
            only_derived: 0,
            only_rebuilt: 0,
        };
        assert_eq!(
            compared.to_string(),
            "derived.sessions: 1,234 rows, each as in the rebuild"
        );
        compared.only_derived = 2;
        compared.only_rebuilt = 1;
        assert_eq!(compared.differing(), 3);
        assert_eq!(
            compared.to_string(),
            "derived.sessions: 1,234 rows, 2 not in the rebuild; 1 of the rebuild missing"
        );
    }
}
