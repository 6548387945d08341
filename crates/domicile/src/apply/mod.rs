//! From another origin's log to this region's tables.
//!
//! One applier per origin. Transactions are applied in the origin's order, each only after
//! everything it may depend on is visible here: no region shows an effect before its cause. Many
//! go into one PostgreSQL transaction, together with the apply checkpoint, so a crash repeats
//! nothing and loses nothing.
//!
//! **Invariant:** the checkpoint moves in the transaction whose rows it describes.

mod ahead;
mod array;
mod behind;
mod blocked;
mod conflict;
mod executor;
mod large;
mod migration;
mod overlap;
mod plan;
mod set;
pub mod shared;
mod statement;
mod writer;

pub(crate) use array::Element;
pub use blocked::Blocked;
pub use migration::CONDITION as MIGRATION_FAILED;
pub use statement::Text;
pub(crate) use writer::{become_applier, open_session};

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_core::change::Transaction;
use domicile_core::config::Config;
use domicile_core::history::{Admission, admit, covered};
use domicile_core::id::{Origin, RegionId, TableName};
use domicile_core::lsn::Lsn;
use tokio::sync::{RwLock, watch};
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::continuity::Continuity;
use crate::directory::view::OwnershipView;
use crate::log::{Log, Logs};
use crate::notices::Notices;
use crate::pieces::{Piece, Pieces};
use crate::positions::Positions;
use crate::postgres::shared::is_shared;
use ahead::{Ahead, Batch, Next};
use behind::SchemaBehind;
use large::Way;
use migration::MigrationFailed;
use overlap::NotTogether;
use plan::Plan;
use shared::Shared;
use writer::{Deferred, RefusedAtTheEnd, Writer};

/// Bytes of log read at a time: also the most that one PostgreSQL transaction applies.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// A failure that repeats so often is told in the region's status.
const FAILURES_TOLD: u32 = 5;
/// The condition that tells it.
const STOPPED: &str = "apply_stopped";
/// How often it is looked whether the origin writes no more.
const LOOK_WHETHER_OVER: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody has run the DDL that is missing here.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Is this a state in which what comes from another region waits until a person has done something?
pub fn waits_for_a_person(condition: &str) -> bool {
    [STOPPED, behind::CONDITION, migration::CONDITION].contains(&condition)
}

#[derive(Clone)]
pub struct ApplierConfig {
    pub postgres: String,
    pub region: RegionId,
    pub origin: Origin,
    pub cluster: Arc<Config>,
    pub continuity: Continuity,
}

/// Applies one origin's log, reconnecting as often as it must.
pub struct Applier {
    pub config: ApplierConfig,
    pub log: Log,
    /// Of all origins.
    pub logs: Logs,
    pub positions: Positions,
    /// Records that lie beyond a cut are passed over.
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    /// Held for reading while rows are written: a repair takes it for writing.
    pub gate: Arc<RwLock<()>>,
    /// Counts repairs: after one, the checkpoint is read again.
    pub repairs: watch::Receiver<u64>,
    /// A large transaction that could not be applied the fast way, and how it is then.
    pub slowly: Option<(Lsn, Deferred)>,
    /// Up to here no batches overlap: it was tried.
    pub one_by_one_to: Lsn,
    pub notices: Notices,
    /// Does not go on, and says so.
    pub waits: bool,
    /// How often a session has failed at what is to be applied, since something was.
    pub failures: u32,
    /// The session that runs, or that ran last, has come so far as to apply something.
    pub opened: bool,
}

