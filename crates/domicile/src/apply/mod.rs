//! From another origin's log to this region's tables.
//!
//! One applier per origin. Transactions are applied in the origin's order, each only after
//! everything it may depend on is visible here: no region shows an effect before its cause. Many
//! go into one PostgreSQL transaction, together with the apply checkpoint, so a crash repeats
//! nothing and loses nothing.
//!
//! **Invariant:** the checkpoint moves in the transaction whose rows it describes.

mod ahead;
mod behind;
mod conflict;
mod large;
mod migration;
mod plan;
mod set;
pub mod shared;
mod statement;
mod target;

pub use migration::CONDITION as MIGRATION_FAILED;
pub use statement::Text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use domicile_core::change::Transaction;
use domicile_core::config::Config;
use domicile_core::history::{Admission, admit, covered};
use domicile_core::id::{Origin, RegionId, TableName};
use domicile_core::lsn::Lsn;
use futures_util::SinkExt as _;
use futures_util::future::try_join_all;
use tokio::sync::{RwLock, watch};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;

use crate::capture::ORIGIN_PREFIX;
use crate::complain::Complaint;
use crate::continuity::Continuity;
use crate::directory::view::OwnershipView;
use crate::log::Log;
use crate::notices::Notices;
use crate::pieces::{Piece, Pieces};
use crate::positions::Positions;
use crate::postgres::session;
use crate::postgres::shared::is_shared;
use ahead::{Ahead, Batch, Next};
use behind::SchemaBehind;
use large::Way;
use migration::MigrationFailed;
use plan::{Planned, plan};
use shared::Shared;
use target::Targets;

/// Bytes of log read at a time: also the most that one PostgreSQL transaction applies.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
const BATCH_TRANSACTIONS_MAX: usize = 10_000;
/// Prepared statements that one applier keeps.
const STATEMENTS_MAX: usize = 512;
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often it is looked whether somebody has run the DDL that is missing here.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Rows are found by their key, one by one, whatever the planner thinks of how many there are; and
/// a statement that comes again and again is planned once.
const PLANS: &str = "SET enable_hashjoin = off; SET enable_mergejoin = off; \
                     SET enable_seqscan = off; SET enable_material = off; SET jit = off; \
                     SET plan_cache_mode = force_generic_plan";

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
    pub positions: Positions,
    /// Records that lie beyond a cut are passed over.
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    /// Held for reading while rows are written: a repair takes it for writing.
    pub gate: Arc<RwLock<()>>,
    /// Counts repairs: after one, the checkpoint is read again.
    pub repairs: watch::Receiver<u64>,
    /// A large transaction that could not be applied the fast way.
    pub slowly: Option<Lsn>,
    pub notices: Notices,
    /// Waits for DDL, and says so.
    pub waits: bool,
}

