//! How long does it take until the target shows a backlog?
//!
//! The clock starts when what was down is told to go on, so the start of processes counts, and
//! stops when the target shows a marker that was committed last. Then all rows are compared.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use tokio::time::Instant;
use tokio::try_join;
use tokio_postgres::Client;

use crate::Arguments;
use crate::pair::{Backlog, End, PATIENCE, Pair, System, connect};
use crate::report::Figures;
use crate::workload::Workload;

/// How exactly the arrival is seen.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// Measures one workload: the systems by turns, several times for each kind of backlog.
pub async fn measure(workload: Workload, arguments: &Arguments) -> anyhow::Result<Vec<Figures>> {
    let name = workload.name();
    eprintln!("{name}: making the clusters");
    let made = arguments.systems().into_iter().map(async |system| {
        let pair = Pair::create(system, workload, &arguments.binary).await;
        anyhow::Ok((system, pair.with_context(|| format!("set up {}", system.name()))?))
    });
    let mut pairs = Vec::new();
    for made in try_join_all(made).await? {
        match made {
            (system, Some(pair)) => pairs.push((system, pair)),
            (system, None) => eprintln!("{name}: {} is not installed", system.name()),
        }
    }
    let mut figures = Vec::new();
    let mut round = 0;
    let runs = arguments.runs;
    for backlog in arguments.backlogs() {
        let mut seconds: BTreeMap<System, Vec<f64>> = BTreeMap::new();
        for run in 1..=runs {
            round += 1;
            for (system, pair) in &mut pairs {
                let what =
                    format!("{name}, {}, run {run} of {runs}: {}", backlog.words(), system.name());
                let (built, took) =
                    once(pair, workload, backlog, round).await.with_context(|| what.clone())?;
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
    pair: &mut Pair,
    workload: Workload,
    backlog: Backlog,
    round: u32,
) -> anyhow::Result<(Duration, Duration)> {
    let (from, to) = (pair.postgres(End::Source), pair.postgres(End::Target));
    let (source, target) = (connect(&from).await?, connect(&to).await?);
    try_join!(prepare(&source, workload), prepare(&target, workload))?;
    pair.stop(backlog).await.context("stop")?;

    // What is made here only has to be there: the disk is asked for once, at the end.
    durable(&source, false).await?;
    let begin = Instant::now();
    source.batch_execute("SET synchronous_commit = off").await?;
    workload.write(&from, &source, round).await.context("build the backlog")?;
    let lsn = mark(&source, round).await?;
    let built = begin.elapsed();
    pair.rest(backlog, lsn).await?;
    durable(&source, true).await?;
    try_join!(checkpoint(&source), checkpoint(&target))?;

    let begin = Instant::now();
    pair.start().await.context("start")?;
    wait_for_mark(&target, round).await?;
    let took = begin.elapsed();
    compare(&source, &target, workload).await?;
    Ok((built, took))
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

/// Commits the marker; returns a position behind everything else and before its commit.
async fn mark(source: &Client, round: u32) -> anyhow::Result<u64> {
    source.batch_execute("BEGIN").await?;
    source.execute("INSERT INTO marker VALUES ($1)", &[&i64::from(round)]).await?;
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let lsn: i64 = source.query_one(sql, &[]).await?.get(0);
    source.batch_execute("COMMIT").await.context("commit the marker")?;
    Ok(u64::try_from(lsn)?)
}

async fn wait_for_mark(target: &Client, round: u32) -> anyhow::Result<()> {
    let statement = target.prepare("SELECT FROM marker WHERE id = $1").await?;
    let deadline = Instant::now() + PATIENCE;
    while target.query_opt(&statement, &[&i64::from(round)]).await?.is_none() {
        if Instant::now() >= deadline {
            bail!("the target does not show the marker after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
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
