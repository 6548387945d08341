//! What do this region's tables show at one moment, for a region that joins?
//!
//! One snapshot for all sessions that read from it, with the frontier that it shows, exactly.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use domicile_core::config::Config;
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::Lsn;
use domicile_core::seeding::Relation;
use futures_util::{Stream, TryStreamExt};
use tokio_postgres::Client;

use super::rows::{columns, qualified};
use super::session::{self, quote_name};
use super::setup;
use super::stream::Export;

/// A server that does not answer for so long is not waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What a snapshot shows of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub origin: Origin,
    pub applied: Lsn,
    /// See `domicile.progress`.
    pub converge_to: Option<Lsn>,
}

/// Open for as long as this lives, in the server too: old row versions are kept for it.
pub struct Snapshot {
    /// No other has it, in this server's life or in any.
    pub name: String,
    /// By which other sessions take it over. A server that has crashed may give it again.
    pub exported: String,
    /// Of every origin, this region's own included.
    pub shown: Vec<Shown>,
    pub relations: Vec<Relation>,
    /// The latest time that another region is known to have written at: see `domicile.heard`.
    pub heard: i64,
    pub encoding: String,
    session: Client,
}

impl Snapshot {
    /// Opens one of the region whose commits are those of `own`. Returns once the transactions that
    /// are open now have ended.
    pub async fn open(postgres: &str, config: &Config, own: &Origin) -> anyhow::Result<Self> {
        let settings = session::configure(postgres, "domicile snapshot")?;
        let slot = format!("domicile_snapshot_{}", uuid::Uuid::now_v7().simple());
        let export = Export::begin(&settings, &slot).await.context("export a snapshot")?;
        let session = session::connect(postgres, "domicile snapshot").await?;
        take_over(&session, &export.snapshot).await?;
        let pending = session.query_one("SELECT count(*) FROM domicile.repair", &[]).await?;
        let pending: i64 = pending.get(0);
        ensure!(pending == 0, "{pending} rows wait to be repaired in region {}", own.region);
        let mut shown = progress(&session).await?;
        shown.retain(|shown| shown.origin != *own);
        shown.push(Shown { origin: own.clone(), applied: export.upto, converge_to: None });
        let about = "SELECT pg_export_snapshot(), current_setting('server_encoding'),
                            coalesce(pg_sequence_last_value('domicile.heard'), 0)";
        let about = session.query_one(about, &[]).await.context("hand the snapshot on")?;
        let relations = relations(&session, config).await?;
        Ok(Self {
            name: slot,
            exported: about.get(0),
            encoding: about.get(1),
            heard: about.get(2),
            shown,
            relations,
            session,
        })
    }

    /// Does PostgreSQL still keep it?
    pub async fn is_open(&self) -> bool {
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.session.batch_execute("SELECT 1"));
        matches!(asked.await, Ok(Ok(())))
    }

    /// Is it known to be gone?
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }
}

/// Makes `session` see what `snapshot` shows, until it is closed.
async fn take_over(session: &Client, snapshot: &str) -> anyhow::Result<()> {
    let statement = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
         SET LOCAL row_security = off",
        session::quote_text(snapshot)
    );
    session.batch_execute(&statement).await.context("take the snapshot over")
}

async fn progress(session: &Client) -> anyhow::Result<Vec<Shown>> {
    let sql = "SELECT origin, applied::text, converge_to::text FROM domicile.progress";
    let rows = session.query(sql, &[]).await.context("read what is applied")?;
    let lift = |row: &tokio_postgres::Row| {
        let converge_to = row.get::<_, Option<&str>>(2).map(str::parse).transpose()?;
        let (origin, applied) = (row.get::<_, &str>(0).parse()?, row.get::<_, &str>(1).parse()?);
        Ok(Shown { origin, applied, converge_to })
    };
    rows.iter().map(lift).collect()
}

/// Everything that makes a region's tables what they are: what is replicated, as it is stored, and
/// what is known of shared rows that nobody can see any more.
pub fn tables(config: &Config) -> BTreeSet<TableName> {
    let mut tables = setup::published(config);
    tables.remove(&super::guard::progress_table());
    tables.insert(TableName::new("domicile", "forgotten"));
    tables
}

