//! What do the facts about all regions mean? Pure: facts and configuration in, findings out.

use domicile_core::config::{Config, TableKind};
use domicile_core::id::{RegionId, TableName};

use super::finding::{Finding, Findings, Level};
use super::survey::{Reached, Survey};

mod basis;
mod code;
mod holders;
mod keys;
mod passwords;
mod regions;
mod room;
mod sequences;
mod server;
mod shared;
mod table;
#[cfg(test)]
mod tests;
mod unlisted;

pub use keys::may_be_key;

/// Judges everything, the worst first.
pub fn judge(config: &Config, surveys: &[Survey]) -> Vec<Finding> {
    let mut findings = Findings::default();
    if config.tables.is_empty() {
        let what = "the configuration lists no tables, so nothing is replicated";
        let way_out = "List the tables; `domicile init` proposes them.";
        findings.add(None, warn("no_tables", "cluster".into(), what, way_out));
    }
    let mut reached: Vec<(&RegionId, &Reached)> = Vec::new();
    for survey in surveys {
        match &survey.reached {
            Ok(facts) => reached.push((&survey.region, facts)),
            Err(error) => {
                let object = format!("region \"{}\"", survey.region);
                let way_out = "Start PostgreSQL, or correct region[].postgres.";
                findings.add(
                    Some(&survey.region),
                    blocker("unreachable", object, error.as_str(), way_out),
                );
            }
        }
    }
    holders::judge(config, &mut findings);
    for (region, facts) in &reached {
        judge_region(config, region, facts, &mut findings);
    }
    regions::judge(config, &reached, &mut findings);
    basis::judge(config, &reached, &mut findings);
    passwords::judge(&reached, &mut findings);
    sequences::judge(config, &reached, &mut findings);
    note_sound_tables(config, &reached, &mut findings);
    findings.into_list()
}

fn judge_region(config: &Config, region: &RegionId, facts: &Reached, findings: &mut Findings) {
    let mut add = |finding: Finding| findings.add(Some(region), finding);
    server::judge(config, facts, &mut add);
    for name in replicated(config) {
        let Some(table) = facts.catalog.table(name) else {
            let way_out = "Create it, or take it out of the configuration.";
            add(blocker("table_missing", object(name), "does not exist", way_out));
            continue;
        };
        match table::refusal(table) {
            Some(refusal) => add(refusal),
            None => {
                table::judge(config, table, facts, &mut add);
                code::judge(table, facts, &mut add);
                keys::judge(config, table, &facts.catalog, &mut add);
                shared::judge(config, table, facts, &mut add);
            }
        }
    }
    code::judge_owners(config, facts, &mut add);
    unlisted::judge(config, &facts.catalog, &mut add);
}

fn note_sound_tables(config: &Config, reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    if reached.is_empty() {
        return;
    }
    for name in replicated(config) {
        if !findings.wrong(&object(name)) {
            for (region, _) in reached {
                findings.add(Some(region), ok("table_ready", object(name), "is ready"));
            }
        }
    }
}

/// The tables that are the same in every region.
fn replicated(config: &Config) -> impl Iterator<Item = &TableName> {
    let listed = config.tables.iter();
    listed.filter(|(_, kind)| **kind != TableKind::Local).map(|(name, _)| name)
}

/// How a finding names a table.
fn object(table: &TableName) -> String {
    format!("table \"{table}\"")
}

fn finding(
    level: Level,
    name: &'static str,
    object: String,
    what: impl Into<String>,
    way_out: impl Into<String>,
) -> Finding {
    let (what, way_out) = (what.into(), way_out.into());
    Finding { level, name, regions: Vec::new(), object, what, way_out }
}

fn blocker(
    name: &'static str,
    object: String,
    what: impl Into<String>,
    way_out: impl Into<String>,
) -> Finding {
    finding(Level::Blocker, name, object, what, way_out)
}

fn warn(
    name: &'static str,
    object: String,
    what: impl Into<String>,
    way_out: impl Into<String>,
) -> Finding {
    finding(Level::Warn, name, object, what, way_out)
}

fn ok(name: &'static str, object: String, what: impl Into<String>) -> Finding {
    finding(Level::Ok, name, object, what, "")
}

/// SQL's way to write a name: quoted only where it must be.
fn quoted(table: &TableName) -> String {
    format!("{}.{}", quoted_name(&table.schema), quoted_name(&table.name))
}

fn quoted_name(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}
