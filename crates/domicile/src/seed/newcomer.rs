//! What does the agent of a region do that is not a member of the cluster yet?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use domicile_core::config::Config;
use domicile_core::id::{Origin, RegionId, TableName};
use domicile_core::lsn::Lsn;
use domicile_core::ownership::OwnershipChange;
use domicile_core::retention::{Gap, over_gap};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::copy::{Copy, EMPTIED, SEEDED, has_rows, origin_name, remember};
use super::wire::{Told, lift};
use crate::apply::become_applier;
use crate::complain::Complaint;
use crate::continuity::Continuity;
use crate::directory::change::change_ownership;
use crate::directory::documents::{SeedDocument, lift_override, seed_key};
use crate::directory::safety::Grounds;
use crate::directory::view::OwnershipView;
use crate::directory::{Client as Directory, View};
use crate::log::Logs;
use crate::notices::Notices;
use crate::origins::{MakeFollower, due};
use crate::peer;
use crate::postgres::rows::qualified;
use crate::postgres::session::quote_text;
use crate::postgres::snapshot::{Shown, tables};
use crate::postgres::{guard, session, setup, slot, target};
use crate::proto::{CloseSnapshotRequest, OpenSnapshotRequest};
use crate::status::SeedingStatus;
use crate::tenure::TenureState;

/// The states of a region that has not joined.
const NOT_A_MEMBER: &str = "not_a_member";
const SEED_REFUSED: &str = "seed_refused";
const SEED_HELD_UP: &str = "seed_held_up";
const PART: &str = "seeding";
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub struct Newcomer {
    pub config: Arc<Config>,
    pub region: RegionId,
    pub postgres: String,
    pub data: PathBuf,
    pub logs: Logs,
    pub continuity: Continuity,
    pub directory: Directory,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub incarnations: watch::Receiver<Arc<View>>,
    pub peers: BTreeMap<RegionId, peer::Client>,
    pub follower: MakeFollower,
    pub notices: Notices,
    pub tenure: watch::Sender<TenureState>,
    pub status: watch::Sender<SeedingStatus>,
}

