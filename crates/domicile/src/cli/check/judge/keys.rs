//! Does every row of an owned table lead to its partition?

use domicile_core::config::{Config, KeySource, TableKind};
use domicile_core::id::TableName;
use domicile_core::partition::Scheme;

use super::{Finding, blocker, object, quoted, quoted_name, warn};
use crate::postgres::catalog::{Catalog, Column, ForeignKey, Table, UniqueIndex};

/// Types whose text form is the same everywhere, so that a hash of it is too.
const KEY_TYPES: &[&str] = &["smallint", "integer", "bigint", "text", "uuid"];
const KEY_TYPE_VARCHAR: &str = "character varying";

/// Returns whether a partition key may be of this type.
pub fn may_be_key(type_name: &str) -> bool {
    KEY_TYPES.contains(&type_name)
        || type_name.split('(').next().is_some_and(|base| base == KEY_TYPE_VARCHAR)
}

pub fn judge(config: &Config, table: &Table, catalog: &Catalog, add: &mut impl FnMut(Finding)) {
    match config.kind(&table.name) {
        Some(TableKind::Owned(KeySource::Columns(columns))) => {
            for name in columns {
                key_column(config, table, name, add);
            }
            uniqueness(config, table, columns, add);
            foreign_keys(config, table, add);
        }
        Some(TableKind::Owned(KeySource::Parent { table: parent, columns, references })) => {
            parent_link(table, columns, add);
            uniqueness(config, table, columns, add);
            if let Some(parent) = catalog.table(parent) {
                parent_row(table, parent, columns, references, add);
            }
            foreign_keys(config, table, add);
        }
        Some(TableKind::Owned(KeySource::Whole)) => foreign_keys(config, table, add),
        Some(TableKind::Reference | TableKind::Shared(_) | TableKind::Local) | None => {}
    }
}

fn key_column(config: &Config, table: &Table, name: &str, add: &mut impl FnMut(Finding)) {
    let Some(column) = table.column(name) else {
        let what = format!("has no column \"{name}\" for its partition key");
        let way_out = "Name another key, or a parent that has one.";
        return add(blocker("key_missing", object(&table.name), what, way_out));
    };
    if column.generated {
        let what = format!("column \"{name}\" is generated, and generated columns are not shipped");
        let way_out = "Name a column that is written.";
        add(blocker("key_generated", object(&table.name), what, way_out));
    }
    if !may_be_key(&column.type_name) {
        let what = format!("column \"{name}\" is of type {}", column.type_name);
        let way_out = "A partition key is smallint, integer, bigint, text, varchar or uuid.";
        add(blocker("key_type", object(&table.name), what, way_out));
    }
    if column.nondeterministic {
        let what = format!(
            "column \"{name}\" has a nondeterministic collation: keys that are equal for \
             PostgreSQL lead to different partitions, and one row to two owners"
        );
        let way_out = format!(
            "ALTER TABLE {} ALTER COLUMN {} TYPE {} COLLATE ..., with a deterministic collation.",
            quoted(&table.name),
            quoted_name(name),
            column.type_name
        );
        add(blocker("key_collation", object(&table.name), what, way_out));
    }
    if matches!(config.layout.scheme, Scheme::Home { .. })
        && !["text", KEY_TYPE_VARCHAR].iter().any(|text| column.type_name.starts_with(text))
    {
        let what = format!("column \"{name}\" is of type {}, no region's name", column.type_name);
        let way_out = "With home(column) the column is text and holds a region's name.";
        add(blocker("key_type_home", object(&table.name), what, way_out));
    }
    nullable(table, column, "its partition key", add);
}

fn nullable(table: &Table, column: &Column, what_for: &str, add: &mut impl FnMut(Finding)) {
    if !column.not_null {
        let what = format!(
            "column \"{}\" may be null: without {what_for} a row has no owner, and its write is \
             refused",
            column.name
        );
        let way_out = format!(
            "ALTER TABLE {} ALTER COLUMN {} SET NOT NULL.",
            quoted(&table.name),
            quoted_name(&column.name)
        );
        add(warn("key_nullable", object(&table.name), what, way_out));
    }
}

/// The child's side of the way to its parent.
fn parent_link(table: &Table, columns: &[String], add: &mut impl FnMut(Finding)) {
    for name in columns {
        match table.column(name) {
            Some(column) => nullable(table, column, "its parent", add),
            None => {
                let what = format!("has no column \"{name}\", which should name its parent row");
                let way_out = "Correct table[].parent.columns.";
                add(blocker("parent_column_missing", object(&table.name), what, way_out));
            }
        }
    }
}

