//! Which column could divide this database among owners? Pure: catalogue in, proposal out.
//!
//! A good partition key is an entity that most rows belong to (a branch, a tenant): the tables
//! carry its column, or a foreign key leads to one that does. Each column that stands in a key is
//! tried as if it were the one, and the one that reaches most tables wins, where a table counts
//! by the logarithm of its rows: a large table matters more, but not a million times more.

use std::collections::{BTreeMap, BTreeSet};

use domicile_core::id::TableName;

use crate::cli::check::judge::may_be_key;
use crate::postgres::catalog::{Catalog, Column, Persistence, Shape, Table};
use crate::settings::Partition;

/// With less than this part of the weight, one owner for everything serves better.
const REACH_MIN: f64 = 0.5;
/// A key that divides one table only is no key of the database.
const TABLES_MIN: usize = 2;
/// Enough to move load in small parts, and few enough to read a listing.
const PARTITIONS_PER_REGION: u32 = 16;
const ALTERNATIVES_MAX: usize = 3;

/// A scheme, and what it means for each table.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub partition: Partition,
    /// Why this scheme: full sentences.
    pub why: Vec<String>,
    pub tables: Vec<ProposedTable>,
    /// What is in the database and cannot be listed.
    pub left_out: Vec<(TableName, &'static str)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ProposedTable {
    pub name: TableName,
    pub rows: f64,
    pub place: Place,
    /// What a person should know or do: full sentences.
    pub notes: Vec<String>,
}

/// Who may write the table's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The owner of everything.
    Whole,
    /// By these columns of its own.
    Key(Vec<String>),
    /// By the parent's row.
    Parent {
        table: TableName,
        columns: Vec<String>,
        references: Vec<String>,
    },
    /// One owner for the whole table.
    Reference,
    Local,
}

/// Proposes a scheme, or works out the one that was asked for.
pub fn propose(catalog: &Catalog, regions: usize, asked: Option<&Partition>) -> Proposal {
    let tables: Vec<&Table> = catalog.tables.values().filter(|table| divisible(table)).collect();
    let (partition, why) = match asked {
        Some(partition) => (partition.clone(), vec!["The scheme was asked for.".to_owned()]),
        None => choose(&tables, regions),
    };
    let places = match &partition {
        Partition::Whole => tables.iter().map(|table| (table.name.clone(), Place::Whole)).collect(),
        keyed => reach(&tables, &keyed.columns()),
    };
    let mut proposed = Vec::new();
    let mut left_out = Vec::new();
    for table in catalog.tables.values().filter(|table| table.partition_of.is_none()) {
        match left_out_because(table) {
            Some(reason) => left_out.push((table.name.clone(), reason)),
            None => proposed.push(propose_table(table, catalog, &places, &partition)),
        }
    }
    Proposal { partition, why, tables: proposed, left_out }
}

/// A table whose rows could have owners.
fn divisible(table: &Table) -> bool {
    matches!(table.shape, Shape::Plain | Shape::Partitioned)
        && table.persistence == Persistence::Permanent
        && table.partition_of.is_none()
}

fn left_out_because(table: &Table) -> Option<&'static str> {
    if table.name.schema.contains('.') || table.name.name.contains('.') {
        return Some("its name has a dot, which the configuration cannot say");
    }
    match (table.shape, table.persistence) {
        (Shape::View, _) => Some("a view"),
        (Shape::MaterialisedView, _) => Some("a materialised view: refresh it in each region"),
        (Shape::Foreign, _) => Some("a foreign table"),
        (_, Persistence::Temporary) => Some("temporary"),
        (Shape::Plain | Shape::Partitioned, Persistence::Permanent | Persistence::Unlogged) => None,
    }
}

fn choose(tables: &[&Table], regions: usize) -> (Partition, Vec<String>) {
    let total: f64 = tables.iter().copied().map(weight).sum();
    let mut found: Vec<(f64, usize, usize, String)> = candidates(tables)
        .into_iter()
        .map(|column| {
            let places = reach(tables, std::slice::from_ref(&column));
            let own = places.values().filter(|place| matches!(place, Place::Key(_))).count();
            let reached = tables.iter().filter(|table| places.contains_key(&table.name));
            let weight: f64 = reached.copied().map(weight).sum();
            (weight / total.max(1.0), places.len(), own, column)
        })
        .filter(|(_, reached, ..)| *reached >= TABLES_MIN)
        .collect();
    // The most weight first, then the most tables with a key of their own, then by name.
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.2.cmp(&a.2)).then(a.3.cmp(&b.3)));
    let Some((share, reached, _, best)) = found.first().filter(|(share, ..)| *share >= REACH_MIN)
    else {
        let why = "No column reaches most of the tables, so one region owns everything and the \
                   others follow.";
        return (Partition::Whole, vec![why.to_owned()]);
    };
    let mut why = vec![format!(
        "{reached} of {} tables ({:.0} % by size) carry {best}, or a foreign key leads to one \
         that does.",
        tables.len(),
        share * 100.0
    )];
    let others: Vec<String> = found[1..]
        .iter()
        .take(ALTERNATIVES_MAX)
        .map(|(_, reached, _, column)| format!("{column} ({reached} tables)"))
        .collect();
    if !others.is_empty() {
        why.push(format!("Also possible: {}.", others.join(", ")));
    }
    let count = PARTITIONS_PER_REGION * u32::try_from(regions).unwrap_or(1).max(1);
    (Partition::Hash { columns: vec![best.clone()], count }, why)
}

fn weight(table: &Table) -> f64 {
    1.0 + (1.0 + table.rows).log2()
}

/// Is it the same key in every region, whoever reads it?
fn is_steady(column: &Column) -> bool {
    !column.generated && !column.nondeterministic
}

