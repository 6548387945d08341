//! What must one know of a table here to write its rows?
//!
//! A change names a table and its columns; how a row is found, and what may be written, depends
//! on how the table stands here: regions may partition it differently, have its columns in another
//! order, and their types under other numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use domicile_core::change::Relation;
use domicile_core::config::Config;
use domicile_core::id::TableName;
use tokio_postgres::GenericClient;

use super::guard::partition_of_row;
use super::rows::{qualified, without_heirs};
use crate::apply::Element;

const COLUMNS: &str = include_str!("sql/target.sql");

/// A table of this region.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// Quoted, with its schema.
    pub name: String,
    pub partitioned: bool,
    /// Has a deferrable constraint or a rule, over which any `ON CONFLICT` stumbles.
    pub no_arbiter: bool,
    /// In index order; empty without one.
    pub primary_key: Vec<String>,
    /// Where two owners may have a row each under one key: the partition of a row called `row_`, as SQL.
    pub partition: Option<String>,
    columns: BTreeMap<String, Column>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// As SQL writes it, without a length.
    pub type_name: String,
    /// How many values of it travel: an array of arrays would lose its inner bounds, and some types
    /// have no array or another delimiter.
    pub element: Element,
    /// Quoted, with its schema and without a length; of a domain the type under it.
    pub base_type: String,
    /// What an index on the column takes for equal.
    pub equality: Option<String>,
    /// `GENERATED ALWAYS AS IDENTITY`: an UPDATE may not set it.
    pub identity_always: bool,
}

impl Target {
    /// As FROM, UPDATE, DELETE and TRUNCATE name it.
    pub fn rows(&self) -> String {
        without_heirs(&self.name, self.partitioned)
    }

    /// What an INSERT says so that a row in the way is noticed by the count of rows.
    pub fn on_conflict(&self) -> &'static str {
        if self.no_arbiter { "" } else { " ON CONFLICT DO NOTHING" }
    }

    pub fn has_identity_always(&self) -> bool {
        self.columns.values().any(|column| column.identity_always)
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(name)
    }
}

impl Column {
    pub fn equals(&self) -> &str {
        self.equality.as_deref().unwrap_or("=")
    }
}

/// The tables that one session has looked up. Cheap to clone.
#[derive(Clone)]
pub struct Targets {
    cluster: Arc<Config>,
    known: Arc<BTreeMap<TableName, Target>>,
}

impl Targets {
    pub fn new(cluster: Arc<Config>) -> Self {
        Self { cluster, known: Arc::default() }
    }

    /// The tables of these relations that are not known yet.
    pub fn unknown<'r>(
        &self,
        relations: impl IntoIterator<Item = &'r Arc<Relation>>,
    ) -> Vec<TableName> {
        let tables = relations.into_iter().map(|relation| &relation.table);
        let unknown: BTreeSet<&TableName> =
            tables.filter(|t| !self.known.contains_key(t)).collect();
        unknown.into_iter().cloned().collect()
    }

    /// Looks these tables up. One that does not exist stays unknown.
    pub async fn learn(
        &mut self,
        client: &impl GenericClient,
        tables: Vec<TableName>,
    ) -> anyhow::Result<()> {
        for table in tables {
            if let Some(mut target) = find(client, &table).await? {
                target.partition = partition(&self.cluster, &table, &target.primary_key)?;
                Arc::make_mut(&mut self.known).insert(table, target);
            }
        }
        Ok(())
    }

    pub fn get(&self, table: &TableName) -> Option<&Target> {
        self.known.get(table)
    }

    /// The schema may have changed.
    pub fn forget(&mut self) {
        self.known = Arc::default();
    }
}

/// See [`Target::partition`].
fn partition(config: &Config, table: &TableName, key: &[String]) -> anyhow::Result<Option<String>> {
    match config.owned_by(table) {
        Some(columns) if !columns.iter().all(|column| key.contains(column)) => {
            let (partition, joins) = partition_of_row(config, table)?;
            Ok(Some(match joins.as_str() {
                "" => partition,
                joins => format!("(SELECT {partition} FROM (SELECT) it_{joins})"),
            }))
        }
        _ => Ok(None),
    }
}

/// Looks the table up; `None` where there is none of this name.
pub async fn find(
    client: &impl GenericClient,
    table: &TableName,
) -> anyhow::Result<Option<Target>> {
    let name = qualified(table);
    let exists = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await?;
    if !exists.get::<_, bool>(0) {
        return Ok(None);
    }
    let rows =
        client.query(COLUMNS, &[&name]).await.with_context(|| format!("look up table {table}"))?;
    let mut target = Target { name, ..Target::default() };
    let mut key = BTreeMap::new();
    for row in rows {
        target.partitioned = row.get("partitioned");
        target.no_arbiter = row.get("no_arbiter");
        let name: String = row.get("name");
        if let Some(position) = row.get::<_, Option<i64>>("key_position") {
            key.insert(position, name.clone());
        }
        let column = Column {
            type_name: row.get("type_name"),
            element: Element::new(row.get("type_oid"), row.get("has_array")),
            base_type: row.get("base_type"),
            equality: row.get("equality"),
            identity_always: row.get("identity_always"),
        };
        target.columns.insert(name, column);
    }
    target.primary_key = key.into_values().collect();
    Ok(Some(target))
}

/// As [`find`], of a table that has to be there.
pub async fn read(client: &impl GenericClient, table: &TableName) -> anyhow::Result<Target> {
    find(client, table).await?.with_context(|| format!("table {table} does not exist here"))
}

#[cfg(test)]
impl Target {
    /// A plain table of the test's own making.
    pub fn plain(name: &str, columns: &[(&str, Column)], primary_key: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            primary_key: primary_key.iter().map(|name| (*name).to_owned()).collect(),
            columns: columns.iter().map(|(n, c)| ((*n).to_owned(), c.clone())).collect(),
            ..Self::default()
        }
    }

    pub fn make_always(&mut self, column: &str) {
        self.columns.get_mut(column).expect("a column of the table").identity_always = true;
    }
}
