//! How long after its commit does the target show a write, under a steady load?
//!
//! pgbench updates rows at random at a given rate. Beside it one session inserts a probe every few
//! milliseconds and notes when its commit was answered; another looks again and again for the
//! newest probe at the target. Both read one clock, in this process. A probe counts as shown when
//! the answer that shows it, or a later one, is here: so the time between two looks is in it, which
//! is the same for every system.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use comfy_table::Table;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio::try_join;
use tokio_postgres::Client;

use crate::Arguments;
use crate::group::{End, Group, PATIENCE, System, connect};
use crate::load::Steady;
use crate::marker;
use crate::report::{number, table};
use crate::statistics::{median, percentile};
use crate::workload::{Workload, updates};

/// Transactions a second, the probes among them.
const RATES: [u32; 2] = [1_000, 5_000];
const PROBE_EVERY: Duration = Duration::from_millis(5);
const PROBES_PER_SECOND: u32 = 200;
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The first seconds do not count: sessions begin, caches fill.
const WARM_UP: Duration = Duration::from_secs(2);
const SECONDS: u32 = 12;
/// Where native's p99 times this lies the bar, at the lower rate.
const BAR: f64 = 2.0;
/// Ids of one run begin at a multiple of this.
const IDS: i64 = 1 << 32;

/// One rate.
#[derive(Serialize)]
pub struct Figures {
    rate_tps: u32,
    /// Medians.
    systems: BTreeMap<System, Lag>,
    /// p99 of ours by native's.
    ratio: Option<f64>,
    /// In the order in which they were measured.
    runs: BTreeMap<System, Vec<Lag>>,
}

#[derive(Clone, Copy, Serialize)]
struct Lag {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// What there really was.
    tps: f64,
}

/// Measures every rate: the systems by turns.
pub async fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Figures>> {
    eprintln!("lag: making the clusters");
    let groups = Group::of_each(arguments, Workload::Updates, 1).await?;
    let mut figures = Vec::new();
    let mut round = 0;
    for rate in RATES {
        let mut runs: BTreeMap<System, Vec<Lag>> = BTreeMap::new();
        for run in 1..=arguments.runs {
            round += 1;
            for (system, group) in &groups {
                let what = format!("lag at {rate} tps, run {run} of {}", arguments.runs);
                let what = format!("{what}: {}", system.name());
                let lag = once(group, rate, round).await.with_context(|| what.clone())?;
                eprintln!(
                    "{what} p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms at {:.0} tps",
                    lag.p50_ms, lag.p99_ms, lag.max_ms, lag.tps
                );
                runs.entry(*system).or_default().push(lag);
            }
        }
        figures.push(Figures::new(rate, runs));
    }
    Ok(figures)
}

async fn once(group: &Group, rate: u32, round: u32) -> anyhow::Result<Lag> {
    let (from, to) = (group.postgres(End::Source), group.postgres(End::TARGET));
    let (source, target) = (connect(&from).await?, connect(&to).await?);
    for client in [&source, &target] {
        client.batch_execute("VACUUM ANALYZE pgbench_accounts, marker").await?;
        client.batch_execute("CHECKPOINT").await?;
    }
    let rest = Some(rate - PROBES_PER_SECOND);
    let load = Steady { postgres: &from, seconds: SECONDS, rate: rest, seed: round };
    let first = i64::from(round) * IDS;
    let begin = Instant::now();
    let (served, commits, sightings) = try_join!(
        async { load.script(&updates()).await },
        probe(&source, first, begin + Duration::from_secs(SECONDS.into())),
        look(&target, first, first + IDS - 1)
    )?;
    let lags_ms = lags_ms(&commits, &sightings, begin + WARM_UP);
    let of = |per_cent| percentile(&lags_ms, per_cent).context("no probe was shown");
    let probes_tps = commits.len() as f64 / f64::from(SECONDS);
    let tps = served.tps + probes_tps;
    Ok(Lag { p50_ms: of(50)?, p99_ms: of(99)?, max_ms: of(100)?, tps })
}

