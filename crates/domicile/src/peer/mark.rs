//! How far has this region committed, and what may it write?

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_core::freshness::Answer;
use domicile_core::id::{Epoch, Origin, PartitionRange, RegionId};
use domicile_core::lsn::{Cut, Lsn};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::clock::Clock;
use crate::directory::view::OwnershipView;
use crate::positions::Positions;
use crate::postgres::{compare, session};
use crate::tenure::TenureState;

/// How long capture may take to reach what was committed just now.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(5);

/// Marks the end of what is committed here. Cheap to clone.
#[derive(Clone)]
pub struct Marker {
    pub region: RegionId,
    pub origin: Origin,
    pub postgres: String,
    pub clock: Clock,
    pub positions: Positions,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub tenure: watch::Receiver<TenureState>,
    /// One mark after the other, in one session.
    pub session: Arc<Mutex<Option<Client>>>,
}

/// What a mark found.
pub struct Marked {
    /// The log ends here with everything that was committed before.
    pub end: Lsn,
    /// No transaction with this number or a later one had begun.
    pub next_xid: u64,
    /// What the region could write when `end` was read.
    pub owned: Vec<(PartitionRange, Epoch)>,
}

impl Marker {
    pub async fn mark(&self) -> anyhow::Result<Marked> {
        let mut owned = self.owned();
        let (flushed, next_xid) = self.mark_wal().await?;
        let end = self.log_end_at(flushed).await?;
        // In the same epoch before and after: nobody else had it in between.
        let after = self.owned();
        owned.retain(|one| after.contains(one));
        Ok(Marked { end, next_xid, owned })
    }

    /// Where our log ends once it holds everything of ours up to `position` of the WAL.
    pub async fn log_end_at(&self, position: Lsn) -> anyhow::Result<Lsn> {
        let captured = timeout(CAPTURE_TIMEOUT, self.positions.wait_for_capture(position)).await;
        captured.with_context(|| format!("capture does not reach {position} yet"))
    }

    /// Makes durable what was written here so far, committed or not. Returns the origin of that.
    pub async fn make_durable(&self) -> anyhow::Result<Origin> {
        self.mark_wal().await?;
        Ok(self.origin.clone())
    }

    /// What this region says of itself when it is asked by itself.
    pub async fn answer(&self) -> anyhow::Result<Answer> {
        let Marked { end, owned, .. } = self.mark().await?;
        let owns = owned.into_iter().map(|(range, _)| range).collect();
        let end = Cut { origin: self.origin.clone(), lsn: end };
        Ok(Answer { owns, end, shown: self.positions.needs() })
    }

    /// What this region's guard admits at this moment, by its lease. What is not opened yet, and all
    /// while the guard is behind what is known of owners, is left out.
    pub fn owned(&self) -> Vec<(PartitionRange, Epoch)> {
        let (tenure, view) = (self.tenure.borrow(), self.ownership.borrow());
        let live = tenure.lease_until.is_some_and(|until| self.clock.now() < until);
        let Some(ownership) = view.ownership.as_ref() else { return Vec::new() };
        if !live || tenure.guard_revision != view.revision {
            return Vec::new();
        }
        let is_open = |range: &PartitionRange| {
            tenure.closed.iter().all(|closed| closed.overlap(range).is_none())
        };
        let ours = ownership.data().iter().filter(|e| e.state.admits() == Some(&self.region));
        ours.filter(|e| is_open(&e.range)).map(|e| (e.range, e.epoch)).collect()
    }

    /// Does this region own everything, by its lease?
    pub fn owns_all(&self) -> bool {
        let owned = self.owned();
        let view = self.ownership.borrow().clone();
        let data = view.ownership.as_ref().map(|ownership| ownership.data());
        data.is_some_and(|data| data.iter().all(|e| owned.contains(&(e.range, e.epoch))))
    }

    async fn mark_wal(&self) -> anyhow::Result<(Lsn, u64)> {
        let mut session = self.session.lock().await;
        // Taken out: a session in which something went wrong is not used again.
        let client = match session.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => session::connect(&self.postgres, "domicile mark").await?,
        };
        let marked = compare::mark(&client).await?;
        *session = Some(client);
        Ok(marked)
    }
}
