//! What do these rows hold right now, and at which frontier?
//!
//! Rows and frontier are read in one snapshot, so a region that repairs from them knows exactly
//! which changes they already show.

use std::collections::BTreeSet;

use anyhow::Context;
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::Frontier;
use serde_json::Value as Json;
use tokio_postgres::{Client, GenericClient, IsolationLevel};

use super::session::{quote_name, quote_text};
use super::target::{self, Target};
use crate::apply::Text;

/// A row's identity: column and value, as text.
pub type Key = Vec<(String, Option<String>)>;

/// Rows of one table as text, in the order of the keys that were asked for.
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Found>,
    /// What the tables show in this snapshot.
    pub frontier: Frontier,
}

/// What there is of a row.
pub enum Found {
    Row(Vec<Option<String>>),
    Absent,
    /// It waits for repair here: what it holds may be no history.
    InQuestion,
}

/// Reads the rows with these keys; with no key at all, every row of the table, which fails while one of
/// them is in question.
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
    let target = target::read(&snapshot, table).await?;
    let list: Vec<String> =
        columns.iter().map(|c| text_of(&format!("row_.{}", quote_name(c)))).collect();
    let select = format!("SELECT {} FROM {} row_", list.join(", "), target.rows());
    let values = |row: &tokio_postgres::Row| {
        (0..row.len()).map(|i| row.get::<_, Option<String>>(i)).collect::<Vec<_>>()
    };
    let in_question = in_question(&snapshot, table, &target, keys).await?;
    let mut rows = Vec::with_capacity(keys.len());
    if keys.is_empty() {
        anyhow::ensure!(in_question.is_empty(), "rows of {table} wait to be repaired here, too");
        let all = snapshot.query(&select, &[]).await.context("read the table")?;
        rows.extend(all.iter().map(|row| Found::Row(values(row))));
    }
    for (i, key) in keys.iter().enumerate() {
        if in_question.contains(&i) {
            rows.push(Found::InQuestion);
            continue;
        }
        let (condition, parameters) = matching(&target, key);
        let sql = format!("{select} WHERE {condition} LIMIT 1");
        let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            parameters.iter().map(|p| p as _).collect();
        let found = snapshot.query_opt(&sql, &parameters).await.context("read a row")?;
        rows.push(found.as_ref().map_or(Found::Absent, |row| Found::Row(values(row))));
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

/// The places of the keys whose rows wait for repair here; 0 stands for the whole table where no key was
/// given.
async fn in_question(
    client: &impl GenericClient,
    table: &TableName,
    target: &Target,
    keys: &[Key],
) -> anyhow::Result<BTreeSet<usize>> {
    let asked: Vec<Json> = keys
        .iter()
        .map(|key| {
            key.iter().map(|(column, value)| (column.clone(), value.clone().into())).collect()
        })
        .map(Json::Object)
        .collect();
    // A row may be marked by all that it holds, and be asked for as something else that it held.
    let identity = |key: &str| {
        let primary = target.primary_key.iter().map(|name| quote_text(name));
        let primary = primary.collect::<Vec<_>>().join(", ");
        if primary.is_empty() {
            return key.to_owned();
        }
        let values =
            target.primary_key.iter().map(|name| format!("{key} ->> {}", quote_text(name)));
        let values = values.collect::<Vec<_>>().join(", ");
        format!(
            "CASE WHEN {key} ?& ARRAY[{primary}] THEN jsonb_build_array({values}) ELSE {key} END"
        )
    };
    let marked = "FROM domicile.repair marked WHERE schema_name = $1 AND table_name = $2";
    let sql = if keys.is_empty() {
        format!("SELECT 1::bigint WHERE $3::jsonb[] IS NOT NULL AND EXISTS (SELECT {marked})")
    } else {
        format!(
            "SELECT place FROM unnest($3::jsonb[]) WITH ORDINALITY asked (key, place)
             WHERE {} IN (SELECT {} {marked}) OR EXISTS (SELECT {marked} AND key = '{{}}')",
            identity("asked.key"),
            identity("marked.key")
        )
    };
    let places = client.query(&sql, &[&table.schema, &table.name, &asked]).await;
    let places = places.context("read which rows are in question")?;
    places.iter().map(|row| Ok(usize::try_from(row.get::<_, i64>(0) - 1)?)).collect()
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
pub fn matching<'k>(target: &Target, key: &'k Key) -> (String, Vec<Text<'k>>) {
    let value_of = |name: &str| key.iter().find(|(column, _)| column == name)?.1.as_deref();
    let primary = &target.primary_key;
    let by_primary_key = !primary.is_empty() && primary.iter().all(|c| value_of(c).is_some());
    let equality = |name: &str| target.column(name).and_then(|column| column.equality.as_deref());
    // A row without a key is known by all of its columns, and then sameness is that of the text: not
    // every type has an equality, and not every equality is sameness.
    let by_equality = by_primary_key || key.iter().all(|(name, _)| equality(name).is_some());
    let (mut conditions, mut parameters) = (Vec::new(), Vec::new());
    for (name, value) in key.iter().filter(|(c, _)| !by_primary_key || primary.contains(c)) {
        let column = quote_name(name);
        let Some(value) = value else {
            conditions.push(format!("num_nulls({column}) = 1"));
            continue;
        };
        parameters.push(Text(Some(value.as_bytes())));
        let mut value = format!("${}", parameters.len());
        if let Some(column) = target.column(name) {
            value = format!("{value}::{}", column.base_type);
        }
        conditions.push(match equality(name).filter(|_| by_equality) {
            Some(equals) => format!("{column} {equals} {value}"),
            None => format!("{} COLLATE \"C\" = {}", text_of(&column), text_of(&value)),
        });
    }
    if conditions.is_empty() {
        return ("false".into(), parameters);
    }
    (conditions.join(" AND "), parameters)
}

/// The table of this name as FROM, UPDATE and DELETE name it: with its table partitions, without the
/// tables that inherit from it.
pub fn without_heirs(name: &str, partitioned: bool) -> String {
    if partitioned { name.to_owned() } else { format!("ONLY {name}") }
}

pub fn qualified(table: &TableName) -> String {
    format!("{}.{}", quote_name(&table.schema), quote_name(&table.name))
}

/// A value's text as its type writes it, as SQL, which a cast to text need not be; null for null, and
/// not for a row of nulls.
pub fn text_of(expression: &str) -> String {
    format!("CASE num_nulls({expression}) WHEN 0 THEN format('%s', {expression}) END")
}
