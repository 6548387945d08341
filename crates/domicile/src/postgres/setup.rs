//! What must be published, is it, and was it all the time?
//!
//! `core::publication` judges. Whatever somebody did to the publication is put back, and the tables
//! of which changes may have been passed over are noted in the same transaction.

use std::collections::BTreeSet;

use anyhow::Context;
use domicile_core::config::{Config, TableKind};
use domicile_core::id::TableName;
use domicile_core::lsn::Lsn;
use domicile_core::publication::{
    Carried, Marks, Publication, Published, PutBack, carried, passed_over, put_back, remember,
};
use serde_json::Value as Json;
use tokio_postgres::{Client, Transaction};

use super::guard::{SCHEMA, canary_table, progress_table};
use super::migration::migration_table;
use super::passed_over::By;
use super::rows::qualified;
use super::{passed_over as noted, shared};
use crate::capture::PUBLICATION;

/// The position of a look is remembered when the WAL has moved on by so much: an idle server is not
/// kept busy.
const LOOKED_BYTES: u64 = 64 << 10;

/// PostgreSQL refuses what would put it back.
#[derive(Debug, thiserror::Error)]
#[error("publish the tables: {0}")]
pub struct NotPutBack(String);

/// The tables whose changes are captured, in their order.
pub fn published(config: &Config) -> BTreeSet<TableName> {
    let replicated = config.tables.iter().filter(|(_, kind)| !matches!(kind, TableKind::Local));
    let mut tables: BTreeSet<TableName> = replicated.map(|(table, _)| table.clone()).collect();
    tables.extend(published_of_ours());
    tables
}

/// Capture tells by its checkpoint what was applied here; nobody else may write there.
fn published_of_ours() -> [TableName; 5] {
    let (version, horizon) = (shared::version_table(), shared::horizon_table());
    [canary_table(), progress_table(), version, horizon, migration_table()]
}

/// Is this a table of ours that only this region has? What capture itself writes there it must not
/// capture, even if somebody publishes it.
pub fn is_private(table: &TableName) -> bool {
    table.schema == SCHEMA && !published_of_ours().contains(table)
}

/// Brings the publication up to date, and notes what it may have passed over.
pub async fn publish(client: &mut Client, config: &Config) -> anyhow::Result<()> {
    // Before anything is looked at: what is whole then was whole here.
    let here = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
    let here: Lsn = here.get::<_, &str>(0).parse()?;
    let wanted = published(config);
    let transaction = client.transaction().await?;
    // The session of the lease looks, too.
    let lock = "LOCK TABLE domicile.publication IN SHARE ROW EXCLUSIVE MODE";
    transaction.batch_execute(lock).await.context("look at the publication")?;
    let (known, looked_at) = known(&transaction).await?.unzip();
    let (known, looked_at) = (known.unwrap_or_default(), looked_at.unwrap_or(here));
    let exist = existing(&transaction, &wanted).await?;
    let mut now = read(&transaction).await?;
    let carried = carried(&known, now.as_ref(), &wanted, &exist);
    let todo = put_back(now.as_ref(), &carried);
    if todo != PutBack::Nothing {
        let statement = statement(todo, &carried);
        let done = transaction.batch_execute(&statement).await;
        done.map_err(|error| match error.as_db_error() {
            Some(refused) => NotPutBack(refused.to_string()).into(),
            None => anyhow::Error::from(error).context("publish the tables"),
        })?;
        now = read(&transaction).await?;
    }
    let now = now.unwrap_or_default();
    let touched = passed_over(&known, &now, &carried);
    if !touched.is_empty() {
        noted::note(&transaction, concerned(config, &touched), looked_at, By::Publication).await?;
        tracing::warn!(?touched, ?todo, "somebody changed the publication");
    }
    let marks = remember(&known, &now, &wanted, &carried);
    if marks != known || here.0.saturating_sub(looked_at.0) >= LOOKED_BYTES {
        transaction
            .execute(
                "INSERT INTO domicile.publication (marks, looked_at) VALUES ($1, $2::text::pg_lsn)
                 ON CONFLICT (single) DO UPDATE
                 SET marks = excluded.marks, looked_at = excluded.looked_at",
                &[&lower(&marks), &here.to_string()],
            )
            .await
            .context("remember the publication")?;
    }
    transaction.commit().await.context("publish the tables")
}