/// Columns that name an entity: they stand in a key or a foreign key, or are called so.
fn candidates(tables: &[&Table]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for table in tables {
        for column in table.columns.iter().filter(|column| may_be_key(&column.type_name)) {
            let named = column.name.ends_with("_id");
            let in_key = table.unique_indexes.iter().any(|i| i.columns.contains(&column.name));
            let in_foreign = table.foreign_keys.iter().any(|k| k.columns.contains(&column.name));
            if is_steady(column) && (named || in_key || in_foreign) {
                names.insert(column.name.clone());
            }
        }
    }
    names
}

/// Returns where each table stands when `key` divides the database; tables that it does not
/// reach are absent.
fn reach(tables: &[&Table], key: &[String]) -> BTreeMap<TableName, Place> {
    let mut places = BTreeMap::new();
    let carries = |table: &Table| {
        key.iter().all(|name| {
            table.column(name).is_some_and(|c| is_steady(c) && may_be_key(&c.type_name))
        })
    };
    // `id` identifies a row in each of its tables and says nothing about which belong together:
    // only one table can be the entity's own.
    let carriers = || tables.iter().filter(|table| carries(table));
    let entities = carriers().filter(|table| table.unique_by(key)).count();
    for table in carriers().filter(|table| entities <= 1 || !table.unique_by(key)) {
        places.insert(table.name.clone(), Place::Key(key.to_vec()));
    }
    add_entity(tables, key, &mut places);
    loop {
        let before = places.len();
        for table in tables {
            if !places.contains_key(&table.name)
                && let Some(parent) = parent(table, &places)
            {
                places.insert(table.name.clone(), parent);
            }
        }
        if places.len() == before {
            return places;
        }
    }
}

/// The table that the key's foreign key leads to carries it under another name:
/// `accounts.branch_id` refers to `branches.id`.
fn add_entity(tables: &[&Table], key: &[String], places: &mut BTreeMap<TableName, Place>) {
    let carriers: Vec<&Table> =
        tables.iter().copied().filter(|table| places.contains_key(&table.name)).collect();
    for foreign in carriers.iter().flat_map(|table| &table.foreign_keys) {
        let target = tables.iter().find(|table| table.name == foreign.table);
        if foreign.columns == key
            && let Some(target) = target
            && !places.contains_key(&target.name)
            && foreign
                .references
                .iter()
                .all(|name| target.column(name).is_some_and(|column| may_be_key(&column.type_name)))
        {
            places.insert(target.name.clone(), Place::Key(foreign.references.clone()));
        }
    }
}

/// A foreign key that every row has, to a table that is already reached.
fn parent(table: &Table, places: &BTreeMap<TableName, Place>) -> Option<Place> {
    let always = |name: &String| table.column(name).is_some_and(|column| column.not_null);
    table
        .foreign_keys
        .iter()
        .find(|key| {
            key.table != table.name
                && places.contains_key(&key.table)
                && key.columns.iter().all(always)
        })
        .map(|key| Place::Parent {
            table: key.table.clone(),
            columns: key.columns.clone(),
            references: key.references.clone(),
        })
}

fn propose_table(
    table: &Table,
    catalog: &Catalog,
    places: &BTreeMap<TableName, Place>,
    partition: &Partition,
) -> ProposedTable {
    let mut notes = Vec::new();
    let place = if table.persistence == Persistence::Unlogged {
        notes.push("It is unlogged, so its changes are not in the WAL: SET LOGGED first.".into());
        Place::Local
    } else {
        let place = places.get(&table.name).cloned().unwrap_or(Place::Reference);
        if place == Place::Reference {
            notes.push(why_not_reached(table, partition));
        }
        place
    };
    if place != Place::Local {
        notes.extend(notes_on_rows(table, catalog, &place));
    }
    ProposedTable { name: table.name.clone(), rows: table.rows, place, notes }
}

fn why_not_reached(table: &Table, partition: &Partition) -> String {
    let key = partition.columns();
    let unfit = key
        .iter()
        .find_map(|name| table.column(name).filter(|c| c.generated || !may_be_key(&c.type_name)));
    let nullable = table.foreign_keys.iter().find(|foreign| {
        foreign.columns.iter().any(|c| table.column(c).is_some_and(|column| !column.not_null))
    });
    match (unfit, nullable) {
        (Some(column), _) if column.generated => {
            format!("Its {} is generated, so it cannot be the key.", column.name)
        }
        (Some(column), _) => format!(
            "Its {} is {}; a key is smallint, integer, bigint, text, varchar or uuid.",
            column.name, column.type_name
        ),
        (None, Some(foreign)) => format!(
            "It carries no {}, and its foreign key {} may be null.",
            key.join(", "),
            foreign.name
        ),
        (None, None) => format!(
            "It carries no {}, and no foreign key leads to a table that does.",
            key.join(", ")
        ),
    }
}

fn notes_on_rows(table: &Table, catalog: &Catalog, place: &Place) -> Vec<String> {
    let mut notes = Vec::new();
    if table.primary_key().is_empty() && !table.rows_have_identity() {
        notes
            .push("It has no primary key: inserts only, UPDATE and DELETE will be refused.".into());
    }
    if let Place::Key(columns) = place {
        let nullable =
            columns.iter().filter(|name| table.column(name).is_some_and(|c| !c.not_null));
        for name in nullable {
            notes.push(format!("{name} may be null: such a row has no owner. SET NOT NULL."));
        }
    }
    let unlogged = table.descendants.iter().filter_map(|name| catalog.table(name));
    for part in unlogged.filter(|part| part.persistence == Persistence::Unlogged) {
        notes.push(format!("Its table partition {} is unlogged: SET LOGGED first.", part.name));
    }
    notes
}
