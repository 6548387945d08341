//! Which records of our logs lie beyond a cut that was decided after they were written?
//!
//! A region that comes back after its partitions were given away finds its own unshipped tail in
//! its log; one that was cut off while a cut was decided may even have applied another's. Each
//! such transaction goes to the conflict journal with its rows, once, and its rows are repaired.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use domicile_core::config::Config;
use domicile_core::history::{Admission, admit};
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::Lsn;
use domicile_core::ownership::Ownership;
use domicile_core::progress::Sifted;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::capture::explain;
use crate::directory::documents::{lift_ownership, lower_ownership};
use crate::directory::view::OwnershipView;
use crate::files;
use crate::log::{Log, Logs};
use crate::peer::intake::Intake;
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
    /// Held by whoever takes records in: see [`crate::capture::Capture::judging`].
    pub judging: Arc<Mutex<()>>,
    pub intake: Arc<Intake>,
    pub examined: Examined,
}

/// The ownership whose cuts every log was held against: what they leave may be trimmed. On disk, so
/// that nothing is read again after a restart, and that no directory is believed then that is older.
pub struct Examined {
    path: PathBuf,
    cluster: String,
    ownership: watch::Sender<Option<Arc<Ownership>>>,
    /// The same, before it is on disk.
    newest: watch::Sender<Option<Arc<Ownership>>>,
}

impl Examined {
    pub fn open(data: &Path, cluster: &str) -> Self {
        let (path, cluster) = (data.join("examined.json"), cluster.to_owned());
        let read = fs::read(&path).map_err(anyhow::Error::from);
        let lifted = read.and_then(|bytes| lift_ownership(&cluster, &bytes));
        if let Err(error) = &lifted
            && path.exists()
        {
            tracing::warn!("the logs are examined from their first cut on: {error:#}");
        }
        let lifted = lifted.ok().map(Arc::new);
        let (ownership, newest) = (watch::Sender::new(lifted.clone()), watch::Sender::new(lifted));
        Self { path, cluster, ownership, newest }
    }

    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Ownership>>> {
        self.ownership.subscribe()
    }

    /// Tells of it before it is on disk: clients may wait for a partition to be opened by it.
    pub fn subscribe_newest(&self) -> watch::Receiver<Option<Arc<Ownership>>> {
        self.newest.subscribe()
    }

    fn known(&self) -> Option<Arc<Ownership>> {
        self.ownership.borrow().clone()
    }

    fn replace(&self, ownership: &Ownership) -> anyhow::Result<()> {
        let examined = Some(Arc::new(ownership.clone()));
        self.newest.send_replace(examined.clone());
        let bytes = lower_ownership(&self.cluster, ownership);
        files::replace(&self.path, &bytes)
            .with_context(|| format!("write {}", self.path.display()))?;
        self.ownership.send_replace(examined);
        Ok(())
    }
}

impl Tails {
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let view = self.ownership.borrow_and_update().clone();
            if let Some(ownership) = &view.ownership
                && let Err(error) = self.examine(ownership, view.revision).await
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

    /// Our own log first: until it was held against the cuts that the peers know, nothing that they
    /// report counts.
    async fn examine(&self, ownership: &Ownership, revision: u64) -> anyhow::Result<()> {
        drop(self.judging.lock().await);
        self.intake.settled().await;
        let before = self.examined.known();
        let mut logs: Vec<(Origin, Log)> = self.logs.all().into_iter().collect();
        logs.sort_by_key(|(origin, _)| *origin != self.origin);
        for (origin, log) in logs {
            if let Some(cut) = ownership.first_new_cut(before.as_deref(), &origin) {
                self.divert_after(ownership, &origin, &log, cut).await?;
            }
            if origin == self.origin {
                self.positions.examined(revision, &ownership.holders().cloned().collect());
            }
        }
        // Also where no cut is new: by this a directory is known to be older than what was seen.
        if before.as_deref() != Some(ownership) {
            self.examined.replace(ownership)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_examined_is_known_after_a_restart_and_nothing_of_a_broken_file() {
        let data = tempfile::tempdir().unwrap();
        let regions = ["eu", "us"].map(|name| name.parse().unwrap());
        let ownership = Ownership::initial(4, &regions);
        let examined = Examined::open(data.path(), "bank");
        assert_eq!(examined.known(), None);
        examined.replace(&ownership).unwrap();
        assert_eq!(*examined.subscribe().borrow(), Some(Arc::new(ownership.clone())));
        let again = Examined::open(data.path(), "bank");
        assert_eq!(again.known(), Some(Arc::new(ownership)));
        assert_eq!(Examined::open(data.path(), "shop").known(), None, "another cluster's");
        fs::write(data.path().join("examined.json"), "{").unwrap();
        assert_eq!(Examined::open(data.path(), "bank").known(), None);
    }
}
