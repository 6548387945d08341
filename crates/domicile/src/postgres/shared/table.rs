//! What does a shared table look like here?

use anyhow::Context;
use domicile_core::id::TableName;
use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::GenericClient;

use crate::postgres::rows::{qualified, text_of, without_heirs};
use crate::postgres::session::{quote_name, quote_text};

const TABLE: &str = include_str!("table.sql");

/// A shared table as it is in this region's database.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub name: TableName,
    pub partitioned: bool,
    /// The primary key's columns, in its order: at least one.
    pub key: Vec<String>,
    /// Without generated ones.
    pub columns: Vec<Column>,
    pub generated: Vec<Generated>,
    /// Beside the primary key.
    pub unique_indexes: Vec<UniqueIndex>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Column {
    pub name: String,
    /// As PostgreSQL prints it.
    pub type_name: String,
    /// Its values are JSON.
    pub json: bool,
    /// Its values have the same text under all settings.
    pub steady: bool,
}

/// A generated column.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Generated {
    pub name: String,
    /// As SQL over the other columns.
    pub expression: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct UniqueIndex {
    /// Of a partial index.
    pub predicate: Option<String>,
    pub nulls_equal: bool,
    pub parts: Vec<IndexPart>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct IndexPart {
    /// A column or an expression, as SQL over the table's columns, with the collation of the index.
    pub expression: String,
    /// The operator of the index, as SQL.
    pub equals: String,
}

/// Reads the table as it is now.
pub async fn read(client: &impl GenericClient, name: &TableName) -> anyhow::Result<Table> {
    find(client, name).await?.with_context(|| format!("table {name} does not exist"))
}

/// As [`read`]; `None` where there is no such table.
pub async fn find(client: &impl GenericClient, name: &TableName) -> anyhow::Result<Option<Table>> {
    let row = client
        .query_opt(TABLE, &[&qualified(name)])
        .await
        .with_context(|| format!("read table {name}"))?;
    let Some(row) = row else { return Ok(None) };
    let list = |column: &str| row.get::<_, Value>(column);
    let table = Table {
        name: name.clone(),
        partitioned: row.get("partitioned"),
        key: serde_json::from_value(list("key"))?,
        columns: serde_json::from_value(list("columns"))?,
        generated: serde_json::from_value(list("generated"))?,
        unique_indexes: serde_json::from_value(list("unique_indexes"))?,
    };
    anyhow::ensure!(!table.key.is_empty(), "shared table {name} has no primary key");
    Ok(Some(table))
}

impl Table {
    pub fn is_key(&self, column: &str) -> bool {
        self.key.iter().any(|key| key == column)
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// As FROM, UPDATE and DELETE name it.
    pub fn rows(&self) -> String {
        without_heirs(&qualified(&self.name), self.partitioned)
    }

    /// A row as SQL, made of an image whose text is `image`.
    pub fn record(&self, image: &str) -> String {
        let image = format!("{image}::text::jsonb");
        // An image holds texts alone; what is JSON would stand in the row as a text in quotes.
        let json = self.columns.iter().filter(|column| column.json).map(|column| {
            let name = quote_text(&column.name);
            format!(" || jsonb_build_object({name}, ({image} ->> {name})::jsonb)")
        });
        let json: String = json.collect();
        format!("jsonb_populate_record(NULL::{}, {image}{json})", qualified(&self.name))
    }

    /// The key of a row called `row`, as `domicile.version` has it.
    pub fn key_expression(&self, row: &str) -> String {
        let parts: Vec<String> =
            self.key.iter().map(|key| format!("format('%s', {row}.{})", quote_name(key))).collect();
        format!("jsonb_build_array({})::text", parts.join(", "))
    }

    /// A row called `row`, as `domicile.version` keeps it aside: every value in the text form in
    /// which it is replicated, which a cast to text is not.
    pub fn image_expression(&self, row: &str) -> String {
        let text = |values: Vec<String>| format!("ARRAY[{}]::text[]", values.join(", "));
        let names = self.columns.iter().map(|c| quote_text(&c.name));
        let values =
            self.columns.iter().map(|c| text_of(&format!("{row}.{}", quote_name(&c.name))));
        format!("jsonb_object({}, {})", text(names.collect()), text(values.collect()))
    }
}