/// Only a person can do something about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl Newcomer {
    /// Seeds this region when it is asked for; cancels `joined` once it is a member.
    pub async fn run(self, joined: CancellationToken, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow(&shutdown) => {}
            () = self.seed() => {
                joined.cancel();
                // A part that ends by itself is a fault.
                shutdown.cancelled().await;
            }
        }
    }

    /// Copies the logs of all other regions, for what comes after the snapshot.
    async fn follow(&self, shutdown: &CancellationToken) {
        let (mut started, mut tasks) = (BTreeSet::new(), JoinSet::new());
        let mut incarnations = self.incarnations.clone();
        loop {
            let view = incarnations.borrow_and_update().clone();
            let due = due(&self.config, &self.logs, &view, &self.region);
            for origin in due.into_iter().filter(|origin| started.insert(origin.clone())) {
                match self.logs.get_or_create(&origin) {
                    Ok(log) => {
                        tasks.spawn((self.follower)(&origin, log).run(shutdown.clone()));
                    }
                    Err(error) => tracing::error!(%origin, "is not followed: {error:#}"),
                }
            }
            if incarnations.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn seed(&self) {
        let (notices, mut complaint) = (&self.notices, Complaint::default());
        loop {
            let joins = AtomicBool::new(false);
            let attempted = tokio::select! {
                attempted = self.attempt(&joins) => attempted,
                () = self.withdrawn(&joins) => Ok(false),
            };
            let error = match attempted {
                Ok(true) => return,
                Ok(false) => {
                    let way_out = format!("domicile region add {}", self.region);
                    let detail = format!("nothing is replicated here until \"{way_out}\"");
                    self.status.send_replace(SeedingStatus::default());
                    self.at("waits to be added");
                    notices.post(PART, NOT_A_MEMBER, detail);
                    tokio::time::sleep(RETRY_AFTER).await;
                    continue;
                }
                Err(error) => error,
            };
            match error.downcast_ref::<Refused>() {
                Some(refused) => {
                    let why = refused.to_string();
                    notices.post(PART, SEED_REFUSED, why.clone());
                    self.status.send_modify(|status| status.refused = Some(why));
                }
                None => {
                    complaint.warn("this region is not seeded yet", &error);
                    notices.post(PART, SEED_HELD_UP, format!("{error:#}"));
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    fn at(&self, step: &str) {
        self.status.send_modify(|status| step.clone_into(&mut status.step));
    }

    /// Returns when nobody asks for this region any more, unless it `joins` already.
    async fn withdrawn(&self, joins: &AtomicBool) {
        let key = seed_key(&self.region);
        loop {
            tokio::time::sleep(RETRY_AFTER).await;
            let asked = self.directory.get(&key).await;
            if matches!(asked, Ok(None)) && !joins.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Returns whether this region is a member now; false when nobody asks for that. `joins` is set while
    /// that cannot be taken back.
    async fn attempt(&self, joins: &AtomicBool) -> anyhow::Result<bool> {
        let Self { region, directory, .. } = self;
        let key = seed_key(region);
        let Some(document) = directory.get(&key).await? else { return Ok(false) };
        let seed: SeedDocument =
            serde_json::from_slice(&document.value).context("read the seed document")?;
        self.status.send_modify(|status| {
            if status.seed != seed.id {
                let (seed, from) = (seed.id.clone(), seed.from.clone());
                *status = SeedingStatus { seed, from, ..SeedingStatus::default() };
            }
        });
        self.refuse_an_earlier_life()?;
        let from = self.peers.get(&seed.from.parse()?);
        let from = from.with_context(|| format!("there is no other region {}", seed.from))?;
        let client = self.open().await?;
        self.notices.clear(PART);
        self.status.send_modify(|status| status.refused = None);
        let (snapshot, mut done) = remembered(&client, &seed.id).await?;
        if !done.contains(SEEDED) {
            let open = match snapshot {
                Some(name) => self.ask(from, Some(name)).await?,
                None => None,
            };
            let told = match open {
                Some(told) => {
                    tracing::info!(snapshot = %told.snapshot, done = done.len(), "copying goes on");
                    told
                }
                None => {
                    let ours = !std::mem::take(&mut done).is_empty();
                    if !ours && !seed.replace {
                        self.refuse_rows(&client, &seed).await?;
                    }
                    self.begin(&client, &seed, from).await?
                }
            };
            self.copy(&client, &seed, from, &told, &done).await?;
            if let Err(gap) = self.check_logs(&told) {
                self.close(from, &told).await;
                return Err(gap);
            }
            self.finish(&client, &seed, &told).await?;
            self.close(from, &told).await;
        }
        self.check_what_follows(&client).await?;
        self.at("joins");
        joins.store(true, Ordering::Relaxed);
        if directory.get(&key).await?.is_none_or(|now| now.value != document.value) {
            return Ok(false);
        }
        self.join(&seed).await?;
        forget(&client).await?;
        directory.write(&key, document.revision, None).await?;
        Ok(true)
    }

    /// What this region wrote before it was removed would be taken for what it shows now.
    fn refuse_an_earlier_life(&self) -> Result<(), Refused> {
        let Self { continuity, data, region, .. } = self;
        if !continuity.captured_before() {
            return Ok(());
        }
        Err(Refused(format!(
            "{} holds logs from when region {region} was a member: stop its agent, move the folder \
             away, and start it again",
            data.display()
        )))
    }

    /// Opens the session that directs all, with everything that is Domicile's in the database.
    async fn open(&self) -> anyhow::Result<Client> {
        let Self { config, region, postgres, tenure, .. } = self;
        let mut client = session::connect(postgres, "domicile seed").await?;
        guard::be_alone(&client).await?;
        for table in self.user_tables() {
            let sql = "SELECT to_regclass($1) IS NULL";
            if client.query_one(sql, &[&qualified(&table)]).await?.get(0) {
                let text = format!(
                    "table {table} does not exist here: make the schema of another region first \
                     (pg_dump --schema-only --exclude-schema=domicile)"
                );
                return Err(Refused(text).into());
            }
        }
        let version =
            client.query_one("SELECT current_setting('server_version_num')::integer", &[]).await?;
        let version = u32::try_from(version.get::<_, i32>(0)).unwrap_or(0);
        tenure.send_modify(|state| {
            (state.postgres_reachable, state.postgres_version) = (true, version);
        });
        guard::install(&client, config, region).await?;
        setup::publish(&mut client, config).await?;
        // A slot from an earlier life would keep the WAL of all that is copied.
        slot::forget(&client, &slot::slot_name(config)).await?;
        become_applier(&client, &origin_name(0)).await?;
        client.batch_execute("SET synchronous_commit = local").await?;
        Ok(client)
    }

    fn user_tables(&self) -> Vec<TableName> {
        let all = tables(&self.config).into_iter();
        all.filter(|table| table.schema != guard::SCHEMA).collect()
    }

    /// Rows of somebody else go only when that was asked for.
    async fn refuse_rows(&self, client: &Client, seed: &SeedDocument) -> anyhow::Result<()> {
        for table in self.user_tables() {
            if has_rows(client, &table).await? {
                let text = format!(
                    "table {table} has rows here: have them replaced by what region {} shows \
                     (domicile region add {} --replace), or remove them",
                    seed.from, self.region
                );
                return Err(Refused(text).into());
            }
        }
        Ok(())
    }

    /// Has a snapshot opened, or asks for one again; `None` when that is not open any more.
    async fn ask(
        &self,
        from: &peer::Client,
        snapshot: Option<String>,
    ) -> anyhow::Result<Option<Told>> {
        let (cluster, region) = (self.config.cluster.clone(), self.region.to_string());
        let request = OpenSnapshotRequest { cluster, region, snapshot };
        match from.clone().open_snapshot(request).await {
            Ok(told) => lift(told.into_inner()).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => bail!("{}", status.message()),
        }
    }

    /// If this does not arrive, it is closed when nobody has read from it for a while.
    async fn close(&self, from: &peer::Client, told: &Told) {
        let (cluster, snapshot) = (self.config.cluster.clone(), told.snapshot.clone());
        let close = CloseSnapshotRequest { cluster, snapshot };
        if let Err(status) = from.clone().close_snapshot(close).await {
            tracing::debug!("the snapshot is not closed: {}", status.message());
        }
    }

    /// Has a snapshot opened and makes room for it.
    async fn begin(
        &self,
        client: &Client,
        seed: &SeedDocument,
        from: &peer::Client,
    ) -> anyhow::Result<Told> {
        self.at("waits for open transactions to end");
        let told = self.ask(from, None).await?.context("the other region opens no snapshot")?;
        let emptied = self.empty(client, seed, &told).await;
        if emptied.is_err() {
            // Nothing remembers it, and the next attempt opens another.
            self.close(from, &told).await;
        }
        emptied.map(|()| told)
    }

    async fn empty(&self, client: &Client, seed: &SeedDocument, told: &Told) -> anyhow::Result<()> {
        let about = client.query_one("SELECT current_setting('server_encoding')", &[]).await?;
        let encoding: &str = about.get(0);
        if encoding != told.encoding {
            let (from, theirs) = (&seed.from, &told.encoding);
            let text = format!("this database is in {encoding}, that of {from} in {theirs}");
            return Err(Refused(text).into());
        }
        let progress = guard::progress_table();
        let repair = TableName::new(guard::SCHEMA, "repair");
        let all = tables(&self.config).into_iter().chain([progress, repair]);
        let mut list = Vec::new();
        for table in all {
            list.push(target::read(client, &table).await?.rows());
        }
        client.batch_execute("BEGIN").await?;
        client.batch_execute("SAVEPOINT empty").await?;
        let truncate = format!("TRUNCATE {}", list.join(", "));
        match client.batch_execute(&truncate).await {
            // A table that is not replicated refers to one of them: its rows stay, and find theirs again.
            Err(error) if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
                client.batch_execute("ROLLBACK TO SAVEPOINT empty").await?;
                for table in list {
                    let delete = format!("DELETE FROM {table}");
                    client.batch_execute(&delete).await.context("empty the tables")?;
                }
            }
            truncated => truncated.context("empty the tables")?,
        }
        client.execute("DELETE FROM domicile.seeding", &[]).await?;
        remember(client, &seed.id, &told.snapshot, EMPTIED).await?;
        client.batch_execute("COMMIT").await?;
        Ok(())
    }

    async fn copy(
        &self,
        client: &Client,
        seed: &SeedDocument,
        from: &peer::Client,
        told: &Told,
        done: &BTreeSet<String>,
    ) -> anyhow::Result<()> {
        let Self { config, postgres, status, .. } = self;
        let (seed, snapshot) = (&seed.id, &told.snapshot);
        let copy = Copy { config, postgres, from, seed, snapshot, status };
        copy.run(&told.relations, done).await?;
        self.at("analyzes tables");
        for table in self.user_tables() {
            let sql = format!("ANALYZE {}", qualified(&table));
            client.batch_execute(&sql).await.with_context(|| format!("analyze {table}"))?;
        }
        Ok(())
    }

    /// Do our copies of the logs hold everything that the snapshot does not show?
    fn check_logs(&self, told: &Told) -> anyhow::Result<()> {
        for Shown { origin, applied, .. } in &told.shown {
            let trimmed = self.logs.get(origin).map_or(Lsn::ZERO, |log| log.trimmed());
            ensure!(
                over_gap(*applied, trimmed) == Gap::Skip,
                "our copy of the log of {origin} begins after {trimmed}, and the snapshot shows \
                 {applied}: another snapshot is taken"
            );
        }
        Ok(())
    }

    /// Nobody waits for who is no member: while this region was away, the logs may have gone on without it. Then
    /// all is copied once more.
    async fn check_what_follows(&self, client: &Client) -> anyhow::Result<()> {
        let rows = client.query("SELECT origin, applied::text FROM domicile.progress", &[]).await?;
        for row in rows {
            let origin: Origin = row.get::<_, &str>(0).parse()?;
            let shown: Lsn = row.get::<_, &str>(1).parse()?;
            let trimmed = self.logs.get(&origin).map_or(Lsn::ZERO, |log| log.trimmed());
            if over_gap(shown, trimmed) == Gap::Skip {
                continue;
            }
            let anew = format!(
                "BEGIN; DELETE FROM domicile.progress;
                 DELETE FROM domicile.seeding WHERE done = {}; COMMIT",
                quote_text(SEEDED)
            );
            client.batch_execute(&anew).await.context("begin the copy anew")?;
            bail!(
                "the log of {origin} has gone on without this region: it begins after {trimmed}, and the \
                 tables show {shown}: all is copied once more"
            );
        }
        Ok(())
    }

    /// Notes what the tables show: the appliers go on behind that.
    async fn finish(
        &self,
        client: &Client,
        seed: &SeedDocument,
        told: &Told,
    ) -> anyhow::Result<()> {
        client.batch_execute("BEGIN").await?;
        for Shown { origin, applied, converge_to } in &told.shown {
            let followed =
                origin.region != self.region && self.config.region(&origin.region).is_some();
            let log = self.logs.get_or_create(origin)?;
            if !followed && log.end() < *applied {
                // There is no more of it than everybody shows, and others may name that.
                log.skip_to(*applied).await?;
            }
            client
                .execute(
                    "INSERT INTO domicile.progress (origin, applied, converge_to)
                     VALUES ($1, $2::text::pg_lsn, $3::text::pg_lsn)",
                    &[
                        &origin.to_string(),
                        &applied.to_string(),
                        &converge_to.map(|lsn| lsn.to_string()),
                    ],
                )
                .await
                .context("note what is shown")?;
        }
        client.execute("SELECT domicile.hear($1)", &[&told.heard]).await?;
        remember(client, &seed.id, &told.snapshot, SEEDED).await?;
        client.batch_execute("COMMIT").await?;
        Ok(())
    }

    async fn join(&self, seed: &SeedDocument) -> anyhow::Result<()> {
        let Self { config, region, directory, .. } = self;
        let view = self.ownership.borrow().clone();
        let known = view.ownership.as_ref().context("the ownership is not known yet")?;
        let change = OwnershipChange::Join { region: region.clone() };
        let known = (known, view.revision);
        let overridden = seed.safety_override.as_ref().map(lift_override);
        let grounds = Grounds { loss: None, overridden };
        let (now, _) =
            change_ownership(directory, &config.cluster, &change, known, &grounds).await?;
        let joined = now.members().contains(region);
        ensure!(joined, "a failover is being decided: this region joins when that is over");
        Ok(())
    }
}

/// The snapshot of a seeding, and what was done by it.
async fn remembered(
    client: &Client,
    seed: &str,
) -> anyhow::Result<(Option<String>, BTreeSet<String>)> {
    let sql = "SELECT snapshot, done FROM domicile.seeding WHERE seed = $1";
    let rows = client.query(sql, &[&seed]).await.context("read what was done")?;
    let snapshot = rows.first().map(|row| row.get(0));
    Ok((snapshot, rows.iter().map(|row| row.get(1)).collect()))
}

/// Leaves nothing of a seeding in the database.
async fn forget(client: &Client) -> anyhow::Result<()> {
    let sql = "DELETE FROM domicile.seeding; SELECT pg_replication_origin_session_reset();
               SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin
               WHERE roname LIKE 'domicile\\_seed\\_%'";
    client.batch_execute(sql).await.context("leave nothing of the seeding behind")
}
