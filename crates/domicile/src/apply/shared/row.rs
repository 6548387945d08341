//! Which statements read and write rows of shared tables, and their versions?

use anyhow::Context;
use domicile_core::conflict::Image;
use domicile_core::conflict::version::Version;
use domicile_core::id::TableName;
use serde_json::Value as Json;
use tokio_postgres::Row;

use super::sql::{Call, Sql, array};
use crate::postgres::rows::qualified;
use crate::postgres::session::quote_name;
use crate::postgres::shared::state;
use crate::postgres::shared::table::Table;

/// What `domicile.version` has of a row.
pub struct Known {
    pub version: Version,
    /// The row, while it cannot be seen in its table.
    pub aside: Option<Image>,
}

/// Reads the rows with these keys and locks them, in this order.
pub fn lock(table: &Table, keys: &[&[String]]) -> Call {
    let columns = table.key.iter().enumerate();
    let values: Vec<String> = columns
        .clone()
        .map(|(i, _)| array(keys.iter().map(|key| key.get(i).map(String::as_str))))
        .collect();
    let arrays: Vec<String> = (1..=values.len()).map(|i| format!("${i}::text[]")).collect();
    let names: Vec<String> = (0..values.len()).map(|i| format!("k{i}")).collect();
    let same: Vec<String> = columns
        .map(|(i, name)| {
            let type_name = table.column(name).map_or("text", |column| &column.type_name);
            format!("row_.{} = given.k{i}::{type_name}", quote_name(name))
        })
        .collect();
    let statement = format!(
        "SELECT given.place, {image}
         FROM unnest({arrays}) WITH ORDINALITY AS given ({names}, place)
         JOIN {table} row_ ON {same}
         ORDER BY given.place FOR UPDATE OF row_",
        image = table.image_expression("row_"),
        arrays = arrays.join(", "),
        names = names.join(", "),
        table = table.rows(),
        same = same.join(" AND "),
    );
    Call::new(statement, &some(&values))
}

/// What [`lock`] has read: rows, each with the place of its key.
pub fn locked(rows: &[Row]) -> anyhow::Result<Vec<(usize, Image)>> {
    rows.iter().map(|row| Ok((place(row)?, lift_image(row.get(1))?))).collect()
}

/// Reads the versions of rows, given by table and key, and locks them, in this order.
pub fn know(rows: &[(&TableName, &str)]) -> Call {
    let statement = "SELECT given.place, v.state, v.image
                     FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS given (relation, key, place)
                     JOIN domicile.version v ON v.relation = given.relation AND v.key = given.key
                     ORDER BY given.place FOR UPDATE OF v";
    let tables: Vec<String> = rows.iter().map(|(table, _)| table.to_string()).collect();
    let tables = array(tables.iter().map(|table| Some(&**table)));
    let keys = array(rows.iter().map(|(_, key)| Some(*key)));
    Call::new(statement, &[Some(&tables), Some(&keys)])
}

/// What [`know`] has read: versions, each with the place of its row.
pub fn known(rows: &[Row]) -> anyhow::Result<Vec<(usize, Known)>> {
    let known = |row: &Row| {
        let aside = row.get::<_, Option<Json>>(2).map(lift_image).transpose()?;
        Ok((place(row)?, Known { version: state::lift(row.get(1))?, aside }))
    };
    rows.iter().map(known).collect()
}

/// PostgreSQL counts from one.
fn place(row: &Row) -> anyhow::Result<usize> {
    let place = usize::try_from(row.get::<_, i64>(0))?;
    place.checked_sub(1).context("there is no place before the first")
}

/// What is known of a row; `aside` is the row where it cannot be seen in its table.
pub struct Knowledge<'a> {
    pub table: &'a TableName,
    pub key: &'a str,
    pub version: &'a Version,
    pub deleted: bool,
    pub aside: Option<&'a Image>,
}