async fn relations(session: &Client, config: &Config) -> anyhow::Result<Vec<Relation>> {
    let mut relations = Vec::new();
    for table in tables(config) {
        let rows = session
            .query(
                "SELECT n.nspname::text, c.relname::text,
                        (pg_relation_size(c.oid) / current_setting('block_size')::int)::bigint,
                        greatest(c.reltuples, 0)::bigint
                 FROM (SELECT relid FROM pg_partition_tree(to_regclass($1)) WHERE isleaf
                       UNION SELECT to_regclass($1)) tree
                 JOIN pg_class c ON c.oid = relid
                 JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind = 'r'
                 ORDER BY 1, 2",
                &[&qualified(&table)],
            )
            .await
            .context("look how large the tables are")?;
        for row in rows {
            relations.push(Relation {
                name: TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)),
                columns: columns(session, &table).await?,
                table: table.clone(),
                blocks: u32::try_from(row.get::<_, i64>(2)).unwrap_or(u32::MAX),
                rows_estimate: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
            });
        }
    }
    Ok(relations)
}

/// Reads rows from a snapshot, in the text form of COPY.
pub async fn copy_out(
    postgres: &str,
    snapshot: &str,
    relation: &TableName,
    columns: &[String],
    (first, end): (u32, Option<u32>),
) -> anyhow::Result<impl Stream<Item = anyhow::Result<Bytes>> + use<>> {
    let session = session::connect(postgres, "domicile copy").await?;
    take_over(&session, snapshot).await?;
    let list: Vec<String> = columns.iter().map(|column| quote_name(column)).collect();
    let mut range = Vec::new();
    if first > 0 {
        range.push(format!("ctid >= '({first},0)'"));
    }
    if let Some(end) = end {
        range.push(format!("ctid < '({end},0)'"));
    }
    let only = if range.is_empty() { "true".to_owned() } else { range.join(" AND ") };
    let sql = format!(
        "COPY (SELECT {} FROM ONLY {} WHERE {only}) TO STDOUT",
        list.join(", "),
        qualified(relation)
    );
    let rows = session.copy_out(&sql).await.with_context(|| format!("copy {relation}"))?;
    // The session ends with the stream.
    Ok(rows.map_err(anyhow::Error::from).map_ok(move |row| {
        let _open = &session;
        row
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cluster::temporary_cluster;

    #[tokio::test]
    async fn a_snapshot_is_read_block_by_block_while_others_write() {
        let (cluster, _folder) =
            temporary_cluster("snapshot", &[("wal_level", "logical")]).await.unwrap();
        let writer = cluster.connect().await.unwrap();
        let sql = "CREATE TABLE item (id int, \"odd name\" text, twice int GENERATED ALWAYS AS (id * 2) STORED);
                   INSERT INTO item SELECT id, repeat(E'x\\n', 50) FROM generate_series(1, 2000) id;
                   DELETE FROM item WHERE id % 7 = 0";
        writer.batch_execute(sql).await.unwrap();
        let postgres = cluster.connection_string();
        let settings = session::configure(&postgres, "test").unwrap();
        let export = Export::begin(&settings, "test_snapshot").await.unwrap();
        writer.batch_execute("UPDATE item SET id = -id; DELETE FROM item").await.unwrap();
        let here = writer.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
        assert!(export.upto < here.get::<_, &str>(0).parse().unwrap());
        let (table, mut ids) = (TableName::new("public", "item"), Vec::new());
        let columns = columns(&writer, &table).await.unwrap();
        assert_eq!(columns, ["id", "odd name"]);
        for (first, end) in [(0, Some(3)), (3, Some(9)), (9, None)] {
            let before = ids.len();
            let rows = copy_out(&postgres, &export.snapshot, &table, &columns, (first, end));
            let mut rows = std::pin::pin!(rows.await.unwrap());
            while let Some(row) = rows.try_next().await.unwrap() {
                assert_eq!(row.iter().filter(|byte| **byte == b'\n').count(), 1, "one line a row");
                let line = std::str::from_utf8(&row).unwrap();
                ids.push(line.split('\t').next().unwrap().parse::<i32>().unwrap());
            }
            assert!(ids.len() > before, "there are rows from block {first} on");
        }
        assert_eq!(ids, (1..=2000).filter(|id| id % 7 != 0).collect::<Vec<_>>());
        drop(export);
        let sql = "SELECT count(*) FROM pg_replication_slots";
        while writer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            tokio::task::yield_now().await;
        }
    }
}
