//! How do two batches overlap?
//!
//! While one is made in a session, the next begins in another with the rows that the first does not
//! touch. Everything else of it, and its commit, waits until the first has committed: what they
//! change becomes visible in their order, as if the second had begun afterwards.

use std::time::Duration;

use anyhow::Context;
use domicile_core::change::Transaction;
use domicile_core::id::Origin;
use domicile_core::lsn::Lsn;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::ahead::Batch;
use super::executor::Executor;
use super::plan::Plan;
use super::writer::Writer;
use super::{Applier, is_transient};

/// Less than this is applied before it pays to begin with it early.
const BYTES_MIN: usize = 256 * 1024;
/// How often a batch that waits looks whether the one ahead of it waits in turn.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Batches that overlapped could not be made like that. Nothing of them is there; they are made
/// again, each after the other.
#[derive(Debug, thiserror::Error)]
#[error("batches that overlapped are made again one after the other")]
pub(super) struct NotTogether;

impl Applier {
    /// Begins to apply `batch`, and sees to it that the one ahead of it is applied; gives it back
    /// where it is not to overlap with others.
    pub(super) async fn start(
        &mut self,
        writer: &mut Writer,
        batch: Batch,
    ) -> anyhow::Result<Option<Batch>> {
        let Batch { transactions, plan: Some(plan) } = batch else { return Ok(Some(batch)) };
        let Some(gate) = self.may_overlap(writer, &transactions, &plan).await else {
            return Ok(Some(Batch { transactions, plan: Some(plan) }));
        };
        let (origin, last) = (&self.config.origin, transactions[transactions.len() - 1].lsn);
        self.positions.claim(origin, last);
        let batch = (last, transactions.len() as u64);
        if let Some(ahead) = writer.start(origin, plan, batch, gate) {
            self.finish(writer, ahead).await?;
        }
        Ok(None)
    }

    /// Returns what keeps repairs out meanwhile, where these can overlap with others.
    async fn may_overlap(
        &self,
        writer: &mut Writer,
        transactions: &[Transaction],
        plan: &Plan,
    ) -> Option<OwnedRwLockReadGuard<()>> {
        let may = plan.is_larger_than(BYTES_MIN)
            && transactions[0].lsn > self.one_by_one_to
            && !writer.shared.concerns(&transactions[0])
            && self.ready(transactions, &writer.shared) == transactions.len()
            && writer.has_second(&self.config).await;
        if !may {
            return None;
        }
        // A repair that waits for what is in flight lets nobody else in.
        let gate = self.gate.clone().try_read_owned().ok()?;
        (!self.repairs.has_changed().unwrap_or(true)).then_some(gate)
    }

    /// Waits until nothing is in flight.
    pub(super) async fn finish_all(&mut self, writer: &mut Writer) -> anyhow::Result<()> {
        match writer.in_flight.take() {
            Some(batch) => self.finish(writer, batch).await,
            None => Ok(()),
        }
    }

    async fn finish(&mut self, writer: &mut Writer, batch: InFlight) -> anyhow::Result<()> {
        let (last, transactions) = (batch.last, batch.transactions);
        match batch.finish().await {
            Ok(()) => {
                writer.applied = last;
                self.positions.applied(&self.config.origin, last, transactions);
                self.goes_on();
                Ok(())
            }
            Err(error) => {
                // Also after a deadlock: it may have been one of the two with each other.
                self.one_by_one_to = writer.in_flight.as_ref().map_or(last, |behind| behind.last);
                if is_transient(&error) {
                    return Err(error);
                }
                tracing::debug!(origin = %self.config.origin, "one after the other: {error:#}");
                Err(NotTogether.into())
            }
        }
    }
}

/// A batch that is being applied.
pub(super) struct InFlight {
    pub last: Lsn,
    pub transactions: u64,
    task: AbortOnDropHandle<anyhow::Result<()>>,
    /// What the next batch must know of this one.
    as_ahead: Option<Ahead>,
    /// No repair changes rows meanwhile.
    _gate: OwnedRwLockReadGuard<()>,
}

/// A batch that another one waits for.
struct Ahead {
    executor: Executor,
    committed: oneshot::Receiver<()>,
}

impl InFlight {
    /// Begins to apply `plan` in the session of `executor`, behind `ahead`.
    pub fn start(
        executor: Executor,
        origin: Origin,
        plan: Plan,
        (last, transactions): (Lsn, u64),
        ahead: Option<&mut Self>,
        gate: OwnedRwLockReadGuard<()>,
    ) -> Self {
        let ahead = ahead.and_then(|batch| batch.as_ahead.take());
        let (commit, committed) = oneshot::channel();
        let session = executor.clone();
        let task = tokio::spawn(async move {
            match ahead {
                None => executor.apply(&origin, &plan, last).await?,
                Some(ahead) => apply_behind(&executor, ahead, &origin, &plan, last).await?,
            }
            // There may be no batch behind.
            let _ = commit.send(());
            Ok(())
        });
        let task = AbortOnDropHandle::new(task);
        let as_ahead = Some(Ahead { executor: session, committed });
        Self { last, transactions, task, as_ahead, _gate: gate }
    }

