//! What is in the database that will not be replicated?

use domicile_core::config::Config;

use super::{Finding, object, ok, warn};
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
        let names: Vec<String> =
            forgotten.iter().take(NAMED_MAX).map(|table| table.name.to_string()).collect();
        let more = match forgotten.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let what =
            format!("not in the configuration, so not replicated: {}{more}", names.join(", "));
        let way_out = "List them; kind = \"local\" for those that stay where they are.";
        add(warn("not_listed", "tables".into(), what, way_out));
    }
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

/// Rows that could be replicated, and that someone may miss.
fn holds_rows(table: &Table) -> bool {
    matches!(table.shape, Shape::Plain | Shape::Partitioned)
        && table.persistence == Persistence::Permanent
}
