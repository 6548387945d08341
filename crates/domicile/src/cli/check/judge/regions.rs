//! Do all regions have the same tables, and is each one a database of its own?

use std::collections::{BTreeMap, BTreeSet};

use domicile_core::config::Config;
use domicile_core::id::RegionId;

use super::table::parts;
use super::{Findings, Level, blocker, finding, object, replicated, warn};
use crate::cli::check::survey::Reached;
use crate::postgres::catalog::{Fires, ReplicaIdentity, Shape, Table};

pub fn judge(config: &Config, reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    distinct_servers(reached, findings);
    let Some(((first, first_facts), others)) = reached.split_first() else { return };
    for name in replicated(config) {
        let Some(here) = first_facts.catalog.table(name) else { continue };
        for (region, facts) in others {
            let Some(there) = facts.catalog.table(name) else { continue };
            for what in differences(first, here, region, there) {
                let way_out = "Bring the regions to the same schema.";
                findings.add(None, blocker("schema_differs", object(name), what, way_out));
            }
            let (here, there) = ((*first, here, *first_facts), (*region, there, *facts));
            generated(here, there, findings);
            demands(here, there, findings);
            // A partitioned table's leaves may be others: those of one name are compared.
            for part in parts(here.1, &first_facts.catalog) {
                let Some(other) = facts.catalog.table(&part.name) else { continue };
                let (here, there) = ((*first, part, *first_facts), (*region, other, *facts));
                fires(here, there, findings);
                identity(here, there, findings);
            }
        }
    }
}

/// Two regions on one database would send each other their own changes, and slots, origins and
/// standbys belong to the whole server.
fn distinct_servers(reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    let mut taken: BTreeMap<(i64, &str), (&RegionId, u32)> = BTreeMap::new();
    for (region, facts) in reached {
        let Some(system) = facts.server.system_identifier else { continue };
        let server = &facts.server;
        let here = (*region, server.database_oid);
        if let Some((first, database)) = taken.insert((system, &server.started), here) {
            let (name, what) = match database == server.database_oid {
                true => ("same_database", format!("has the same database as region \"{first}\"")),
                false => {
                    ("same_server", format!("has a database on the server of region \"{first}\""))
                }
            };
            let way_out = "Give each region a PostgreSQL of its own.";
            let object = format!("region \"{region}\"");
            findings.add(Some(region), blocker(name, object, what, way_out));
        }
    }
}

fn differences(first: &RegionId, here: &Table, other: &RegionId, there: &Table) -> Vec<String> {
    let mut differences = Vec::new();
    let names: BTreeSet<&String> =
        here.columns.iter().chain(&there.columns).map(|column| &column.name).collect();
    for name in names {
        match (here.column(name), there.column(name)) {
            (Some(_), None) => {
                differences.push(format!("column \"{name}\" is missing in {other}"));
            }
            (None, Some(_)) => {
                differences.push(format!("column \"{name}\" is missing in {first}"));
            }
            (Some(a), Some(b)) => {
                let (a, b) = (describe(a), describe(b));
                if a != b {
                    differences
                        .push(format!("column \"{name}\" is {a} in {first}, {b} in {other}"));
                }
            }
            (None, None) => {}
        }
    }
    let key = |table: &Table| match table.primary_key() {
        [] => "none".to_owned(),
        columns => format!("({})", columns.join(", ")),
    };
    if here.primary_key() != there.primary_key() {
        differences.push(format!(
            "the primary key is {} in {first}, {} in {other}",
            key(here),
            key(there)
        ));
    }
    differences
}

/// A region, a table in it, and what is known of all of the region.
type Here<'a> = (&'a RegionId, &'a Table, &'a Reached);

