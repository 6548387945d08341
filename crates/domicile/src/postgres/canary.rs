//! Can this region write through its own guard right now?
//!
//! A write says more than a connection: a server that accepts connections and answers nothing, or
//! whose lease is over, is not there for anyone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_core::id::{Epoch, PartitionId};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::Client;

use super::{guard, journal, session};

const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a write that is no history may take to be journaled.
const JOURNAL_TIMEOUT: Duration = Duration::from_millis(1500);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Writes canaries over one session, opened again when it breaks.
pub struct Canary {
    postgres: String,
    client: Arc<Mutex<Option<Client>>>,
}

impl Canary {
    pub fn new(postgres: String) -> Self {
        Self { postgres, client: Arc::default() }
    }

    /// Writes the canary row of `partition` as an application would.
    ///
    /// What was begun is ended in any case, also when nobody waits for it any more.
    pub async fn write(&self, partition: PartitionId, run: &str) -> anyhow::Result<()> {
        let (postgres, client, run) = (self.postgres.clone(), self.client.clone(), run.to_owned());
        let writing = tokio::spawn(async move { write(&postgres, &client, partition, &run).await });
        writing.await.context("write the canary")?
    }

    /// Commits the canary row under `epoch`, which is over, as who has not heard of that would; returns once it
    /// is journaled as what it is.
    pub async fn write_late(&self, epoch: Epoch, run: &str) -> anyhow::Result<()> {
        let (postgres, run) = (self.postgres.clone(), run.to_owned());
        let writing = tokio::spawn(async move { write_late(&postgres, epoch, &run).await });
        writing.await.context("write late")?
    }
}

/// In a session of its own.
async fn write_late(postgres: &str, epoch: Epoch, run: &str) -> anyhow::Result<()> {
    let mut client = session::connect(postgres, "domicile late write").await?;
    let writing = guard::write_late(&mut client, PartitionId::CANARY, epoch, run);
    let xid = match timeout(WRITE_TIMEOUT, writing).await {
        Ok(written) => written?,
        Err(late) => {
            // Others that write the canary would wait behind it.
            session::cancel(postgres, &client).await;
            return Err(late).context("write late");
        }
    };
    let journaled = async {
        while !journal::has(&client, &guard::canary_table(), xid).await? {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    timeout(JOURNAL_TIMEOUT, journaled).await.context("wait until the late write is journaled")?
}

async fn write(
    postgres: &str,
    kept: &Mutex<Option<Client>>,
    partition: PartitionId,
    run: &str,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    let mut kept = timeout_at(deadline, kept.lock()).await.context("wait for another canary")?;
    let client = match kept.take() {
        Some(client) if !client.is_closed() => client,
        _ => {
            let opening = session::connect(postgres, "domicile canary");
            timeout_at(deadline, opening).await.context("open a session for the canary")??
        }
    };
    // A session that failed or was given up in the middle is not used again.
    match timeout_at(deadline, guard::write_canary(&client, partition.0, run)).await {
        Ok(written) => {
            written?;
            *kept = Some(client);
            Ok(())
        }
        Err(late) => {
            // A commit that waits for a copy goes on waiting after its session is gone, and the next
            // attempt would wait beside it.
            drop(kept);
            session::cancel(postgres, &client).await;
            Err(late).context("write the canary")
        }
    }
}