/// A transaction could not be applied as it is: a row is not what the origin saw.
#[derive(Debug, thiserror::Error)]
#[error("a row is not what the origin saw")]
struct RowDiffers;

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
                Err(error) if self.waits_for_person(&error) => LOOK_AGAIN_AFTER,
                Err(error) => {
                    let what = format!("apply of {} stopped, it starts again", self.config.origin);
                    complaint.warn(&what, &error);
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
            (migration::CONDITION, failed.way_out(self.config.region.as_str()))
        } else {
            return false;
        };
        self.notices.post(&format!("apply {origin}"), condition, detail);
        self.waits = true;
        true
    }

    /// Something was applied.
    fn goes_on(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.notices.clear(&format!("apply {}", self.config.origin));
        }
    }

    /// Applies until something breaks or a repair has moved the ground.
    async fn session(&mut self) -> anyhow::Result<()> {
        self.repairs.mark_unchanged();
        let mut writer = Writer::open(&self.config).await?;
        self.positions.applied(&self.config.origin, writer.applied, 0);
        let mut ahead = Ahead::new(&self.log, writer.applied, BATCH_BYTES_MAX);
        let mut moved = self.positions.subscribe();
        let mut ownership = self.ownership.clone();
        loop {
            match ahead.next(&writer.targets).await? {
                None => tokio::select! {
                    grown = ahead.grown() => grown?,
                    _ = self.repairs.changed() => return Ok(()),
                },
                Some(Next::Large(first)) => {
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
                    let Batch { transactions, mut planned } = self.without_tail(batch);
                    let mut rest = transactions.as_slice();
                    while !rest.is_empty() {
                        if !self.wait_until_covered(&rest[0], &mut moved, &mut ownership).await? {
                            return Ok(());
                        }
                        let ready = self.ready(rest, &writer.shared);
                        let (batch, later) = rest.split_at(ready);
                        let planned = planned.take().filter(|_| ready == transactions.len());
                        let gate = self.gate.clone();
                        let _gate = gate.read().await;
                        if self.repairs.has_changed().unwrap_or(true) {
                            return Ok(());
                        }
                        self.apply(&mut writer, batch, planned).await?;
                        self.goes_on();
                        rest = later;
                    }
                }
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
        while !self.covered(transaction) {
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
                batch.planned = None;
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

    /// Is everything that `transaction` may depend on visible here?
    fn covered(&self, transaction: &Transaction) -> bool {
        let view = self.ownership.borrow();
        let (own, known) = (&self.config.region, view.ownership.as_ref());
        covered(&transaction.needs, &self.positions.frontier(), own, known)
    }

    /// How many of these, from the first on, can be applied now: at least one. Those that change
    /// shared tables are not mixed with others.
    fn ready(&self, transactions: &[Transaction], shared: &Shared) -> usize {
        let alone = shared.concerns(&transactions[0]);
        let first = transactions.iter().take(BATCH_TRANSACTIONS_MAX);
        first.take_while(|next| shared.concerns(next) == alone && self.covered(next)).count().max(1)
    }

    async fn apply(
        &self,
        writer: &mut Writer,
        batch: &[Transaction],
        planned: Option<Vec<Planned>>,
    ) -> anyhow::Result<()> {
        let Some(last) = batch.last() else { return Ok(()) };
        let origin = &self.config.origin;
        self.positions.claim(origin, last.lsn);
        if batch.iter().any(|transaction| writer.shared.concerns(transaction)) {
            // Every region writes these: what is here decides, row by row. So are migrations, which
            // nothing is folded with.
            for transaction in batch {
                writer.apply_one(origin, transaction).await?;
                self.positions.applied(origin, transaction.lsn, 1);
            }
            return Ok(());
        }
        match writer.apply_fast(origin, batch, planned).await {
            Ok(()) => self.positions.applied(origin, last.lsn, batch.len() as u64),
            Err(error) if is_transient(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(%origin, "applying one by one: {error:#}");
                for transaction in batch {
                    writer.apply_slow(origin, transaction).await?;
                    self.positions.applied(origin, transaction.lsn, 1);
                }
            }
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
            false if self.slowly == Some(lsn) => Way::Slow,
            false => Way::Fast,
        };
        self.positions.claim(&origin, lsn);
        match writer.apply_large(&origin, first, pieces, way).await {
            Ok(()) => self.positions.applied(&origin, lsn, 1),
            Err(error) if is_transient(&error) || way != Way::Fast => return Err(error),
            Err(error) => {
                tracing::debug!(%origin, %lsn, "applying change by change: {error:#}");
                self.slowly = Some(lsn);
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

/// A session that writes as the applier: guards let it pass, user triggers do not fire.
struct Writer {
    client: Client,
    /// The apply checkpoint.
    applied: Lsn,
    /// Up to here a row that is not what the origin saw is expected, not a conflict.
    converge_to: Lsn,
    prepared: BTreeMap<String, tokio_postgres::Statement>,
    targets: Targets,
    shared: Shared,
    cluster: Arc<Config>,
}

/// A statement on its way, and how many rows it must find.
struct Work {
    prepared: tokio_postgres::Statement,
    parameters: Vec<Option<Bytes>>,
    finds: Option<u64>,
}

/// Executes statements one behind the other without waiting in between.
async fn run(client: &Client, work: Vec<Work>) -> anyhow::Result<()> {
    let each = work.iter().map(|Work { prepared, parameters, finds }| async move {
        let texts: Vec<Text<'_>> = parameters.iter().map(|p| Text(p.as_deref())).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            texts.iter().map(|text| text as &(dyn ToSql + Sync)).collect();
        let rows = client.execute(prepared, &parameters).await?;
        if finds.is_some_and(|finds| finds != rows) {
            return Err(anyhow::Error::new(RowDiffers));
        }
        Ok(())
    });
    try_join_all(each).await?;
    Ok(())
}

async fn copy_in(client: &Client, sql: &str, data: Vec<Bytes>) -> anyhow::Result<()> {
    let sink = client.copy_in(sql).await?;
    let mut sink = std::pin::pin!(sink);
    for piece in data {
        sink.send(piece).await?;
    }
    sink.close().await?;
    Ok(())
}

impl Writer {
    async fn open(config: &ApplierConfig) -> anyhow::Result<Self> {
        let client = session::connect(&config.postgres, "domicile apply").await?;
        open_session(&client, config).await?;
        client.batch_execute(PLANS).await.context("choose how rows are found")?;
        let checkpoint = client
            .query_opt(
                "SELECT applied::text, coalesce(converge_to, '0/0')::text
                 FROM domicile.progress WHERE origin = $1",
                &[&config.origin.to_string()],
            )
            .await
            .context("read the apply checkpoint")?;
        let (applied, converge_to) = match checkpoint {
            Some(row) => (row.get::<_, &str>(0).parse()?, row.get::<_, &str>(1).parse()?),
            None => (Lsn::ZERO, Lsn::ZERO),
        };
        Ok(Self {
            client,
            applied,
            converge_to,
            prepared: BTreeMap::new(),
            targets: Targets::default(),
            shared: Shared::new(config.cluster.clone()),
            cluster: config.cluster.clone(),
        })
    }

    /// Applies all of `batch` in one transaction, folded; fails on the first surprise.
    async fn apply_fast(
        &mut self,
        origin: &Origin,
        batch: &[Transaction],
        planned: Option<Vec<Planned>>,
    ) -> anyhow::Result<()> {
        let planned = match planned {
            Some(planned) => planned,
            None => self.plan(batch).await?,
        };
        let last = batch.last().map_or(self.applied, |t| t.lsn);
        let result = self.execute_all(origin, last, planned).await;
        if result.is_err() {
            self.client.batch_execute("ROLLBACK").await?;
        } else {
            self.applied = last;
        }
        result
    }

    /// As [`plan`], after looking up what is not known yet.
    async fn plan(&mut self, batch: &[Transaction]) -> anyhow::Result<Vec<Planned>> {
        let tables = self.targets.unknown(batch.iter().flat_map(|t| &t.relations));
        self.targets.learn(&self.client, tables).await?;
        plan(batch, &self.targets)
    }

    async fn execute_all(
        &mut self,
        origin: &Origin,
        last: Lsn,
        planned: Vec<Planned>,
    ) -> anyhow::Result<()> {
        self.client.batch_execute("BEGIN").await?;
        self.execute(planned).await?;
        save_checkpoint(&self.client, origin, last).await?;
        self.client.batch_execute("COMMIT").await.map_err(anyhow::Error::new)
    }

    /// Makes the requests in order, one behind the other without waiting in between where it can.
    async fn execute(&mut self, planned: Vec<Planned>) -> anyhow::Result<()> {
        let mut work = Vec::new();
        for request in planned {
            match request {
                Planned::Statement { sql, parameters, finds } => {
                    let prepared = self.prepare(&sql).await?;
                    work.push(Work { prepared, parameters, finds });
                }
                Planned::Copy { sql, data } => {
                    run(&self.client, std::mem::take(&mut work)).await?;
                    copy_in(&self.client, &sql, data).await?;
                }
            }
        }
        run(&self.client, work).await
    }

    async fn prepare(&mut self, sql: &str) -> anyhow::Result<tokio_postgres::Statement> {
        if let Some(prepared) = self.prepared.get(sql) {
            return Ok(prepared.clone());
        }
        if self.prepared.len() >= STATEMENTS_MAX {
            self.prepared.clear();
        }
        let prepared = self.client.prepare(sql).await?;
        self.prepared.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    /// What was prepared and looked up may be out of date.
    fn forget_schema(&mut self) {
        self.prepared.clear();
        self.targets.forget();
        self.shared.forget();
    }

    /// Fails with [`SchemaBehind`] where this region's tables lack what `transaction` speaks of.
    async fn compare_schema(&mut self, transaction: &Transaction) -> anyhow::Result<()> {
        if transaction.relations.is_empty() {
            return Ok(());
        }
        if self.known_schema(transaction).await?.is_err() {
            // What is known may be out of date.
            self.forget_schema();
            self.known_schema(transaction).await??;
        }
        Ok(())
    }

    async fn known_schema(
        &mut self,
        transaction: &Transaction,
    ) -> anyhow::Result<Result<(), SchemaBehind>> {
        let tables = self.targets.unknown(&transaction.relations);
        self.targets.learn(&self.client, tables).await?;
        if self.shared.concerns(transaction) {
            self.shared.learn(&self.client).await?;
        }
        Ok(behind::compare(&self.targets, &self.shared, transaction))
    }

    /// Applies one transaction change by change, settling what the fast way stumbled over.
    async fn apply_slow(
        &mut self,
        origin: &Origin,
        transaction: &Transaction,
    ) -> anyhow::Result<()> {
        self.forget_schema();
        self.apply_one(origin, transaction).await
    }

    /// Applies one transaction as [`Writer::apply_slow`], by what is known of the schema.
    async fn apply_one(
        &mut self,
        origin: &Origin,
        transaction: &Transaction,
    ) -> anyhow::Result<()> {
        // Of what lies outside the history the changes are gone, and the tables may be.
        if !transaction.changes.is_empty() {
            self.compare_schema(transaction).await?;
        }
        self.client.batch_execute("BEGIN").await?;
        match self.apply_whole(origin, transaction).await {
            Ok(()) => {
                self.client.batch_execute("COMMIT").await?;
                self.applied = transaction.lsn;
                Ok(())
            }
            Err(error) => {
                self.shared.forget();
                self.client.batch_execute("ROLLBACK").await?;
                Err(error)
            }
        }
    }

    async fn apply_whole(
        &mut self,
        origin: &Origin,
        transaction: &Transaction,
    ) -> anyhow::Result<()> {
        if migration::run(&self.client, &self.cluster, transaction).await? {
            self.forget_schema();
        }
        let converging = transaction.lsn <= self.converge_to;
        let mut piece = Piece::whole(transaction.clone());
        if self.shared.concerns(transaction) {
            let mut part = self.shared.begin(&self.client, origin, transaction).await?;
            self.shared.take(&mut part, &piece)?;
            self.shared.apply(&self.client, &part).await?;
            piece = self.shared.rest(piece);
        }
        if !piece.transaction.changes.is_empty() {
            conflict::apply(&self.client, &self.targets, origin, &piece, converging).await?;
        }
        save_checkpoint(&self.client, origin, transaction.lsn).await
    }
}

/// Makes `client` an applier's session: guards let it pass, user triggers do not fire, and what
/// it commits is recognised when it is captured.
pub(crate) async fn open_session(client: &Client, config: &ApplierConfig) -> anyhow::Result<()> {
    config.continuity.same_system(client).await?;
    let origin_name = format!("{ORIGIN_PREFIX}{}", config.origin);
    client
        .batch_execute("SET session_replication_role = replica; SET synchronous_commit = off")
        .await
        .context("become the applier")?;
    client
        .execute(
            "SELECT pg_replication_origin_create($1) WHERE pg_replication_origin_oid($1) IS NULL",
            &[&origin_name],
        )
        .await
        .context("create the replication origin")?;
    client
        .execute("SELECT pg_replication_origin_session_setup($1)", &[&origin_name])
        .await
        .context("take the replication origin")?;
    Ok(())
}

async fn save_checkpoint(
    client: &impl tokio_postgres::GenericClient,
    origin: &Origin,
    applied: Lsn,
) -> anyhow::Result<()> {
    client
        .execute(
            "INSERT INTO domicile.progress AS progress (origin, applied)
             VALUES ($1, $2::text::pg_lsn)
             ON CONFLICT (origin) DO UPDATE
             SET applied = greatest(progress.applied, excluded.applied)",
            &[&origin.to_string(), &applied.to_string()],
        )
        .await?;
    Ok(())
}
