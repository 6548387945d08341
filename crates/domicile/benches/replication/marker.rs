//! What was committed last, and does a target show it?

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::group::PATIENCE;

/// Commits the marker; returns a position behind everything else and before its commit.
pub async fn commit(source: &Client, id: i64) -> anyhow::Result<u64> {
    source.batch_execute("BEGIN").await?;
    source.execute("INSERT INTO marker VALUES ($1)", &[&id]).await?;
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let lsn: i64 = source.query_one(sql, &[]).await?.get(0);
    source.batch_execute("COMMIT").await.context("commit the marker")?;
    Ok(u64::try_from(lsn)?)
}

/// Looks again and again until the target shows it.
pub async fn wait(target: &Client, id: i64, look_every: Duration) -> anyhow::Result<()> {
    let statement = target.prepare("SELECT FROM marker WHERE id = $1").await?;
    let deadline = Instant::now() + PATIENCE;
    while target.query_opt(&statement, &[&id]).await?.is_none() {
        if Instant::now() >= deadline {
            bail!("the target does not show the marker after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(look_every).await;
    }
    Ok(())
}