impl Knowledge<'_> {
    fn call(&self, else_: &str) -> Call {
        let Self { table, key, version, deleted, aside } = self;
        let statement = format!(
            "INSERT INTO domicile.version AS v (relation, key, hlc, state, image, deleted)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (relation, key) {else_}"
        );
        let hlc = version.seen.latest().unwrap_or_default().0.to_string();
        let state = state::lower(version).to_string();
        let aside = aside.map(|image| lower_image(image).to_string());
        let deleted = if *deleted { "t" } else { "f" };
        let table = table.to_string();
        let values = [
            Some(&*table),
            Some(*key),
            Some(&*hlc),
            Some(&*state),
            aside.as_deref(),
            Some(deleted),
        ];
        Call::new(statement, &values)
    }

    /// Has it written in the place of what was known before.
    pub fn replace(&self) -> Call {
        self.call(
            "DO UPDATE SET hlc = excluded.hlc, state = excluded.state, image = excluded.image,
                           deleted = excluded.deleted, round = NULL",
        )
    }

    /// Does the same at once.
    pub async fn save(&self, sql: &mut Sql<'_>) -> anyhow::Result<()> {
        sql.all(&[self.replace()]).await?;
        Ok(())
    }

    /// Writes it of a row of which nothing was known: what somebody has written of it meanwhile has to be read first.
    pub async fn save_first(&self, sql: &mut Sql<'_>) -> anyhow::Result<()> {
        let written = sql.read(self.call("DO NOTHING RETURNING 1")).await?;
        let Self { table, key, .. } = self;
        anyhow::ensure!(
            !written.is_empty(),
            "row {key} of {table} was written while it was applied"
        );
        Ok(())
    }
}

/// Notes what a region says to have applied.
pub async fn save_horizon(sql: &mut Sql<'_>, region: &str, frontier: &str) -> anyhow::Result<()> {
    let statement = "INSERT INTO domicile.horizon (region, frontier) VALUES ($1, $2)
                     ON CONFLICT (region) DO UPDATE SET frontier = excluded.frontier";
    sql.rows(statement, &[Some(region), Some(frontier)]).await?;
    Ok(())
}

pub fn insert(table: &Table, image: &Image) -> Call {
    let (mut names, mut places, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for column in &table.columns {
        if let Some(value) = image.get(&column.name) {
            names.push(quote_name(&column.name));
            values.push(value.as_deref());
            places.push(format!("${}", values.len()));
        }
    }
    let statement = format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
        qualified(&table.name),
        names.join(", "),
        places.join(", ")
    );
    Call::new(statement, &values)
}

/// Sets the columns in which `new` differs from `old`; they have the same key. `None` when they
/// differ in nothing.
pub fn update(table: &Table, key: &[String], old: &Image, new: &Image) -> Option<Call> {
    let (mut sets, mut values) = (Vec::new(), some(key));
    for column in &table.columns {
        let value = new.get(&column.name);
        if let Some(value) = value
            && old.get(&column.name) != Some(value)
        {
            values.push(value.as_deref());
            sets.push(format!("{} = ${}", quote_name(&column.name), values.len()));
        }
    }
    let statement = format!(
        "UPDATE {} row_ SET {} WHERE {}",
        table.rows(),
        sets.join(", "),
        matching(table, 1)
    );
    (!sets.is_empty()).then(|| Call::new(statement, &values))
}

pub fn delete(table: &Table, key: &[String]) -> Call {
    let statement = format!("DELETE FROM {} row_ WHERE {}", table.rows(), matching(table, 1));
    Call::new(statement, &some(key))
}

/// Compares the key of a row called `row_` with parameters from `$first` on.
pub fn matching(table: &Table, first: usize) -> String {
    let each = table.key.iter().zip(first..);
    let each = each.map(|(column, i)| format!("row_.{} = ${i}", quote_name(column)));
    each.collect::<Vec<_>>().join(" AND ")
}

pub fn some(values: &[String]) -> Vec<Option<&str>> {
    values.iter().map(|value| Some(value.as_str())).collect()
}

pub fn lift_image(json: Json) -> anyhow::Result<Image> {
    Ok(serde_json::from_value(json)?)
}

pub fn lower_image(image: &Image) -> Json {
    serde_json::to_value(image).unwrap_or_default()
}
