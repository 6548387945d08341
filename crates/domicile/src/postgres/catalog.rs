//! Which tables does this database have, and what are they made of?
//!
//! Read in one statement, so it is one moment of the catalogue. System schemas, Domicile's own
//! and what extensions brought are left out.

use std::collections::BTreeMap;

use domicile_core::id::TableName;
use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::{Client, Row};

#[cfg(test)]
mod tests;

const TABLES: &str = include_str!("catalog/tables.sql");

/// The tables of one database, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    pub tables: BTreeMap<TableName, Table>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub oid: u32,
    pub name: TableName,
    pub shape: Shape,
    pub persistence: Persistence,
    pub replica_identity: ReplicaIdentity,
    pub row_security: RowSecurity,
    /// PostgreSQL's estimate; 0 when it was never analysed. Of a partitioned table: the sum of
    /// its leaves.
    pub rows: f64,
    /// May the session's role do what only a table's owner may do (publications, triggers)?
    pub ours: bool,
    pub owner: Role,
    /// The table that this one is a table partition of.
    pub partition_of: Option<TableName>,
    /// Every table partition below this one, of all levels: leaves and those in between.
    pub descendants: Vec<TableName>,
    /// A child of plain inheritance, which is no table partition.
    pub inherits: bool,
    /// Every child by plain inheritance, of all levels: a write that names this table reaches them.
    pub heirs: Vec<TableName>,
    /// In the order of their creation; dropped ones left out.
    pub columns: Vec<Column>,
    /// Primary key first.
    pub unique_indexes: Vec<UniqueIndex>,
    /// Names of the exclusion constraints.
    pub exclusions: Vec<String>,
    pub foreign_keys: Vec<ForeignKey>,
    /// What is done for applied rows too.
    pub fires: Vec<Fires>,
    /// What its rows must meet, applied ones too, as PostgreSQL prints it: checks, exclusions, unique indexes
    /// other than the primary key.
    pub demands: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    pub superuser: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Plain,
    Partitioned,
    Foreign,
    MaterialisedView,
    View,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    Index,
    Full,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowSecurity {
    Off,
    On,
    /// For the table's owner too.
    Forced,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub name: String,
    /// As PostgreSQL prints it, as in `character varying(20)`; with its schema unless built in.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Of an array its elements' type, else the column's own, with its schema.
    pub element_type: String,
    pub not_null: bool,
    /// Computed from other columns, never written.
    pub generated: bool,
    /// By its collation two texts may be equal and yet be written differently.
    pub nondeterministic: bool,
    /// The expression behind `DEFAULT`.
    pub default: Option<String>,
    /// The sequence that the column draws from: its own (`serial`, `GENERATED AS IDENTITY`), or the
    /// one that its default names.
    pub sequence: Option<Sequence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Sequence {
    pub schema: String,
    pub name: String,
    pub increment: i64,
    pub start: i64,
    pub min: i64,
    pub max: i64,
    /// Begins again when it is used up.
    pub cycles: bool,
    /// Absent until its first use.
    pub last: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct UniqueIndex {
    pub name: String,
    pub primary: bool,
    /// Checked row by row; otherwise deferrable.
    pub immediate: bool,
    /// Over plain columns and all rows: neither an expression nor partial.
    pub whole: bool,
    /// Chosen by `REPLICA IDENTITY USING INDEX`.
    pub replica_identity: bool,
    /// Not the part, in a table partition, of an index of the table above it.
    pub own: bool,
    /// Key columns in index order; expressions are left out.
    #[serde(deserialize_with = "names_or_none")]
    pub columns: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    pub table: TableName,
    pub columns: Vec<String>,
    /// Columns of `table`, in the order of `columns`.
    pub references: Vec<String>,
}

/// A trigger or a rule that an applier's session does not pass over: `ENABLE ALWAYS` or `REPLICA`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Fires {
    /// `trigger` or `rule`.
    pub kind: String,
    pub name: String,
    /// As in `ENABLE ALWAYS`.
    pub enabled: String,
    /// As PostgreSQL prints it.
    pub definition: String,
    /// Of a trigger.
    pub function: Option<Function>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Function {
    /// With its schema.
    pub name: String,
    pub owner: String,
    pub owner_is_superuser: bool,
    /// Runs with its owner's rights, not with those of whoever fires it.
    pub security_definer: bool,
}

/// Why the catalogue could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("read catalogue")]
    Query(#[from] tokio_postgres::Error),
    #[error("understand catalogue entry of table \"{table}\"")]
    Entry { table: TableName, source: serde_json::Error },
    #[error("table \"{table}\" has {what} \"{value}\", which this version does not know")]
    Letter { table: TableName, what: &'static str, value: String },
}

/// Reads all tables of the session's database.
pub async fn read(client: &Client) -> Result<Catalog, CatalogError> {
    let rows = client.query(TABLES, &[]).await?;
    let mut tables = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut parents: Vec<(TableName, u32)> = Vec::new();
    for row in &rows {
        let table = lift(row)?;
        names.insert(table.oid, table.name.clone());
        if let Some(parent) = row.get::<_, Option<u32>>("partition_of") {
            parents.push((table.name.clone(), parent));
        }
        tables.insert(table.name.clone(), table);
    }
    for (name, parent) in parents {
        if let Some(table) = tables.get_mut(&name) {
            table.partition_of = names.get(&parent).cloned();
        }
    }
    let mut catalog = Catalog { tables };
    catalog.link_partitions();
    Ok(catalog)
}

impl Catalog {
    pub fn table(&self, name: &TableName) -> Option<&Table> {
        self.tables.get(name)
    }

    /// Tells every partitioned table of all that is below it, from each one's `partition_of`.
    pub fn link_partitions(&mut self) {
        let links: BTreeMap<TableName, TableName> = self
            .tables
            .values()
            .filter_map(|table| Some((table.name.clone(), table.partition_of.clone()?)))
            .collect();
        let leaf_rows: BTreeMap<TableName, f64> = self
            .tables
            .values()
            .filter(|table| table.shape != Shape::Partitioned)
            .map(|table| (table.name.clone(), table.rows))
            .collect();
        for table in self.tables.values_mut().filter(|t| t.shape == Shape::Partitioned) {
            let below = |name: &TableName| {
                std::iter::successors(links.get(name), |above| links.get(above))
                    .any(|above| *above == table.name)
            };
            table.descendants = links.keys().filter(|name| below(name)).cloned().collect();
            table.rows = table.descendants.iter().filter_map(|name| leaf_rows.get(name)).sum();
        }
    }
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The index by which a changed row is named to others; none with identity `FULL` or `NOTHING`.
    pub fn identity_index(&self) -> Option<&UniqueIndex> {
        match self.replica_identity {
            ReplicaIdentity::Full | ReplicaIdentity::Nothing => None,
            ReplicaIdentity::Index => self.unique_indexes.iter().find(|i| i.replica_identity),
            ReplicaIdentity::Default => {
                self.unique_indexes.iter().find(|index| index.primary && index.immediate)
            }
        }
    }

    /// The primary key's columns, in index order; empty without one.
    pub fn primary_key(&self) -> &[String] {
        self.unique_indexes.iter().find(|index| index.primary).map_or(&[], |index| &index.columns)
    }

    /// Returns whether PostgreSQL can name a changed row to others: without that it refuses every
    /// UPDATE and DELETE once the table is published.
    pub fn rows_have_identity(&self) -> bool {
        self.replica_identity == ReplicaIdentity::Full || self.identity_index().is_some()
    }

    /// Returns whether no two rows can agree in all of these columns, by an index on exactly
    /// them or fewer.
    pub fn unique_by(&self, columns: &[String]) -> bool {
        self.unique_indexes
            .iter()
            .any(|index| index.whole && index.columns.iter().all(|c| columns.contains(c)))
    }
}

fn lift(row: &Row) -> Result<Table, CatalogError> {
    let name =
        TableName::new(row.get::<_, String>("schema_name"), row.get::<_, String>("table_name"));
    let foreign_keys: Vec<WireForeignKey> = list(row, "foreign_keys", &name)?;
    let heirs: Vec<WireTableName> = list(row, "heirs", &name)?;
    Ok(Table {
        oid: row.get("oid"),
        shape: letter(
            row,
            &name,
            "kind",
            &[
                ("r", Shape::Plain),
                ("p", Shape::Partitioned),
                ("f", Shape::Foreign),
                ("m", Shape::MaterialisedView),
                ("v", Shape::View),
            ],
        )?,
        persistence: letter(
            row,
            &name,
            "persistence",
            &[
                ("p", Persistence::Permanent),
                ("u", Persistence::Unlogged),
                ("t", Persistence::Temporary),
            ],
        )?,
        replica_identity: letter(
            row,
            &name,
            "replica_identity",
            &[
                ("d", ReplicaIdentity::Default),
                ("i", ReplicaIdentity::Index),
                ("f", ReplicaIdentity::Full),
                ("n", ReplicaIdentity::Nothing),
            ],
        )?,
        row_security: match (row.get("row_security"), row.get("row_security_forced")) {
            (true, true) => RowSecurity::Forced,
            (true, false) => RowSecurity::On,
            (false, _) => RowSecurity::Off,
        },
        rows: row.get("rows_estimate"),
        ours: row.get("ours"),
        owner: Role { name: row.get("owner"), superuser: row.get("owner_is_superuser") },
        partition_of: None,
        descendants: Vec::new(),
        inherits: row.get("inherits"),
        heirs: heirs.into_iter().map(|heir| TableName::new(heir.schema, heir.name)).collect(),
        columns: list(row, "columns", &name)?,
        unique_indexes: list(row, "indexes", &name)?,
        exclusions: list(row, "exclusions", &name)?,
        foreign_keys: foreign_keys.into_iter().map(WireForeignKey::lift).collect(),
        fires: list(row, "fires", &name)?,
        demands: list(row, "demands", &name)?,
        name,
    })
}

/// Reads one of PostgreSQL's one-letter codes.
fn letter<T: Copy>(
    row: &Row,
    table: &TableName,
    what: &'static str,
    known: &[(&str, T)],
) -> Result<T, CatalogError> {
    let value: String = row.get(what);
    match known.iter().find(|(code, _)| *code == value) {
        Some((_, meaning)) => Ok(*meaning),
        None => Err(CatalogError::Letter { table: table.clone(), what, value }),
    }
}

/// A table's name as the statement prints it.
#[derive(Deserialize)]
struct WireTableName {
    schema: String,
    name: String,
}

/// A foreign key as the statement prints it.
#[derive(Deserialize)]
struct WireForeignKey {
    name: String,
    schema: String,
    table: String,
    columns: Vec<String>,
    references: Vec<String>,
}

impl WireForeignKey {
    fn lift(self) -> ForeignKey {
        ForeignKey {
            name: self.name,
            table: TableName::new(self.schema, self.table),
            columns: self.columns,
            references: self.references,
        }
    }
}

fn list<T: serde::de::DeserializeOwned>(
    row: &Row,
    column: &str,
    table: &TableName,
) -> Result<Vec<T>, CatalogError> {
    serde_json::from_value(row.get::<_, Value>(column))
        .map_err(|source| CatalogError::Entry { table: table.clone(), source })
}

/// An index over expressions alone has no columns, which SQL prints as null.
fn names_or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(from).map(Option::unwrap_or_default)
}
