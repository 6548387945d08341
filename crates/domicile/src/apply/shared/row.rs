//! Which statements read and write one row of a shared table, and its version?

use domicile_core::conflict::Image;
use domicile_core::conflict::version::Version;
use domicile_core::id::TableName;
use serde_json::Value as Json;

use super::sql::Sql;
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

/// Reads a row and locks it.
pub async fn lock(
    sql: &mut Sql<'_>,
    table: &Table,
    key: &[String],
) -> anyhow::Result<Option<Image>> {
    let statement = format!(
        "SELECT {} FROM {} row_ WHERE {} FOR UPDATE",
        table.image_expression("row_"),
        qualified(&table.name),
        matching(table, 1)
    );
    let rows = sql.rows(&statement, &some(key)).await?;
    rows.first().map(|row| lift_image(row.get(0))).transpose()
}

/// Reads a row's version and locks it.
pub async fn known(
    sql: &mut Sql<'_>,
    table: &TableName,
    key: &str,
) -> anyhow::Result<Option<Known>> {
    let statement = "SELECT state, image FROM domicile.version
                     WHERE relation = $1 AND key = $2 FOR UPDATE";
    let rows = sql.rows(statement, &[Some(&table.to_string()), Some(key)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let aside = row.get::<_, Option<Json>>(1).map(lift_image).transpose()?;
    Ok(Some(Known { version: state::lift(row.get(0))?, aside }))
}

/// Writes what is known of a row; `aside` is the row where it cannot be seen in its table.
pub async fn save(
    sql: &mut Sql<'_>,
    table: &TableName,
    key: &str,
    version: &Version,
    deleted: bool,
    aside: Option<&Image>,
) -> anyhow::Result<()> {
    let statement = "INSERT INTO domicile.version AS v (relation, key, hlc, state, image, deleted)
                     VALUES ($1, $2, $3, $4, $5, $6)
                     ON CONFLICT (relation, key) DO UPDATE
                     SET hlc = excluded.hlc, state = excluded.state, image = excluded.image,
                         deleted = excluded.deleted, round = NULL";
    let hlc = version.seen.latest().unwrap_or_default().0.to_string();
    let state = state::lower(version).to_string();
    let aside = aside.map(|image| lower_image(image).to_string());
    let deleted = if deleted { "t" } else { "f" };
    let table = table.to_string();
    let values =
        [Some(&*table), Some(key), Some(&*hlc), Some(&*state), aside.as_deref(), Some(deleted)];
    sql.run(statement, &values).await?;
    Ok(())
}

/// Notes what a region says to have applied.
pub async fn save_horizon(sql: &mut Sql<'_>, region: &str, frontier: &str) -> anyhow::Result<()> {
    let statement = "INSERT INTO domicile.horizon (region, frontier) VALUES ($1, $2)
                     ON CONFLICT (region) DO UPDATE SET frontier = excluded.frontier";
    sql.run(statement, &[Some(region), Some(frontier)]).await?;
    Ok(())
}

pub async fn insert(
    sql: &mut Sql<'_>,
    table: &Table,
    image: &Image,
) -> Result<u64, tokio_postgres::Error> {
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
    sql.run(&statement, &values).await
}

/// Sets the columns in which `new` differs from `old`; they have the same key.
pub async fn update(
    sql: &mut Sql<'_>,
    table: &Table,
    key: &[String],
    old: &Image,
    new: &Image,
) -> Result<u64, tokio_postgres::Error> {
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
    if sets.is_empty() {
        return Ok(1);
    }
    let statement = format!(
        "UPDATE {} row_ SET {} WHERE {}",
        qualified(&table.name),
        sets.join(", "),
        matching(table, 1)
    );
    sql.run(&statement, &values).await
}

pub async fn delete(
    sql: &mut Sql<'_>,
    table: &Table,
    key: &[String],
) -> Result<u64, tokio_postgres::Error> {
    let statement =
        format!("DELETE FROM {} row_ WHERE {}", qualified(&table.name), matching(table, 1));
    sql.run(&statement, &some(key)).await
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
