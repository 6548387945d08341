//! Where does a change go that is not part of the history, or that lost a conflict?
//!
//! Into `domicile.journal`, with its row images; and its key into `domicile.repair`, so that the
//! row is read again from a peer. Repeating an entry changes nothing.

use std::sync::Arc;

use anyhow::Context;
use domicile_core::change::{Change, Relation, Row, Transaction, Value};
use domicile_core::config::Config;
use domicile_core::id::{Origin, PartitionId, RegionId, TableName};
use domicile_core::lsn::Lsn;
use domicile_core::time::Millis;
use serde_json::{Map, Value as Json, json};
use tokio_postgres::{Client, GenericClient};

use super::{guard, shared};
use crate::pieces::Piece;

/// A row of the journal as it is written.
pub struct Entry<'a> {
    pub origin: &'a Origin,
    pub piece: &'a Piece,
    /// Which change of the piece.
    pub index: usize,
    /// The local row that was in the way, where there was one.
    pub local: Option<Json>,
    /// The conflict's or the diversion's name, as in `beyond_cut`.
    pub conflict: &'a str,
    pub reason: &'a str,
    /// Which row stays, "incoming" or "local", where there were two.
    pub winner: Option<&'static str>,
    /// A person should look: something that a client was told, or may have been told, is not there.
    pub open: bool,
}

/// Journals every change of a transaction that is kept out of the history, or of a piece of it,
/// and has its rows repaired. Durable when it returns.
///
/// Rows of shared tables have no owner, so nothing of them is ever past a cut: they stay, and what
/// they are now is shipped again.
pub async fn divert(
    client: &mut Client,
    config: &Config,
    origin: &Origin,
    piece: &Piece,
    conflict: &str,
    reason: &str,
) -> anyhow::Result<()> {
    let transaction = &piece.transaction;
    let postgres = client.transaction().await.context("begin")?;
    let is_shared: Vec<bool> =
        transaction.relations.iter().map(|r| shared::is_shared(config, &r.table)).collect();
    // Of a piece that has shared rows alone nothing tells whether it was dealt with before.
    let mut written = transaction.changes.iter().all(|change| is_of_shared(change, &is_shared));
    for (index, change) in transaction.changes.iter().enumerate() {
        if is_of_shared(change, &is_shared) {
            continue;
        }
        // Of the canary nobody was told anything.
        let canary = guard::canary_table();
        let of_canary =
            |r: &u32| transaction.relations.get(*r as usize).is_some_and(|r| r.table == canary);
        let open = !change.relations().iter().all(of_canary);
        let entry =
            Entry { origin, piece, index, local: None, conflict, reason, winner: None, open };
        // What is in the journal already was marked then, and may be repaired by now.
        if write_once(&postgres, &entry).await? {
            mark_for_repair(&postgres, transaction, change).await?;
            written = true;
        }
    }
    if written {
        shared::ship_again(&postgres, config, transaction).await?;
    }
    postgres.commit().await.context("commit the journal")?;
    end_waiting_backend(client, transaction).await
}

fn is_of_shared(change: &Change, is_shared: &[bool]) -> bool {
    change.relations().iter().any(|relation| is_shared.get(*relation as usize) == Some(&true))
}

/// Ends the session that still waits for this commit's acknowledgement, if there is one: it must
/// not be told success, which confirming the slot past the commit would do.
async fn end_waiting_backend(client: &Client, transaction: &Transaction) -> anyhow::Result<()> {
    client
        .execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
             WHERE backend_xid = $1::text::xid AND pid <> pg_backend_pid()",
            &[&transaction.xid.to_string()],
        )
        .await
        .context("end the session of a diverted transaction")?;
    Ok(())
}

/// The number of the change, as `$4` says or, where an entry of the transaction `$1`, `$2` has that already, another
/// one: shared and other rows of a transaction are counted apart, and of one change two things may be worth telling.
const FREE_NUMBER: &str = "
    CASE WHEN EXISTS (SELECT FROM domicile.journal
                      WHERE origin = $1 AND lsn = $2::text::pg_lsn AND change = $4)
         THEN (SELECT least(min(change), 0) - 1 FROM domicile.journal
               WHERE origin = $1 AND lsn = $2::text::pg_lsn)
         ELSE $4 END";

