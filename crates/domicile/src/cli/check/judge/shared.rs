//! Can conflicts in this shared table be decided, alike in every region?

use domicile_core::config::Config;
use domicile_core::conflict::policy::{ColumnPolicy, Policy};

use super::{Finding, blocker, object, quoted, quoted_name, warn};
use crate::cli::check::survey::Reached;
use crate::postgres::catalog::{Catalog, Column, Table};
use crate::postgres::shared::function::signature;

/// Types of which two values are equal exactly when their texts are.
const KEY_TYPES: &[&str] = &[
    "smallint",
    "integer",
    "bigint",
    "text",
    "character varying",
    "character",
    "uuid",
    "boolean",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
    "bytea",
    "name",
    "oid",
    "inet",
    "cidr",
    "macaddr",
];

pub fn judge(config: &Config, table: &Table, facts: &Reached, add: &mut impl FnMut(Finding)) {
    let Some(policy) = config.shared(&table.name) else { return };
    primary_key(table, add);
    constraints(table, &facts.catalog, add);
    columns(table, policy, add);
    function(table, policy, facts, add);
    foreign_keys(table, add);
}

fn primary_key(table: &Table, add: &mut impl FnMut(Finding)) {
    if table.primary_key().is_empty() {
        let what = "has no primary key: nothing tells which rows of two regions are the same one";
        let way_out = format!("ALTER TABLE {} ADD PRIMARY KEY (...).", quoted(&table.name));
        return add(blocker("shared_without_key", object(&table.name), what, way_out));
    }
    for name in table.primary_key() {
        let Some(column) = table.column(name) else { continue };
        if !steady_key(&column.type_name) {
            let what = format!(
                "its primary key has column \"{name}\" of type {}: values that are equal may be \
                 written differently",
                column.type_name
            );
            let way_out = "Use integers, text, uuid, numeric(p, s), a date or a time stamp.";
            add(blocker("shared_key_type", object(&table.name), what, way_out));
        }
    }
}

fn steady_key(type_name: &str) -> bool {
    let base = type_name.split('(').next().unwrap_or(type_name).trim();
    KEY_TYPES.contains(&base)
        || (base == "numeric" && type_name.contains('('))
        || type_name.starts_with("timestamp(")
        || type_name.starts_with("character(")
}

fn constraints(table: &Table, catalog: &Catalog, add: &mut impl FnMut(Finding)) {
    let below = || table.descendants.iter().filter_map(|name| catalog.table(name));
    for part in below() {
        for index in part.unique_indexes.iter().filter(|index| index.own) {
            let what = format!("has a unique index that the whole table lacks, \"{}\"", index.name);
            let way_out = "Which of two rows with one value stays is decided for the whole table: drop \
                           the index, or make it one of the whole table.";
            add(blocker("shared_unique_of_part", object(&part.name), what, way_out));
        }
    }
    for part in std::iter::once(table).chain(below()) {
        for index in part.unique_indexes.iter().filter(|index| !index.immediate) {
            let what = format!("has a deferrable unique constraint, \"{}\"", index.name);
            let way_out = "PostgreSQL does not check it while rows are applied, and two rows would \
                           have the same value: make it NOT DEFERRABLE, or the table reference.";
            add(blocker("shared_deferrable_unique", object(&part.name), what, way_out));
        }
        for name in &part.exclusions {
            let what = format!("has an exclusion constraint, \"{name}\"");
            let way_out = "Which of two rows that overlap stays cannot be decided alike in all \
                           regions: drop it, or make the table owned or reference.";
            add(blocker("shared_exclusion", object(&part.name), what, way_out));
        }
    }
}

fn columns(table: &Table, policy: &Policy, add: &mut impl FnMut(Finding)) {
    let Policy::Merge(columns) = policy else { return };
    for (name, policy) in &columns.named {
        if table.column(name).is_none() {
            let what = format!("has no column \"{name}\" for its policy");
            add(blocker(
                "shared_column_missing",
                object(&table.name),
                what,
                "Correct table[].columns.",
            ));
        } else if table.primary_key().contains(name) && *policy != columns.rest {
            let what = format!("column \"{name}\" is part of the primary key, which never merges");
            let way_out = "Take it out of table[].columns.";
            add(blocker("shared_column_key", object(&table.name), what, way_out));
        }
    }
    let values = table.columns.iter().filter(|column| !table.primary_key().contains(&column.name));
    for column in values {
        if columns.of(&column.name) == ColumnPolicy::Delta && !adds_exactly(column) {
            let what = format!(
                "column \"{}\" of type {} is a counter, and its sums depend on their order",
                column.name, column.type_name
            );
            let way_out = format!(
                "ALTER TABLE {} ALTER COLUMN {} TYPE bigint, or numeric(p, s).",
                quoted(&table.name),
                quoted_name(&column.name)
            );
            add(blocker("shared_counter_type", object(&table.name), what, way_out));
        }
    }
}

/// Is a sum the same in any order, to the last digit that is printed?
fn adds_exactly(column: &Column) -> bool {
    let type_name = column.type_name.as_str();
    matches!(type_name, "smallint" | "integer" | "bigint") || type_name.starts_with("numeric(")
}

fn function(table: &Table, policy: &Policy, facts: &Reached, add: &mut impl FnMut(Finding)) {
    let Policy::Sql { function, .. } = policy else { return };
    if let Some(doubt) = facts.doubts.get(function) {
        let what = format!("function {} {doubt}", signature(function));
        let way_out = format!(
            "Create it in every region, RETURNS jsonb, IMMUTABLE and owned by role {}: without it the \
             earliest of the writes stays, and a person is told.",
            quoted_name(&facts.server.role)
        );
        add(blocker("shared_function", object(&table.name), what, way_out));
    }
}

fn foreign_keys(table: &Table, add: &mut impl FnMut(Finding)) {
    for key in &table.foreign_keys {
        let what = format!("foreign key \"{}\" leads to \"{}\"", key.name, key.table);
        let way_out = "It is not checked while rows are applied: another region may delete the row \
                       it leads to, and this one would lead nowhere. Drop it, or make the table owned.";
        add(warn("shared_foreign_key", object(&table.name), what, way_out));
    }
}
