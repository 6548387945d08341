//! Which seeds shall be run, and what do they show?

use std::fs;
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use domicile_sim::{
    Cost, Deal, Kind, Options, Report, Row, Sabotage, Shape, explain, fail_over, json, run,
    run_twice, svg, table, work,
};

/// Runs seeded worlds of regions, with crashes, cuts, pauses and wrong clocks, and checks that
/// what must hold does.
///
/// Exit codes: 1 something happened that must never happen, 2 something never came to rest,
/// 3 a seed gave two different runs.
#[derive(Parser)]
#[command(name = "domicile-sim")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Run this one seed and print its trace.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Stop each run after so many events.
    #[arg(long)]
    steps: Option<u64>,
    /// Write the whole trace of `--seed` here instead of printing it.
    #[arg(long, value_name = "FILE", requires = "seed")]
    trace: Option<PathBuf>,
    #[arg(long, hide = true)]
    sabotage: Option<Sabotage>,
}

#[derive(Subcommand)]
enum Command {
    /// Run each seed twice and compare the traces, byte for byte.
    Meta {
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Lose one region in worlds of several sizes and count what its failover costs.
    #[command(after_help = "Examples:\n  \
        domicile-sim scale\n  \
        domicile-sim scale --regions 3,50 --partitions 1000000 --json scale.json --svg scale.svg")]
    Scale {
        /// In worlds of so many regions.
        #[arg(long, value_delimiter = ',', default_values_t = [3, 5, 10, 20, 50],
              value_parser = clap::value_parser!(u16).range(3..=99))]
        regions: Vec<u16>,
        /// With so many partitions.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 10_000, 1_000_000],
              value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        partitions: Vec<u32>,
        /// Write the figures here, for a machine.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Draw them here.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        steps: arguments.steps,
        keep_trace: arguments.seed.is_some(),
        sabotage: arguments.sabotage,
    };
    match (arguments.command, arguments.seed) {
        (Some(Command::Meta { seeds, from }), _) => many(from, seeds, |s| run_twice(s, options)),
        (Some(Command::Scale { regions, partitions, json, svg }), _) => {
            scale(&regions, &partitions, json, svg)
        }
        (None, Some(seed)) => one(seed, options, arguments.trace),
        (None, None) => many(arguments.from, arguments.seeds, |s| run(s, options)),
    }
}

fn scale(
    regions: &[u16],
    partitions: &[u32],
    json_file: Option<PathBuf>,
    svg_file: Option<PathBuf>,
) -> ExitCode {
    let sizes = regions.iter().flat_map(|r| partitions.iter().map(|p| (usize::from(*r), *p)));
    let together = sizes.map(|(r, p)| Shape { regions: r, partitions: p, deal: Deal::Together });
    let fewest = regions.iter().min().copied().map_or(3, usize::from);
    let alternating = partitions.iter().filter(|p| **p > 1).map(|p| Shape {
        regions: fewest,
        partitions: *p,
        deal: Deal::Alternating,
    });
    let counted = together.chain(alternating).map(fail_over);
    let costs: Vec<Cost> = match counted.collect() {
        Ok(costs) => costs,
        Err(why) => {
            eprintln!("a failover does not end as it should: {why}");
            return ExitCode::from(2);
        }
    };
    print!("{}", table(&costs));
    for partitions in partitions {
        println!("core, {partitions} ranges: {}", work(*partitions));
    }
    let rows: Vec<Row> = costs.iter().filter_map(Row::of).collect();
    for (file, text) in [(json_file, json(&costs)), (svg_file, svg(&rows))] {
        let Some(file) = file else { continue };
        if let Err(why) = fs::write(&file, text) {
            eprintln!("failed to write {}: {why}", file.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn one(seed: u64, options: Options, file: Option<PathBuf>) -> ExitCode {
    let report = run(seed, options);
    let trace = report.trace.text().unwrap_or_default();
    match file {
        Some(path) => {
            if let Err(why) = fs::write(&path, trace) {
                eprintln!("failed to write {}: {why}", path.display());
                return ExitCode::FAILURE;
            }
        }
        None => print!("{trace}"),
    }
    println!(
        "seed {seed}: {}; {} steps, {} commits ({} acknowledged), {} runs ended",
        report.setup, report.steps, report.commits, report.acknowledged, report.runs
    );
    verdict(seed, &report)
}

fn many(from: u64, count: u64, mut run: impl FnMut(u64) -> Report) -> ExitCode {
    let began = Instant::now();
    let (mut steps, mut commits, mut runs) = (0, 0, 0);
    for seed in from..from.saturating_add(count) {
        let report = run(seed);
        if report.violation.is_some() {
            clear_line();
            return verdict(seed, &report);
        }
        steps += report.steps;
        commits += report.commits;
        runs += report.runs;
        let done = seed - from + 1;
        if stderr().is_terminal() && done.is_multiple_of(10) {
            eprint!("\r{done} of {count} seeds, {steps} steps, {:.0?}", began.elapsed());
            // A progress line that cannot be written is no reason to stop.
            let _ = stderr().flush();
        }
    }
    clear_line();
    println!(
        "{count} seeds from {from} hold: {steps} steps, {commits} commits, {runs} runs, {:.1?}",
        began.elapsed()
    );
    ExitCode::SUCCESS
}

fn clear_line() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn verdict(seed: u64, report: &Report) -> ExitCode {
    let Some(violation) = &report.violation else { return ExitCode::SUCCESS };
    eprintln!("{}", explain(seed, report));
    ExitCode::from(match violation.kind {
        Kind::Safety => 1,
        Kind::Liveness => 2,
        Kind::Nondeterminism => 3,
    })
}