impl Applier {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut complaint = Complaint::default();
        while !shutdown.is_cancelled() {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.session() => ended,
            };
            let pause = match ended {
                Ok(()) => RETRY_AFTER,
                Err(error) if error.is::<NotTogether>() => RETRY_AFTER,
                Err(error) if self.waits_for_person(&error) => LOOK_AGAIN_AFTER,
                Err(error) => {
                    let what = format!("apply of {} stopped, it starts again", self.config.origin);
                    complaint.warn(&what, &error);
                    self.fails(&error);
                    RETRY_AFTER
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tells of what only a person can mend. Returns false when it is none of that.
    fn waits_for_person(&mut self, error: &anyhow::Error) -> bool {
        let origin = &self.config.origin;
        let (condition, detail) = if let Some(behind) = error.downcast_ref::<SchemaBehind>() {
            let detail = format!(
                "{behind}: region {} is ahead, and its changes wait ({origin}). Run here the DDL that \
                 was run there; they go on by themselves, and nothing of them is lost",
                origin.region
            );
            (behind::CONDITION, detail)
        } else if let Some(failed) = error.downcast_ref::<MigrationFailed>() {
            (failed.condition(), failed.way_out(self.config.region.as_str()))
        } else {
            return false;
        };
        self.notices.post(&format!("apply {origin}"), condition, detail);
        self.waits = true;
        true
    }

    /// Tells of what does not pass by itself.
    fn fails(&mut self, error: &anyhow::Error) {
        let passes = !self.opened || is_transient(error);
        self.failures = if passes { 0 } else { self.failures + 1 };
        if self.failures >= FAILURES_TOLD {
            let origin = &self.config.origin;
            let shown = self.positions.frontier().get(origin);
            let detail = format!(
                "the next transaction of {origin} behind {shown} cannot be applied: {error:#}. Those behind it \
                 wait, and nothing of them is lost: they go on by themselves once that is mended"
            );
            self.notices.post(&format!("apply {origin}"), STOPPED, detail);
            self.waits = true;
        }
    }

    /// Something was applied, or there is nothing to apply.
    fn goes_on(&mut self) {
        self.failures = 0;
        if std::mem::take(&mut self.waits) {
            self.notices.clear(&format!("apply {}", self.config.origin));
        }
    }

    /// Applies until something breaks or a repair has moved the ground.
    async fn session(&mut self) -> anyhow::Result<()> {
        self.repairs.mark_unchanged();
        self.opened = false;
        let mut writer = Writer::open(&self.config).await?;
        self.opened = true;
        self.positions.applied(&self.config.origin, writer.applied, 0);
        let mut ahead = Ahead::new(&self.log, writer.applied, BATCH_BYTES_MAX);
        let mut moved = self.positions.subscribe();
        let mut ownership = self.ownership.clone();
        loop {
            match ahead.next(&writer.targets).await? {
                None if writer.in_flight.is_some() => self.finish_all(&mut writer).await?,
                None => {
                    self.goes_on();
                    if self.is_over() {
                        return self.rest(writer).await;
                    }
                    tokio::select! {
                        grown = ahead.grown() => grown?,
                        _ = self.repairs.changed() => return Ok(()),
                        () = tokio::time::sleep(LOOK_WHETHER_OVER) => {}
                    }
                }
                Some(Next::Large(first)) => {
                    self.finish_all(&mut writer).await?;
                    let head = &first.transaction;
                    let lsn = head.lsn;
                    if !self.wait_until_covered(head, &mut moved, &mut ownership).await? {
                        return Ok(());
                    }
                    let gate = self.gate.clone();
                    let _gate = gate.read().await;
                    if self.repairs.has_changed().unwrap_or(true) {
                        return Ok(());
                    }
                    self.apply_large(&mut writer, first, ahead.pieces()?).await?;
                    if writer.applied == lsn {
                        self.goes_on();
                    }
                }
                Some(Next::Batch(batch)) => {
                    ahead.start(&writer.targets);
                    let batch = self.start(&mut writer, self.without_tail(batch)).await?;
                    let Some(Batch { transactions, mut plan }) = batch else { continue };
                    self.finish_all(&mut writer).await?;
                    let mut rest = transactions.as_slice();
                    while !rest.is_empty() {
                        if !self.wait_until_covered(&rest[0], &mut moved, &mut ownership).await? {
                            return Ok(());
                        }
                        // What was covered is: a frontier only moves on.
                        let ready = self.ready(rest, &writer.shared).max(1);
                        let (batch, later) = rest.split_at(ready);
                        let plan = plan.take().filter(|_| ready == transactions.len());
                        let gate = self.gate.clone();
                        let _gate = gate.read().await;
                        if self.repairs.has_changed().unwrap_or(true) {
                            return Ok(());
                        }
                        self.apply(&mut writer, batch, plan).await?;
                        self.goes_on();
                        rest = later;
                    }
                }
            }
        }
    }

    /// Does the origin's region write under another name by now?
    fn is_over(&self) -> bool {
        let of = &self.config.origin;
        let newer =
            |other: &Origin| other.region == of.region && other.incarnation > of.incarnation;
        self.logs.all().iter().any(|(other, _)| newer(other))
    }

    /// Gives up what PostgreSQL keeps for this origin until there is more to apply, which may be never.
    async fn rest(&mut self, writer: Writer) -> anyhow::Result<()> {
        let applied = writer.applied;
        // Whoever reads the WAL asks for the origin's name.
        let written = writer.close().await?;
        let mut end = self.log.watch_end();
        let mut is_dropped = false;
        loop {
            if !is_dropped && self.positions.counts().confirmed >= written {
                is_dropped = writer::drop_origins(&self.config).await?;
            }
            tokio::select! {
                grown = end.wait_for(|end| *end > applied) => return Ok(grown.map(drop)?),
                changed = self.repairs.changed() => return Ok(changed?),
                () = tokio::time::sleep(LOOK_WHETHER_OVER) => {}
            }
        }
    }

    /// Returns false when a repair has moved the ground meanwhile.
    async fn wait_until_covered(
        &mut self,
        transaction: &Transaction,
        moved: &mut watch::Receiver<u64>,
        ownership: &mut watch::Receiver<Arc<OwnershipView>>,
    ) -> anyhow::Result<bool> {
        while self.covered(slice::from_ref(transaction)) == 0 {
            tokio::select! {
                changed = moved.changed() => changed.context("the agent is closed")?,
                changed = ownership.changed() => changed.context("the agent is closed")?,
                _ = self.repairs.changed() => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Empties transactions that are known to lie outside the history: only their place is kept.
    fn without_tail(&self, mut batch: Batch) -> Batch {
        let mut transactions = std::mem::take(&mut batch.transactions);
        for transaction in &mut transactions {
            if self.is_tail(transaction) {
                transaction.changes.clear();
                batch.plan = None;
            }
        }
        Batch { transactions, ..batch }
    }

    fn is_tail(&self, transaction: &Transaction) -> bool {
        let view = self.ownership.borrow();
        view.ownership.as_ref().is_some_and(|ownership| {
            let guarded = |table: &TableName| !is_shared(&self.config.cluster, table);
            let admission = admit(ownership, &self.config.origin, transaction, guarded);
            matches!(admission, Admission::Divert(_))
        })
    }

    /// How many of these have, from the first on, everything visible here that they may depend on?
    fn covered(&self, transactions: &[Transaction]) -> usize {
        let (view, frontier) = (self.ownership.borrow(), self.positions.frontier());
        let (own, known) = (&self.config.region, view.ownership.as_ref());
        let released = self.positions.released_to();
        let covered =
            |next: &&Transaction| covered(&next.needs, &frontier, own, released.as_ref(), known);
        transactions.iter().take_while(covered).count()
    }

    /// How many of these, from the first on, can be applied together, if there are any: those that
    /// change shared tables are not mixed with others.
    fn ready(&self, transactions: &[Transaction], shared: &Shared) -> usize {
        let covered = &transactions[..self.covered(transactions)];
        let Some(first) = covered.first() else { return 0 };
        let alone = shared.concerns(first);
        covered.iter().take_while(|next| shared.concerns(next) == alone).count()
    }

    async fn apply(
        &self,
        writer: &mut Writer,
        batch: &[Transaction],
        plan: Option<Plan>,
    ) -> anyhow::Result<()> {
        let Some(last) = batch.last() else { return Ok(()) };
        let origin = &self.config.origin;
        self.positions.claim(origin, last.lsn);
        if batch.iter().any(|transaction| writer.shared.concerns(transaction)) {
            return self.apply_shared(writer, batch).await;
        }
        match writer.apply_fast(origin, batch, plan).await {
            Ok(()) => self.positions.applied(origin, last.lsn, batch.len() as u64),
            Err(error) if is_transient(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(%origin, "applying one by one: {error:#}");
                // What is known of the schema may be what was wrong with it.
                writer.forget_schema();
                for transaction in batch {
                    writer.apply_one(origin, transaction).await?;
                    self.positions.applied(origin, transaction.lsn, 1);
                }
            }
        }
        Ok(())
    }

    /// Every region writes these: what is here decides, row by row. So are migrations, which nothing
    /// is brought together with.
    async fn apply_shared(&self, writer: &mut Writer, batch: &[Transaction]) -> anyhow::Result<()> {
        let origin = &self.config.origin;
        let (mut rest, mut one_by_one) = (batch, false);
        while let Some(first) = rest.first() {
            let together = match one_by_one {
                true => None,
                false => writer.apply_together(origin, rest).await.unwrap_or_else(|error| {
                    tracing::debug!(%origin, "applying one by one: {error:#}");
                    one_by_one = true;
                    None
                }),
            };
            if together.is_none() {
                writer.apply_one(origin, first).await?;
            }
            let count = together.unwrap_or(1);
            self.positions.applied(origin, rest[count - 1].lsn, count as u64);
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Applies a large transaction of which the first piece was read. It is read again from the
    /// log when it has to be done slowly.
    async fn apply_large(
        &mut self,
        writer: &mut Writer,
        first: Piece,
        pieces: &mut Pieces,
    ) -> anyhow::Result<()> {
        let (origin, lsn) = (self.config.origin.clone(), first.transaction.lsn);
        let way = match self.is_tail(&first.transaction) {
            true => Way::PassOver,
            false => match self.slowly {
                Some((slowly, deferred)) if slowly == lsn => Way::Slow(deferred),
                _ => Way::Fast,
            },
        };
        self.positions.claim(&origin, lsn);
        match writer.apply_large(&origin, first, pieces, way).await {
            Ok(()) => self.positions.applied(&origin, lsn, 1),
            Err(error) => {
                let deferred = match way {
                    _ if is_transient(&error) => return Err(error),
                    Way::Fast => Deferred::AtTheEnd,
                    Way::Slow(Deferred::AtTheEnd) if error.is::<RefusedAtTheEnd>() => {
                        Deferred::AtOnce
                    }
                    Way::Slow(_) | Way::PassOver => return Err(error),
                };
                tracing::debug!(%origin, %lsn, "applying change by change: {error:#}");
                self.slowly = Some((lsn, deferred));
                *pieces = Pieces::new(self.log.read(writer.applied));
            }
        }
        Ok(())
    }
}

/// Errors that pass: a lock, a deadlock, a full disk, a server that restarts.
fn is_transient(error: &anyhow::Error) -> bool {
    let Some(postgres) = error.downcast_ref::<tokio_postgres::Error>() else { return false };
    match postgres.code().map(|code| code.code()) {
        Some(code) => {
            matches!(code, "40P01" | "40001" | "55P03")
                || code.starts_with("53")
                || code.starts_with("57P0")
                || code.starts_with("08")
        }
        None => true,
    }
}
