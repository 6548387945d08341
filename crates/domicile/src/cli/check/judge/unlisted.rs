//! What is in the database that will not be replicated?

use domicile_core::config::{Config, TableKind};
use domicile_core::id::TableName;

use super::{Finding, object, ok, replicated, warn};
use crate::postgres::catalog::{Catalog, Persistence, Shape, Table};

/// So many are named in one line.
const NAMED_MAX: usize = 10;

pub fn judge(config: &Config, catalog: &Catalog, add: &mut impl FnMut(Finding)) {
    let unlisted = || {
        let tables = catalog.tables.values();
        tables.filter(|table| {
            !config.tables.contains_key(&table.name) && table.partition_of.is_none()
        })
    };
    let forgotten: Vec<&Table> = unlisted().filter(|table| holds_rows(table)).collect();
    if !forgotten.is_empty() {
        let names: Vec<&TableName> = forgotten.iter().map(|table| &table.name).collect();
        let what = format!("not in the configuration, so not replicated: {}", some(&names));
        let way_out = "List them; kind = \"local\" for those that stay where they are.";
        add(warn("not_listed", "tables".into(), what, way_out));
    }
    heirs(config, catalog, add);
    for table in unlisted().filter(|table| !holds_rows(table)) {
        let what = match (table.shape, table.persistence) {
            (Shape::View, _) => continue,
            (Shape::Foreign, _) => "is a foreign table and not replicated",
            (Shape::MaterialisedView, _) => {
                "is a materialised view and not replicated: refresh it in each region"
            }
            (_, Persistence::Unlogged) => "is unlogged and not replicated",
            (Shape::Plain | Shape::Partitioned, _) => continue,
        };
        add(ok("stays_here", object(&table.name), what));
    }
}

/// A write that names a parent changes its children's rows too, and is captured only where they are
/// replicated themselves.
fn heirs(config: &Config, catalog: &Catalog, add: &mut impl FnMut(Finding)) {
    for table in replicated(config).filter_map(|name| catalog.table(name)) {
        let stays = |heir: &&TableName| matches!(config.kind(heir), Some(TableKind::Local) | None);
        let staying: Vec<&TableName> = table.heirs.iter().filter(stays).collect();
        if !staying.is_empty() {
            let what = format!(
                "has children by plain inheritance that are not replicated: {}; a write that names \
                 the parent changes their rows here and in no other region",
                some(&staying)
            );
            let way_out = "List them too, or write to the parent with ONLY.";
            add(warn("heirs_not_listed", object(&table.name), what, way_out));
        }
    }
}

/// The first of them, and how many more there are.
fn some(names: &[&TableName]) -> String {
    let first: Vec<String> = names.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    match names.len().saturating_sub(NAMED_MAX) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Rows that could be replicated, and that someone may miss.
fn holds_rows(table: &Table) -> bool {
    matches!(table.shape, Shape::Plain | Shape::Partitioned)
        && table.persistence == Persistence::Permanent
}
