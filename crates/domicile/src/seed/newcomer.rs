//! What does the agent of a region do that is not a member of the cluster yet?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use domicile_core::config::Config;
use domicile_core::id::{Origin, RegionId, TableName};
use domicile_core::lsn::Lsn;
use domicile_core::ownership::OwnershipChange;
use domicile_core::seeding::Relation;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::copy::{Copy, EMPTIED, SEEDED, has_rows, origin_name, remember};
use crate::apply::become_applier;
use crate::complain::Complaint;
use crate::continuity::Continuity;
use crate::directory::change::change_ownership;
use crate::directory::documents::{SeedDocument, seed_key};
use crate::directory::view::OwnershipView;
use crate::directory::{Client as Directory, View};
use crate::log::Logs;
use crate::notices::Notices;
use crate::origins::{MakeFollower, due};
use crate::peer;
use crate::postgres::rows::qualified;
use crate::postgres::snapshot::tables;
use crate::postgres::{guard, session, setup, slot};
use crate::proto::open_snapshot_response as answer;
use crate::proto::{CloseSnapshotRequest, Name, OpenSnapshotRequest, OpenSnapshotResponse};
use crate::status::SeedingStatus;
use crate::tenure::TenureState;

/// The states of a region that has not joined.
const NOT_A_MEMBER: &str = "not_a_member";
const SEED_REFUSED: &str = "seed_refused";
const SEED_HELD_UP: &str = "seed_held_up";
const PART: &str = "seeding";
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a newcomer is made of.
pub struct Parts {
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

pub struct Newcomer {
    parts: Parts,
}

/// Only a person can do something about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// What another region shows.
struct Told {
    snapshot: String,
    shown: Vec<answer::Shown>,
    relations: Vec<Relation>,
    heard: i64,
    encoding: String,
}

impl Newcomer {
    pub fn new(parts: Parts) -> Self {
        Self { parts }
    }

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
        let mut incarnations = self.parts.incarnations.clone();
        loop {
            let view = incarnations.borrow_and_update().clone();
            let due = due(&self.parts.config, &self.parts.logs, &view, &self.parts.region);
            for origin in due.into_iter().filter(|origin| started.insert(origin.clone())) {
                match self.parts.logs.get_or_create(&origin) {
                    Ok(log) => {
                        tasks.spawn((self.parts.follower)(&origin, log).run(shutdown.clone()));
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
        let (notices, mut complaint) = (&self.parts.notices, Complaint::default());
        loop {
            let error = match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {
                    let way_out = format!("domicile region add {}", self.parts.region);
                    let detail = format!("nothing is replicated here until \"{way_out}\"");
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
                    self.parts.status.send_modify(|status| status.refused = Some(why));
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
        self.parts.status.send_modify(|status| step.clone_into(&mut status.step));
    }

    /// Returns whether this region is a member now; false when nobody has asked for that.
    async fn attempt(&self) -> anyhow::Result<bool> {
        let Parts { region, directory, .. } = &self.parts;
        let key = seed_key(region);
        let Some(document) = directory.get(&key).await? else { return Ok(false) };
        let seed: SeedDocument =
            serde_json::from_slice(&document.value).context("read the seed document")?;
        self.parts.status.send_modify(|status| {
            if status.seed != seed.id {
                let (seed, from) = (seed.id.clone(), seed.from.clone());
                *status = SeedingStatus { seed, from, ..SeedingStatus::default() };
            }
        });
        self.refuse_an_earlier_life()?;
        let from = self.parts.peers.get(&seed.from.parse()?);
        let from = from.with_context(|| format!("there is no other region {}", seed.from))?;
        let client = self.open().await?;
        self.parts.notices.clear(PART);
        self.parts.status.send_modify(|status| status.refused = None);
        let (mut snapshot, mut done) = remembered(&client, &seed.id).await?;
        if !done.contains(SEEDED) {
            let ours = !done.is_empty();
            let told = match snapshot.take() {
                Some(name) => ask(from, &self.parts, Some(name)).await?,
                None => None,
            };
            let told = match told {
                Some(told) => {
                    tracing::info!(snapshot = %told.snapshot, done = done.len(), "copying goes on");
                    told
                }
                None => {
                    self.at("waits for open transactions to end");
                    let told = ask(from, &self.parts, None).await?;
                    let told = told.context("the other region opens no snapshot")?;
                    self.empty(&client, &seed, &told, ours).await?;
                    done.clear();
                    told
                }
            };
            let Parts { config, postgres, status, .. } = &self.parts;
            let copy =
                Copy { config, postgres, from, seed: &seed.id, snapshot: &told.snapshot, status };
            copy.run(&told.relations, &done).await?;
            self.at("analyzes tables");
            for table in self.user_tables() {
                let sql = format!("ANALYZE {}", qualified(&table));
                client.batch_execute(&sql).await.with_context(|| format!("analyze {table}"))?;
            }
            self.finish(&client, &seed, &told).await?;
            let cluster = self.parts.config.cluster.clone();
            let close = CloseSnapshotRequest { cluster, snapshot: told.snapshot };
            // It is closed in any case.
            let _ = from.clone().close_snapshot(close).await;
        }
        self.at("joins");
        self.join().await?;
        forget(&client).await?;
        directory.write(&key, document.revision, None).await?;
        Ok(true)
    }

    /// What this region wrote before it was removed would be taken for what it shows now.
    fn refuse_an_earlier_life(&self) -> Result<(), Refused> {
        let Parts { continuity, data, region, .. } = &self.parts;
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
        let Parts { config, region, postgres, tenure, .. } = &self.parts;
        let client = session::connect(postgres, "domicile seed").await?;
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
        setup::publish(&client, config).await?;
        // One from an earlier life would keep the WAL of all that is copied.
        slot::remove(&client, &slot::slot_name(config)).await?;
        become_applier(&client, &origin_name(0)).await?;
        client.batch_execute("SET synchronous_commit = local").await?;
        Ok(client)
    }

    fn user_tables(&self) -> Vec<TableName> {
        let all = tables(&self.parts.config).into_iter();
        all.filter(|table| table.schema != guard::SCHEMA).collect()
    }

    /// Makes room for the copy. Rows that are none of `ours` go only when that was asked for.
    async fn empty(
        &self,
        client: &Client,
        seed: &SeedDocument,
        told: &Told,
        ours: bool,
    ) -> anyhow::Result<()> {
        let about = client.query_one("SELECT current_setting('server_encoding')", &[]).await?;
        let encoding: &str = about.get(0);
        if encoding != told.encoding {
            let text = format!(
                "this database is in {encoding}, that of {} in {}",
                seed.from, told.encoding
            );
            return Err(Refused(text).into());
        }
        for table in self.user_tables() {
            if !ours && !seed.replace && has_rows(client, &table).await? {
                let text = format!(
                    "table {table} has rows here: have them replaced by what region {} shows \
                     (domicile region add {} --replace), or remove them",
                    seed.from, self.parts.region
                );
                return Err(Refused(text).into());
            }
        }
        let progress = guard::progress_table();
        let repair = TableName::new(guard::SCHEMA, "repair");
        let all = tables(&self.parts.config).into_iter().chain([progress, repair]);
        let list: Vec<String> = all.map(|table| qualified(&table)).collect();
        client.batch_execute("BEGIN").await?;
        let sql = format!("TRUNCATE {}", list.join(", "));
        client.batch_execute(&sql).await.context("empty the tables")?;
        client.execute("DELETE FROM domicile.seeding", &[]).await?;
        remember(client, &seed.id, &told.snapshot, EMPTIED).await?;
        client.batch_execute("COMMIT").await?;
        Ok(())
    }

    /// Notes what the tables show: the appliers go on behind that.
    async fn finish(
        &self,
        client: &Client,
        seed: &SeedDocument,
        told: &Told,
    ) -> anyhow::Result<()> {
        let Parts { config, region, logs, .. } = &self.parts;
        client.batch_execute("BEGIN").await?;
        for shown in &told.shown {
            let (origin, applied): (Origin, Lsn) = (shown.origin.parse()?, Lsn(shown.applied));
            let followed = origin.region != *region && config.region(&origin.region).is_some();
            let log = logs.get_or_create(&origin)?;
            if !followed && log.end() < applied {
                // There is no more of it than everybody shows, and others may name that.
                log.skip_to(applied).await?;
            }
            if log.trimmed() > applied {
                client.batch_execute("ROLLBACK").await?;
                client
                    .execute("DELETE FROM domicile.seeding WHERE done <> $1", &[&EMPTIED])
                    .await?;
                bail!(
                    "our copy of the log of {origin} begins after {}, and the snapshot shows {applied}: \
                     another snapshot is taken",
                    log.trimmed()
                );
            }
            let converge_to = shown.converge_to.map(|lsn| Lsn(lsn).to_string());
            client
                .execute(
                    "INSERT INTO domicile.progress (origin, applied, converge_to)
                     VALUES ($1, $2::text::pg_lsn, $3::text::pg_lsn)",
                    &[&shown.origin, &applied.to_string(), &converge_to],
                )
                .await
                .context("note what is shown")?;
        }
        client.execute("SELECT domicile.hear($1)", &[&told.heard]).await?;
        remember(client, &seed.id, &told.snapshot, SEEDED).await?;
        client.batch_execute("COMMIT").await?;
        Ok(())
    }

    async fn join(&self) -> anyhow::Result<()> {
        let Parts { config, region, directory, .. } = &self.parts;
        let view = self.parts.ownership.borrow().clone();
        let known = view.ownership.as_ref().context("the ownership is not known yet")?;
        let change = OwnershipChange::Join { region: region.clone() };
        let known = (known, view.revision);
        let (now, _) = change_ownership(directory, &config.cluster, &change, known).await?;
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

/// Has a snapshot opened, or asks for one again; `None` when that is not open any more.
async fn ask(
    from: &peer::Client,
    parts: &Parts,
    snapshot: Option<String>,
) -> anyhow::Result<Option<Told>> {
    let (cluster, region) = (parts.config.cluster.clone(), parts.region.to_string());
    let request = OpenSnapshotRequest { cluster, region, snapshot };
    let told = match from.clone().open_snapshot(request).await {
        Ok(told) => told.into_inner(),
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        Err(status) => bail!("{}", status.message()),
    };
    let OpenSnapshotResponse { snapshot, shown, relations, heard, encoding } = told;
    let name = |name: Option<Name>| {
        let name = name.context("a relation has a name")?;
        anyhow::Ok(TableName::new(name.schema, name.table))
    };
    let lift = |relation: answer::Relation| {
        Ok(Relation {
            name: name(relation.name)?,
            table: name(relation.table)?,
            columns: relation.columns,
            blocks: relation.blocks,
            rows_estimate: relation.rows_estimate,
        })
    };
    let relations = relations.into_iter().map(lift).collect::<anyhow::Result<_>>()?;
    Ok(Some(Told { snapshot, shown, relations, heard, encoding }))
}