/// Commits probes until the time has come, and a last one; returns when each was answered.
async fn probe(source: &Client, first: i64, until: Instant) -> anyhow::Result<Vec<(i64, Instant)>> {
    let statement = source.prepare("INSERT INTO marker VALUES ($1)").await?;
    let mut ticks = interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut commits = Vec::new();
    for id in first..first + IDS - 1 {
        if ticks.tick().await >= until {
            break;
        }
        source.execute(&statement, &[&id]).await.context("commit a probe")?;
        commits.push((id, Instant::now()));
    }
    marker::commit(source, first + IDS - 1).await?;
    Ok(commits)
}

/// Looks until the last probe is shown; returns when which probe was first seen to be the newest.
async fn look(target: &Client, first: i64, last: i64) -> anyhow::Result<Vec<(i64, Instant)>> {
    let statement = target.prepare("SELECT max(id) FROM marker").await?;
    let mut ticks = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut sightings, mut newest) = (Vec::new(), first - 1);
    let deadline = Instant::now() + PATIENCE;
    while newest < last {
        ticks.tick().await;
        let shown: Option<i64> = target.query_one(&statement, &[]).await?.get(0);
        let now = Instant::now();
        ensure!(now < deadline, "the target shows {shown:?} and not {last}");
        if let Some(shown) = shown.filter(|shown| *shown > newest) {
            newest = shown;
            sightings.push((shown, now));
        }
    }
    Ok(sightings)
}

/// How long each probe took that was committed after `from`. Both lists are in order.
fn lags_ms(commits: &[(i64, Instant)], sightings: &[(i64, Instant)], from: Instant) -> Vec<f64> {
    let counted = commits.iter().filter(|(_, committed)| *committed >= from);
    let lag = |(id, committed): &(i64, Instant)| {
        let (_, shown) = sightings.get(sightings.partition_point(|(seen, _)| seen < id))?;
        // It may be shown before the answer to its commit is here.
        Some(shown.saturating_duration_since(*committed).as_secs_f64() * 1000.0)
    };
    counted.filter_map(lag).collect()
}

impl Figures {
    fn new(rate_tps: u32, runs: BTreeMap<System, Vec<Lag>>) -> Self {
        let systems: BTreeMap<System, Lag> = runs
            .iter()
            .filter_map(|(system, runs)| {
                let of = |what: fn(&Lag) -> f64| median(&runs.iter().map(what).collect::<Vec<_>>());
                let lag = Lag {
                    p50_ms: of(|lag| lag.p50_ms)?,
                    p99_ms: of(|lag| lag.p99_ms)?,
                    max_ms: of(|lag| lag.max_ms)?,
                    tps: of(|lag| lag.tps)?,
                };
                Some((*system, lag))
            })
            .collect();
        let p99 = |system| systems.get(&system).map(|lag| lag.p99_ms);
        let ratio = p99(System::Ours).zip(p99(System::Native)).map(|(ours, native)| ours / native);
        Self { rate_tps, systems, ratio, runs }
    }
}

pub fn show(figures: &[Figures]) -> Table {
    let mut table = table(["load", "system", "real tps", "p50 ms", "p99 ms", "max ms"]);
    for figures in figures {
        for (system, lag) in &figures.systems {
            table.add_row([
                format!("{} tps", figures.rate_tps).into(),
                system.name().into(),
                number(Some(lag.tps), 0),
                number(Some(lag.p50_ms), 2),
                number(Some(lag.p99_ms), 2),
                number(Some(lag.max_ms), 2),
            ]);
        }
    }
    table
}

/// What is to be reached at the lower rate, and what was.
pub fn bar(figures: &[Figures]) -> Option<String> {
    let lowest = figures.iter().find(|figures| figures.rate_tps == RATES[0])?;
    let ratio = lowest.ratio?;
    let verdict = if ratio <= BAR { "held" } else { "missed" };
    Some(format!(
        "p99 at {} tps: {ratio:.2} times native's; the bar is {BAR:.0}: {verdict}.",
        RATES[0]
    ))
}
