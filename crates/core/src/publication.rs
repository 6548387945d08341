//! Does the publication still carry every change, and what may it have passed over?
//!
//! PostgreSQL decodes a change by the publication as it stood where the change stands in the WAL. So
//! what somebody else did to the publication is put back for what comes after, never for what was
//! written meanwhile; and whether anything was, no later look at the publication can tell:
//!
//! ```text
//!   looks       whole                            whole
//!   WAL     ──────┴── DROP TABLE ── row ── ADD TABLE ──┴──
//! ```
//!
//! But each row of the catalogue tells which transaction wrote it. So the agent remembers that of
//! each table, its *mark*: as long as the mark is the same, nobody has touched what is published.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::TableName;

/// The state that is shown.
pub const PASSED_OVER: &str = "changes_passed_over";

/// Changes whenever somebody writes the publication or what it says of a table.
pub type Marks = BTreeMap<TableName, String>;

/// What the catalogue says of the publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// Made for all tables, which no ALTER takes back.
    pub for_all_tables: bool,
    /// Names whole schemas, too.
    pub names_schemas: bool,
    /// Every operation, no generated column, and rows under the name of the partitioned table.
    pub options_fit: bool,
    pub tables: BTreeMap<TableName, Published>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// All rows and all columns.
    pub whole: bool,
    pub mark: String,
}

/// What has to be done so that everything is published, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    Nothing,
    Create,
    /// Drop it and create it, in one transaction.
    Replace,
    /// Name the tables again.
    Tables,
}

/// Where each table that should be published is found: under its own name, or under another while
/// somebody has renamed it and the configuration does not say so yet. Others do not exist.
pub type Carried = BTreeMap<TableName, TableName>;

/// Returns where the tables are that should be published, of which these `exist`.
pub fn carried(
    known: &Marks,
    found: Option<&Publication>,
    wanted: &BTreeSet<TableName>,
    exist: &BTreeSet<TableName>,
) -> Carried {
    let renamed = |table: &TableName| {
        let mark = known.get(table)?;
        let mut others = found?.tables.iter().filter(|(name, _)| !wanted.contains(*name));
        others.find(|(_, other)| other.mark == *mark).map(|(name, _)| name.clone())
    };
    let place = |table: &TableName| match exist.contains(table) {
        true => Some(table.clone()),
        false => renamed(table),
    };
    wanted.iter().filter_map(|table| Some((table.clone(), place(table)?))).collect()
}

/// Returns what to do so that the publication carries all of `carried`, and nothing else.
pub fn put_back(found: Option<&Publication>, carried: &Carried) -> PutBack {
    let Some(found) = found else { return PutBack::Create };
    let names: BTreeSet<&TableName> = carried.values().collect();
    let listed = found.tables.keys().eq(names);
    let whole = found.tables.values().all(|table| table.whole);
    if found.for_all_tables || !found.options_fit {
        PutBack::Replace
    } else if !listed || !whole || found.names_schemas {
        PutBack::Tables
    } else {
        PutBack::Nothing
    }
}

/// Returns the tables of which changes may have been passed over since `known` was remembered.
/// `now` carries everything.
///
/// A table that was never published here before is not among them, nor one that does not exist: it
/// will be, should it come back.
pub fn passed_over(known: &Marks, now: &Publication, carried: &Carried) -> BTreeSet<TableName> {
    let touched = known.iter().filter(|(table, mark)| {
        let now = mark_of(table, now, carried);
        now.is_some_and(|now| now != *mark)
    });
    touched.map(|(table, _)| table.clone()).collect()
}

/// Returns what to remember. A table that does not exist yet has a mark that no other is equal to:
/// it may be written before it is published.
pub fn remember(
    known: &Marks,
    now: &Publication,
    wanted: &BTreeSet<TableName>,
    carried: &Carried,
) -> Marks {
    let mark = |table| mark_of(table, now, carried).or_else(|| known.get(table)).cloned();
    wanted.iter().map(|table| (table.clone(), mark(table).unwrap_or_default())).collect()
}