/// Writes one entry and returns true; one that is there already stays as it is.
pub async fn write_once(client: &impl GenericClient, entry: &Entry<'_>) -> anyhow::Result<bool> {
    write_as(client, entry, "$4").await
}

/// Writes one entry beside all that are there, in the transaction that says that its cause was dealt with.
pub async fn write(client: &impl GenericClient, entry: &Entry<'_>) -> anyhow::Result<()> {
    write_as(client, entry, FREE_NUMBER).await?;
    Ok(())
}

async fn write_as(
    client: &impl GenericClient,
    entry: &Entry<'_>,
    as_number: &str,
) -> anyhow::Result<bool> {
    let Entry { piece: Piece { transaction, changes_before, .. }, index, .. } = entry;
    let change = &transaction.changes[*index];
    let number = i32::try_from(*changes_before + *index as u64).unwrap_or(i32::MAX);
    let relations: Vec<&Arc<Relation>> =
        change.relations().iter().filter_map(|r| transaction.relations.get(*r as usize)).collect();
    let Some(relation) = relations.first() else { return Ok(false) };
    let names: Vec<String> = relations.iter().map(|r| r.table.to_string()).collect();
    let (operation, old, new) = match change {
        Change::Insert { new, .. } => ("insert", None, Some(new)),
        Change::Update { old, new, .. } => ("update", old.as_ref(), Some(new)),
        Change::Delete { old, .. } => ("delete", Some(old), None),
        Change::Truncate { .. } => ("truncate", None, None),
    };
    let key = key_image(relation, change);
    let insert = format!(
        "INSERT INTO domicile.journal
             (origin, lsn, xid, change, relation, operation, key, old, new, local, conflict, reason,
              status, winner)
         VALUES ($1, $2::text::pg_lsn, $3, {as_number}, $5, $6, $7, $8, $9, $10, $11, $12,
                 CASE WHEN $13 THEN 'open' ELSE 'settled' END, $14)
         ON CONFLICT (origin, lsn, change) DO NOTHING"
    );
    let written = client
        .execute(
            &insert,
            &[
                &entry.origin.to_string(),
                &transaction.lsn.to_string(),
                &i64::from(transaction.xid),
                &number,
                &names.join(", "),
                &operation,
                &key,
                &old.map(|row| image(relation, row)),
                &new.map(|row| image(relation, row)),
                &entry.local,
                &entry.conflict,
                &entry.reason,
                &entry.open,
                &entry.winner,
            ],
        )
        .await
        .context("write the conflict journal")?;
    Ok(written > 0)
}

/// Does the journal have what this local transaction wrote into `table`?
pub async fn has(client: &impl GenericClient, table: &TableName, xid: u32) -> anyhow::Result<bool> {
    let known = client
        .query_one(
            "SELECT EXISTS (SELECT FROM domicile.journal WHERE relation = $1 AND xid = $2)",
            &[&table.to_string(), &i64::from(xid)],
        )
        .await
        .context("read the conflict journal")?;
    Ok(known.get(0))
}

/// An entry about a row of a shared table.
pub struct Decided<'a> {
    pub origin: &'a Origin,
    pub lsn: Lsn,
    pub xid: u32,
    /// Place in the transaction; negative for rows that only stood in the way.
    pub change: i32,
    pub table: &'a TableName,
    pub operation: &'static str,
    pub key: Json,
    pub old: Option<Json>,
    pub new: Option<Json>,
    pub local: Option<Json>,
    pub conflict: &'static str,
    pub reason: String,
    pub policy: &'static str,
    pub winner: &'static str,
    pub status: &'static str,
    pub incoming: Option<Json>,
}

/// Writes an entry beside all that are there.
pub async fn write_decided(client: &impl GenericClient, entry: &Decided<'_>) -> anyhow::Result<()> {
    let insert = format!(
        "INSERT INTO domicile.journal
             (origin, lsn, xid, change, relation, operation, key, old, new, local, conflict, reason,
              policy, winner, status, incoming)
         VALUES ($1, $2::text::pg_lsn, $3, {FREE_NUMBER}, $5, $6, $7, $8, $9, $10, $11, $12, $13,
                 $14, $15, $16)"
    );
    client
        .execute(
            &insert,
            &[
                &entry.origin.to_string(),
                &entry.lsn.to_string(),
                &i64::from(entry.xid),
                &entry.change,
                &entry.table.to_string(),
                &entry.operation,
                &entry.key,
                &entry.old,
                &entry.new,
                &entry.local,
                &entry.conflict,
                &entry.reason,
                &entry.policy,
                &entry.winner,
                &entry.status,
                &entry.incoming,
            ],
        )
        .await
        .context("write the conflict journal")?;
    Ok(())
}

