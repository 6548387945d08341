//! What of the applied rows would survive a crash of this region's PostgreSQL?
//!
//! Appliers commit with `synchronous_commit = off`. So what the tables show is one thing, and what
//! other regions may rely on another: they trim their logs by it. One query reads the apply
//! checkpoints and, after them, where the WAL ends; once the WAL is flushed up to there, so are
//! they. All of it in one session: a crash ends the session, and what was pending is forgotten.

use std::time::Duration;

use anyhow::Context;
use domicile_core::lsn::{Frontier, Lsn};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::positions::Positions;
use crate::postgres::session;

/// How often PostgreSQL is asked while something is not durable yet: it flushes by itself every
/// `wal_writer_delay`, 200 ms unless set otherwise.
const ASK_EVERY: Duration = Duration::from_millis(100);
const RETRY_AFTER: Duration = Duration::from_millis(500);

pub struct Durability {
    pub postgres: String,
    pub positions: Positions,
}

impl Durability {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut complaint = Complaint::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.session() => {
                    if let Err(error) = ended {
                        complaint.warn("what is applied is not known to be durable for now", &error);
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(RETRY_AFTER) => {}
            }
        }
    }

    async fn session(&self) -> anyhow::Result<()> {
        let client = session::connect(&self.postgres, "domicile durable").await?;
        let mut moved = self.positions.subscribe();
        loop {
            let shown = self.positions.frontier();
            let (written, checkpoints) = checkpoints(&client).await?;
            while flushed(&client).await? < written {
                sleep(ASK_EVERY).await;
            }
            self.positions.durable_up_to(&checkpoints);
            while self.positions.frontier() == shown {
                moved.changed().await.context("the agent is closed")?;
            }
            // More will come: one question for all of it.
            sleep(ASK_EVERY).await;
        }
    }
}

/// Returns the apply checkpoints, and where the WAL ended after they were read.
async fn checkpoints(client: &tokio_postgres::Client) -> anyhow::Result<(Lsn, Frontier)> {
    let rows = client
        .query("SELECT origin, applied::text FROM domicile.progress", &[])
        .await
        .context("read the apply checkpoints")?;
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
    let written = row.get::<_, &str>(0).parse()?;
    let lift = |row: &tokio_postgres::Row| {
        Ok((row.get::<_, &str>(0).parse()?, row.get::<_, &str>(1).parse()?))
    };
    let checkpoints = rows.iter().map(lift).collect::<anyhow::Result<Frontier>>()?;
    Ok((written, checkpoints))
}

async fn flushed(client: &tokio_postgres::Client) -> anyhow::Result<Lsn> {
    let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
    Ok(row.get::<_, &str>(0).parse()?)
}
