//! How does a session make what was planned?
//!
//! Requests go one behind the other without waiting in between, and each says how many rows it must
//! find.

use std::collections::BTreeMap;

use bytes::Bytes;
use domicile_core::id::Origin;
use domicile_core::lsn::Lsn;
use futures_util::SinkExt as _;
use futures_util::future::try_join_all;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::plan::Planned;
use super::statement::Text;

/// Prepared statements that one session keeps.
const STATEMENTS_MAX: usize = 512;

/// A transaction could not be applied as it is: a row is not what the origin saw.
#[derive(Debug, thiserror::Error)]
#[error("a row is not what the origin saw")]
struct RowDiffers;

/// An applier's session.
pub(super) struct Executor {
    pub client: Client,
    prepared: BTreeMap<String, tokio_postgres::Statement>,
}

impl Executor {
    pub fn new(client: Client) -> Self {
        Self { client, prepared: BTreeMap::new() }
    }

    /// Makes `planned` and moves the checkpoint to `last`, in one transaction. When this fails
    /// nothing is applied, except where the connection broke at its end.
    pub async fn apply(
        &mut self,
        origin: &Origin,
        planned: &[Planned],
        last: Lsn,
    ) -> anyhow::Result<()> {
        self.client.batch_execute("BEGIN").await?;
        let made = async {
            self.execute(planned).await?;
            save_checkpoint(&self.client, origin, last).await
        };
        let made = made.await;
        self.end(made).await
    }

    /// Ends the open transaction: commits it when all of it was made, else nothing of it stays.
    pub async fn end(&self, made: anyhow::Result<()>) -> anyhow::Result<()> {
        let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.client.batch_execute(end).await?;
        made
    }

    /// Makes the requests in order, inside the open transaction.
    pub async fn execute(&mut self, planned: &[Planned]) -> anyhow::Result<()> {
        let mut work = Vec::new();
        for request in planned {
            match request {
                Planned::Statement { sql, parameters, finds } => {
                    let prepared = self.prepare(sql).await?;
                    work.push(Work { prepared, parameters, finds: *finds });
                }
                Planned::Copy { sql, data } => {
                    run(&self.client, std::mem::take(&mut work)).await?;
                    copy_in(&self.client, sql, data).await?;
                }
            }
        }
        run(&self.client, work).await
    }

    async fn prepare(&mut self, sql: &str) -> anyhow::Result<tokio_postgres::Statement> {
        if let Some(prepared) = self.prepared.get(sql) {
            return Ok(prepared.clone());
        }
        if self.prepared.len() >= STATEMENTS_MAX {
            self.prepared.clear();
        }
        let prepared = self.client.prepare(sql).await?;
        self.prepared.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    /// What was prepared may be out of date.
    pub fn forget(&mut self) {
        self.prepared.clear();
    }
}

/// A statement on its way, and how many rows it must find.
struct Work<'a> {
    prepared: tokio_postgres::Statement,
    parameters: &'a [Option<Bytes>],
    finds: Option<u64>,
}

async fn run(client: &Client, work: Vec<Work<'_>>) -> anyhow::Result<()> {
    let each = work.iter().map(|Work { prepared, parameters, finds }| async move {
        let texts: Vec<Text<'_>> = parameters.iter().map(|p| Text(p.as_deref())).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            texts.iter().map(|text| text as &(dyn ToSql + Sync)).collect();
        let rows = client.execute(prepared, &parameters).await?;
        if finds.is_some_and(|finds| finds != rows) {
            return Err(anyhow::Error::new(RowDiffers));
        }
        Ok(())
    });
    try_join_all(each).await?;
    Ok(())
}

async fn copy_in(client: &Client, sql: &str, data: &[Bytes]) -> anyhow::Result<()> {
    let sink = client.copy_in(sql).await?;
    let mut sink = std::pin::pin!(sink);
    for piece in data {
        sink.send(piece.clone()).await?;
    }
    sink.close().await?;
    Ok(())
}

/// Moves the apply checkpoint, in the open transaction.
pub(super) async fn save_checkpoint(
    client: &impl tokio_postgres::GenericClient,
    origin: &Origin,
    applied: Lsn,
) -> anyhow::Result<()> {
    client
        .execute(
            "INSERT INTO domicile.progress AS progress (origin, applied)
             VALUES ($1, $2::text::pg_lsn)
             ON CONFLICT (origin) DO UPDATE
             SET applied = greatest(progress.applied, excluded.applied)",
            &[&origin.to_string(), &applied.to_string()],
        )
        .await?;
    Ok(())
}
