//! What do the rows of one table come to here, for another region to compare?
//!
//! Checksums are of text under pinned settings, column by column in an order that both sides were
//! told: neither OIDs nor the layout of a table matter. Hashes are PostgreSQL's own.

use anyhow::Context;
use domicile_core::compare::{Column, Seen, Shape, Sum};
use domicile_core::config::Config;
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::{Frontier, Lsn};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient, IsolationLevel, Row};

use super::guard;
use super::rows::qualified;
use super::session::quote_name;
use crate::apply::Text;

const SHAPE_SQL: &str = include_str!("sql/shape.sql");

/// The values of a key as text; of a row without a key, the hash of the row.
pub type Key = Vec<Option<String>>;

/// Rows with `after` < key <= `upto`; an empty key is no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub after: Key,
    pub upto: Key,
}

/// Rows whose hash leaves one of these remainders; all rows when there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    pub modulus: u64,
    pub remainders: Vec<u64>,
}

/// A row that was looked at.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Its place among the keys that were asked for.
    pub index: usize,
    pub seen: Seen,
    /// The partition that it belongs to by what stands in it here.
    pub partition: Option<u32>,
}

/// Rows of one snapshot, and what the snapshot certainly shows.
#[derive(Debug)]
pub struct Look {
    pub rows: Vec<Looked>,
    /// Of other origins, everything up to here,
    pub applied: Frontier,
    /// and nothing beyond this.
    pub shown: Frontier,
    /// Of this region, all transactions before this one.
    pub settled_xid: u64,
}

/// Returns the table's shape and about how many rows it has; `None` when it does not exist.
pub async fn shape(client: &Client, table: &TableName) -> anyhow::Result<Option<(Shape, u64)>> {
    let columns =
        client.query(SHAPE_SQL, &[&qualified(table)]).await.context("read the columns")?;
    if columns.is_empty() {
        return Ok(None);
    }
    let keys = client
        .query(
            "SELECT (SELECT array_agg(a.attname::text ORDER BY k.position)
                     FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, position)
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                     WHERE k.position <= i.indnkeyatts)
             FROM pg_index i
             JOIN pg_class c ON c.oid = i.indexrelid
             WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
               AND i.indpred IS NULL AND i.indexprs IS NULL
               AND NOT EXISTS (
                   SELECT FROM pg_attribute a
                   WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
                     AND (NOT a.attnotnull OR a.attgenerated <> ''))
             ORDER BY NOT i.indisprimary, NOT i.indisreplident, c.relname",
            &[&qualified(table)],
        )
        .await
        .context("read the keys")?;
    let about = client
        .query_one(
            "SELECT current_setting('server_encoding'),
                    coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
             FROM (SELECT relid FROM pg_partition_tree(to_regclass($1))
                   UNION SELECT to_regclass($1)) tree
             JOIN pg_class c ON c.oid = relid AND c.relkind <> 'p'",
            &[&qualified(table)],
        )
        .await?;
    let shape = Shape {
        columns: columns
            .iter()
            .map(|row| Column { name: row.get("name"), order: row.get("sorts") })
            .collect(),
        keys: keys.iter().map(|row| row.get(0)).collect(),
        encoding: about.get(0),
    };
    Ok(Some((shape, u64::try_from(about.get::<_, i64>(1)).unwrap_or(0))))
}

/// One table as it is compared.
pub struct Comparison {
    /// The table as it stands in FROM, under the name `row_`.
    from: String,
    /// Hash of a row.
    hash: String,
    /// Columns of the key and the types that text is cast to; empty when the row is its own key.
    key: Vec<(String, Option<String>)>,
    partition: String,
    parents: String,
}

impl Comparison {
    pub async fn new(
        client: &Client,
        config: &Config,
        table: &TableName,
        columns: &[String],
        key: &[String],
    ) -> anyhow::Result<Self> {
        let known = client.query(SHAPE_SQL, &[&qualified(table)]).await?;
        let find = |name: &String| {
            let row = known.iter().find(|row| row.get::<_, &str>("name") == name);
            row.with_context(|| format!("table {table} has no column \"{name}\""))
        };
        for name in columns {
            find(name)?;
        }
        let key = key
            .iter()
            .map(|name| Ok((quote_name(name), find(name)?.get("type_name"))))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let parted = client
            .query_one(
                "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass($1)",
                &[&qualified(table)],
            )
            .await?;
        let only = if parted.get(0) { "" } else { "ONLY " };
        let list: Vec<String> = columns.iter().map(|c| format!("row_.{}", quote_name(c))).collect();
        let (partition, parents) = guard::partition_of_row(config, table)?;
        Ok(Self {
            from: format!("{only}{} row_", qualified(table)),
            hash: format!("hashtextextended(ROW({})::text, 0)", list.join(", ")),
            key,
            partition,
            parents,
        })
    }