    /// Waits until the batch is applied.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.task.await.context("apply a batch")?
    }
}

async fn apply_behind(
    executor: &Executor,
    mut ahead: Ahead,
    origin: &Origin,
    plan: &Plan,
    last: Lsn,
) -> anyhow::Result<()> {
    executor.begin().await?;
    let made = async {
        executor.execute(&plan.early).await?;
        if !ahead.is_committed_before_it_waits(executor).await? {
            return Ok(false);
        }
        executor.execute(&plan.late).await?;
        Ok(true)
    };
    match made.await {
        Ok(true) => executor.commit(origin, last).await,
        // It may be for us that the one ahead waits, and PostgreSQL does not know that we wait for
        // it.
        Ok(false) => {
            executor.client.batch_execute("ROLLBACK").await?;
            ahead.committed.await.context("the batch ahead failed")?;
            executor.apply(origin, plan, last).await
        }
        Err(error) => executor.end(Err(error)).await,
    }
}

impl Ahead {
    /// Returns true when this batch has committed, false when it waits for a lock.
    async fn is_committed_before_it_waits(&mut self, watcher: &Executor) -> anyhow::Result<bool> {
        loop {
            match timeout(LOOK_EVERY, &mut self.committed).await {
                Ok(committed) => {
                    committed.context("the batch ahead failed")?;
                    return Ok(true);
                }
                Err(_) if self.executor.waits_for_lock(watcher).await? => return Ok(false),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::RwLock;

    use super::super::plan::{Parameter, Planned};
    use super::*;
    use crate::lab::cluster::{Cluster, temporary_cluster};
    use crate::postgres::session;

    const TABLES: &str = "
        CREATE TABLE public.gate (id integer);
        CREATE TABLE public.item (id integer PRIMARY KEY, slot integer UNIQUE);
        CREATE SCHEMA domicile;
        CREATE TABLE domicile.progress (origin text PRIMARY KEY, applied pg_lsn)";

    async fn executor(cluster: &Cluster) -> Executor {
        let client = session::connect(&cluster.connection_string(), "apply").await.unwrap();
        Executor::new(client).await.unwrap()
    }

    fn request(sql: &str) -> Planned {
        Planned::Statement { sql: sql.to_owned(), parameters: Vec::<Parameter>::new(), finds: None }
    }

    /// The first takes a value that is free for a moment; the second has taken it before.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_that_is_in_the_way_of_the_one_ahead_gives_way() {
        let (cluster, _folder) = temporary_cluster("overlap", &[]).await.unwrap();
        let (first, second) = (executor(&cluster).await, executor(&cluster).await);
        let other = session::connect(&cluster.connection_string(), "other").await.unwrap();
        other.batch_execute(TABLES).await.unwrap();
        other.batch_execute("BEGIN; LOCK TABLE public.gate").await.unwrap();

        let origin: Origin = "eu-1".parse().unwrap();
        let gate = Arc::new(RwLock::new(()));
        let plan = Plan {
            early: vec![request("SELECT FROM public.gate")],
            late: vec![
                request("INSERT INTO public.item VALUES (1, 9)"),
                request("DELETE FROM public.item WHERE id = 1"),
            ],
        };
        let guard = gate.clone().try_read_owned().unwrap();
        let mut ahead = InFlight::start(first, origin.clone(), plan, (Lsn(10), 1), None, guard);
        let early = vec![request("INSERT INTO public.item VALUES (2, 9)")];
        let plan = Plan { early, late: Vec::new() };
        let guard = gate.clone().try_read_owned().unwrap();
        let watched = second.clone();
        let batch = (Lsn(20), 1);
        let behind = InFlight::start(second, origin, plan, batch, Some(&mut ahead), guard);

        // The second has what the first is about to take.
        let sql = "SELECT FROM pg_locks
                   WHERE pid = $1 AND relation = 'public.item'::regclass AND mode = 'RowExclusiveLock'";
        while other.query(sql, &[&watched.pid]).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        other.batch_execute("COMMIT").await.unwrap();
        ahead.finish().await.unwrap();
        behind.finish().await.unwrap();
        let sql = "SELECT (SELECT array_agg(id) FROM public.item), (SELECT applied::text FROM domicile.progress)";
        let row = other.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, Vec<i32>>(0), [2]);
        assert_eq!(row.get::<_, &str>(1), Lsn(20).to_string());
    }
}
