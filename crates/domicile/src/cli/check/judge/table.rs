//! Can this table be replicated at all, whatever owns its rows?

use domicile_core::config::Config;

use super::keys::across_owners;
use super::{Finding, blocker, object, quoted, warn};
use crate::cli::check::survey::Reached;
use crate::postgres::catalog::{
    Catalog, Persistence, ReplicaIdentity, RowSecurity, Shape, Table, UniqueIndex,
};

/// From here on PostgreSQL refuses to change rows whose old image would lack a generated column.
const GENERATED_IN_IDENTITY_SINCE: i32 = 180_000;

pub fn judge(config: &Config, table: &Table, facts: &Reached, add: &mut impl FnMut(Finding)) {
    if !table.ours {
        let what = format!("does not belong to role \"{}\"", facts.server.role);
        let way_out = format!(
            "Only its owner may publish and guard it: ALTER TABLE {} OWNER TO {}, or use the \
             owner's role.",
            quoted(&table.name),
            super::quoted_name(&facts.server.role)
        );
        add(blocker("not_ours", object(&table.name), what, way_out));
    }
    persistence(table, &facts.catalog, add);
    identity(table, &facts.catalog, add);
    generated_in_key(config, table, &facts.catalog, add);
    if facts.server.version_num >= GENERATED_IN_IDENTITY_SINCE {
        generated_in_identity(config, table, &facts.catalog, add);
    }
    constraints(config, table, &facts.catalog, add);
    if table.row_security == RowSecurity::Forced && !facts.server.bypasses_row_security {
        let what = format!(
            "has forced row security, which would hide rows from role \"{}\"",
            facts.server.role
        );
        let way_out = format!(
            "ALTER ROLE {} BYPASSRLS, or use a superuser.",
            super::quoted_name(&facts.server.role)
        );
        add(blocker("row_security", object(&table.name), what, way_out));
    } else if table.row_security != RowSecurity::Off {
        let what = "has row security: applied rows are not held against its policies";
        let way_out = "Nothing, if the policies are the same in every region.";
        add(warn("row_security", object(&table.name), what, way_out));
    }
    if table.inherits {
        let what = "is a child by plain inheritance: each table is replicated on its own";
        let way_out = "List the parent and every child that holds rows.";
        add(warn("inheritance", object(&table.name), what, way_out));
    }
}

/// Returns why this cannot be replicated at all, unless it is a table in its own right.
pub fn refusal(table: &Table) -> Option<Finding> {
    let what = match (table.shape, &table.partition_of) {
        (Shape::Plain | Shape::Partitioned, None) => return None,
        (_, Some(root)) => {
            let what = format!("is a table partition of \"{root}\"");
            let way_out = "List the partitioned table: its table partitions come with it.";
            return Some(blocker("table_partition", object(&table.name), what, way_out));
        }
        (Shape::Foreign, None) => "is a foreign table: its rows are elsewhere",
        (Shape::MaterialisedView, None) => "is a materialised view: it is refreshed, not written",
        (Shape::View, None) => "is a view",
    };
    let way_out = "Set kind = \"local\", or take it out of the configuration.";
    Some(blocker("not_a_table", object(&table.name), what, way_out))
}

fn persistence(table: &Table, catalog: &Catalog, add: &mut impl FnMut(Finding)) {
    for part in parts(table, catalog) {
        let what = match part.persistence {
            Persistence::Permanent => match part.shape {
                Shape::Foreign => "is a foreign table: its rows are elsewhere",
                _ => continue,
            },
            Persistence::Unlogged => "is unlogged: its changes are not in the WAL",
            Persistence::Temporary => "is temporary",
        };
        let way_out = match part.persistence {
            Persistence::Unlogged => {
                format!("ALTER TABLE {} SET LOGGED, or set kind = \"local\".", quoted(&part.name))
            }
            _ => "Set kind = \"local\", or take it out of the configuration.".to_owned(),
        };
        add(blocker("not_logged", object(&part.name), what, way_out));
    }
}

/// UPDATE and DELETE need a row's identity: of a partitioned table, in each of its leaves.
fn identity(table: &Table, catalog: &Catalog, add: &mut impl FnMut(Finding)) {
    let leaves: Vec<&Table> =
        parts(table, catalog).filter(|part| part.shape != Shape::Partitioned).collect();
    for leaf in &leaves {
        if leaf.replica_identity == ReplicaIdentity::Nothing && !leaf.primary_key().is_empty() {
            let way_out = format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT.", quoted(&leaf.name));
            let what = "has REPLICA IDENTITY NOTHING: no UPDATE or DELETE is possible";
            add(blocker("no_replica_identity", object(&leaf.name), what, way_out));
        }
    }
    if leaves.iter().all(|leaf| leaf.rows_have_identity()) {
        return;
    }
    let deferrable = table.unique_indexes.iter().any(|index| index.primary && !index.immediate);
    if deferrable {
        let what =
            "has a deferrable primary key, which cannot identify a changed row: inserts only";
        let way_out = "Make the primary key NOT DEFERRABLE.";
        add(warn("deferrable_primary_key", object(&table.name), what, way_out));
    } else if table.primary_key().is_empty() {
        let what = "has no primary key: inserts only, UPDATE and DELETE will be refused";
        let way_out = format!(
            "ALTER TABLE {} ADD PRIMARY KEY (...); or leave it, for a table that is only \
             appended to.",
            quoted(&table.name)
        );
        add(warn("no_primary_key", object(&table.name), what, way_out));
    }
}

