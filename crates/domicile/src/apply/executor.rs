//! How does a session make what was planned?
//!
//! Requests go one behind the other without waiting in between, and each says how many rows it must
//! find.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use domicile_core::id::Origin;
use domicile_core::lsn::Lsn;
use futures_util::SinkExt as _;
use futures_util::future::try_join_all;
use tokio::join;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::plan::{Parameter, Plan, Planned};

/// Prepared statements that one session keeps.
const STATEMENTS_MAX: usize = 512;

/// A transaction could not be applied as it is: a row is not what the origin saw.
#[derive(Debug, thiserror::Error)]
#[error("a row is not what the origin saw")]
struct RowDiffers;

/// An applier's session. Cheap to clone.
#[derive(Clone)]
pub(super) struct Executor {
    pub client: Arc<Client>,
    prepared: Arc<Mutex<BTreeMap<String, tokio_postgres::Statement>>>,
    /// PostgreSQL's process.
    pub pid: i32,
}

impl Executor {
    pub async fn new(client: Client) -> anyhow::Result<Self> {
        let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
        let pid = row.context("ask for the process")?.get(0);
        Ok(Self { client: Arc::new(client), prepared: Arc::default(), pid })
    }

    pub async fn begin(&self) -> anyhow::Result<()> {
        Ok(self.client.batch_execute("BEGIN").await?)
    }

    /// Does this session wait for a lock, as `watcher` sees it?
    pub async fn waits_for_lock(&self, watcher: &Self) -> anyhow::Result<bool> {
        let sql = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
        Ok(watcher.client.query_opt(sql, &[&self.pid]).await?.is_some())
    }

    /// Makes `plan` and moves the checkpoint to `last`, in one transaction. When this fails
    /// nothing is applied, except where the connection broke at its end.
    pub async fn apply(&self, origin: &Origin, plan: &Plan, last: Lsn) -> anyhow::Result<()> {
        // Not in one go with the rest: were BEGIN cancelled, each statement would commit by itself, and
        // a row without a key would come twice.
        self.begin().await?;
        let made = async {
            self.execute(&plan.early).await?;
            self.execute(&plan.late).await
        };
        match made.await {
            Ok(()) => self.commit(origin, last).await,
            Err(error) => self.end(Err(error)).await,
        }
    }

    /// Moves the checkpoint to `last` and commits, in one go: where the one fails, PostgreSQL rolls
    /// back at the other.
    pub async fn commit(&self, origin: &Origin, last: Lsn) -> anyhow::Result<()> {
        let committed = async {
            let prepared = self.prepare(SAVE_CHECKPOINT).await?;
            let (origin, last) = (origin.to_string(), last.to_string());
            let parameters: [&(dyn ToSql + Sync); 2] = [&origin, &last];
            let save = self.client.execute(&prepared, &parameters);
            let (saved, committed) = join!(save, self.client.batch_execute("COMMIT"));
            saved?;
            Ok(committed?)
        };
        let committed: anyhow::Result<()> = committed.await;
        if committed.is_err() {
            // The transaction is still open where there was nothing to save it with.
            self.client.batch_execute("ROLLBACK").await?;
        }
        committed
    }

    /// Ends the open transaction: commits it when all of it was made, else nothing of it stays.
    pub async fn end(&self, made: anyhow::Result<()>) -> anyhow::Result<()> {
        let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.client.batch_execute(end).await?;
        made
    }

    /// Makes the requests in order, inside the open transaction.
    pub async fn execute(&self, planned: &[Planned]) -> anyhow::Result<()> {
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

    async fn prepare(&self, sql: &str) -> anyhow::Result<tokio_postgres::Statement> {
        let known = self.prepared().get(sql).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let statement = self.client.prepare(sql).await?;
        let mut prepared = self.prepared();
        if prepared.len() >= STATEMENTS_MAX {
            prepared.clear();
        }
        prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// What was prepared may be out of date.
    pub fn forget(&self) {
        self.prepared().clear();
    }

    fn prepared(&self) -> MutexGuard<'_, BTreeMap<String, tokio_postgres::Statement>> {
        // Whatever panicked: what is in the map was prepared.
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement on its way, and how many rows it must find.
struct Work<'a> {
    prepared: tokio_postgres::Statement,
    parameters: &'a [Parameter],
    finds: Option<u64>,
}

async fn run(client: &Client, work: Vec<Work<'_>>) -> anyhow::Result<()> {
    let each = work.iter().map(|Work { prepared, parameters, finds }| async move {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(|parameter| parameter as &(dyn ToSql + Sync)).collect();
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

const SAVE_CHECKPOINT: &str = "
    INSERT INTO domicile.progress AS progress (origin, applied)
    VALUES ($1, $2::text::pg_lsn)
    ON CONFLICT (origin) DO UPDATE SET applied = greatest(progress.applied, excluded.applied)";

/// Moves the apply checkpoint, in the open transaction.
pub(super) async fn save_checkpoint(
    client: &impl tokio_postgres::GenericClient,
    origin: &Origin,
    applied: Lsn,
) -> anyhow::Result<()> {
    client.execute(SAVE_CHECKPOINT, &[&origin.to_string(), &applied.to_string()]).await?;
    Ok(())
}