/// Each region computes these by itself: what differs makes rows differ, and nothing says so later.
fn generated((first, here, a): Here<'_>, (other, there, b): Here<'_>, findings: &mut Findings) {
    for (column, same) in here.columns.iter().filter_map(|c| Some((c, there.column(&c.name)?))) {
        if !column.generated || !same.generated || column.default == same.default {
            continue;
        }
        let text = |expression: &Option<String>| expression.clone().unwrap_or_default();
        let what = format!(
            "column \"{}\" is generated as {} in {first}, as {} in {other}",
            column.name,
            text(&column.default),
            text(&same.default)
        );
        // Another major version may print the same expression otherwise.
        let level = match a.server.version_num / 10_000 == b.server.version_num / 10_000 {
            true => Level::Blocker,
            false => Level::Warn,
        };
        let way_out =
            "Each region computes it by itself: make the column again, by one expression.";
        findings.add(None, finding(level, "generated_differs", object(&here.name), what, way_out));
    }
}

/// What a row must meet in one region and need not in the other, which may send it.
fn demands((first, here, _): Here<'_>, (other, there, _): Here<'_>, findings: &mut Findings) {
    let alone = |table: &Table, than: &Table, region: &RegionId| -> Vec<String> {
        let only = table.demands.iter().filter(|demand| !than.demands.contains(demand));
        only.map(|demand| format!("{demand} in {region} alone")).collect()
    };
    for what in [alone(here, there, first), alone(there, here, other)].concat() {
        let way_out = "Rows that do not meet it go to the conflict journal there: have it everywhere, or nowhere.";
        findings.add(None, warn("demands_differ", object(&here.name), what, way_out));
    }
}

/// What is done for applied rows in one region and not in the other.
fn fires((first, here, _): Here<'_>, (other, there, _): Here<'_>, findings: &mut Findings) {
    let key = |fires: &Fires| (fires.kind.clone(), fires.name.clone());
    let by_name = |table: &Table| -> BTreeMap<(String, String), Fires> {
        table.fires.iter().map(|fires| (key(fires), fires.clone())).collect()
    };
    let (ours, theirs) = (by_name(here), by_name(there));
    let names: BTreeSet<&(String, String)> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let (kind, called) = name;
        let only = |region| format!("{kind} \"{called}\" fires for applied rows in {region} alone");
        let what = match (ours.get(name), theirs.get(name)) {
            (Some(a), Some(b)) if a.enabled != b.enabled || a.definition != b.definition => {
                let text =
                    |fires: &Fires| format!("{}, ENABLE {}", fires.definition, fires.enabled);
                format!("{kind} \"{called}\" is ({}) in {first}, ({}) in {other}", text(a), text(b))
            }
            (Some(_), None) => only(first),
            (None, Some(_)) => only(other),
            _ => continue,
        };
        let way_out =
            "If it changes rows they differ from then on: have it everywhere, or nowhere.";
        findings.add(None, warn("fires_differ", object(&here.name), what, way_out));
    }
}

/// By what a changed row is named to other regions. It goes on, but what is shipped changes with the
/// owner.
fn identity((first, here, _): Here<'_>, (other, there, _): Here<'_>, findings: &mut Findings) {
    if here.shape == Shape::Partitioned || there.shape == Shape::Partitioned {
        return;
    }
    let text = |table: &Table| match table.replica_identity {
        ReplicaIdentity::Default => "DEFAULT".to_owned(),
        ReplicaIdentity::Full => "FULL".to_owned(),
        ReplicaIdentity::Nothing => "NOTHING".to_owned(),
        ReplicaIdentity::Index => {
            let index = table.unique_indexes.iter().find(|index| index.replica_identity);
            let columns = index.map_or_else(String::new, |index| index.columns.join(", "));
            format!("USING INDEX over ({columns})")
        }
    };
    let (a, b) = (text(here), text(there));
    if a != b {
        let what = format!("has REPLICA IDENTITY {a} in {first}, {b} in {other}");
        let way_out =
            "ALTER TABLE ... REPLICA IDENTITY, so that it is the same whoever owns the rows.";
        findings.add(None, warn("identity_differs", object(&here.name), what, way_out));
    }
}

fn describe(column: &crate::postgres::catalog::Column) -> String {
    let not_null = if column.not_null { " not null" } else { "" };
    let generated = if column.generated { " generated" } else { "" };
    format!("{}{not_null}{generated}", column.type_name)
}
