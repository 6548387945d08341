//! What do we show a region that joins? Snapshots that stay open while it copies from them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use domicile_core::config::Config;
use domicile_core::id::Origin;
use futures_util::TryStreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::wire::{lift_name, lower};
use crate::postgres::snapshot::{self, Snapshot};
use crate::proto::{CopyOutRequest, CopyOutResponse, OpenSnapshotResponse};

/// How long a snapshot from which nobody reads stays open: an agent may start again meanwhile.
/// PostgreSQL keeps old row versions for it.
const IDLE_MAX: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Rows sent in one message, unless one row alone is longer.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// Cheap to clone.
#[derive(Clone)]
pub struct Snapshots {
    postgres: String,
    config: Arc<Config>,
    origin: Origin,
    open: Arc<Mutex<BTreeMap<String, Open>>>,
}

struct Open {
    /// Read from while there is another owner than this list.
    snapshot: Arc<Snapshot>,
    used: Instant,
}

impl Snapshots {
    pub fn new(postgres: String, config: Arc<Config>, origin: Origin) -> Self {
        Self { postgres, config, origin, open: Arc::default() }
    }

    /// Opens one. Returns once the transactions that are open now have ended.
    pub async fn open(&self) -> anyhow::Result<OpenSnapshotResponse> {
        let snapshot = Snapshot::open(&self.postgres, &self.config, &self.origin).await?;
        let (name, snapshot) = (snapshot.name.clone(), Arc::new(snapshot));
        let told = lower(&snapshot);
        self.lock().insert(name.clone(), Open { snapshot, used: Instant::now() });
        let open = self.open.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(known) = open.get_mut(&name) else { return };
                if known.snapshot.is_closed() {
                    tracing::info!(snapshot = %name, "PostgreSQL has closed it");
                    open.remove(&name);
                    return;
                }
                if Arc::strong_count(&known.snapshot) > 1 {
                    known.used = Instant::now();
                } else if known.used.elapsed() > IDLE_MAX {
                    tracing::info!(snapshot = %name, "nobody reads from it: closed");
                    open.remove(&name);
                    return;
                }
            }
        });
        Ok(told)
    }

    /// Tells of one that is open still. It may have gone with the server that kept it.
    pub async fn again(&self, name: &str) -> Option<OpenSnapshotResponse> {
        let snapshot = self.read(name)?;
        if !snapshot.is_open().await {
            self.close(name);
            return None;
        }
        Some(lower(&snapshot))
    }

    pub fn close(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Sends the rows that are asked for.
    pub async fn copy_out(
        &self,
        request: CopyOutRequest,
        sender: &mpsc::Sender<Result<CopyOutResponse, Status>>,
    ) -> anyhow::Result<()> {
        let snapshot = self.read(&request.snapshot).context("this snapshot is not open")?;
        let name = lift_name(request.relation)?;
        let relation = snapshot.relations.iter().find(|relation| relation.name == name);
        let relation = relation.with_context(|| format!("table {name} is not replicated"))?;
        let blocks = (request.first, request.end);
        let (exported, columns) = (&snapshot.exported, &relation.columns);
        let rows = snapshot::copy_out(&self.postgres, exported, &name, columns, blocks);
        let mut rows = std::pin::pin!(rows.await?);
        let mut message = BytesMut::new();
        while let Some(row) = rows.try_next().await.with_context(|| format!("copy {name}"))? {
            if !message.is_empty() && message.len() + row.len() > SEND_BYTES_MAX {
                let rows = message.split().freeze();
                if sender.send(Ok(CopyOutResponse { rows })).await.is_err() {
                    return Ok(());
                }
            }
            message.extend_from_slice(&row);
        }
        // Also when there is no row: an empty message says that this is all.
        for rows in [message.freeze(), Bytes::new()] {
            let _ = sender.send(Ok(CopyOutResponse { rows })).await;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Option<Arc<Snapshot>> {
        let mut open = self.lock();
        let known = open.get_mut(name)?;
        known.used = Instant::now();
        Some(known.snapshot.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