/// The application's tables whose rows may differ now. Of our own, only what is known of shared rows
/// belongs to any; checkpoints are told by their replication origin as well.
fn concerned<'a>(config: &'a Config, touched: &BTreeSet<TableName>) -> Vec<&'a TableName> {
    let versions = touched.contains(&shared::version_table());
    let concerned = config.tables.iter().filter(|(table, kind)| {
        let shared = matches!(kind, TableKind::Shared(_));
        touched.contains(table) || shared && versions
    });
    concerned.map(|(table, _)| table).collect()
}

fn statement(todo: PutBack, carried: &Carried) -> String {
    // A child by inheritance is a table of its own, which may stay where it is.
    let list = carried.values().map(|table| format!("ONLY {}", qualified(table)));
    let list = list.collect::<Vec<_>>().join(", ");
    // Rows under the name of the partitioned table: regions may cut it differently.
    let create = format!(
        "CREATE PUBLICATION {PUBLICATION} FOR TABLE {list} WITH (publish_via_partition_root = true)"
    );
    match todo {
        PutBack::Nothing => String::new(),
        PutBack::Create => create,
        PutBack::Replace => format!("DROP PUBLICATION {PUBLICATION}; {create}"),
        PutBack::Tables => format!("ALTER PUBLICATION {PUBLICATION} SET TABLE {list}"),
    }
}

/// Those that are here.
async fn existing(
    transaction: &Transaction<'_>,
    wanted: &BTreeSet<TableName>,
) -> anyhow::Result<BTreeSet<TableName>> {
    let names: Vec<String> = wanted.iter().map(qualified).collect();
    let sql = "SELECT to_regclass(name) IS NOT NULL
               FROM unnest($1::text[]) WITH ORDINALITY wanted (name, place) ORDER BY place";
    let rows = transaction.query(sql, &[&names]).await.context("look for the tables")?;
    let there = wanted.iter().zip(&rows).filter(|(_, row)| row.get(0));
    Ok(there.map(|(table, _)| table.clone()).collect())
}

async fn read(transaction: &Transaction<'_>) -> anyhow::Result<Option<Publication>> {
    // Columns that not every version has are asked for by name.
    let row = transaction
        .query_opt(
            "SELECT puballtables,
                    pubinsert AND pubupdate AND pubdelete AND pubtruncate AND pubviaroot
                    AND coalesce(to_jsonb(p) ->> 'pubgencols', 'n') = 'n',
                    to_regclass('pg_publication_namespace') IS NOT NULL
             FROM pg_publication p WHERE pubname = $1",
            &[&PUBLICATION],
        )
        .await
        .context("read the publication")?;
    let Some(row) = row else { return Ok(None) };
    let names_schemas = row.get(2) && {
        let sql = "SELECT FROM pg_publication_namespace n
                   JOIN pg_publication p ON p.oid = n.pnpubid WHERE p.pubname = $1";
        !transaction.query(sql, &[&PUBLICATION]).await?.is_empty()
    };
    let tables = transaction
        .query(
            "SELECT n.nspname, c.relname,
                    to_jsonb(r) ->> 'prqual' IS NULL AND to_jsonb(r) ->> 'prattrs' IS NULL,
                    format('%s:%s:%s:%s', p.oid, p.xmin, r.oid, r.xmin)
             FROM pg_publication p
             JOIN pg_publication_rel r ON r.prpubid = p.oid
             JOIN pg_class c ON c.oid = r.prrelid
             JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE p.pubname = $1",
            &[&PUBLICATION],
        )
        .await
        .context("read what is published")?;
    let tables = tables.iter().map(|row| {
        let table = TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        (table, Published { whole: row.get(2), mark: row.get(3) })
    });
    Ok(Some(Publication {
        for_all_tables: row.get(0),
        options_fit: row.get(1),
        names_schemas,
        tables: tables.collect(),
    }))
}

/// What was remembered of the publication, and where it was looked at.
async fn known(transaction: &Transaction<'_>) -> anyhow::Result<Option<(Marks, Lsn)>> {
    let sql = "SELECT marks, looked_at::text FROM domicile.publication";
    let row = transaction.query_opt(sql, &[]).await.context("read what was published")?;
    let Some(row) = row else { return Ok(None) };
    let marks: Vec<(String, String, String)> =
        serde_json::from_value(row.get(0)).context("read what was published")?;
    let marks =
        marks.into_iter().map(|(schema, table, mark)| (TableName::new(schema, table), mark));
    Ok(Some((marks.collect(), row.get::<_, &str>(1).parse()?)))
}

fn lower(marks: &Marks) -> Json {
    marks.iter().map(|(table, mark)| Json::from(vec![&*table.schema, &*table.name, mark])).collect()
}
