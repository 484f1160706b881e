//! What a reducer costs: the boundary by itself, whole steps beside psql, SQL and Python, and the limits.
//!
//! ```text
//! cargo bench -p stepwell-tests --bench reducers
//! cargo bench -p stepwell-tests --bench reducers -- --quick
//! ```
//!
//! Whatever is compared runs in turns, so that noise of the machine hits all sides alike; a figure is the median over
//! all rounds, and a ratio is one of medians of this one run. All sides of a comparison must come to the same rows, or
//! the benchmark fails. It prints Markdown, made to be pasted into `BENCHMARKS.md`.
//!
//! In reading order: [`boundary`] is the component alone, with its limits and without ([`unlimited`]), on made-up rows
//! ([`rows`]); [`steps`] is a step in a run, on a server, and [`rivals`] is who else could do its work; [`starts`] is how
//! long a plugin takes to be ready; [`components`] builds what runs. What other benchmarks do alike stands in `../common`.

mod boundary;
mod components;
#[path = "../common/entry.rs"]
mod entry;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/measure.rs"]
mod measure;
#[path = "../common/program.rs"]
mod program;
mod rivals;
mod rows;
#[path = "../common/server.rs"]
mod server;
mod starts;
mod steps;
#[path = "../common/table.rs"]
mod table;
mod unlimited;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use components::Plugins;
use figures::print;
use server::Server;

/// Measures reducers: the boundary, whole steps, and what the limits cost.
#[derive(Debug, Parser)]
struct Args {
    /// A tenth of the events and fewer rounds, for trying the benchmark out
    #[arg(long)]
    quick: bool,
    /// One part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Rounds of each comparison
    #[arg(long)]
    rounds: Option<usize>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Batches into a component and out again, with the limits and without
    Boundary,
    /// Whole steps, beside psql, SQL and Python, and their memory
    Steps,
    /// How long a plugin takes to be ready
    Starts,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Rows of `atomic.events`, and of what is made up.
    pub events: u32,
    /// That they are spread over.
    pub days: u32,
    /// Of each comparison of processes.
    pub rounds: usize,
    /// Of each comparison inside of this process, which takes a fraction of a second.
    pub short_rounds: usize,
}

const FULL: Scale = Scale {
    events: 2_000_000,
    days: 60,
    rounds: 5,
    short_rounds: 15,
};

const QUICK: Scale = Scale {
    events: 200_000,
    days: 60,
    rounds: 3,
    short_rounds: 5,
};

fn main() -> ExitCode {
    if let Some(code) = measure::in_helper() {
        return code;
    }
    let args = Args::parse();
    entry::run(run(&args))
}

async fn run(args: &Args) -> Result<()> {
    let mut scale = if args.quick { QUICK } else { FULL };
    if let Some(rounds) = args.rounds {
        (scale.rounds, scale.short_rounds) = (rounds, rounds);
    }
    let wanted = |part| args.only.is_none_or(|only| only == part);
    let plugins = Plugins::build()?;
    let mut server = Server::start("reducers")?;
    print(&server.machine().await?)?;
    if args.quick {
        print("A quick run, on a tenth of the events: its figures say nothing.\n")?;
    }
    if wanted(Part::Boundary) {
        boundary::measure(&plugins, scale)?;
    }
    if wanted(Part::Starts) {
        starts::measure(server.folder(), scale)?;
    }
    if wanted(Part::Steps) {
        steps::measure(&server, &plugins, scale).await?;
    }
    server.remove()
}
