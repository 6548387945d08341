//! How does a region give partitions away so that none of its writes comes after the barrier, and
//! clients wait as little as possible?
//!
//! Every guarded transaction holds a lock on `domicile.commit_check` until it has ended; at RPO 0
//! that includes the round trip for which its commit waits in `SyncRep`. Taking the lock exclusively
//! would be an exact drain, but the barrier would set out only when the last acknowledgement has
//! come in, and the new owner would wait a round trip for nothing: what stands in the WAL stands
//! before the barrier, whoever has heard of it.
//!
//! ```text
//!   door       |asks for the lock: new writers queue behind it ................|cancelled
//!   writers    ... write, commit record in WAL |SyncRep ...... acknowledged
//!   closing                                    |map, generation, barrier in one commit
//! ```
//!
//! **Invariant:** the barrier is written after it was seen, with the door shut, that every
//! transaction that holds the lock waits in `SyncRep`. Such a transaction has its commit record
//! flushed, and no other can take the lock.
//!
//! Where nothing but the canary partition is given away, nobody's writers may come to harm for it: who
//! does not end in time is left alone. None of them writes the canary but our own agent, in statements
//! of their own; one that came too late would lie outside the history, and be repaired.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use domicile_core::id::RunId;
use domicile_core::lsn::Lsn;
use domicile_core::runbook::caution;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::guard::Map;
use super::session;
use super::stamp::emit_barrier;
use crate::status::OpenWriterStatus;

const DRAIN_BUDGET: Duration = Duration::from_millis(caution::DRAIN_BUDGET.0);
/// How long new writers wait at most where nothing is drained for their sake.
const CANARY_BUDGET: Duration = Duration::from_millis(100);
/// The door opens by itself, should its agent die, before or after it is shut: longer than two budgets.
const DOOR: &str = "BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '5s'; \
                    LOCK TABLE domicile.commit_check IN EXCLUSIVE MODE";
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What becomes of writers that do not come to their commit in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stragglers {
    /// They may have written what is given away.
    Terminate,
    /// Nothing is given away but the canary partition.
    LeaveAlone,
}

/// A session that does nothing but hold new writers back during a drain.
pub struct Door {
    client: Client,
    pid: i32,
}

impl Door {
    pub async fn open(postgres: &str) -> anyhow::Result<Self> {
        let client = session::connect(postgres, "domicile door").await?;
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(Self { client, pid })
    }

    async fn let_in(&self, client: &Client) -> anyhow::Result<()> {
        client.execute("SELECT pg_cancel_backend($1)", &[&self.pid]).await?;
        Ok(())
    }
}

/// Makes the guard go by `map`, which takes partitions away from this region, and leaves a message of
/// each of the runs in the WAL behind the last write that went by the old map. Returns where the WAL
/// ends then.
///
/// New writers queue meanwhile and then meet the new map.
pub async fn drain(
    client: &Client,
    door: &Door,
    map: Map<'_>,
    barriers: &[RunId],
    stragglers: Stragglers,
) -> anyhow::Result<Lsn> {
    let shut = door.client.batch_execute(DOOR);
    let closed = async {
        wait_for_door(client, door).await?;
        match stragglers {
            Stragglers::Terminate => wait_for_writers(client).await?,
            // Those that are left must find at their commit that nothing of theirs was taken.
            Stragglers::LeaveAlone => drop(writers_left(client, CANARY_BUDGET).await?),
        }
        let script = closing(map, barriers, stragglers);
        let closed = client.simple_query(&script).await.context("close the guard")?;
        let mut rows = closed.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let end = rows.next_back().context("PostgreSQL tells where its WAL ends")?;
        Ok(end.parse::<Lsn>()?)
    };
    tokio::pin!(shut, closed);
    let (closed, waiting) = tokio::select! {
        closed = &mut closed => (closed, true),
        shut = &mut shut => (shut.context("hold new writers back").and(closed.await), false),
    };
    if waiting {
        door.let_in(client).await?;
        // Cancelled, or it got the lock at last: either way nothing is held after the rollback.
        let _ = shut.await;
    }
    door.client.batch_execute("ROLLBACK").await.context("let writers in again")?;
    closed
}