    /// The `every`th key of a range, the one after as many again, and so on.
    pub async fn split(
        &self,
        client: &Client,
        range: &Range,
        every: u64,
        limit: u32,
    ) -> anyhow::Result<Vec<Key>> {
        let mut parameters = Vec::new();
        let within = self.within(range, &mut parameters);
        let key = self.columns().join(", ");
        let aliases: Vec<String> = (0..self.key.len()).map(|i| format!("k{i}")).collect();
        let named: Vec<String> =
            self.columns().iter().zip(&aliases).map(|(c, a)| format!("{c} AS {a}")).collect();
        let texts: Vec<String> = aliases.iter().map(|a| format!("{a}::text")).collect();
        let sql = format!(
            "SELECT {} FROM (
                 SELECT {}, row_number() OVER (ORDER BY {key}) AS place FROM {} WHERE {within}
                 ORDER BY {key} LIMIT {}) AS keys
             WHERE place % {every} = 0 ORDER BY place",
            texts.join(", "),
            named.join(", "),
            self.from,
            every.saturating_mul(limit.into()),
        );
        let rows = query(client, &sql, &parameters).await.context("divide a range")?;
        Ok(rows.iter().map(|row| self.key_of(row)).collect())
    }

    pub async fn sum_range(&self, client: &Client, range: &Range) -> anyhow::Result<Sum> {
        let mut parameters = Vec::new();
        let within = self.within(range, &mut parameters);
        let sql = format!(
            "SELECT count(*), coalesce(sum({}), 0)::text FROM {} WHERE {within}",
            self.hash, self.from
        );
        let rows = query(client, &sql, &parameters).await.context("sum a range")?;
        let row = rows.first().context("an aggregate has a row")?;
        sum(row.get(0), row.get(1))
    }

    pub async fn list_range(
        &self,
        client: &Client,
        range: &Range,
    ) -> anyhow::Result<Vec<(Key, i64)>> {
        let mut parameters = Vec::new();
        let within = self.within(range, &mut parameters);
        self.list(client, &within, &parameters).await
    }

    /// Every bucket that is not empty, with its sum.
    pub async fn sum_buckets(
        &self,
        client: &Client,
        modulus: u64,
    ) -> anyhow::Result<Vec<(u64, Sum)>> {
        let sql = format!(
            "SELECT {}, count(*), sum({})::text FROM {} GROUP BY 1 ORDER BY 1",
            self.bucket(modulus),
            self.hash,
            self.from
        );
        let rows = client.query(&sql, &[]).await.context("sum buckets")?;
        let lift = |row: &Row| {
            Ok((u64::try_from(row.get::<_, i64>(0)).unwrap_or(0), sum(row.get(1), row.get(2))?))
        };
        rows.iter().map(lift).collect()
    }

    pub async fn list_buckets(
        &self,
        client: &Client,
        buckets: &Buckets,
    ) -> anyhow::Result<Vec<(Key, i64)>> {
        let remainders: Vec<String> = buckets.remainders.iter().map(u64::to_string).collect();
        let within =
            format!("{} = ANY ('{{{}}}')", self.bucket(buckets.modulus), remainders.join(","));
        self.list(client, &within, &[]).await
    }

    async fn list(
        &self,
        client: &Client,
        within: &str,
        parameters: &[Text<'_>],
    ) -> anyhow::Result<Vec<(Key, i64)>> {
        let sql = if self.key.is_empty() {
            format!(
                "SELECT count(*), ({})::text FROM {} WHERE {within} GROUP BY 2",
                self.hash, self.from
            )
        } else {
            format!("SELECT {}, {} FROM {} WHERE {within}", self.hash, self.texts(), self.from)
        };
        let rows = query(client, &sql, parameters).await.context("list rows")?;
        Ok(rows.iter().map(|row| (self.key_at(row, 1), row.get(0))).collect())
    }

    /// Looks at the rows with these keys, and at what the snapshot shows.
    pub async fn look(&self, client: &mut Client, keys: &[Key]) -> anyhow::Result<Look> {
        let snapshot = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let (mut applied, mut shown) = (Frontier::default(), Frontier::default());
        let progress = "SELECT origin, applied::text, greatest(applied, converge_to)::text
                        FROM domicile.progress";
        for row in snapshot.query(progress, &[]).await? {
            let origin: Origin = row.get::<_, &str>(0).parse()?;
            applied.advance(&origin, row.get::<_, &str>(1).parse()?);
            shown.advance(&origin, row.get::<_, &str>(2).parse()?);
        }
        let settled =
            snapshot.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[]).await?;
        let columns: Vec<Vec<Option<&str>>> = (0..self.key.len().max(1))
            .map(|i| keys.iter().map(|key| key.get(i)?.as_deref()).collect())
            .collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as _).collect();
        let rows = snapshot.query(&self.look_sql(), &parameters).await.context("look at rows")?;
        let rows = rows
            .iter()
            .map(|row| {
                Ok(Looked {
                    index: usize::try_from(row.get::<_, i64>(0) - 1)?,
                    seen: Seen { hash: row.get(1), version: row.get(2) },
                    partition: row.get::<_, Option<i32>>(3).and_then(|p| u32::try_from(p).ok()),
                })
            })
            .collect::<anyhow::Result<_>>()?;
        snapshot.commit().await?;
        Ok(Look { rows, applied, shown, settled_xid: settled.get::<_, &str>(0).parse()? })
    }

    fn look_sql(&self) -> String {
        let (hash, from, parents) = (&self.hash, &self.from, &self.parents);
        let partition = format!("({})::integer", self.partition);
        if self.key.is_empty() {
            return format!(
                "SELECT wanted.place, count(*), string_agg(row_.xmin::text, ',' ORDER BY row_.ctid),
                        min({partition})
                 FROM unnest($1::text[]) WITH ORDINALITY AS wanted (hash, place)
                 JOIN {from} ON {hash} = wanted.hash::bigint{parents} GROUP BY 1"
            );
        }
        let places: Vec<String> = (1..=self.key.len()).map(|i| format!("${i}::text[]")).collect();
        let names: Vec<String> = (0..self.key.len()).map(|i| format!("k{i}")).collect();
        let equal: Vec<String> = self
            .key
            .iter()
            .zip(&names)
            .map(|((column, cast), name)| match cast {
                Some(cast) => format!("row_.{column} = wanted.{name}::{cast}"),
                None => format!("row_.{column}::text = wanted.{name}"),
            })
            .collect();
        format!(
            "SELECT wanted.place, {hash}, row_.xmin::text, {partition}
             FROM unnest({}) WITH ORDINALITY AS wanted ({}, place)
             JOIN {from} ON {}{parents}",
            places.join(", "),
            names.join(", "),
            equal.join(" AND ")
        )
    }

    fn columns(&self) -> Vec<String> {
        self.key.iter().map(|(column, _)| format!("row_.{column}")).collect()
    }

    fn texts(&self) -> String {
        let texts: Vec<String> = self.columns().iter().map(|c| format!("{c}::text")).collect();
        texts.join(", ")
    }

    fn key_of(&self, row: &Row) -> Key {
        self.key_at(row, 0)
    }

    fn key_at(&self, row: &Row, first: usize) -> Key {
        (first..first + self.key.len().max(1)).map(|i| row.get(i)).collect()
    }

    fn bucket(&self, modulus: u64) -> String {
        let hash = if self.key.is_empty() {
            self.hash.clone()
        } else {
            format!("hashtextextended(ROW({})::text, 1)", self.columns().join(", "))
        };
        format!("(({hash}) & 9223372036854775807) % {modulus}")
    }

    fn within<'a>(&self, range: &'a Range, parameters: &mut Vec<Text<'a>>) -> String {
        let mut conditions = Vec::new();
        for (bound, compare) in [(&range.after, ">"), (&range.upto, "<=")] {
            if bound.is_empty() {
                continue;
            }
            let places: Vec<String> = bound
                .iter()
                .zip(&self.key)
                .map(|(value, (_, cast))| {
                    parameters.push(Text(value.as_deref().map(str::as_bytes)));
                    format!("${}::{}", parameters.len(), cast.as_deref().unwrap_or("text"))
                })
                .collect();
            let (key, places) = (self.columns().join(", "), places.join(", "));
            conditions.push(format!("ROW({key}) {compare} ROW({places})"));
        }
        if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
    }
}

async fn query(
    client: &impl GenericClient,
    sql: &str,
    parameters: &[Text<'_>],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|p| p as _).collect();
    client.query(sql, &parameters).await
}

fn sum(rows: i64, hash: &str) -> anyhow::Result<Sum> {
    Ok(Sum { rows: u64::try_from(rows)?, hash: hash.parse().context("read a sum")? })
}

/// Makes everything that was committed here so far durable and returns where it ends in the WAL,
/// with the number that the next transaction will get.
pub async fn mark(client: &Client) -> anyhow::Result<(Lsn, u64)> {
    // Its commit is the last record then, and flushing it flushes what lies before it.
    client
        .execute("SELECT pg_logical_emit_message(true, 'domicile.mark', '')", &[])
        .await
        .context("mark the WAL")?;
    let row = client
        .query_one(
            "SELECT pg_current_wal_flush_lsn()::text,
                    pg_snapshot_xmax(pg_current_snapshot())::text",
            &[],
        )
        .await?;
    Ok((row.get::<_, &str>(0).parse()?, row.get::<_, &str>(1).parse()?))
}
