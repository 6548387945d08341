//! What makes a table of this region's database a shared one?
//!
//! Triggers on the table and each of its table partitions write down, beside every row, what is
//! known of its writes (`domicile.version`); old rows are replicated whole.

pub mod function;
pub mod state;
pub mod table;
mod trigger;

use anyhow::Context;
use domicile_core::change::{Change, Transaction, Value};
use domicile_core::config::{Config, TableKind};
use domicile_core::conflict::policy::Policy;
use domicile_core::id::{RegionId, TableName};
use domicile_core::progress::Rpo;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient};

use super::migration::migration_table;
use super::rows::{Key, matching, qualified};
use super::session::{quote_name, quote_text};
use super::target;

const SHARED_SQL: &str = include_str!("../sql/shared.sql");

/// The table of versions.
pub fn version_table() -> TableName {
    TableName::new("domicile", "version")
}

/// The table in which each region says what it has applied.
pub fn horizon_table() -> TableName {
    TableName::new("domicile", "horizon")
}

/// Does no region own this table's rows?
pub fn is_shared(config: &Config, table: &TableName) -> bool {
    let ours = [version_table(), horizon_table(), migration_table()];
    config.shared(table).is_some() || ours.contains(table)
}

/// The shared tables and their policies.
pub fn tables(config: &Config) -> impl Iterator<Item = (&TableName, &Policy)> {
    config.tables.iter().filter_map(|(table, kind)| match kind {
        TableKind::Shared(policy) => Some((table, policy)),
        _ => None,
    })
}

/// Installs what all shared tables have in common.
pub async fn install(client: &Client, config: &Config, region: &RegionId) -> anyhow::Result<()> {
    // Commits wait for other regions as those of owned tables do.
    let at_commit = match config.rpo {
        Rpo::Zero { .. } | Rpo::Within { .. } => {
            "IF current_setting('domicile.shared', true) IS DISTINCT FROM txid_current()::text THEN
                INSERT INTO domicile.commit_check (generation) VALUES (NULL);
                PERFORM set_config('domicile.shared', txid_current()::text, true);
            END IF;"
        }
        Rpo::None => "",
    };
    let sql = SHARED_SQL
        .replace("{region}", &quote_text(region.as_str()))
        .replace("{at_commit}", at_commit);
    client.batch_execute(&sql).await.context("create the functions of shared tables")
}

/// Puts triggers where they are missing, disabled or out of date.
///
/// Returns without a lock when nothing is, so it may be called often.
pub async fn install_triggers(client: &Client, config: &Config) -> anyhow::Result<()> {
    for (name, policy) in tables(config) {
        let Some(table) = table::find(client, name).await? else { continue };
        trigger::install(client, &table, policy)
            .await
            .with_context(|| format!("watch shared table {name}"))?;
        keep_old_rows(client, name).await?;
    }
    Ok(())
}

/// Has old rows replicated whole: without that a TOASTed value that a write did not touch would be
/// missing where the write wins over another.
async fn keep_old_rows(client: &Client, name: &TableName) -> anyhow::Result<()> {
    let partial = client
        .query(
            "SELECT c.oid::regclass::text FROM pg_class c
             WHERE c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass($1))
                             UNION SELECT to_regclass($1))
                 AND c.relreplident <> 'f'",
            &[&qualified(name)],
        )
        .await?;
    for row in partial {
        let sql = format!("ALTER TABLE {} REPLICA IDENTITY FULL", row.get::<_, &str>(0));
        client.batch_execute(&sql).await.with_context(|| format!("replicate {name} whole"))?;
    }
    Ok(())
}

/// Has the rows of shared tables that `transaction` changed replicated once more, as they are now
/// and with the versions that they have.
pub async fn ship_again(
    client: &impl GenericClient,
    config: &Config,
    transaction: &Transaction,
) -> anyhow::Result<()> {
    for change in &transaction.changes {
        let (Change::Insert { relation, new } | Change::Update { relation, new, .. }) = change
        else {
            continue;
        };
        let Some(relation) = transaction.relations.get(*relation as usize) else { continue };
        if relation.table != version_table() {
            continue;
        }
        let text = |name: &str| {
            let at = relation.columns.iter().position(|column| column.name == name)?;
            match new.get(at)? {
                Value::Text(text) => String::from_utf8(text.to_vec()).ok(),
                _ => None,
            }
        };
        let (Some(of), Some(key)) = (text("relation"), text("key")) else { continue };
        let Some((name, _)) = tables(config).find(|(name, _)| name.to_string() == of) else {
            continue;
        };
        touch(client, name, &key).await.with_context(|| format!("ship row {key} of {of} again"))?;
    }
    Ok(())
}

/// Writes a row without changing it.
async fn touch(client: &impl GenericClient, name: &TableName, key: &str) -> anyhow::Result<()> {
    let table = table::read(client, name).await?;
    let values: Vec<Option<String>> = serde_json::from_str(key)?;
    let identity: Key = table.key.iter().cloned().zip(values).collect();
    let target = target::read(client, name).await?;
    let (condition, parameters) = matching(&target, &identity);
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|p| p as _).collect();
    // Of the others PostgreSQL says that only an INSERT may give them.
    let may_be_set = |name: &&String| target.column(name).is_some_and(|c| !c.identity_always);
    let column = table.columns.iter().map(|column| &column.name).find(may_be_set);
    let written = match column.map(String::as_str).map(quote_name) {
        Some(column) => {
            let rows = target.rows();
            let sql = format!("UPDATE {rows} SET {column} = {column} WHERE {condition}");
            client.execute(&sql, &parameters).await?
        }
        None => 0,
    };
    if written == 0 {
        // It cannot be seen, or not be written: its version alone tells of it.
        client
            .execute(
                "SELECT domicile.stamp($1, $2, 'TOUCH', NULL, NULL, NULL, NULL)",
                &[&name.to_string(), &key],
            )
            .await?;
    }
    Ok(())
}