fn mark_of<'a>(table: &TableName, now: &'a Publication, carried: &Carried) -> Option<&'a String> {
    Some(&now.tables.get(carried.get(table)?)?.mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        TableName::new("public", name)
    }

    fn tables(names: &[&str]) -> BTreeSet<TableName> {
        names.iter().map(|name| table(name)).collect()
    }

    fn publication(marks: &[(&str, &str)]) -> Publication {
        let published = |mark: &str| Published { whole: true, mark: mark.to_owned() };
        Publication {
            options_fit: true,
            tables: marks.iter().map(|(name, mark)| (table(name), published(mark))).collect(),
            ..Publication::default()
        }
    }

    fn marks(of: &[(&str, &str)]) -> Marks {
        of.iter().map(|(name, mark)| (table(name), (*mark).to_owned())).collect()
    }

    fn at(names: &[&str]) -> Carried {
        names.iter().map(|name| (table(name), table(name))).collect()
    }

    #[test]
    fn what_carries_everything_is_left_alone() {
        let whole = publication(&[("a", "1"), ("b", "1")]);
        assert_eq!(put_back(Some(&whole), &at(&["a", "b"])), PutBack::Nothing);
    }

    #[test]
    fn whatever_somebody_did_is_put_back() {
        let whole = || publication(&[("a", "1"), ("b", "1")]);
        let put_back = |found: Publication| put_back(Some(&found), &at(&["a", "b"]));
        assert_eq!(super::put_back(None, &at(&["a", "b"])), PutBack::Create);
        assert_eq!(put_back(Publication { for_all_tables: true, ..whole() }), PutBack::Replace);
        assert_eq!(put_back(Publication { options_fit: false, ..whole() }), PutBack::Replace);
        assert_eq!(put_back(publication(&[("a", "1")])), PutBack::Tables);
        assert_eq!(put_back(publication(&[("a", "1"), ("b", "1"), ("c", "1")])), PutBack::Tables);
        assert_eq!(put_back(Publication { names_schemas: true, ..whole() }), PutBack::Tables);
        let mut filtered = whole();
        filtered.tables.get_mut(&table("b")).unwrap().whole = false;
        assert_eq!(put_back(filtered), PutBack::Tables);
    }

    #[test]
    fn only_tables_that_somebody_touched_were_passed_over_even_if_they_are_back() {
        let known = marks(&[("a", "1"), ("b", "1")]);
        let touched = |now: &[(&str, &str)]| {
            let names: Vec<&str> = now.iter().map(|(name, _)| *name).collect();
            passed_over(&known, &publication(now), &at(&names))
        };
        assert_eq!(touched(&[("a", "1"), ("b", "1")]), tables(&[]));
        assert_eq!(touched(&[("a", "1"), ("b", "2")]), tables(&["b"]));
        // The configuration names another one.
        assert_eq!(touched(&[("a", "1"), ("b", "1"), ("c", "2")]), tables(&[]));
        // A first start.
        let first = passed_over(&Marks::new(), &publication(&[("a", "1")]), &at(&["a"]));
        assert_eq!(first, tables(&[]));
    }

    #[test]
    fn a_table_that_is_gone_is_told_when_it_comes_back() {
        let wanted = tables(&["a", "b"]);
        let known = marks(&[("a", "1"), ("b", "1")]);
        let gone = publication(&[("a", "1")]);
        assert_eq!(carried(&known, Some(&gone), &wanted, &tables(&["a"])), at(&["a"]));
        assert_eq!(passed_over(&known, &gone, &at(&["a"])), tables(&[]));
        let known = remember(&known, &gone, &wanted, &at(&["a"]));
        let back = publication(&[("a", "1"), ("b", "2")]);
        assert_eq!(passed_over(&known, &back, &at(&["a", "b"])), tables(&["b"]));
        let remembered = remember(&known, &back, &wanted, &at(&["a", "b"]));
        assert_eq!(remembered, marks(&[("a", "1"), ("b", "2")]));
        // One that was not there yet is the same.
        let never = remember(&Marks::new(), &gone, &wanted, &at(&["a"]));
        assert_eq!(passed_over(&never, &back, &at(&["a", "b"])), tables(&["b"]));
    }

    #[test]
    fn a_table_that_was_renamed_is_carried_until_the_configuration_names_it() {
        let wanted = tables(&["a", "b"]);
        let known = marks(&[("a", "1"), ("b", "2")]);
        let renamed = publication(&[("a", "1"), ("c", "2")]);
        let place = carried(&known, Some(&renamed), &wanted, &tables(&["a"]));
        assert_eq!(place.get(&table("b")), Some(&table("c")));
        assert_eq!(put_back(Some(&renamed), &place), PutBack::Nothing);
        assert_eq!(passed_over(&known, &renamed, &place), tables(&[]));
        assert_eq!(remember(&known, &renamed, &wanted, &place), known);
        let touched = publication(&[("a", "1"), ("c", "3")]);
        assert_eq!(passed_over(&known, &touched, &place), tables(&["b"]));
        // Another one of its name takes its place.
        let place = carried(&known, Some(&renamed), &wanted, &tables(&["a", "b"]));
        assert_eq!(place, at(&["a", "b"]));
        assert_eq!(put_back(Some(&renamed), &place), PutBack::Tables);
        // One that the configuration has left out is not carried.
        let place = carried(&known, Some(&renamed), &tables(&["a"]), &tables(&["a"]));
        assert_eq!(place, at(&["a"]));
    }

    #[test]
    fn what_is_not_wanted_any_more_is_forgotten() {
        let known = marks(&[("a", "1"), ("b", "1")]);
        let now = publication(&[("a", "1")]);
        assert_eq!(remember(&known, &now, &tables(&["a"]), &at(&["a"])), marks(&[("a", "1")]));
    }
}