/// Removes entries that are older than `keep`, some thousands at a time. Those that wait for
/// something stay.
pub async fn prune(client: &impl GenericClient, keep: Millis) -> anyhow::Result<u64> {
    client
        .execute(
            "DELETE FROM domicile.journal WHERE id IN (
                 SELECT id FROM domicile.journal
                 WHERE status NOT IN ('hidden', 'open', 'parked')
                     AND at < clock_timestamp() - $1 * interval '1 millisecond'
                 ORDER BY id LIMIT 10000)",
            &[&(keep.0 as f64)],
        )
        .await
        .context("prune the conflict journal")
}

/// Remembers the rows that `change` touched: old and new key.
pub async fn mark_for_repair(
    client: &impl GenericClient,
    transaction: &Transaction,
    change: &Change,
) -> anyhow::Result<()> {
    let stamps = transaction.stamps.iter().map(|stamp| i32::try_from(stamp.partition.0));
    let touched = stamps.collect::<Result<Vec<i32>, _>>().context("partition number")?;
    // Written past the guard, it may be of any.
    let touched = (!touched.is_empty()).then_some(touched);
    for index in change.relations() {
        let Some(relation) = transaction.relations.get(*index as usize) else { continue };
        for key in keys(relation, change) {
            mark_key(client, &relation.table, &key, touched.as_deref()).await?;
        }
        if matches!(change, Change::Truncate { .. }) {
            // Every row of the table is in question: the empty key stands for all of them.
            mark_key(client, &relation.table, &json!({}), touched.as_deref()).await?;
        }
    }
    Ok(())
}

async fn mark_key(
    client: &impl GenericClient,
    table: &TableName,
    key: &Json,
    touched: Option<&[i32]>,
) -> anyhow::Result<()> {
    let mark = format!(
        "WITH known AS (
             UPDATE domicile.repair
             SET touched = CASE
                     WHEN $4::integer[] IS NULL OR touched IS NULL AND partition IS NULL THEN NULL
                     WHEN touched @> $4 THEN touched
                     ELSE touched || $4
                 END
             WHERE {MARKED} RETURNING 1)
         INSERT INTO domicile.repair (schema_name, table_name, key, touched)
         SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT FROM known)"
    );
    let marked = client.execute(&mark, &[&table.schema, &table.name, key, &touched]).await;
    marked.context("mark a row for repair")?;
    Ok(())
}

/// Of a mark of the row `$3` of table `$1.$2`.
const MARKED: &str = "schema_name = $1::text AND table_name = $2::text AND key = $3::jsonb
                      AND jsonb_hash_extended(key, 0) = jsonb_hash_extended($3, 0)";

/// Is what stands in the way of this change no history itself? It is marked then, or of the canary, of which nobody
/// was told anything.
pub async fn is_in_question(
    client: &impl GenericClient,
    transaction: &Transaction,
    change: &Change,
) -> anyhow::Result<bool> {
    let Some(relation) = relation_of(transaction, change) else { return Ok(false) };
    let marked = format!("SELECT EXISTS (SELECT FROM domicile.repair WHERE {MARKED})");
    for key in keys(relation, change) {
        let table = &relation.table;
        let found = client.query_one(&marked, &[&table.schema, &table.name, &key]).await;
        if found.context("read which rows are in question")?.get(0) {
            return Ok(true);
        }
    }
    Ok(relation.table == guard::canary_table())
}

/// Is any row of the change's table marked, or its table the canary's?
pub async fn has_marks(
    client: &impl GenericClient,
    transaction: &Transaction,
    change: &Change,
) -> anyhow::Result<bool> {
    let Some(relation) = relation_of(transaction, change) else { return Ok(false) };
    let marked = "SELECT EXISTS (SELECT FROM domicile.repair
                                 WHERE schema_name = $1 AND table_name = $2)";
    let TableName { schema, name } = &relation.table;
    let found = client.query_one(marked, &[schema, name]).await;
    let found: bool = found.context("read whether rows are in question")?.get(0);
    Ok(found || relation.table == guard::canary_table())
}

