//! How fast does replication go, ours against native logical replication and pglogical?
//!
//! All systems run on this machine, in one run, one after the other and round again, each with two
//! PostgreSQL clusters of the same settings. `cargo bench --bench replication -- --help` says what
//! can be chosen.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

mod catch_up;
mod chart;
mod cpu;
mod group;
mod lag;
mod load;
mod marker;
mod processor;
mod question;
mod report;
mod retained;
mod slow_down;
mod statistics;
mod workload;

use group::{Backlog, System};
use question::Question;
use report::Report;

/// Measures replication: ours, PostgreSQL's own, and pglogical, on this machine
#[derive(Parser)]
pub struct Arguments {
    /// What is measured; without any, all but `cpu` and `retained`
    #[arg(value_enum)]
    questions: Vec<Question>,
    /// How often each system is measured, by turns; the median counts
    #[arg(long, default_value_t = 3)]
    pub runs: u32,
    /// Catch-up only with the backlog that was built while this was down
    #[arg(long, value_enum)]
    backlog: Option<Backlog>,
    /// Only these systems
    #[arg(long, value_enum)]
    system: Vec<System>,
    /// How many targets there are, one number after the other, where processor time is measured
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    pub targets: Vec<usize>,
    /// Where the figures go, for a machine
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench/replication.json"))]
    json: PathBuf,
    /// Draw the figures into this file, as SVG
    #[arg(long)]
    svg: Option<PathBuf>,
    /// The `domicile` to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_domicile"))]
    pub binary: PathBuf,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn questions(&self) -> Vec<Question> {
        if self.questions.is_empty() { Question::by_default() } else { self.questions.clone() }
    }

    pub fn systems(&self) -> Vec<System> {
        chosen(&self.system)
    }

    pub fn backlogs(&self) -> Vec<Backlog> {
        self.backlog.map_or_else(|| Backlog::value_variants().to_vec(), |one| vec![one])
    }
}

/// Nothing named means everything.
fn chosen<T: clap::ValueEnum + Clone>(named: &[T]) -> Vec<T> {
    if named.is_empty() { T::value_variants().to_vec() } else { named.to_vec() }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupted = tokio::signal::ctrl_c();
    let measured = tokio::select! {
        measured = measure(&arguments) => measured,
        // Clusters and agents end with the future that is dropped here.
        _ = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let mut report = Report::new()?;
    for question in arguments.questions() {
        match question {
            Question::CatchUp(workload) => {
                report.workloads.extend(catch_up::measure(workload, arguments).await?);
            }
            Question::Lag => report.lag.extend(lag::measure(arguments).await?),
            Question::SlowDown => report.slow_down.extend(slow_down::measure(arguments).await?),
            Question::Cpu => report.cpu.extend(cpu::measure(arguments).await?),
            Question::Retained => report.retained = Some(retained::measure(arguments).await?),
        }
        report.write(&arguments.json)?;
    }
    if let Some(file) = &arguments.svg {
        std::fs::write(file, chart::svg(&report.workloads, &report.about()))
            .context("write the chart")?;
    }
    println!("{}", report.words());
    println!("The figures are in {}.", arguments.json.display());
    Ok(())
}
