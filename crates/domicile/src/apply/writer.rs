//! How does one origin's applier write to this region's tables?
//!
//! The fast way in sets, two batches at a time; where something is not as the origin saw it, change
//! by change.

use std::sync::Arc;

use anyhow::Context;
use domicile_core::change::Transaction;
use domicile_core::config::Config;
use domicile_core::fold::Touched;
use domicile_core::id::Origin;
use domicile_core::lsn::Lsn;
use tokio::sync::OwnedRwLockReadGuard;
use tokio_postgres::Client;

use super::behind::{self, SchemaBehind};
use super::blocked::APPLICATION_PREFIX;
use super::executor::{Executor, save_checkpoint};
use super::overlap::InFlight;
use super::plan::{Plan, plan};
use super::shared::Shared;
use super::{ApplierConfig, conflict, migration};
use crate::capture::ORIGIN_PREFIX;
use crate::pieces::Piece;
use crate::postgres::target::Targets;
use crate::postgres::{session, slot};

/// Rows are found by their key, one by one, whatever the planner thinks of how many there are; and
/// a statement that comes again and again is planned once.
const PLANS: &str = "SET enable_hashjoin = off; SET enable_mergejoin = off; \
                     SET enable_seqscan = off; SET enable_material = off; SET jit = off; \
                     SET plan_cache_mode = force_generic_plan";

/// Holding many rows it gives way before PostgreSQL looks for deadlocks (`deadlock_timeout`, 1 s
/// unless changed), or a client's transaction would be the one to end.
const BEGIN_TOGETHER: &str = "BEGIN; SET LOCAL lock_timeout = '500ms'";

/// A session that writes as the applier: guards let it pass, user triggers do not fire.
pub(super) struct Writer {
    pub executor: Executor,
    /// For a batch that overlaps with another.
    second: Second,
    /// What is being applied. Nothing else is asked of this writer before it is.
    pub in_flight: Option<InFlight>,
    /// The apply checkpoint.
    pub applied: Lsn,
    /// Up to here a row that is not what the origin saw is expected, not a conflict.
    pub converge_to: Lsn,
    pub targets: Targets,
    pub shared: Shared,
    cluster: Arc<Config>,
}

/// A writer's second session.
enum Second {
    NotYet,
    Open(Executor),
    /// It is not to be had.
    No,
}

/// When the triggers fire that the application has deferred and that fire for appliers, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferred {
    AtTheEnd,
    AtOnce,
}

/// A deferred trigger has refused the transaction as a whole.
#[derive(Debug, thiserror::Error)]
#[error("a deferred trigger refused it")]
pub(super) struct RefusedAtTheEnd;

