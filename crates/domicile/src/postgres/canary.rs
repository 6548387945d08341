//! Can this region write through its own guard right now?
//!
//! A write says more than a connection: a server that accepts connections and answers nothing, or
//! whose lease is over, is not there for anyone.

use std::time::Duration;

use anyhow::Context;
use domicile_core::id::PartitionId;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{guard, session};

const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes canaries over one session, opened again when it breaks.
pub struct Canary {
    postgres: String,
    client: Mutex<Option<Client>>,
}

impl Canary {
    pub fn new(postgres: String) -> Self {
        Self { postgres, client: Mutex::new(None) }
    }

    /// Writes the canary row of `partition` as an application would.
    pub async fn write(&self, partition: PartitionId, run: &str) -> anyhow::Result<()> {
        timeout(WRITE_TIMEOUT, self.attempt(partition, run)).await.context("write the canary")?
    }

    async fn attempt(&self, partition: PartitionId, run: &str) -> anyhow::Result<()> {
        let mut kept = self.client.lock().await;
        let client = match kept.take() {
            Some(client) if !client.is_closed() => client,
            _ => session::connect(&self.postgres, "domicile canary").await?,
        };
        // A session that failed or was given up in the middle is not used again.
        guard::write_canary(&client, partition.0, run).await?;
        *kept = Some(client);
        Ok(())
    }
}
