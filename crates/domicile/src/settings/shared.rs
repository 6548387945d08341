//! Which conflict policy has a shared table?

use std::collections::BTreeMap;

use domicile_core::conflict::policy::{ColumnPolicy, Columns, Deletes, Policy};
use domicile_core::id::RegionId;

use super::mistake::Mistakes;
use super::resolve::required;
use super::written::{Names, WrittenTable};

/// Stands for every column that is not named.
const EVERY_COLUMN: &str = "*";
const POLICIES: &str = "last_write_wins, delta, greatest, least, owner_wins, sql or manual";
const COLUMN_POLICIES: &str = "last_write_wins, delta, greatest or least";

type Path<'a> = &'a dyn Fn(&str) -> String;

/// Notes every key that only shared tables have.
pub(super) fn refuse_keys(table: &WrittenTable, path: Path<'_>, mistakes: &mut Mistakes) {
    let present = [
        ("policy", table.policy.is_some()),
        ("columns", table.columns.is_some()),
        ("update_delete", table.update_delete.is_some()),
        ("prefer", table.prefer.is_some()),
        ("function", table.function.is_some()),
    ];
    for (key, _) in present.into_iter().filter(|(_, present)| *present) {
        mistakes.add(path(key), "only shared tables have one");
    }
}

pub(super) fn policy(
    table: &WrittenTable,
    regions: &[RegionId],
    path: Path<'_>,
    mistakes: &mut Mistakes,
) -> Option<Policy> {
    let name = table.policy.as_deref().unwrap_or("last_write_wins");
    let whole_row = matches!(name, "owner_wins" | "sql" | "manual");
    let mut only = |key: &str, present: bool, meant: bool, with: &str| {
        if present && !meant {
            mistakes.add(path(key), format!("has a meaning only with policy = \"{with}\""));
        }
    };
    only("prefer", table.prefer.is_some(), name == "owner_wins", "owner_wins");
    only("function", table.function.is_some(), name == "sql", "sql");
    if whole_row && table.columns.is_some() {
        mistakes.add(path("columns"), format!("{name} decides about whole rows"));
    }
    if name == "owner_wins" && table.update_delete.is_some() {
        let text = "with owner_wins the region decides, whatever it did";
        mistakes.add(path("update_delete"), text);
    }
    let deletes = deletes(table, path, mistakes)?;
    match name {
        "owner_wins" => prefer(table, regions, path, mistakes).map(Policy::OwnerWins),
        "sql" => {
            let function = required(&path("function"), table.function.as_deref(), mistakes)?;
            let qualified = function.split('.').filter(|part| !part.is_empty()).count() == 2;
            if !qualified || function.matches('.').count() != 1 {
                let text = format!("\"{function}\" is not a function: expected schema.name");
                mistakes.add(path("function"), text);
                return None;
            }
            Some(Policy::Sql { function: function.to_owned(), deletes })
        }
        "manual" => Some(Policy::Manual(deletes)),
        _ => {
            let rest = if name == "last_write_wins" {
                ColumnPolicy::Row
            } else if let Some(policy) = column_policy(name) {
                policy
            } else {
                let text = format!("\"{name}\" is not a policy: expected {POLICIES}");
                mistakes.add(path("policy"), text);
                return None;
            };
            columns(table, rest, deletes, path, mistakes).map(Policy::Merge)
        }
    }
}

fn columns(
    table: &WrittenTable,
    mut rest: ColumnPolicy,
    deletes: Deletes,
    path: Path<'_>,
    mistakes: &mut Mistakes,
) -> Option<Columns> {
    let mut named = BTreeMap::new();
    for (column, name) in table.columns.iter().flatten() {
        let Some(policy) = column_policy(name) else {
            let text = format!("column \"{column}\": \"{name}\" is not one of {COLUMN_POLICIES}");
            mistakes.add(path("columns"), text);
            return None;
        };
        if column == EVERY_COLUMN {
            rest = policy;
        } else {
            named.insert(column.clone(), policy);
        }
    }
    Some(Columns { rest, named, deletes })
}

fn column_policy(name: &str) -> Option<ColumnPolicy> {
    match name {
        "last_write_wins" => Some(ColumnPolicy::Own),
        "delta" => Some(ColumnPolicy::Delta),
        "greatest" => Some(ColumnPolicy::Greatest),
        "least" => Some(ColumnPolicy::Least),
        _ => None,
    }
}

fn deletes(table: &WrittenTable, path: Path<'_>, mistakes: &mut Mistakes) -> Option<Deletes> {
    match table.update_delete.as_deref().unwrap_or("latest") {
        "latest" => Some(Deletes::Latest),
        "delete_wins" => Some(Deletes::DeleteWins),
        "update_wins" => Some(Deletes::UpdateWins),
        other => {
            let text = format!("\"{other}\": expected latest, delete_wins or update_wins");
            mistakes.add(path("update_delete"), text);
            None
        }
    }
}

fn prefer(
    table: &WrittenTable,
    regions: &[RegionId],
    path: Path<'_>,
    mistakes: &mut Mistakes,
) -> Option<Vec<RegionId>> {
    let names = table.prefer.as_ref().map(Names::list).unwrap_or_default();
    if names.is_empty() {
        mistakes.add(path("prefer"), "is missing: owner_wins needs to know whose writes win");
        return None;
    }
    // Without regions there is another mistake, which says more.
    let known = |name: &String| regions.iter().find(|region| region.as_str() == name);
    if regions.is_empty() {
        return None;
    }
    if let Some(name) = names.iter().find(|name| known(name).is_none()) {
        mistakes.add(path("prefer"), format!("\"{name}\" is not a region of this file"));
        return None;
    }
    Some(names.iter().filter_map(|name| known(name).cloned()).collect())
}
