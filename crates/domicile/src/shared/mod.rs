//! What keeps shared tables in order, beside the appliers?
//!
//! Hidden rows are shown when their unique values become free, parked changes are tried again,
//! and deleted rows are forgotten once every region has them.

mod tombstones;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_core::config::Config;
use domicile_core::id::{Origin, RegionId};
use tokio_util::sync::CancellationToken;

use crate::apply::shared::Shared;
use crate::apply::{ApplierConfig, open_session};
use crate::complain::Complaint;
use crate::continuity::Continuity;
use crate::postgres::{session, shared};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Deleted rows are looked at every so many times.
const SWEEP_EVERY: u32 = 5;

pub struct Keeper {
    pub continuity: Continuity,
    pub config: Arc<Config>,
    pub postgres: String,
    pub region: RegionId,
    pub origin: Origin,
}

impl Keeper {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut complaint = Complaint::default();
        if shared::tables(&self.config).next().is_none() {
            return shutdown.cancelled().await;
        }
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                kept = self.session() => if let Err(error) = kept {
                    complaint.warn("shared tables are not looked after", &error);
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Looks after the tables until something breaks.
    async fn session(&self) -> anyhow::Result<()> {
        // Two sessions: what the first one writes is for this region alone, and is not captured;
        // what the second one writes is.
        let applier = session::connect(&self.postgres, "domicile shared").await?;
        let config = ApplierConfig {
            postgres: self.postgres.clone(),
            region: self.region.clone(),
            // No other session has it.
            origin: Origin::new(self.region.clone(), 0),
            cluster: self.config.clone(),
            continuity: self.continuity.clone(),
        };
        open_session(&applier, &config).await?;
        let speaker = session::connect(&self.postgres, "domicile shared").await?;
        let mut tables = Shared::new(self.config.clone());
        for look in 0_u32.. {
            if look % SWEEP_EVERY == 0 {
                // Somebody may have altered a table.
                tables.forget();
            }
            applier.batch_execute("BEGIN").await?;
            match tables.keep(&applier, &self.origin).await {
                Ok(_) => applier.batch_execute("COMMIT").await.context("commit")?,
                Err(error) => {
                    applier.batch_execute("ROLLBACK").await?;
                    return Err(error);
                }
            }
            if look % SWEEP_EVERY == 0 {
                tombstones::forget(&applier, &speaker, &self.config, &self.origin).await?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
