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
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::is_transient;
use super::plan::{Parameter, Plan, Planned};
use super::writer::RefusedAtTheEnd;

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
        if let Some(Planned::Set { sql, parameters, finds }) = plan.only() {
            return self.apply_set(origin, (sql, parameters, *finds), last).await;
        }
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

    /// Does so with one statement, which PostgreSQL makes whole or not at all: one round trip where
    /// a transaction block takes three.
    async fn apply_set(
        &self,
        origin: &Origin,
        (sql, parameters, finds): (&str, &[Parameter], u64),
        last: Lsn,
    ) -> anyhow::Result<()> {
        let own = parameters.len();
        // The only way to have a statement of SQL fail where a count is not as it should be.
        let sql = format!(
            "WITH made AS ({sql} RETURNING 1)
             INSERT INTO domicile.progress AS progress (origin, applied)
             SELECT ${}::text, ${}::text::pg_lsn
             FROM (SELECT 1 / (count(*) = ${}::bigint)::integer AS one FROM made) counted
             WHERE one = 1 {ADVANCE}",
            own + 1,
            own + 2,
            own + 3
        );
        let prepared = self.prepare(&sql).await?;
        let (origin, last, finds) = (origin.to_string(), last.to_string(), finds as i64);
        let mut all = borrowed(parameters);
        all.extend([&origin as &(dyn ToSql + Sync), &last, &finds]);
        match self.client.execute(&prepared, &all).await {
            Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                Err(RowDiffers.into())
            }
            made => Ok(made.map(drop)?),
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

    /// Has everything that was deferred checked now, and from now on at once. At the COMMIT it would be too late to
    /// keep anything of the transaction.
    pub async fn check_deferred(&self) -> anyhow::Result<()> {
        let checked = self.client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await;
        match checked.map_err(anyhow::Error::from) {
            Err(error) if !is_transient(&error) => Err(error.context(RefusedAtTheEnd)),
            checked => checked,
        }
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
                Planned::Set { sql, parameters, finds } => {
                    let prepared = self.prepare(sql).await?;
                    work.push(Work { prepared, parameters, finds: Some(*finds) });
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
        let rows = client.execute(prepared, &borrowed(parameters)).await?;
        if finds.is_some_and(|finds| finds != rows) {
            return Err(anyhow::Error::new(RowDiffers));
        }
        Ok(())
    });
    try_join_all(each).await?;
    Ok(())
}

fn borrowed(parameters: &[Parameter]) -> Vec<&(dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| parameter as &(dyn ToSql + Sync)).collect()
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

/// Of a checkpoint that is there already.
const ADVANCE: &str =
    "ON CONFLICT (origin) DO UPDATE SET applied = greatest(progress.applied, excluded.applied)";
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cluster::temporary_cluster;
    use crate::postgres::session;

    const TABLES: &str = "
        CREATE TABLE public.item (id integer PRIMARY KEY, slot integer);
        INSERT INTO public.item VALUES (1, 10), (2, 20);
        CREATE SCHEMA domicile;
        CREATE TABLE domicile.progress (origin text PRIMARY KEY, applied pg_lsn)";

    fn update_of(finds: u64) -> Plan {
        let sql = "UPDATE public.item SET slot = slot + 1".to_owned();
        let set = Planned::Set { sql, parameters: Vec::new(), finds };
        Plan { early: Vec::new(), late: vec![set] }
    }

    #[tokio::test]
    async fn one_statement_brings_its_rows_and_the_checkpoint_or_nothing() {
        let (cluster, _folder) = temporary_cluster("executor", &[]).await.unwrap();
        let client = session::connect(&cluster.connection_string(), "apply").await.unwrap();
        client.batch_execute(TABLES).await.unwrap();
        let executor = Executor::new(client).await.unwrap();
        let origin: Origin = "eu-1".parse().unwrap();
        let shown = async || {
            let sql = "SELECT (SELECT array_agg(slot ORDER BY id) FROM public.item),
                              (SELECT applied::text FROM domicile.progress)";
            let row = executor.client.query_one(sql, &[]).await.unwrap();
            (row.get::<_, Vec<i32>>(0), row.get::<_, Option<String>>(1))
        };
        for lsn in [Lsn(10), Lsn(20)] {
            executor.apply(&origin, &update_of(2), lsn).await.unwrap();
        }
        assert_eq!(shown().await, (vec![12, 22], Some(Lsn(20).to_string())));
        let differs = executor.apply(&origin, &update_of(3), Lsn(30)).await.unwrap_err();
        assert!(differs.is::<RowDiffers>(), "{differs:#}");
        assert_eq!(shown().await, (vec![12, 22], Some(Lsn(20).to_string())));
    }
}