/// One transaction with new map, new generation and the first barrier, and one for each other
/// barrier: a record of the log has room for one.
fn closing(map: Map<'_>, barriers: &[RunId], stragglers: Stragglers) -> String {
    let map = map.function();
    let barriers = barriers.iter().map(|run| format!("{};", emit_barrier(run)));
    let generation = match stragglers {
        Stragglers::Terminate => {
            "SELECT setval('domicile.generation', \
                           coalesce(pg_sequence_last_value('domicile.generation'), 0) + 1);"
        }
        Stragglers::LeaveAlone => "",
    };
    format!(
        "BEGIN; {map}; {generation} \
         {} COMMIT; \
         SELECT pg_current_wal_flush_lsn()",
        barriers.collect::<Vec<_>>().join("COMMIT; BEGIN; ")
    )
}

/// Returns once the door's request stands in the queue, or has been granted.
async fn wait_for_door(client: &Client, door: &Door) -> anyhow::Result<()> {
    let asked = "SELECT EXISTS (SELECT FROM pg_locks
                                WHERE relation = 'domicile.commit_check'::regclass AND pid = $1
                                  AND mode = 'ExclusiveLock')";
    let asked = client.prepare(asked).await?;
    let deadline = Instant::now() + DRAIN_BUDGET;
    while !client.query_one(&asked, &[&door.pid]).await?.get::<_, bool>(0) {
        if Instant::now() >= deadline {
            bail!("new writers cannot be held back");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Returns the transactions that have written and been open for `at_least`, the oldest first: what
/// holds up a drain.
pub async fn open_writers(
    client: &Client,
    at_least: Duration,
) -> Result<Vec<OpenWriterStatus>, tokio_postgres::Error> {
    let sql = "SELECT lock.pid, coalesce(activity.usename::text, ''),
                      (extract(epoch FROM clock_timestamp() - activity.xact_start) * 1000)::bigint
               FROM pg_locks lock JOIN pg_stat_activity activity ON activity.pid = lock.pid
               WHERE lock.relation = 'domicile.commit_check'::regclass
                 AND lock.mode = 'RowExclusiveLock' AND lock.granted
                 AND activity.xact_start < clock_timestamp() - $1::float8 * interval '1 s'
               ORDER BY activity.xact_start LIMIT 10";
    let rows = client.query(sql, &[&at_least.as_secs_f64()]).await?;
    let open = rows.iter().map(|row| OpenWriterStatus {
        pid: row.get(0),
        role: row.get(1),
        open_ms: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
    });
    Ok(open.collect())
}

/// Returns once every transaction that holds the lock has its commit record in the WAL: those that do
/// not get there in time are terminated.
async fn wait_for_writers(client: &Client) -> anyhow::Result<()> {
    let pids = writers_left(client, DRAIN_BUDGET).await?;
    if pids.is_empty() {
        return Ok(());
    }
    tracing::warn!("writers did not end within {DRAIN_BUDGET:?}; terminating them");
    let terminate = "SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) pid";
    client.execute(terminate, &[&pids]).await.context("terminate writers")?;
    let pids = writers_left(client, DRAIN_BUDGET).await?;
    ensure!(pids.is_empty(), "writers {pids:?} cannot be drained");
    Ok(())
}

/// Waits for the transactions that hold the lock to have their commit records in the WAL. Returns
/// those that have none after all of `budget`.
async fn writers_left(client: &Client, budget: Duration) -> anyhow::Result<Vec<i32>> {
    let writers = "SELECT lock.pid FROM pg_locks lock
                   LEFT JOIN pg_stat_activity activity ON activity.pid = lock.pid
                   WHERE lock.relation = 'domicile.commit_check'::regclass
                     AND lock.mode = 'RowExclusiveLock' AND lock.granted
                     AND activity.wait_event IS DISTINCT FROM 'SyncRep'";
    let writers = client.prepare(writers).await?;
    let deadline = Instant::now() + budget;
    loop {
        let rows = client.query(&writers, &[]).await.context("look for writers")?;
        if rows.is_empty() || Instant::now() >= deadline {
            return Ok(rows.iter().filter_map(|row| row.get(0)).collect());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
