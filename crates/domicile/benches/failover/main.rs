//! How long are writes not answered when the place that takes them is gone, and what is lost?
//!
//! Ours and Patroni, by turns, on this machine and in one run: three servers each, as far apart.
//! Clients write one row at a time and note what was acknowledged and when; the server that takes
//! their writes is killed, with everything beside it, or its part is handed over as planned.
//! `cargo bench --bench failover -- --help` says what can be chosen.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use tokio::time::Instant;

mod chart;
mod clients;
mod contender;
mod disk;
mod report;

use clients::Clients;
use contender::{Contender, Name};
use disk::Disk;
use report::{Event, Report};

/// Before anything happens, so that all clients write.
const WARM_UP: Duration = Duration::from_secs(2);
/// After writes are taken again.
const COOL_DOWN: Duration = Duration::from_secs(2);
/// For the longest outage that is waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// Measures failovers and switchovers: ours and Patroni's, on this machine
#[derive(Parser)]
pub struct Arguments {
    /// How often each is measured, by turns
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Only these
    #[arg(long = "contender", value_enum)]
    contenders: Vec<Name>,
    /// How many write at the same time, each 5 ms after its last answer
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// There and back between two servers, in milliseconds
    #[arg(long, default_value_t = 40)]
    round_trip_ms: u64,
    /// Where the figures go, for a machine
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench/failover.json"))]
    json: PathBuf,
    /// Draw the figures into this file, as SVG
    #[arg(long)]
    svg: Option<PathBuf>,
    /// The `domicile` to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_domicile"))]
    binary: PathBuf,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = tokio::select! {
        measured = measure(&arguments) => measured,
        // Servers and agents end with the future that is dropped here.
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
    let round_trip = Duration::from_millis(arguments.round_trip_ms);
    let names = match arguments.contenders.as_slice() {
        [] => Name::value_variants(),
        named => named,
    };
    let mut report = Report::new(arguments.runs, arguments.clients, round_trip);
    for name in names {
        eprintln!("{}: making three servers", name.words());
        let made = Contender::start(*name, round_trip, &arguments.binary).await;
        let Some(mut contender) = made.with_context(|| format!("set up {}", name.words()))? else {
            eprintln!("{} is not installed: left out", name.words());
            continue;
        };
        for run in 1..=arguments.runs {
            for deed in [Deed::HandOver, Deed::Kill] {
                let event = once(&mut contender, deed, arguments.clients).await;
                let event = event.with_context(|| format!("{}, run {run}", name.words()))?;
                eprintln!("{}, run {run} of {}: {deed} {event}", name.words(), arguments.runs);
                report.add(*name, deed, event);
                report.write(&arguments.json)?;
            }
        }
    }
    if let Some(file) = &arguments.svg {
        std::fs::write(file, chart::svg(&report)).context("write the chart")?;
    }
    println!("{}", report.words());
    println!("The figures are in {}.", arguments.json.display());
    Ok(())
}

/// What is done to the one that takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    HandOver,
    Kill,
}

impl std::fmt::Display for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::HandOver => "switchover",
            Self::Kill => "failover",
        })
    }
}

/// Does it once under writes, and brings everything back to how it was.
async fn once(contender: &mut Contender, deed: Deed, clients: usize) -> anyhow::Result<Event> {
    let leader = contender.leader().await?;
    let disk = Disk::watch()?;
    let clients = Clients::start(clients, &contender.entry(&leader), contender.first_id());
    tokio::time::sleep(WARM_UP).await;
    let (begin, writes_per_s) = clients.mark()?;
    let steps = match deed {
        Deed::HandOver => contender.hand_over(&leader).await?,
        Deed::Kill => {
            contender.kill(&leader)?;
            None
        }
    };
    // What was acknowledged while it was being done says nothing.
    clients.wait_for_writes_after(Instant::now(), PATIENCE).await?;
    if deed == Deed::HandOver {
        contender.wait_for_another_leader(&leader, PATIENCE).await?;
    }
    tokio::time::sleep(COOL_DOWN).await;
    let history = clients.stop().await?;
    contender.heal(PATIENCE).await.context("bring back what was killed")?;
    let shown = contender.shown(history.first, history.last).await?;
    let missing = history.acknowledged.iter().filter(|(id, _)| !shown.contains(id)).count();
    let (from, to) = history.longest_gap_after(begin);
    Ok(Event {
        writes_per_s,
        gap: to - from,
        longest_wait: history.longest_wait_after(begin),
        slowest_flush: disk.slowest(from, to),
        acknowledged: history.acknowledged.len(),
        lost: missing,
        errors: history.errors,
        steps,
    })
}