/// The parent's side: exactly one row, and it stays.
fn parent_row(
    table: &Table,
    parent: &Table,
    columns: &[String],
    references: &[String],
    add: &mut impl FnMut(Finding),
) {
    let named = object(&table.name);
    if let Some(missing) = references.iter().find(|name| parent.column(name).is_none()) {
        let what = format!("its parent \"{}\" has no column \"{missing}\"", parent.name);
        return add(blocker(
            "parent_column_missing",
            named,
            what,
            "Correct table[].parent.references.",
        ));
    }
    if !parent.unique_by(references) {
        let what = format!(
            "its parent \"{}\" may have several rows with the same {}",
            parent.name,
            references.join(", ")
        );
        let way_out = "Refer to a primary key or to columns with a unique index.";
        return add(blocker("parent_not_unique", named, what, way_out));
    }
    let kept = table.foreign_keys.iter().any(|key| leads(key, &parent.name, columns, references));
    if !kept {
        let list = |names: &[String]| {
            names.iter().map(|name| quoted_name(name)).collect::<Vec<_>>().join(", ")
        };
        let what = format!(
            "no foreign key to its parent \"{}\": a row whose parent is gone has no owner",
            parent.name
        );
        let way_out = format!(
            "ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}).",
            quoted(&table.name),
            list(columns),
            quoted(&parent.name),
            list(references)
        );
        add(warn("parent_without_foreign_key", named, what, way_out));
    }
}

/// Is this the foreign key, in whatever order its columns are?
fn leads(key: &ForeignKey, parent: &TableName, columns: &[String], references: &[String]) -> bool {
    let pairs = |a: &[String], b: &[String]| {
        let mut pairs: Vec<(String, String)> = a.iter().cloned().zip(b.iter().cloned()).collect();
        pairs.sort();
        pairs
    };
    key.table == *parent && pairs(&key.columns, &key.references) == pairs(columns, references)
}

/// A unique index that does not hold the partition key is kept by each region on its own.
/// Deferrable ones are not even that, and told elsewhere.
fn uniqueness(config: &Config, table: &Table, key: &[String], add: &mut impl FnMut(Finding)) {
    let local: Vec<&str> = table
        .unique_indexes
        .iter()
        .filter(|index| index.immediate && across_owners(config, table, index))
        .map(|index| index.name.as_str())
        .collect();
    if !local.is_empty() {
        let what = format!(
            "unique only within an owner: {} (without {})",
            local.join(", "),
            key.join(", ")
        );
        let way_out = "Two owners may use the same value at the same time. Of one primary key, the row of the lower \
                       partition then stays everywhere (conflict journal); of another unique value, each \
                       row stays where it was written, and other regions say repair_fails until one of \
                       them is deleted at its owner. Make values distinct (uuid, \
                       ranges per region), or add the key to the index.";
        add(warn("unique_per_owner", object(&table.name), what, way_out));
    }
}

/// May two owners use the same value in this index of the table, or of a table partition of it?
pub fn across_owners(config: &Config, table: &Table, index: &UniqueIndex) -> bool {
    let Some(owned_by) = config.owned_by(&table.name) else { return false };
    !owned_by.iter().all(|column| index.columns.contains(column))
        && !index.columns.iter().any(|name| table.column(name).is_some_and(random))
}

/// Values that are distinct wherever they are made.
fn random(column: &Column) -> bool {
    column.type_name == "uuid"
}

/// A foreign key holds for certain only when both rows have one owner.
fn foreign_keys(config: &Config, table: &Table, add: &mut impl FnMut(Finding)) {
    for key in &table.foreign_keys {
        let target = &key.table;
        match config.kind(target) {
            Some(TableKind::Reference) => {}
            Some(TableKind::Shared(_)) => {
                let what = format!(
                    "foreign key \"{}\" leads to \"{target}\", whose rows any region may delete",
                    key.name
                );
                let way_out = "A row may be deleted while another region still adds to it, and \
                               nothing keeps the rest from pointing nowhere: make the target a \
                               reference table, or drop the foreign key.";
                add(warn("foreign_key_to_shared", object(&table.name), what, way_out));
            }
            Some(TableKind::Owned(source)) => {
                if !one_owner(config, table, key, source) {
                    let what = format!(
                        "foreign key \"{}\" leads to rows of \"{target}\" that another region may \
                         own",
                        key.name
                    );
                    let way_out = "One region may delete the row while another still adds to it: \
                                   put the partition key into the foreign key, or make the target \
                                   a reference table.";
                    add(warn("foreign_key_across_owners", object(&table.name), what, way_out));
                }
            }
            Some(TableKind::Local) | None => {
                let what = format!(
                    "foreign key \"{}\" leads to \"{target}\", which is not replicated",
                    key.name
                );
                let way_out = "List the target too: other regions may not have its rows.";
                add(warn("foreign_key_to_local", object(&table.name), what, way_out));
            }
        }
    }
}

/// Do the two rows of a foreign key always have the same owner?
fn one_owner(config: &Config, table: &Table, key: &ForeignKey, target: &KeySource) -> bool {
    let Some(TableKind::Owned(source)) = config.kind(&table.name) else { return false };
    match (source, target) {
        (KeySource::Whole, _) | (_, KeySource::Whole) => true,
        (KeySource::Parent { table: parent, columns, references }, _) => {
            leads(key, parent, columns, references)
        }
        (KeySource::Columns(ours), KeySource::Columns(theirs)) => {
            let paired = |our: &String, their: &String| {
                let mut pairs = key.columns.iter().zip(&key.references);
                pairs.any(|(column, reference)| column == our && reference == their)
            };
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| paired(a, b))
        }
        (KeySource::Columns(_), KeySource::Parent { .. }) => false,
    }
}
