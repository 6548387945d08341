//! Which records of our logs lie beyond a cut that was decided after they were written?
//!
//! A region that comes back after its partitions were given away finds its own unshipped tail in
//! its log; one that was cut off while a cut was decided may even have applied another's. Each
//! such transaction goes to the conflict journal with its rows, once, and its rows are repaired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::history::{Admission, admit};
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::Lsn;
use domicile_core::ownership::Ownership;
use domicile_core::progress::Sifted;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::capture::explain;
use crate::directory::view::OwnershipView;
use crate::log::{Log, Logs};
use crate::pieces::Pieces;
use crate::positions::Positions;
use crate::postgres::shared::is_shared;
use crate::postgres::{journal, session};

const RETRY_AFTER: Duration = Duration::from_millis(500);
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Looks at the logs again whenever a cut becomes known.
pub struct Tails {
    pub config: Arc<Config>,
    pub postgres: String,
    pub origin: Origin,
    pub logs: Logs,
    pub positions: Positions,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    /// Told when rows were marked for repair.
    pub diverted: watch::Sender<u64>,
    /// The cuts that each log was held against: what they leave may be trimmed.
    pub examined: watch::Sender<BTreeMap<Origin, Vec<Lsn>>>,
}

impl Tails {
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let view = self.ownership.borrow_and_update().clone();
            if let Some(ownership) = &view.ownership
                && let Err(error) = self.examine(ownership).await
            {
                tracing::warn!("the logs' tails are not examined yet: {error:#}");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY_AFTER) => continue,
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.ownership.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn examine(&self, ownership: &Ownership) -> anyhow::Result<()> {
        for (origin, log) in self.logs.all() {
            let cuts = ownership.cuts_of(&origin);
            let Some(first) = cuts.first() else { continue };
            if self.examined.borrow().get(&origin) == Some(&cuts) {
                continue;
            }
            self.divert_after(ownership, &origin, &log, *first).await?;
            self.examined.send_modify(|examined| _ = examined.insert(origin, cuts));
        }
        Ok(())
    }

    async fn divert_after(
        &self,
        ownership: &Ownership,
        origin: &Origin,
        log: &Log,
        cut: Lsn,
    ) -> anyhow::Result<()> {
        let mut client = None;
        let mut count = 0_u64;
        // What was trimmed had been looked at before, or every region shows it.
        let cut = cut.max(log.trimmed());
        let mut found = Sifted::behind(cut);
        let mut pieces = Pieces::new(log.read(cut));
        let shown = if origin.region == self.origin.region {
            Lsn(u64::MAX)
        } else {
            self.positions.frontier().get(origin)
        };
        while let Some(batch) = pieces.next_batch(READ_BYTES_MAX).await? {
            for piece in batch.iter().filter(|piece| piece.transaction.lsn <= shown) {
                let lsn = piece.transaction.lsn;
                let guarded = |table: &TableName| !is_shared(&self.config, table);
                let admission = admit(ownership, origin, &piece.transaction, guarded);
                let Admission::Divert(reason) = admission else {
                    found.keep(lsn);
                    continue;
                };
                found.divert(lsn);
                let postgres = match &mut client {
                    Some(client) => client,
                    None => {
                        client.insert(session::connect(&self.postgres, "domicile journal").await?)
                    }
                };
                let why = explain(&reason);
                journal::divert(postgres, &self.config, origin, piece, reason.slug(), &why).await?;
                count += u64::from(piece.last);
            }
        }
        if *origin == self.origin {
            self.positions.withdrawn(found);
        }
        if count > 0 {
            tracing::warn!(%origin, after = %cut, "{count} transactions lie beyond the cut: journaled");
            self.diverted.send_modify(|n| *n += 1);
        }
        Ok(())
    }
}