fn relation_of<'t>(transaction: &'t Transaction, change: &Change) -> Option<&'t Relation> {
    let index = change.relations().first()?;
    transaction.relations.get(*index as usize).map(AsRef::as_ref)
}

/// A row that was found to differ from its owner's, and what it became.
pub struct Replaced<'a> {
    /// The owner's origin, and a place in its log by which it had committed the row.
    pub from: (&'a Origin, Lsn),
    pub table: &'a TableName,
    pub key: &'a Json,
    /// Absent where there was no row.
    pub local: Option<&'a Json>,
    pub owners: Option<&'a Json>,
}

/// Journals a row that is replaced by its owner's.
pub async fn replaced(client: &impl GenericClient, row: &Replaced<'_>) -> anyhow::Result<()> {
    let operation = match (row.local, row.owners) {
        (None, _) => "insert",
        (_, None) => "delete",
        _ => "update",
    };
    let (origin, lsn) = row.from;
    // No change of a transaction has a number below zero.
    client
        .execute(
            "INSERT INTO domicile.journal
                 (origin, lsn, xid, change, relation, operation, key, new, local, conflict, reason)
             SELECT $1, $2::text::pg_lsn, 0, least(min(change), 0) - 1, $3, $4, $5, $6, $7, $8, $9
             FROM domicile.journal WHERE origin = $1 AND lsn = $2::text::pg_lsn",
            &[
                &origin.to_string(),
                &lsn.to_string(),
                &row.table.to_string(),
                &operation,
                row.key,
                &row.owners,
                &row.local,
                &"differed",
                &format!("it differed from the row of its owner, region {}", origin.region),
            ],
        )
        .await
        .context("write the conflict journal")?;
    Ok(())
}

/// Has a row read again from `source`, which owns its partition.
pub async fn mark_from(
    client: &impl GenericClient,
    table: &TableName,
    key: &Json,
    source: &RegionId,
    partition: PartitionId,
) -> anyhow::Result<()> {
    let partition = i32::try_from(partition.0).context("partition number")?;
    let mark = format!(
        "WITH known AS (
             UPDATE domicile.repair SET source = $4, partition = $5 WHERE {MARKED} RETURNING 1)
         INSERT INTO domicile.repair (schema_name, table_name, key, source, partition)
         SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM known)"
    );
    let (schema, name, source) = (&table.schema, &table.name, source.as_str());
    let marked = client.execute(&mark, &[schema, name, key, &source, &partition]).await;
    marked.context("mark a row for repair")?;
    Ok(())
}

/// The keys of the rows that a change touched, without those that a row does not carry.
fn keys(relation: &Relation, change: &Change) -> Vec<Json> {
    let rows: Vec<&Row> = match change {
        Change::Insert { new, .. } => vec![new],
        Change::Update { old, new, .. } => old.iter().chain([new]).collect(),
        Change::Delete { old, .. } => vec![old],
        Change::Truncate { .. } => Vec::new(),
    };
    let mut keys: Vec<Json> = rows.into_iter().map(|row| key_of(relation, row)).collect();
    keys.dedup();
    keys
}

/// A row's identity. A table without one is known by the whole row.
fn key_of(relation: &Relation, row: &Row) -> Json {
    if relation.columns.iter().any(|c| c.key) {
        let key = relation.key_of(row);
        Json::Object(key.filter_map(|(i, value)| member(relation, i, value)).collect())
    } else {
        image(relation, row)
    }
}

fn key_image(relation: &Relation, change: &Change) -> Option<Json> {
    keys(relation, change).into_iter().next()
}

/// A row as JSON: every value as PostgreSQL's text, columns that were not sent left out.
fn image(relation: &Relation, row: &Row) -> Json {
    let values = row.iter().enumerate();
    Json::Object(values.filter_map(|(i, value)| member(relation, i, value)).collect::<Map<_, _>>())
}

fn member(relation: &Relation, index: usize, value: &Value) -> Option<(String, Json)> {
    let name = relation.columns.get(index)?.name.clone();
    match value {
        Value::Null => Some((name, Json::Null)),
        Value::Unchanged => None,
        Value::Text(text) => Some((name, Json::String(String::from_utf8_lossy(text).into_owned()))),
    }
}
