//! Do tables rest on the same things in every region: collations, enums, extensions?

use std::collections::{BTreeMap, BTreeSet};

use domicile_core::config::Config;
use domicile_core::id::RegionId;

use super::server::object;
use super::{Finding, Findings, Level, finding, quoted_name, replicated, warn};
use crate::cli::check::survey::{Basis, Reached};
use crate::postgres::catalog::Catalog;

pub fn judge(config: &Config, reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    for (region, facts) in reached {
        collation_moved(region, facts, findings);
    }
    let Some(((first, first_facts), others)) = reached.split_first() else { return };
    let used = types_of_columns(config, &first_facts.catalog);
    for (other, facts) in others {
        let (here, there) = (&first_facts.basis, &facts.basis);
        if here.sorts_by != there.sorts_by {
            let what =
                format!("sort by {} in {first}, by {} in {other}", here.sorts_by, there.sorts_by);
            findings.add(None, collation("databases".into(), what));
        }
        for (name, here, there) in in_both(&here.collations, &there.collations) {
            let what = format!("is {here} in {first}, {there} in {other}");
            findings.add(None, collation(format!("collation \"{name}\""), what));
        }
        let (here, there) = ((*first, here), (*other, there));
        enums(&used, here, there, findings);
        extensions(here, there, findings);
    }
}

/// The types of replicated columns, of arrays those of their elements.
fn types_of_columns<'a>(config: &Config, catalog: &'a Catalog) -> BTreeSet<&'a str> {
    let tables = replicated(config).filter_map(|name| catalog.table(name));
    tables.flat_map(|table| &table.columns).map(|column| column.element_type.as_str()).collect()
}

fn collation(object: String, what: String) -> Finding {
    let way_out = "Equal texts stay equal, but their order is another, and so may be what upper() and \
                   LIKE make of them: use one provider, locale and version everywhere, or COLLATE \
                   \"C\" where it matters.";
    warn("collation_differs", object, what, way_out)
}

fn collation_moved(region: &RegionId, facts: &Reached, findings: &mut Findings) {
    let Some(now) = &facts.basis.collation_moved_to else { return };
    let what = format!(
        "sorts by {}, and the system has version {now} by now: indexes over texts may be out of order",
        facts.basis.sorts_by
    );
    let database = quoted_name(&facts.server.database);
    let way_out = format!(
        "REINDEX DATABASE {database}, then ALTER DATABASE {database} REFRESH COLLATION VERSION."
    );
    findings.add(Some(region), warn("collation_version", object(&facts.server), what, way_out));
}

fn enums(
    used: &BTreeSet<&str>,
    (first, here): (&RegionId, &Basis),
    (other, there): (&RegionId, &Basis),
    findings: &mut Findings,
) {
    for (name, a, b) in in_both(&here.enums, &there.enums) {
        let object = format!("type \"{name}\"");
        let only = |in_one: &[String], in_other: &[String]| -> Vec<String> {
            let missing = in_one.iter().filter(|label| !in_other.contains(label));
            missing.map(|label| format!("\"{label}\"")).collect()
        };
        let mut alike = true;
        for (missing, region) in [(only(a, b), other), (only(b, a), first)] {
            if missing.is_empty() {
                continue;
            }
            alike = false;
            let what = format!("has no {} in {region}", missing.join(", "));
            let way_out = "ALTER TYPE ... ADD VALUE there: rows that use it wait for that.";
            let level = if used.contains(name.as_str()) { Level::Blocker } else { Level::Warn };
            findings.add(None, finding(level, "enum_differs", object.clone(), what, way_out));
        }
        if alike {
            let what = format!("has its values in another order in {other} than in {first}");
            let way_out = "Rows sort otherwise there: make the type again in the same order.";
            findings.add(None, warn("enum_differs", object, what, way_out));
        }
    }
}

/// Types of extensions travel as text, which another version may write otherwise.
fn extensions(
    (first, here): (&RegionId, &Basis),
    (other, there): (&RegionId, &Basis),
    findings: &mut Findings,
) {
    for (name, a, b) in in_both(&here.extensions, &there.extensions) {
        let what = format!("is {a} in {first}, {b} in {other}");
        let way_out = format!("ALTER EXTENSION {} UPDATE, where it is older.", quoted_name(name));
        let object = format!("extension \"{name}\"");
        findings.add(None, warn("extension_differs", object, what, way_out));
    }
}

/// What both have and is not the same.
fn in_both<'a, T: PartialEq>(
    here: &'a BTreeMap<String, T>,
    there: &'a BTreeMap<String, T>,
) -> impl Iterator<Item = (&'a String, &'a T, &'a T)> {
    let both = here.iter().filter_map(|(name, a)| Some((name, a, there.get(name)?)));
    both.filter(|(_, a, b)| a != b)
}
