//! Of which tables may the publication have passed over changes, and between which positions?

use anyhow::Context;
use domicile_core::id::TableName;
use domicile_core::lsn::Lsn;
use tokio_postgres::{Client, GenericClient};

/// Changes of one table that other regions may lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    pub table: TableName,
    /// The publication was last seen whole here.
    pub since: Lsn,
    /// `None` while a transaction may still commit what is passed over.
    pub until: Option<Lsn>,
    /// Only the slot has passed them over: the owner's rows are the right ones.
    pub by_slot: bool,
    /// Is another one once it happens again.
    at: String,
}

/// What has passed changes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Publication,
    Slot,
}

/// Notes that changes since `since` may have been passed over; of a table that was noted before, it
/// is the earlier position that counts.
pub async fn note(
    client: &impl GenericClient,
    tables: impl IntoIterator<Item = &TableName>,
    since: Lsn,
    by: By,
) -> anyhow::Result<()> {
    for table in tables {
        client
            .execute(
                "INSERT INTO domicile.passed_over (schema_name, table_name, since, by_slot)
                 VALUES ($1, $2, $3::text::pg_lsn, $4)
                 ON CONFLICT (schema_name, table_name) DO UPDATE
                 SET until = NULL, at = excluded.at, by_slot = passed_over.by_slot AND excluded.by_slot",
                &[&table.schema, &table.name, &since.to_string(), &(by == By::Slot)],
            )
            .await
            .context("note what may have been passed over")?;
    }
    Ok(())
}

pub async fn all(client: &Client) -> anyhow::Result<Vec<PassedOver>> {
    let sql = "SELECT schema_name, table_name, since::text, until::text, at::text, by_slot
               FROM domicile.passed_over ORDER BY schema_name, table_name";
    let rows = client.query(sql, &[]).await.context("read what may have been passed over")?;
    let lift = |row: &tokio_postgres::Row| {
        Ok(PassedOver {
            table: TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)),
            since: row.get::<_, &str>(2).parse()?,
            until: row.get::<_, Option<&str>>(3).map(str::parse).transpose()?,
            at: row.get(4),
            by_slot: row.get(5),
        })
    };
    rows.iter().map(lift).collect()
}

/// The transaction that begins next.
pub async fn next_xid(client: &Client) -> anyhow::Result<i64> {
    let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    Ok(client.query_one(sql, &[]).await.context("ask for the next transaction")?.get(0))
}

/// Has every transaction before this one ended?
pub async fn ended(client: &Client, xid: i64) -> anyhow::Result<bool> {
    let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1";
    Ok(client.query_one(sql, &[&xid]).await.context("look for open transactions")?.get(0))
}

/// Nothing that commits from now on is passed over.
pub async fn bound(client: &Client, passed: &PassedOver) -> anyhow::Result<()> {
    client
        .execute(
            "UPDATE domicile.passed_over SET until = pg_current_wal_insert_lsn()
             WHERE (schema_name, table_name, at) = ($1, $2, $3::text::timestamptz)",
            &[&passed.table.schema, &passed.table.name, &passed.at],
        )
        .await
        .context("note until when changes were passed over")?;
    Ok(())
}

/// Every region has the table as this one does.
pub async fn settle(client: &Client, passed: &PassedOver) -> anyhow::Result<()> {
    client
        .execute(
            "DELETE FROM domicile.passed_over
             WHERE (schema_name, table_name, at) = ($1, $2, $3::text::timestamptz)",
            &[&passed.table.schema, &passed.table.name, &passed.at],
        )
        .await
        .context("forget what was passed over")?;
    Ok(())
}
