//! Do all regions have the same tables, and is each one a database of its own?

use std::collections::{BTreeMap, BTreeSet};

use domicile_core::config::Config;
use domicile_core::id::RegionId;

use super::{Findings, blocker, object, replicated};
use crate::cli::check::survey::Reached;
use crate::postgres::catalog::Table;

pub fn judge(config: &Config, reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    distinct_databases(reached, findings);
    let Some(((first, first_facts), others)) = reached.split_first() else { return };
    for name in replicated(config) {
        let Some(here) = first_facts.catalog.table(name) else { continue };
        for (region, facts) in others {
            let Some(there) = facts.catalog.table(name) else { continue };
            for what in differences(first, here, region, there) {
                let way_out = "Bring the regions to the same schema.";
                findings.add(None, blocker("schema_differs", object(name), what, way_out));
            }
        }
    }
}

/// Two regions on one database would send each other their own changes.
fn distinct_databases(reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    let mut taken: BTreeMap<(i64, &str, u32), &RegionId> = BTreeMap::new();
    for (region, facts) in reached {
        let Some(system) = facts.server.system_identifier else { continue };
        let server = &facts.server;
        if let Some(first) = taken.insert((system, &server.started, server.database_oid), region) {
            let what = format!("has the same database as region \"{first}\"");
            let way_out = "Give each region a PostgreSQL of its own.";
            let object = format!("region \"{region}\"");
            findings.add(Some(region), blocker("same_database", object, what, way_out));
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

fn describe(column: &crate::postgres::catalog::Column) -> String {
    let not_null = if column.not_null { " not null" } else { "" };
    let generated = if column.generated { " generated" } else { "" };
    format!("{}{not_null}{generated}", column.type_name)
}