impl Writer {
    pub async fn open(config: &ApplierConfig) -> anyhow::Result<Self> {
        let client = connect(config).await?;
        no_other_writer(&client, &second_origin(config)).await?;
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
            executor: Executor::new(client).await?,
            second: Second::NotYet,
            in_flight: None,
            applied,
            converge_to,
            targets: Targets::new(config.cluster.clone()),
            shared: Shared::new(config.cluster.clone()),
            cluster: config.cluster.clone(),
        })
    }

    /// Ends its sessions. Returns where the WAL ends that may name their origins.
    pub async fn close(self) -> anyhow::Result<Lsn> {
        let sql = "SELECT pg_current_wal_insert_lsn()::text";
        let row = self.executor.client.query_one(sql, &[]).await.context("look how far it is")?;
        Ok(row.get::<_, &str>(0).parse()?)
    }

    /// Can two batches overlap? Opens the session that this takes.
    pub async fn has_second(&mut self, config: &ApplierConfig) -> bool {
        if let Second::NotYet = self.second {
            self.second = match open_second(config).await {
                Ok(executor) => Second::Open(executor),
                Err(error) => {
                    tracing::info!(origin = %config.origin, "batches do not overlap: {error:#}");
                    Second::No
                }
            };
        }
        matches!(self.second, Second::Open(_))
    }

    /// Begins to apply a batch of so many transactions up to `last`, whether or not another one is
    /// in flight. Returns the one that was.
    pub fn start(
        &mut self,
        origin: &Origin,
        plan: Plan,
        batch: (Lsn, u64),
        gate: OwnedRwLockReadGuard<()>,
    ) -> Option<InFlight> {
        if let (Some(_), Second::Open(second)) = (&self.in_flight, &mut self.second) {
            std::mem::swap(&mut self.executor, second);
        }
        let mut ahead = self.in_flight.take();
        let (executor, origin) = (self.executor.clone(), origin.clone());
        let started = InFlight::start(executor, origin, plan, batch, ahead.as_mut(), gate);
        self.in_flight = Some(started);
        ahead
    }

    /// Applies all of `batch` in one transaction, folded; fails on the first surprise.
    pub async fn apply_fast(
        &mut self,
        origin: &Origin,
        batch: &[Transaction],
        plan: Option<Plan>,
    ) -> anyhow::Result<()> {
        let plan = match plan {
            Some(plan) => plan,
            None => self.plan(batch).await?,
        };
        let Some(last) = batch.last() else { return Ok(()) };
        self.executor.apply(origin, &plan, last.lsn).await?;
        self.applied = last.lsn;
        Ok(())
    }

    /// As [`plan`], after looking up what is not known yet.
    pub async fn plan(&mut self, batch: &[Transaction]) -> anyhow::Result<Plan> {
        let tables = self.targets.unknown(batch.iter().flat_map(|t| &t.relations));
        self.targets.learn(&*self.executor.client, tables).await?;
        plan(batch, &Touched::Everything, &self.targets).1
    }

    /// What was prepared and looked up may be out of date.
    pub fn forget_schema(&mut self) {
        self.executor.forget();
        if let Second::Open(second) = &self.second {
            second.forget();
        }
        self.targets.forget();
        self.shared.forget();
    }

    /// Fails with [`SchemaBehind`] where this region's tables lack what `transaction` speaks of.
    pub async fn compare_schema(&mut self, transaction: &Transaction) -> anyhow::Result<()> {
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
        self.targets.learn(&*self.executor.client, tables).await?;
        if self.shared.concerns(transaction) {
            self.shared.learn(&self.executor.client).await?;
        }
        Ok(behind::compare(&self.targets, &self.shared, transaction))
    }

    /// Applies one transaction change by change, settling what the fast way stumbled over.
    pub async fn apply_one(
        &mut self,
        origin: &Origin,
        transaction: &Transaction,
    ) -> anyhow::Result<()> {
        // Of what lies outside the history the changes are gone, and the tables may be.
        if !transaction.changes.is_empty() {
            self.compare_schema(transaction).await?;
        }
        let mut made = self.make_one(origin, transaction, Deferred::AtTheEnd).await;
        if made.as_ref().is_err_and(|error| error.is::<RefusedAtTheEnd>()) {
            // Which change it was about is seen when each is checked as it is made.
            made = self.make_one(origin, transaction, Deferred::AtOnce).await;
        }
        made?;
        self.applied = transaction.lsn;
        Ok(())
    }

    async fn make_one(
        &mut self,
        origin: &Origin,
        transaction: &Transaction,
        deferred: Deferred,
    ) -> anyhow::Result<()> {
        self.executor.begin().await?;
        let made = async {
            let executor = self.executor.clone();
            if deferred == Deferred::AtOnce {
                executor.check_deferred().await?;
            }
            self.apply_whole(origin, transaction).await?;
            executor.check_deferred().await
        };
        let made = made.await;
        if made.is_err() {
            self.shared.forget();
        }
        self.executor.end(made).await
    }

    /// Applies the first of these transactions together with those that follow and change shared
    /// rows alone, and returns how many they were; nothing is done when the first stands alone.
    pub async fn apply_together(
        &mut self,
        origin: &Origin,
        transactions: &[Transaction],
    ) -> anyhow::Result<Option<usize>> {
        if transactions.len() < 2 {
            return Ok(None);
        }
        let client = &self.executor.client;
        let Some((count, part)) = self.shared.fold(client, origin, transactions).await? else {
            return Ok(None);
        };
        for transaction in &transactions[..count] {
            self.compare_schema(transaction).await?;
        }
        let last = transactions[count - 1].lsn;
        self.executor.client.batch_execute(BEGIN_TOGETHER).await?;
        let made = async {
            self.shared.apply(&self.executor, &mut self.targets, &part).await?;
            save_checkpoint(&*self.executor.client, origin, last).await
        };
        let made = made.await;
        if made.is_err() {
            self.shared.forget();
        }
        self.executor.end(made).await?;
        self.applied = last;
        Ok(Some(count))
    }

    async fn apply_whole(
        &mut self,
        origin: &Origin,
        transaction: &Transaction,
    ) -> anyhow::Result<()> {
        if migration::run(&self.executor.client, &self.cluster, transaction).await? {
            self.forget_schema();
        }
        let converging = transaction.lsn <= self.converge_to;
        let mut piece = Piece::whole(transaction.clone());
        if self.shared.concerns(transaction) {
            let mut part = self.shared.begin(&self.executor.client, origin, transaction).await?;
            self.shared.take(&mut part, &piece)?;
            self.shared.apply(&self.executor, &mut self.targets, &part).await?;
            piece = self.shared.rest(piece);
        }
        if !piece.transaction.changes.is_empty() {
            conflict::apply(&*self.executor.client, &self.targets, origin, &piece, converging)
                .await?;
        }
        save_checkpoint(&*self.executor.client, origin, transaction.lsn).await
    }
}

