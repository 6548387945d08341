//! How does a region's PostgreSQL run a migration, and how does it remember that it has?
//!
//! A migration is DDL and a row of `domicile.migration` that says it, in one transaction. The row
//! is replicated, so the DDL has a position in the log; and only the agent's role may write it, so
//! nobody else can have statements run elsewhere.

use anyhow::Context;
use domicile_core::config::Config;
use domicile_core::id::TableName;
use tokio_postgres::Client;

use super::guard;

/// The table of migrations. No region owns its rows.
pub fn migration_table() -> TableName {
    TableName::new("domicile", "migration")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Counts the migrations of the cluster.
    pub number: i64,
    /// For people: the file's.
    pub name: String,
    pub sql: String,
}

/// What statements of a migration run with in every region alike, until the transaction ends. Tables
/// are read as PostgreSQL plans it, and names without a schema are in `public`.
const TERMS: &str = "SET LOCAL search_path = public; SET LOCAL session_replication_role = origin; \
                     SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; \
                     SET LOCAL enable_seqscan = on; SET LOCAL enable_material = on";
/// Who waits for a table keeps all others waiting behind it.
const LOCK_TIMEOUT: &str = "2s";

/// Prepares the open transaction for a migration's statements.
pub async fn prepare(client: &Client, lock_timeout: &str) -> anyhow::Result<()> {
    client.batch_execute(TERMS).await.context("prepare for a migration")?;
    client
        .execute("SELECT set_config('lock_timeout', $1, true)", &[&lock_timeout])
        .await
        .context("prepare for a migration")?;
    Ok(())
}

/// Guards what is new and writes the migration down, after its statements.
pub async fn conclude(
    client: &Client,
    config: &Config,
    migration: &Migration,
) -> anyhow::Result<()> {
    client.batch_execute("SET LOCAL search_path = pg_catalog").await?;
    guard::install_triggers(client, config).await?;
    write(client, migration).await
}

/// Runs a migration in the open transaction of an applier, unless this region has it.
pub async fn run(client: &Client, config: &Config, migration: &Migration) -> anyhow::Result<()> {
    let known = client
        .query_opt("SELECT FROM domicile.migration WHERE number = $1", &[&migration.number])
        .await?;
    if known.is_some() {
        return Ok(());
    }
    prepare(client, LOCK_TIMEOUT).await?;
    client.batch_execute(&migration.sql).await?;
    conclude(client, config, migration).await
}

async fn write(client: &Client, migration: &Migration) -> anyhow::Result<()> {
    let Migration { number, name, sql } = migration;
    client
        .execute(
            "INSERT INTO domicile.migration (number, name, sql) VALUES ($1, $2, $3)",
            &[number, name, sql],
        )
        .await
        .context("write the migration down")?;
    Ok(())
}

/// The number of the newest migration that this region has; 0 without one.
pub async fn latest(client: &Client) -> anyhow::Result<i64> {
    let row = client.query_one("SELECT coalesce(max(number), 0) FROM domicile.migration", &[]);
    Ok(row.await.context("read which migrations were run")?.get(0))
}

/// Writes down that this region has the migration already, for this region alone: capture takes it
/// for an applier's.
pub async fn pass(client: &Client, number: i64) -> anyhow::Result<()> {
    let sql = "SELECT pg_replication_origin_create('domicile_migrate')
               WHERE pg_replication_origin_oid('domicile_migrate') IS NULL;
               SELECT pg_replication_origin_session_setup('domicile_migrate')";
    client.batch_execute(sql).await.context("become an applier")?;
    let migration = Migration { number, name: "passed over".to_owned(), sql: String::new() };
    write(client, &migration).await
}
