//! Which tables are there, and where does each row's partition key come from?

use std::collections::{BTreeMap, BTreeSet};

use domicile_core::config::{KeySource, TableKind};
use domicile_core::id::{RegionId, TableName};

use super::mistake::Mistakes;
use super::partition::Partition;
use super::resolve::required;
use super::shared;
use super::written::{WrittenParent, WrittenTable};

/// Returns the tables that could be understood; `partition` is absent when it is itself wrong.
pub(super) fn resolve(
    written: &[WrittenTable],
    partition: Option<&Partition>,
    regions: &[RegionId],
    mistakes: &mut Mistakes,
) -> BTreeMap<TableName, TableKind> {
    let mut tables = BTreeMap::new();
    let mut places: BTreeMap<TableName, usize> = BTreeMap::new();
    for (i, table) in written.iter().enumerate() {
        let place = Place { number: i + 1 };
        let name = place.name(table, mistakes);
        let kind = place.kind(table, partition, regions, mistakes);
        let Some(name) = name else { continue };
        match places.get(&name) {
            Some(first) => {
                let text = format!("table \"{name}\" is already table[{first}]");
                mistakes.add(place.path("name"), text);
            }
            None => drop(places.insert(name.clone(), place.number)),
        }
        if let Some(kind) = kind {
            tables.entry(name).or_insert(kind);
        }
    }
    for (name, number) in &places {
        check_parent(name, Place { number: *number }, &tables, &places, mistakes);
    }
    tables
}

#[derive(Clone, Copy)]
struct Place {
    number: usize,
}

impl Place {
    fn path(self, key: &str) -> String {
        format!("table[{}].{key}", self.number)
    }

    fn name(self, table: &WrittenTable, mistakes: &mut Mistakes) -> Option<TableName> {
        let path = self.path("name");
        match required(&path, table.name.as_deref(), mistakes)?.parse::<TableName>() {
            Ok(name) => Some(name),
            Err(wrong) => {
                mistakes.add(path, wrong.to_string());
                None
            }
        }
    }

    fn kind(
        self,
        table: &WrittenTable,
        partition: Option<&Partition>,
        regions: &[RegionId],
        mistakes: &mut Mistakes,
    ) -> Option<TableKind> {
        let kind = table.kind.as_deref().unwrap_or("owned");
        if kind != "shared" {
            shared::refuse_keys(table, &|key| self.path(key), mistakes);
        }
        let kind = match kind {
            "owned" => return self.key(table, partition, mistakes).map(TableKind::Owned),
            "reference" => TableKind::Reference,
            "local" => TableKind::Local,
            "shared" => {
                let policy = shared::policy(table, regions, &|key| self.path(key), mistakes);
                TableKind::Shared(policy?)
            }
            other => {
                let text = format!(
                    "\"{other}\" is not a kind: expected owned, reference, shared or local"
                );
                mistakes.add(self.path("kind"), text);
                return None;
            }
        };
        for (key, present) in [("key", table.key.is_some()), ("parent", table.parent.is_some())] {
            if present {
                mistakes.add(self.path(key), "only owned tables have one");
            }
        }
        Some(kind)
    }

    fn key(
        self,
        table: &WrittenTable,
        partition: Option<&Partition>,
        mistakes: &mut Mistakes,
    ) -> Option<KeySource> {
        if partition == Some(&Partition::Whole) {
            for (key, present) in [("key", table.key.is_some()), ("parent", table.parent.is_some())]
            {
                if present {
                    let text = "has no meaning with partition = \"whole\": all rows have one owner";
                    mistakes.add(self.path(key), text);
                }
            }
            return Some(KeySource::Whole);
        }
        if let Some(parent) = &table.parent {
            if table.key.is_some() {
                let text = "a table has a key of its own or a parent, not both";
                mistakes.add(self.path("parent"), text);
            }
            return self.parent(parent, mistakes);
        }
        let columns = match &table.key {
            Some(names) => names.list(),
            None => partition?.columns(),
        };
        check_columns(&self.path("key"), &columns, mistakes);
        if let Some(Partition::Home { .. }) = partition
            && columns.len() > 1
        {
            let text = format!(
                "{} columns: with home(column) the key is one column, which names the region",
                columns.len()
            );
            mistakes.add(self.path("key"), text);
        }
        Some(KeySource::Columns(columns))
    }

    fn parent(self, written: &WrittenParent, mistakes: &mut Mistakes) -> Option<KeySource> {
        let path = |key: &str| format!("{}.{key}", self.path("parent"));
        let table = required(&path("table"), written.table.as_deref(), mistakes);
        let table = table.and_then(|text| match text.parse::<TableName>() {
            Ok(name) => Some(name),
            Err(wrong) => {
                mistakes.add(path("table"), wrong.to_string());
                None
            }
        });
        let mut names = |key: &str, names: &Option<super::written::Names>| match names {
            Some(names) => {
                check_columns(&path(key), &names.list(), mistakes);
                Some(names.list())
            }
            None => {
                mistakes.add(path(key), "is missing");
                None
            }
        };
        let columns = names("columns", &written.columns);
        let references = names("references", &written.references);
        let (columns, references) = (columns?, references?);
        if columns.len() != references.len() {
            let text = format!("{} columns for {}", references.len(), columns.len());
            mistakes.add(path("references"), text);
        }
        Some(KeySource::Parent { table: table?, columns, references })
    }
}

fn check_columns(path: &str, columns: &[String], mistakes: &mut Mistakes) {
    if columns.is_empty() || columns.iter().any(|column| column.is_empty()) {
        mistakes.add(path, "names no column");
    }
    let distinct: BTreeSet<&String> = columns.iter().collect();
    if distinct.len() < columns.len() {
        mistakes.add(path, "names a column twice");
    }
}

/// A chain of parents ends at a table that carries the key itself.
fn check_parent(
    name: &TableName,
    place: Place,
    tables: &BTreeMap<TableName, TableKind>,
    places: &BTreeMap<TableName, usize>,
    mistakes: &mut Mistakes,
) {
    let path = place.path("parent.table");
    let parent_of = |name: &TableName| match tables.get(name) {
        Some(TableKind::Owned(KeySource::Parent { table, .. })) => Some(table),
        _ => None,
    };
    let Some(parent) = parent_of(name) else { return };
    if !places.contains_key(parent) {
        return mistakes.add(path, format!("table \"{parent}\" is not in this file"));
    }
    if let Some(TableKind::Reference | TableKind::Shared(_) | TableKind::Local) = tables.get(parent)
    {
        return mistakes.add(path, format!("table \"{parent}\" is not an owned table"));
    }
    let mut chain = vec![name, parent];
    while let Some(next) = chain.last().copied().and_then(parent_of) {
        let round = next == name;
        // A circle further up is reported at the tables that it is made of.
        if !round && chain.contains(&next) {
            return;
        }
        chain.push(next);
        if round {
            break;
        }
    }
    if chain.last() == Some(&name) {
        let names: Vec<String> = chain.iter().map(ToString::to_string).collect();
        mistakes.add(path, format!("the parents go round in a circle: {}", names.join(" -> ")));
    }
}
