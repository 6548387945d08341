//! How much slower are those who write at the source while it is replicated?
//!
//! The same clients update rows at random: as many as eight can, and at a steady rate that leaves
//! room. Beside them runs one system, or nothing; or only the guards of ours stand, without agents.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use domicile::lab::cluster::temporary_cluster;
use serde::Serialize;

use crate::Arguments;
use crate::group::{Backlog, End, Group, System, connect, settings};
use crate::load::{CLIENTS, Steady};
use crate::marker;
use crate::report::{number, table};
use crate::statistics::{median, percentile};
use crate::workload::{Workload, updates};

const SECONDS: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How much is asked of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Load {
    Saturated,
    /// Transactions a second.
    Paced(u32),
}

const LOADS: [Load; 2] = [Load::Saturated, Load::Paced(1_000)];

/// What runs beside the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Beside {
    /// A plain database.
    Nothing,
    /// Ours with its agents stopped: transactions are still guarded and stamped.
    Guards,
    #[serde(untagged)]
    Replication(System),
}

impl Beside {
    fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Guards => "guards of ours alone",
            Self::Replication(system) => system.name(),
        }
    }
}

/// One load.
#[derive(Serialize)]
pub struct Figures {
    load: Load,
    /// Medians.
    beside: BTreeMap<Beside, Writers>,
    /// In the order in which they were measured.
    runs: BTreeMap<Beside, Vec<Writers>>,
}

/// What the clients were given.
#[derive(Clone, Copy, Serialize)]
struct Writers {
    tps: f64,
    /// From when the transaction was due.
    p50_ms: f64,
    p99_ms: f64,
}

/// Measures every load: nothing, the systems, and guards alone, by turns.
pub async fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Figures>> {
    eprintln!("slow-down: making the clusters");
    let (plain, _folder) = temporary_cluster("plain", &settings()).await?;
    Workload::Updates.fill(&plain.connection_string()).await?;
    let mut groups = Group::of_each(arguments, Workload::Updates, 1).await?;
    let mut figures = Vec::new();
    let mut round = 0;
    for load in LOADS {
        let mut runs: BTreeMap<Beside, Vec<Writers>> = BTreeMap::new();
        for run in 1..=arguments.runs {
            round += 1;
            let mut turn =
                vec![(Beside::Nothing, write(&plain.connection_string(), load, round).await?)];
            for (system, group) in &mut groups {
                let writers = replicated(group, load, round).await;
                turn.push((Beside::Replication(*system), writers.context(system.name())?));
                if *system == System::Ours {
                    let writers = guarded(group, load, round).await;
                    turn.push((Beside::Guards, writers.context("guards alone")?));
                }
            }
            for (beside, writers) in turn {
                eprintln!(
                    "slow-down, {}, run {run} of {}: {} {:.0} tps, p50 {:.2} ms, p99 {:.2} ms",
                    load.words(),
                    arguments.runs,
                    beside.words(),
                    writers.tps,
                    writers.p50_ms,
                    writers.p99_ms
                );
                runs.entry(beside).or_default().push(writers);
            }
        }
        figures.push(Figures::new(load, runs));
    }
    Ok(figures)
}

async fn replicated(group: &Group, load: Load, round: u32) -> anyhow::Result<Writers> {
    let writers = write(&group.postgres(End::Source), load, round).await?;
    settle(group, i64::from(round) * 2).await?;
    Ok(writers)
}

/// Without agents; they catch up afterwards.
async fn guarded(group: &mut Group, load: Load, round: u32) -> anyhow::Result<Writers> {
    group.stop(Backlog::AgentDown).await.context("stop")?;
    let writers = write(&group.postgres(End::Source), load, round).await?;
    group.start().await.context("start")?;
    settle(group, i64::from(round) * 2 + 1).await?;
    Ok(writers)
}

async fn write(postgres: &str, load: Load, round: u32) -> anyhow::Result<Writers> {
    let client = connect(postgres).await?;
    client.batch_execute("VACUUM ANALYZE pgbench_accounts").await?;
    client.batch_execute("CHECKPOINT").await?;
    let steady = Steady { postgres, seconds: SECONDS, rate: load.rate(), seed: round };
    let served = steady.script(&updates()).await?;
    let of = |per_cent| percentile(&served.latencies_ms, per_cent).context("no transaction");
    Ok(Writers { tps: served.tps, p50_ms: of(50)?, p99_ms: of(99)? })
}

/// Waits until the target shows everything, so that nothing of it is left for the next turn.
async fn settle(group: &Group, id: i64) -> anyhow::Result<()> {
    let source = connect(&group.postgres(End::Source)).await?;
    let target = connect(&group.postgres(End::TARGET)).await?;
    marker::commit(&source, id).await?;
    marker::wait(&target, id, LOOK_EVERY).await
}

impl Load {
    fn rate(self) -> Option<u32> {
        match self {
            Self::Saturated => None,
            Self::Paced(rate) => Some(rate),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Saturated => format!("{CLIENTS} clients"),
            Self::Paced(rate) => format!("{rate} tps"),
        }
    }
}

impl Figures {
    fn new(load: Load, runs: BTreeMap<Beside, Vec<Writers>>) -> Self {
        let beside = runs
            .iter()
            .filter_map(|(beside, runs)| {
                let of =
                    |what: fn(&Writers) -> f64| median(&runs.iter().map(what).collect::<Vec<_>>());
                let writers = Writers {
                    tps: of(|writers| writers.tps)?,
                    p50_ms: of(|writers| writers.p50_ms)?,
                    p99_ms: of(|writers| writers.p99_ms)?,
                };
                Some((*beside, writers))
            })
            .collect();
        Self { load, beside, runs }
    }
}

pub fn show(figures: &[Figures]) -> Table {
    let mut table = table(["load", "beside it", "tps", "of plain", "p50 ms", "p99 ms"]);
    for figures in figures {
        let plain = figures.beside.get(&Beside::Nothing).map(|writers| writers.tps);
        for (beside, writers) in &figures.beside {
            let of_plain = plain.map(|plain| writers.tps / plain);
            table.add_row([
                figures.load.words().into(),
                beside.words().into(),
                number(Some(writers.tps), 0),
                number(of_plain, 2),
                number(Some(writers.p50_ms), 2),
                number(Some(writers.p99_ms), 2),
            ]);
        }
    }
    table
}
