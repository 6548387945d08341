//! What do these rows hold right now, and at which frontier?
//!
//! Rows and frontier are read in one snapshot, so a region that repairs from them knows exactly
//! which changes they already show.

use anyhow::Context;
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::Frontier;
use tokio_postgres::{Client, GenericClient, IsolationLevel};

use super::session::quote_name;
use crate::apply::Text;

/// A row's identity: column and value, as text.
pub type Key = Vec<(String, Option<String>)>;

/// Rows of one table as text, in the order of the keys that were asked for.
pub struct Rows {
    pub columns: Vec<String>,
    /// `None` where no row has the key.
    pub rows: Vec<Option<Vec<Option<String>>>>,
    /// What the tables show in this snapshot.
    pub frontier: Frontier,
}

/// Reads the rows with these keys; with no key at all, every row of the table.
pub async fn fetch(
    client: &mut Client,
    own: &Origin,
    table: &TableName,
    keys: &[Key],
) -> anyhow::Result<Rows> {
    let snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let columns = columns(&snapshot, table).await?;
    let list: Vec<String> =
        columns.iter().map(|c| format!("row_.{}::text", quote_name(c))).collect();
    let select =
        format!("SELECT {} FROM {} row_", list.join(", "), written(&snapshot, table).await?);
    let values = |row: &tokio_postgres::Row| {
        (0..row.len()).map(|i| row.get::<_, Option<String>>(i)).collect::<Vec<_>>()
    };
    let mut rows = Vec::with_capacity(keys.len());
    if keys.is_empty() {
        let all = snapshot.query(&select, &[]).await.context("read the table")?;
        rows.extend(all.iter().map(|row| Some(values(row))));
    }
    for key in keys {
        let (condition, parameters) = matching(key);
        let sql = format!("{select} WHERE {condition} LIMIT 1");
        let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            parameters.iter().map(|p| p as _).collect();
        let found = snapshot.query_opt(&sql, &parameters).await.context("read a row")?;
        rows.push(found.as_ref().map(values));
    }
    let mut frontier = Frontier::default();
    let progress = snapshot
        .query("SELECT origin, applied::text FROM domicile.progress", &[])
        .await
        .context("read the frontier")?;
    for row in progress {
        frontier.advance(&row.get::<_, &str>(0).parse()?, row.get::<_, &str>(1).parse()?);
    }
    // Our own commits in this snapshot all lie before this position.
    let here = snapshot.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
    frontier.advance(own, here.get::<_, &str>(0).parse()?);
    snapshot.commit().await?;
    Ok(Rows { columns, rows, frontier })
}

/// The columns that hold values of their own, in the table's order; generated ones do not.
pub async fn columns(
    client: &impl GenericClient,
    table: &TableName,
) -> anyhow::Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT attname::text FROM pg_attribute
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
               AND attgenerated = ''
             ORDER BY attnum",
            &[&qualified(table)],
        )
        .await
        .context("look up columns")?;
    anyhow::ensure!(!rows.is_empty(), "table {table} does not exist here");
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A condition that identifies one row, and its parameters.
pub fn matching(key: &Key) -> (String, Vec<Text<'_>>) {
    let mut parameters = Vec::new();
    let mut conditions = Vec::new();
    for (column, value) in key {
        match value {
            None => conditions.push(format!("{} IS NULL", quote_name(column))),
            Some(value) => {
                parameters.push(Text(Some(value.as_bytes())));
                conditions.push(format!("{} = ${}", quote_name(column), parameters.len()));
            }
        }
    }
    if conditions.is_empty() {
        return ("false".into(), parameters);
    }
    (conditions.join(" AND "), parameters)
}

/// The table as FROM, UPDATE and DELETE name it: with its table partitions, without the tables that
/// inherit from it.
pub async fn written(client: &impl GenericClient, table: &TableName) -> anyhow::Result<String> {
    let name = qualified(table);
    let parted = client
        .query_opt("SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'p'", &[&name])
        .await
        .context("look up a table")?;
    Ok(if parted.is_some() { name } else { format!("ONLY {name}") })
}

pub fn qualified(table: &TableName) -> String {
    format!("{}.{}", quote_name(&table.schema), quote_name(&table.name))
}
