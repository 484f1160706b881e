//! A reducer by itself, on batches that stand ready: what crossing the boundary costs, what folding costs, and how much
//! of it the limits are.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use stepwell_sandbox::contract::{Batch, Field, RunInfo};
use stepwell_sandbox::{Component, Limits, Sandbox, SandboxOptions};

use crate::Scale;
use crate::components::{Plugin, Plugins};
use crate::figures::{note, number};
use crate::rows;
use crate::table::{Table, Target};
use crate::unlimited::Program;

/// Least rows that cross in a second, on one core.
const CROSSING_ROWS_PER_SECOND: f64 = 50e6;
/// Most that the limits may take of a reducer's time.
const LIMITS_SHARE: f64 = 0.15;

const ENGAGED_TIME: &str = r#"{"ids":"ids","into":"engaged","time":"derived_tstamp","event":"event_name",
    "heartbeat":"10s","tolerance":"1s"}"#;

/// Rows of a batch: the most that there may be, what the host cuts at for such rows, and few.
const BATCH_ROWS: [u32; 3] = [65_536, 8_192, 1_024];

/// The one of them that is held to the target.
const USUAL: usize = 1;

/// Measures and prints.
pub fn measure(plugins: &Plugins, scale: Scale) -> Result<()> {
    let sandbox = Sandbox::new(SandboxOptions::default())?;
    let five = rows::five_fields();
    let on_five = |what: &str| Case::new(&sandbox, &plugins.guest, what, &five, &five);
    let mut copied = BATCH_ROWS
        .iter()
        .map(|_| on_five(r#"{"do":"copy"}"#))
        .collect::<Result<Vec<_>>>()?;
    let mut given_back = on_five(r#"{"do":"echo"}"#)?;
    let mut taken = on_five(r#"{"do":"discard"}"#)?;
    let mut folded = Case::new(
        &sandbox,
        &plugins.engaged_time,
        ENGAGED_TIME,
        &rows::event_fields(),
        &rows::engaged_day_fields(),
    )?;
    let batches = BATCH_ROWS.map(|batch_rows| rows::five_columns(scale.events, batch_rows));
    let events = rows::events(scale.events, BATCH_ROWS[USUAL]);
    for round in 0..scale.short_rounds {
        for (case, batches) in copied.iter_mut().zip(&batches) {
            case.round(batches, round)?;
        }
        given_back.round(&batches[USUAL], round)?;
        taken.round(&batches[USUAL], round)?;
        folded.round(&events, round)?;
    }
    note("boundary: measured");

    let rows = f64::from(scale.events);
    let title = format!(
        "The boundary: {} rows of five columns",
        number(scale.events.into())
    );
    let mut table = Table::new(title, &["rows of a batch", "rows a second", "a row"]);
    let through = "in, copied by the component, and out";
    let cases = copied.iter().zip(BATCH_ROWS);
    let cases = cases.map(|(case, batch_rows)| (through, batch_rows, case));
    let others = [
        ("in, given back as it is", BATCH_ROWS[USUAL], &given_back),
        ("in, and dropped", BATCH_ROWS[USUAL], &taken),
    ];
    for (name, batch_rows, case) in cases.chain(others) {
        let per_second = rows / median(&case.limited.cpu).as_secs_f64();
        let target = match name == through && batch_rows == BATCH_ROWS[USUAL] {
            true => Target::of("> 50 million", per_second > CROSSING_ROWS_PER_SECOND),
            false => Target::none(),
        };
        let cells = [
            number(batch_rows.into()),
            format!("{:.0} million", per_second / 1e6),
            format!("{:.1} ns", 1e9 / per_second),
        ];
        table.row(name, &cells, &target);
    }
    let row_bytes = bytes(&batches[0][0]) as f64 / f64::from(batches[0][0].rows);
    table.note(format!(
        "Processor time of the one thread, third-party limits, everything checked that comes out; a row has {row_bytes:.0} \
         bytes: a text of 36, one of about 9, a timestamp, a boolean and a bigint.",
    ));
    table.print()?;

    let title = format!(
        "What the limits cost: {} rows through a component",
        number(scale.events.into())
    );
    let mut table = Table::new(
        title,
        &["unlimited", "limited", "the limits' share", "wall"],
    );
    for (name, case, is_held) in [
        ("`engaged-time`", &folded, true),
        (
            "five columns, copied by the component",
            &copied[USUAL],
            false,
        ),
    ] {
        let (limited, unlimited) = (median(&case.limited.cpu), median(&case.unlimited.cpu));
        let share = limited.as_secs_f64() / unlimited.as_secs_f64() - 1.0;
        let wall = median(&case.limited.wall).as_secs_f64()
            / median(&case.unlimited.wall).as_secs_f64()
            - 1.0;
        let target = match is_held {
            true => Target::of("≤ 15 %", share <= LIMITS_SHARE),
            false => Target::none(),
        };
        let cells = [
            milliseconds(unlimited),
            milliseconds(limited),
            percent(share),
            percent(wall),
        ];
        table.row(name, &cells, &target);
    }
    table.note(
        "Processor time of the thread. Unlimited is the same component in wasmtime without interruption, limiter and \
         bounds, where nothing is checked that comes out. Limited has the limits of third parties.",
    );
    table.print()
}

/// What a component does with some rows, with its limits and without.
struct Case {
    component: Component,
    program: Program,
    run: RunInfo,
    input: Vec<Field>,
    output: Vec<Field>,
    limited: Times,
    unlimited: Times,
}

#[derive(Default)]
struct Times {
    cpu: Vec<Duration>,
    wall: Vec<Duration>,
}

impl Case {
    fn new(
        sandbox: &Sandbox,
        plugin: &Plugin,
        settings: &str,
        input: &[Field],
        output: &[Field],
    ) -> Result<Self> {
        Ok(Self {
            component: sandbox.load(&plugin.bytes)?,
            program: Program::compile(&plugin.bytes).map_err(unlimited)?,
            run: run_info(settings),
            input: input.to_vec(),
            output: output.to_vec(),
            limited: Times::default(),
            unlimited: Times::default(),
        })
    }

    /// One measurement of each side, another one first in each round.
    fn round(&mut self, batches: &[Batch], round: usize) -> Result<()> {
        let mut rows = [0, 0];
        for side in [round % 2, (round + 1) % 2] {
            rows[side] = match side {
                0 => self.limited(batches)?,
                _ => self.unlimited(batches)?,
            };
        }
        ensure!(
            rows[0] == rows[1],
            "both sides give the same rows: {rows:?}"
        );
        Ok(())
    }

    fn limited(&mut self, batches: &[Batch]) -> Result<u64> {
        let limits = Limits::third_party();
        let mut reducer = self
            .component
            .reducer(&limits, &self.run, &self.input, &self.output)?;
        self.limited.time(|| {
            for batch in batches {
                black_box(reducer.push(batch, false)?);
            }
            while let Some(batch) = reducer.finish()? {
                black_box(batch);
            }
            Ok(())
        })?;
        Ok(reducer.rows_out())
    }

    fn unlimited(&mut self, batches: &[Batch]) -> Result<u64> {
        let mut reducer = self
            .program
            .open(&self.run, &self.input)
            .map_err(unlimited)?;
        let mut rows = 0;
        let mut count = |batch: &Batch| rows += u64::from(batch.rows);
        self.unlimited.time(|| {
            for batch in batches {
                let output = black_box(reducer.push(batch).map_err(unlimited)?);
                output.iter().for_each(&mut count);
            }
            while let Some(batch) = reducer.finish().map_err(unlimited)? {
                count(black_box(&batch));
            }
            Ok(())
        })?;
        Ok(rows)
    }
}

impl Times {
    fn time(&mut self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let (cpu, wall) = (thread_cpu(), Instant::now());
        work()?;
        self.wall.push(wall.elapsed());
        self.cpu.push(thread_cpu() - cpu);
        Ok(())
    }
}

/// wasmtime's errors are no errors of the standard library.
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` passes it")]
fn unlimited(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("the unlimited side: {error:#}")
}

fn run_info(settings: &str) -> RunInfo {
    RunInfo {
        run_id: "benchmark".to_owned(),
        playbook: "benchmark".to_owned(),
        step_id: "fold".to_owned(),
        as_of_us: 0,
        dialect: "postgres".to_owned(),
        traits: Vec::new(),
        source_json: "null".to_owned(),
        settings_json: settings.to_owned(),
        relations: Vec::new(),
    }
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a value that outlives the call.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(outcome, 0, "every thread has this clock");
    let nanos = u32::try_from(time.tv_nsec).expect("less than a second");
    Duration::new(time.tv_sec.unsigned_abs(), nanos)
}

fn bytes(batch: &Batch) -> usize {
    use stepwell_sandbox::contract::Values;
    let bytes = |values: &Values| match values {
        Values::Bits(bytes) | Values::Fixed16(bytes) => bytes.len(),
        Values::Int16(values) => 2 * values.len(),
        Values::Int32(values) => 4 * values.len(),
        Values::Int64(values) => 8 * values.len(),
        Values::Single(values) => 4 * values.len(),
        Values::Double(values) => 8 * values.len(),
        Values::Varlen(values) => 4 * values.offsets.len() + values.data.len(),
    };
    batch.columns.iter().map(|c| bytes(&c.values)).sum()
}

/// The middle one, the later of two in the middle.
pub fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// `4.21 ms`.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}
