//! What must be published before anything is captured?

use std::collections::BTreeSet;

use anyhow::Context;
use domicile_core::config::{Config, TableKind};
use domicile_core::id::TableName;
use tokio_postgres::Client;

use super::guard::{canary_table, progress_table};
use super::migration::migration_table;
use super::session::quote_name;
use super::shared;
use crate::capture::PUBLICATION;

/// The tables whose changes are captured, in their order.
pub fn published(config: &Config) -> BTreeSet<TableName> {
    let replicated = config.tables.iter().filter(|(_, kind)| !matches!(kind, TableKind::Local));
    let mut tables: BTreeSet<TableName> = replicated.map(|(table, _)| table.clone()).collect();
    // Capture tells by its checkpoint what was applied here; nobody else may write there.
    tables.extend([canary_table(), progress_table()]);
    tables.extend([shared::version_table(), shared::horizon_table(), migration_table()]);
    tables
}

/// Brings the publication up to date.
pub async fn publish(client: &Client, config: &Config) -> anyhow::Result<()> {
    let wanted = published(config);
    let list: Vec<String> = wanted
        .iter()
        .map(|t| format!("{}.{}", quote_name(&t.schema), quote_name(&t.name)))
        .collect();
    let list = list.join(", ");
    let published = client
        .query(
            "SELECT n.nspname, c.relname FROM pg_publication p
             JOIN pg_publication_rel r ON r.prpubid = p.oid
             JOIN pg_class c ON c.oid = r.prrelid
             JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE p.pubname = $1",
            &[&PUBLICATION],
        )
        .await
        .context("read the publication")?;
    let published: BTreeSet<TableName> = published
        .iter()
        .map(|r| TableName::new(r.get::<_, &str>(0), r.get::<_, &str>(1)))
        .collect();
    let by_root = client
        .query_opt("SELECT pubviaroot FROM pg_publication WHERE pubname = $1", &[&PUBLICATION])
        .await?
        .map(|row| row.get::<_, bool>(0));
    if published == wanted && by_root == Some(true) {
        return Ok(());
    }
    // Rows under the name of the partitioned table: regions may cut it differently.
    let statement = match by_root {
        Some(_) => format!(
            "ALTER PUBLICATION {PUBLICATION} SET TABLE {list}; \
             ALTER PUBLICATION {PUBLICATION} SET (publish_via_partition_root = true)"
        ),
        None => format!(
            "CREATE PUBLICATION {PUBLICATION} FOR TABLE {list} \
             WITH (publish_via_partition_root = true)"
        ),
    };
    client.batch_execute(&statement).await.context("publish the tables")
}
