//! What does a gateway cost a statement, ours against PgBouncer and against no gateway at all?
//!
//! One PostgreSQL, and pgbench before it: directly, through ours, through PgBouncer in session mode, by
//! turns. All of it shares this machine's processors, so what a gateway takes, PostgreSQL and
//! pgbench lack.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use domicile::lab::cluster::{Cluster, PgBin, temporary_cluster};

mod contender;
mod idle;
mod pgbench;
mod report;
#[path = "../replication/statistics.rs"]
mod statistics;

use contender::{Contender, Door};
use pgbench::{Load, Protocol, Sample, Script};
use report::{Report, Run};

/// Measures what a gateway costs: ours, PgBouncer, and none
#[derive(Parser)]
struct Arguments {
    /// How often each is measured, by turns; the median counts
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// How long each time, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// How many clients there are, one number after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 200])]
    clients: Vec<u32>,
    /// Only these scripts
    #[arg(long, value_enum)]
    script: Vec<Script>,
    /// Only these protocols
    #[arg(long, value_enum)]
    protocol: Vec<Protocol>,
    /// How many idle clients there are at the end; 0 leaves them out
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// How many come and go beside them
    #[arg(long, default_value_t = 10_000)]
    passing: usize,
    /// Only the idle clients
    #[arg(long)]
    idle_alone: bool,
    /// The `domicile` whose idle clients are counted
    #[arg(long, default_value = env!("CARGO_BIN_EXE_domicile"))]
    binary: PathBuf,
    /// Where the figures go, for a machine
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench/gateway.json"))]
    json: PathBuf,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = tokio::select! {
        measured = measure(&arguments) => measured,
        // What was started ends with the future that is dropped here.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
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
    let settings = [("fsync", "off"), ("max_connections", "300"), ("shared_buffers", "256MB")];
    let (cluster, folder) = temporary_cluster("bench", &settings).await?;
    pgbench::fill(&cluster).await?;
    let mut doors = Vec::new();
    for contender in Contender::value_variants() {
        match Door::open(*contender, &cluster, folder.path()).await {
            Ok(door) => doors.push(door),
            Err(error) => eprintln!("bench: {contender} is left out: {error:#}"),
        }
    }
    let mut report = Report::new(version(&cluster).await?, arguments.runs, arguments.seconds);
    let loads = if arguments.idle_alone { Vec::new() } else { loads(arguments) };
    for load in loads {
        let run = measure_one(arguments, &load, &cluster, &mut doors).await?;
        println!("{}", run.line());
        report.runs.push(run);
        report.write(&arguments.json)?;
    }
    drop((doors, cluster));
    if arguments.idle > 0 {
        let (clients, passing) = (arguments.idle, arguments.passing);
        let each = |idle: idle::Idle| {
            println!("{}", idle.line());
            report.idle.push(idle);
            report.write(&arguments.json)
        };
        idle::measure(&arguments.binary, clients, passing, each).await?;
    }
    println!("\n{}", report.words());
    println!("The figures are in {}.", arguments.json.display());
    Ok(())
}

fn loads(arguments: &Arguments) -> Vec<Load> {
    let mut loads = Vec::new();
    for script in chosen(&arguments.script) {
        for protocol in chosen(&arguments.protocol) {
            for clients in arguments.clients.iter().copied() {
                loads.push(Load { script, protocol, clients });
            }
        }
    }
    loads
}

/// Nothing named means everything.
fn chosen<T: ValueEnum + Clone>(named: &[T]) -> Vec<T> {
    if named.is_empty() { T::value_variants().to_vec() } else { named.to_vec() }
}

/// Another one comes first each time.
async fn measure_one(
    arguments: &Arguments,
    load: &Load,
    cluster: &Cluster,
    doors: &mut [Door],
) -> anyhow::Result<Run> {
    let mut run = Run::new(load.to_string());
    for _ in 0..arguments.runs {
        for door in doors.iter() {
            let sample: Sample = pgbench::run(cluster.bin(), door.port, load, arguments.seconds)
                .await
                .with_context(|| format!("{load}, {}", door.contender))?;
            run.add(door.contender, sample);
        }
        doors.rotate_left(1);
    }
    Ok(run)
}

async fn version(cluster: &Cluster) -> anyhow::Result<String> {
    let client = cluster.connect().await?;
    Ok(client.query_one("SHOW server_version", &[]).await?.get(0))
}

/// A program of PostgreSQL's.
fn program(bin: &PgBin, name: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(bin.program(name));
    command.kill_on_drop(true);
    command
}