/// Generated columns are not shipped: by a key with one of them no row is found elsewhere.
fn generated_in_key(
    config: &Config,
    table: &Table,
    catalog: &Catalog,
    add: &mut impl FnMut(Finding),
) {
    let generated = |part: &Table, columns: &[String]| -> Option<String> {
        let is_generated = |name: &&String| part.column(name).is_some_and(|c| c.generated);
        columns.iter().find(is_generated).cloned()
    };
    if config.shared(&table.name).is_some() {
        if let Some(column) = generated(table, table.primary_key()) {
            let what = format!(
                "its primary key has a generated column, \"{column}\", which is not shipped: \
                 nothing tells which row a change is about"
            );
            let way_out = "Choose another primary key, of columns that are written.";
            add(blocker("generated_in_key", object(&table.name), what, way_out));
        }
        return;
    }
    let mut of_whole = None;
    for part in parts(table, catalog) {
        let Some(index) = part.identity_index() else { continue };
        let Some(column) = generated(part, &index.columns) else { continue };
        // What the whole table has, its table partitions have from it.
        if of_whole.as_ref() == Some(&column) {
            continue;
        }
        let what = format!(
            "has a generated column, \"{column}\", in \"{}\", which identifies its rows: it is not \
             shipped, and no UPDATE or DELETE finds its row in other regions",
            index.name
        );
        let way_out = "Choose another primary key, or REPLICA IDENTITY USING INDEX with one of \
                       columns that are written.";
        add(blocker("generated_in_key", object(&part.name), what, way_out));
        if part.name == table.name {
            of_whole = Some(column);
        }
    }
}

/// Generated columns are not shipped, and with identity FULL every column is part of it.
fn generated_in_identity(
    config: &Config,
    table: &Table,
    catalog: &Catalog,
    add: &mut impl FnMut(Finding),
) {
    let Some(column) = table.columns.iter().find(|column| column.generated) else { return };
    let what = format!(
        "has a generated column, \"{}\", and REPLICA IDENTITY FULL: PostgreSQL 18 and newer refuse \
         every UPDATE and DELETE",
        column.name
    );
    if config.shared(&table.name).is_some() {
        let way_out = "A shared table is given REPLICA IDENTITY FULL: drop the column, and compute \
                       it in a view, or make the table owned or reference.";
        return add(blocker("generated_in_identity", object(&table.name), what, way_out));
    }
    for part in parts(table, catalog) {
        if part.replica_identity == ReplicaIdentity::Full {
            let way_out = format!(
                "ALTER TABLE {} REPLICA IDENTITY DEFAULT, with a primary key; or drop the column.",
                quoted(&part.name)
            );
            add(blocker("generated_in_identity", object(&part.name), what.as_str(), way_out));
        }
    }
}

fn constraints(config: &Config, table: &Table, catalog: &Catalog, add: &mut impl FnMut(Finding)) {
    for part in parts(table, catalog) {
        let own = part.unique_indexes.iter().filter(|index| index.own && !index.immediate);
        for index in own {
            deferrable(config, table, part, index, add);
        }
    }
    for name in &table.exclusions {
        let what = format!("has an exclusion constraint, \"{name}\"");
        let way_out = "It is checked in each region alone: rows of two owners may still overlap.";
        add(warn("exclusion", object(&table.name), what, way_out));
    }
}

/// An applier's session runs as a replica, where PostgreSQL leaves out the check that was put off.
fn deferrable(
    config: &Config,
    table: &Table,
    part: &Table,
    index: &UniqueIndex,
    add: &mut impl FnMut(Finding),
) {
    let named = object(&part.name);
    if across_owners(config, table, index) {
        let what = format!(
            "has a deferrable unique constraint without the partition key, \"{}\": PostgreSQL does \
             not check it while rows are applied, so two owners' rows with one value both stay, in \
             every region, and nothing is journaled",
            index.name
        );
        let way_out = "Make it NOT DEFERRABLE, or add what decides a row's owner (its partition \
                       key, or the columns that name its parent) to it.";
        add(blocker("deferrable_unique", named, what, way_out));
    } else if !index.primary {
        let what = format!("has a deferrable unique constraint, \"{}\"", index.name);
        let way_out = "PostgreSQL does not check it while rows are applied: nothing has to be done \
                       while regions hold what the owner holds, and NOT DEFERRABLE is checked \
                       everywhere.";
        add(warn("deferrable_unique", named, what, way_out));
    }
}

/// The table and, of a partitioned one, all its table partitions.
pub fn parts<'a>(table: &'a Table, catalog: &'a Catalog) -> impl Iterator<Item = &'a Table> {
    let below = table.descendants.iter().filter_map(|name| catalog.table(name));
    std::iter::once(table).chain(below)
}