/// Makes `client` an applier's session: guards let it pass, user triggers do not fire, and what
/// it commits is recognised when it is captured.
pub(crate) async fn open_session(client: &Client, config: &ApplierConfig) -> anyhow::Result<()> {
    config.continuity.same_system(client).await?;
    become_applier(client, &format!("{ORIGIN_PREFIX}{}", config.origin)).await
}

async fn connect(config: &ApplierConfig) -> anyhow::Result<Client> {
    let name = format!("{APPLICATION_PREFIX}{}", config.origin);
    session::connect(&config.postgres, &name).await
}

/// A session takes a replication origin for itself, so two that overlap take two.
fn second_origin(config: &ApplierConfig) -> String {
    format!("{ORIGIN_PREFIX}{}/2", config.origin)
}

async fn open_second(config: &ApplierConfig) -> anyhow::Result<Executor> {
    let client = connect(config).await?;
    config.continuity.same_system(&client).await?;
    become_applier(&client, &second_origin(config)).await?;
    client.batch_execute(PLANS).await.context("choose how rows are found")?;
    Executor::new(client).await
}

/// Has PostgreSQL forget the replication origins of a writer whose sessions have ended: it keeps room for
/// so many. Returns whether that is done: it may not have noticed the end of the sessions yet.
pub(super) async fn drop_origins(config: &ApplierConfig) -> anyhow::Result<bool> {
    let client = connect(config).await?;
    let mut all = true;
    for name in [format!("{ORIGIN_PREFIX}{}", config.origin), second_origin(config)] {
        all &= slot::drop_origins(&client, &name.replace('_', "\\_")).await?;
    }
    Ok(all)
}

/// Fails while a session of before, whose end PostgreSQL has not noticed yet, may still commit under
/// this name.
async fn no_other_writer(client: &Client, origin_name: &str) -> anyhow::Result<()> {
    let sql = "SELECT pg_replication_origin_session_setup($1)
               WHERE pg_replication_origin_oid($1) IS NOT NULL";
    if client.execute(sql, &[&origin_name]).await.context("wait for an earlier session")? > 0 {
        client.execute("SELECT pg_replication_origin_session_reset()", &[]).await?;
    }
    Ok(())
}

/// The same under any name of a replication origin.
pub(crate) async fn become_applier(client: &Client, origin_name: &str) -> anyhow::Result<()> {
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
