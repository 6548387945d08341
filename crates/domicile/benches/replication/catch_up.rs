//! How long does it take until the target shows a backlog?
//!
//! The clock starts when what was down is told to go on, so the start of processes counts, and
//! stops when the target shows a marker that was committed last. Then all rows are compared.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use tokio::time::Instant;
use tokio::try_join;
use tokio_postgres::Client;

use crate::Arguments;
use crate::group::{Backlog, End, Group, System, connect};
use crate::marker;
use crate::report::Figures;
use crate::workload::Workload;

/// How exactly the arrival is seen.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// Measures one workload: the systems by turns, several times for each kind of backlog.
pub async fn measure(workload: Workload, arguments: &Arguments) -> anyhow::Result<Vec<Figures>> {
    let name = workload.name();
    eprintln!("{name}: making the clusters");
    let mut groups = Group::of_each(arguments, workload, 1).await?;
    let mut figures = Vec::new();
    let mut round = 0;
    let runs = arguments.runs;
    for backlog in arguments.backlogs() {
        let mut seconds: BTreeMap<System, Vec<f64>> = BTreeMap::new();
        for run in 1..=runs {
            round += 1;
            for (system, group) in &mut groups {
                let what =
                    format!("{name}, {}, run {run} of {runs}: {}", backlog.words(), system.name());
                let (built, took) =
                    once(group, workload, backlog, round).await.with_context(|| what.clone())?;
                eprintln!(
                    "{what} {:.2} s (backlog made in {:.1} s)",
                    took.as_secs_f64(),
                    built.as_secs_f64()
                );
                seconds.entry(*system).or_default().push(took.as_secs_f64());
            }
        }
        figures.push(Figures::new(workload, backlog, seconds));
    }
    Ok(figures)
}

/// Builds a backlog and lets it drain; returns how long each took.
async fn once(
    group: &mut Group,
    workload: Workload,
    backlog: Backlog,
    round: u32,
) -> anyhow::Result<(Duration, Duration)> {
    let built = build(group, workload, backlog, round).await?;
    let source = connect(&group.postgres(End::Source)).await?;
    let target = connect(&group.postgres(End::TARGET)).await?;
    let begin = Instant::now();
    group.start().await.context("start")?;
    marker::wait(&target, round.into(), POLL_EVERY).await?;
    let took = begin.elapsed();
    compare(&source, &target, workload).await?;
    Ok((built, took))
}

/// Stops what is to be down and builds a backlog, the marker at its end; returns how long the
/// building took.
pub async fn build(
    group: &mut Group,
    workload: Workload,
    backlog: Backlog,
    round: u32,
) -> anyhow::Result<Duration> {
    let from = group.postgres(End::Source);
    let source = connect(&from).await?;
    let targets = group.targets().map(|end| group.postgres(end));
    let targets = try_join_all(targets.map(async |to| connect(&to).await)).await?;
    let everywhere = || [&source].into_iter().chain(&targets);
    try_join_all(everywhere().map(|client| prepare(client, workload))).await?;
    group.stop(backlog).await.context("stop")?;

    // What is made here only has to be there: the disk is asked for once, at the end.
    durable(&source, false).await?;
    let begin = Instant::now();
    source.batch_execute("SET synchronous_commit = off").await?;
    workload.write(&from, &source, round).await.context("build the backlog")?;
    let lsn = marker::commit(&source, round.into()).await?;
    let built = begin.elapsed();
    group.rest(backlog, lsn).await?;
    durable(&source, true).await?;
    try_join_all(everywhere().map(checkpoint)).await?;
    Ok(built)
}

/// Every run begins with tables that are as clean as they get.
async fn prepare(client: &Client, workload: Workload) -> anyhow::Result<()> {
    for (table, _) in workload.tables() {
        client.batch_execute(&format!("VACUUM ANALYZE {table}")).await?;
    }
    Ok(())
}

async fn durable(client: &Client, yes: bool) -> anyhow::Result<()> {
    client.batch_execute(&format!("ALTER SYSTEM SET fsync = {yes}")).await?;
    Ok(client.batch_execute("SELECT pg_reload_conf()").await?)
}

async fn checkpoint(client: &Client) -> anyhow::Result<()> {
    Ok(client.batch_execute("CHECKPOINT").await?)
}

/// A figure counts only if both ends have the same rows.
async fn compare(source: &Client, target: &Client, workload: Workload) -> anyhow::Result<()> {
    for (table, _) in workload.tables() {
        let (here, there) = try_join!(checksum(source, table), checksum(target, table))?;
        ensure!(here == there, "{table} differs: {here} at the source, {there} at the target");
    }
    Ok(())
}

async fn checksum(client: &Client, table: &str) -> anyhow::Result<String> {
    let sql = format!(
        "SELECT count(*)::text || ' rows, ' ||
                coalesce(sum(hashtextextended(row_::text, 0)::numeric), 0)::text
         FROM {table} row_"
    );
    Ok(client.query_one(&sql, &[]).await?.get(0))
}
