//! What does the source keep while its peer is down?

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use comfy_table::Table;
use serde::Serialize;
use tokio_postgres::Client;

use crate::group::{Backlog, End, Group, System, connect};
use crate::load::Pgbench;
use crate::report::{number, table};
use crate::statistics::median;
use crate::workload::{Workload, updates};
use crate::{Arguments, marker};

const MIB: f64 = 1024.0 * 1024.0;
/// At least so much WAL is written while the peer is down.
const WAL_MIB: f64 = 256.0;
/// Between two looks at how much was written.
const TRANSACTIONS: u32 = 20_000;
/// A slot lets go of WAL only after a record that tells which transactions run; a checkpoint
/// writes one. So many of them, one each second.
const CHECKPOINTS: usize = 10;
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Serialize)]
pub struct Figures {
    /// Medians.
    systems: BTreeMap<System, Kept>,
    /// In the order in which they were measured.
    runs: BTreeMap<System, Vec<Kept>>,
}

#[derive(Clone, Copy, Serialize)]
struct Kept {
    /// What the load came to; each system adds what is its own.
    written_mib: f64,
    transactions: f64,
    /// From where the slots would be read again to the end of the WAL.
    wal_mib: f64,
    /// What our log grew by.
    log_mib: Option<f64>,
}

pub async fn measure(arguments: &Arguments) -> anyhow::Result<Figures> {
    eprintln!("retained: making the clusters");
    let mut groups = Group::of_each(arguments, Workload::Updates, 1).await?;
    let mut runs: BTreeMap<System, Vec<Kept>> = BTreeMap::new();
    for run in 1..=arguments.runs {
        for (system, group) in &mut groups {
            let kept = once(group, run).await.context(system.name())?;
            eprintln!(
                "retained, run {run} of {}: {} keeps {:.1} MiB of {:.1} MiB, log {:.1} MiB",
                arguments.runs,
                system.name(),
                kept.wal_mib,
                kept.written_mib,
                kept.log_mib.unwrap_or_default()
            );
            runs.entry(*system).or_default().push(kept);
        }
    }
    Ok(Figures::new(runs))
}

async fn once(group: &mut Group, round: u32) -> anyhow::Result<Kept> {
    let from = group.postgres(End::Source);
    let source = connect(&from).await?;
    group.stop(Backlog::PeerDown).await.context("stop")?;
    let (log_before, begin) = (group.log_bytes().await?, end_of_wal(&source).await?);
    let (mut transactions, mut written_mib) = (0, 0.0);
    while written_mib < WAL_MIB {
        transactions += TRANSACTIONS;
        let load = Pgbench { postgres: &from, transactions: TRANSACTIONS, seed: transactions };
        load.script(&updates()).await?;
        written_mib = (end_of_wal(&source).await? - begin) / MIB;
    }
    let lsn = marker::commit(&source, round.into()).await?;
    group.rest(Backlog::PeerDown, lsn).await?;
    for _ in 0..CHECKPOINTS {
        source.batch_execute("CHECKPOINT").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let kept = "SELECT (pg_current_wal_lsn() - min(restart_lsn))::float8 FROM pg_replication_slots";
    let wal_mib = source.query_one(kept, &[]).await?.get::<_, f64>(0) / MIB;
    let log_after = group.log_bytes().await?;
    let grown = log_before.zip(log_after);
    let log_mib = grown.map(|(before, after)| (after as f64 - before as f64) / MIB);
    group.start().await.context("start")?;
    let target = connect(&group.postgres(End::TARGET)).await?;
    marker::wait(&target, round.into(), LOOK_EVERY).await?;
    Ok(Kept { written_mib, transactions: transactions.into(), wal_mib, log_mib })
}

async fn end_of_wal(source: &Client) -> anyhow::Result<f64> {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
    Ok(source.query_one(sql, &[]).await?.get(0))
}

impl Figures {
    fn new(runs: BTreeMap<System, Vec<Kept>>) -> Self {
        let systems = runs
            .iter()
            .filter_map(|(system, runs)| {
                let of = |what: fn(&Kept) -> Option<f64>| {
                    median(&runs.iter().filter_map(what).collect::<Vec<_>>())
                };
                let kept = Kept {
                    written_mib: of(|kept| Some(kept.written_mib))?,
                    transactions: of(|kept| Some(kept.transactions))?,
                    wal_mib: of(|kept| Some(kept.wal_mib))?,
                    log_mib: of(|kept| kept.log_mib),
                };
                Some((*system, kept))
            })
            .collect();
        Self { systems, runs }
    }
}

pub fn show(figures: &Figures) -> Table {
    let mut table =
        table(["system", "transactions", "WAL written MiB", "WAL kept MiB", "own log MiB"]);
    for (system, kept) in &figures.systems {
        table.add_row([
            system.name().into(),
            number(Some(kept.transactions), 0),
            number(Some(kept.written_mib), 0),
            number(Some(kept.wal_mib), 1),
            number(kept.log_mib, 1),
        ]);
    }
    table
}
