//! How much processor time does a replicated row cost each end, and what does one more target?
//!
//! Twice: a backlog that was built while all agents or subscriptions were down, of which only the
//! draining counts; and a steady load, in which the writing itself counts, too, so a plain
//! database is measured beside it. The directory of ours, which is at neither end, is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use domicile::lab::cluster::temporary_cluster;
use serde::Serialize;

use crate::group::{Backlog, End, Group, System, connect, server_s, settings};
use crate::load::Steady;
use crate::report::{number, table};
use crate::statistics::median;
use crate::workload::{Workload, updates};
use crate::{Arguments, catch_up, marker};

const RATE: u32 = 1_000;
const SECONDS: u32 = 10;
/// Looking costs the target, so it is rare.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const MILLION: f64 = 1e6;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Load {
    Backlog,
    Steady,
}

/// One load with so many targets.
#[derive(Serialize)]
pub struct Figures {
    load: Load,
    targets: usize,
    /// Medians.
    systems: BTreeMap<System, Used>,
    /// What writing alone costs the source; nothing was written while a backlog drained.
    plain_source_s: Option<f64>,
    /// In the order in which they were measured.
    runs: BTreeMap<System, Vec<Used>>,
}

/// Seconds of a processor for a million rows.
#[derive(Clone, Copy, Serialize)]
struct Used {
    source_s: f64,
    /// Of one target, on average.
    target_s: f64,
}

/// Measures each number of targets: the systems by turns.
pub async fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Figures>> {
    let (plain, _folder) = temporary_cluster("plain", &settings()).await?;
    let plain = plain.connection_string();
    Workload::Updates.fill(&plain).await?;
    let mut figures = Vec::new();
    for targets in &arguments.targets {
        eprintln!("cpu: making the clusters with {targets} targets");
        let mut groups = Group::of_each(arguments, Workload::Updates, *targets).await?;
        let mut runs: BTreeMap<Load, BTreeMap<System, Vec<Used>>> = BTreeMap::new();
        let mut plain_s = Vec::new();
        for run in 1..=arguments.runs {
            plain_s.push(write_plainly(&plain, run).await.context("write plainly")?);
            for (system, group) in &mut groups {
                for (load, used) in [
                    (Load::Backlog, drain(group, run * 2).await.context(system.name())?),
                    (Load::Steady, replicate(group, run * 2 + 1).await.context(system.name())?),
                ] {
                    eprintln!(
                        "cpu, {}, {targets} targets, run {run} of {}: {} source {:.1} s, target {:.1} s",
                        load.words(),
                        arguments.runs,
                        system.name(),
                        used.source_s,
                        used.target_s
                    );
                    runs.entry(load).or_default().entry(*system).or_default().push(used);
                }
            }
        }
        for (load, runs) in runs {
            let plain_s = median(&plain_s).filter(|_| load == Load::Steady);
            figures.push(Figures::new(load, *targets, plain_s, runs));
        }
    }
    Ok(figures)
}

/// A backlog that everybody has to decode first; its building does not count.
async fn drain(group: &mut Group, round: u32) -> anyhow::Result<Used> {
    let workload = Workload::Updates;
    catch_up::build(group, workload, Backlog::AgentDown, round).await?;
    let before = used(group).await?;
    group.start().await.context("start")?;
    for end in group.targets() {
        marker::wait(&connect(&group.postgres(end)).await?, round.into(), LOOK_EVERY).await?;
    }
    Ok(Used::between(&before, &used(group).await?, workload.transactions()))
}

async fn replicate(group: &Group, round: u32) -> anyhow::Result<Used> {
    let from = group.postgres(End::Source);
    let source = connect(&from).await?;
    let before = used(group).await?;
    let rows = write(&from, round).await?;
    marker::commit(&source, round.into()).await?;
    for end in group.targets() {
        marker::wait(&connect(&group.postgres(end)).await?, round.into(), LOOK_EVERY).await?;
    }
    Ok(Used::between(&before, &used(group).await?, rows))
}

async fn write_plainly(postgres: &str, round: u32) -> anyhow::Result<f64> {
    let before = server_s(postgres).await?;
    let rows = write(postgres, round).await?;
    Ok((server_s(postgres).await? - before) * MILLION / f64::from(rows))
}

/// Returns how many rows were written.
async fn write(postgres: &str, round: u32) -> anyhow::Result<u32> {
    let steady = Steady { postgres, seconds: SECONDS, rate: Some(RATE), seed: round };
    let served = steady.script(&updates()).await?;
    u32::try_from(served.latencies_ms.len()).context("count the rows")
}

/// What every end has used so far, in seconds; the source comes first.
async fn used(group: &Group) -> anyhow::Result<Vec<f64>> {
    let mut used = vec![group.used_s(End::Source).await?];
    for end in group.targets() {
        used.push(group.used_s(end).await?);
    }
    Ok(used)
}

impl Load {
    fn words(self) -> String {
        match self {
            Self::Backlog => "a backlog".to_owned(),
            Self::Steady => format!("{RATE} tps"),
        }
    }
}

impl Used {
    fn between(before: &[f64], after: &[f64], rows: u32) -> Self {
        let spent: Vec<f64> = after
            .iter()
            .zip(before)
            .map(|(after, before)| (after - before) * MILLION / f64::from(rows))
            .collect();
        let targets = &spent[1..];
        Self { source_s: spent[0], target_s: targets.iter().sum::<f64>() / targets.len() as f64 }
    }
}

impl Figures {
    fn new(
        load: Load,
        targets: usize,
        plain_source_s: Option<f64>,
        runs: BTreeMap<System, Vec<Used>>,
    ) -> Self {
        let systems = runs
            .iter()
            .filter_map(|(system, runs)| {
                let of =
                    |what: fn(&Used) -> f64| median(&runs.iter().map(what).collect::<Vec<_>>());
                let used = Used {
                    source_s: of(|used| used.source_s)?,
                    target_s: of(|used| used.target_s)?,
                };
                Some((*system, used))
            })
            .collect();
        Self { load, targets, systems, plain_source_s, runs }
    }
}

pub fn show(figures: &[Figures]) -> Table {
    let mut table =
        table(["load", "targets", "system", "source s/million rows", "each target s/million rows"]);
    for figures in figures {
        let plain = figures.plain_source_s.map(|source_s| ("nothing", source_s, None));
        let systems = figures.systems.iter();
        let systems =
            systems.map(|(system, used)| (system.name(), used.source_s, Some(used.target_s)));
        for (beside, source_s, target_s) in plain.into_iter().chain(systems) {
            table.add_row([
                figures.load.words().into(),
                figures.targets.into(),
                beside.into(),
                number(Some(source_s), 1),
                number(target_s, 1),
            ]);
        }
    }
    table
}
