//! What did one transaction make of each row of shared tables, when all its statements are done?
//!
//! A transaction shows whole or not at all, so what it did in between does not matter: a row that
//! it changed twice is one change, and two rows that exchanged a unique value did so at once. Its
//! rows and their versions come in no fixed order and are brought together by key.

use std::collections::BTreeMap;

use anyhow::Context;
use domicile_core::change::{Change, Relation, Row, Value};
use domicile_core::conflict::version::Version;
use domicile_core::conflict::{Image, Logical, Operation};
use domicile_core::id::TableName;
use domicile_core::lsn::Lsn;
use serde_json::Value as Json;

use crate::pieces::Piece;
use crate::postgres::shared::state;
use crate::postgres::shared::table::Table;
use crate::postgres::shared::{horizon_table, version_table};

/// A row by its table and the texts of its primary key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub table: TableName,
    pub values: Vec<String>,
}

/// The rows of one transaction, in the order in which all appliers lock them.
#[derive(Debug, Default)]
pub struct Net {
    pub rows: BTreeMap<Key, NetRow>,
    /// Region -> what it says to have applied.
    pub horizons: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq)]
pub struct NetRow {
    /// The transaction that touched it first, once it is not the only one.
    pub first: Option<(Lsn, u32)>,
    /// The change that touched it first, by its place in that transaction.
    pub change: i32,
    /// Before the transaction; absent where it was not there, or is not known.
    pub old: Option<Image>,
    /// After it; absent where it is not there.
    pub new: Option<Image>,
    /// Was a row change seen, or a version alone?
    changed: bool,
    inserted: bool,
    pub version: Option<NetVersion>,
}

/// A row's version after the transaction.
#[derive(Debug, PartialEq)]
pub struct NetVersion {
    /// The key as `domicile.version` has it.
    pub key: String,
    pub version: Version,
    pub deleted: bool,
    aside: Option<Image>,
}

impl Net {
    /// Takes the changes of shared tables out of one piece of the transaction.
    pub fn take(
        &mut self,
        tables: &BTreeMap<TableName, Table>,
        piece: &Piece,
    ) -> anyhow::Result<()> {
        let transaction = &piece.transaction;
        for (change, i) in transaction.changes.iter().zip(piece.changes_before..) {
            let place = i32::try_from(i).unwrap_or(i32::MAX);
            let (relation, old, new) = match change {
                Change::Insert { relation, new } => (relation, None, Some(new)),
                Change::Update { relation, old, new } => (relation, old.as_ref(), Some(new)),
                Change::Delete { relation, old } => (relation, Some(old), None),
                // Nobody may truncate a shared table.
                Change::Truncate { .. } => continue,
            };
            let relation =
                transaction.relations.get(*relation as usize).context("no such relation")?;
            if relation.table == horizon_table() {
                let row = new.map(|new| image(relation, new, None)).unwrap_or_default();
                let text = |name: &str| row.get(name).cloned().flatten();
                if let (Some(region), Some(frontier)) = (text("region"), text("frontier")) {
                    self.horizons.insert(region, frontier);
                }
            } else if relation.table == version_table() {
                if let Some(new) = new {
                    self.take_version(tables, &image(relation, new, None), place)?;
                }
            } else if let Some(table) = tables.get(&relation.table) {
                let old_image = old.map(|old| image(relation, old, None));
                let new_image = new.map(|new| image(relation, new, old));
                self.take_row(table, old_image, new_image, place)?;
            }
        }
        Ok(())
    }

    /// Takes in what the origin's next transaction made of its rows; `self` is that of the
    /// transaction at `lsn`, or of several up to it. Gives `next` back where a row of it cannot be
    /// brought together with what is here.
    pub fn absorb(&mut self, (lsn, xid): (Lsn, u32), next: Net) -> Result<(), Net> {
        let whole = |row: &NetRow| row.changed && row.version.is_some();
        let both = |(key, row): (&Key, &NetRow)| match self.rows.get(key) {
            Some(here) => whole(here) && whole(row),
            None => true,
        };
        if !next.rows.iter().all(both) {
            return Err(next);
        }
        for row in self.rows.values_mut() {
            row.first.get_or_insert((lsn, xid));
        }
        for (key, row) in next.rows {
            match self.rows.get_mut(&key) {
                Some(here) => (here.new, here.version) = (row.new, row.version),
                None => _ = self.rows.insert(key, row),
            }
        }
        self.horizons.extend(next.horizons);
        Ok(())
    }

    /// Adds a row that was kept in the journal.
    pub fn put(
        &mut self,
        table: TableName,
        values: Vec<String>,
        operation: &str,
        image: Option<Image>,
        version: Version,
    ) {
        // As `domicile.version` has it: a JSON list, as PostgreSQL prints it.
        let texts: Vec<String> =
            values.iter().map(|v| Json::from(v.as_str()).to_string()).collect();
        let key = format!("[{}]", texts.join(", "));
        let deleted = operation == "delete";
        let (new, aside) = if deleted { (None, image) } else { (image, None) };
        let row = self.row(Key { table, values }, 0);
        row.see(None, operation == "insert");
        row.new = new;
        row.version = Some(NetVersion { key, version, deleted, aside });
    }

    /// The latest time at which any of the rows was written.
    pub fn latest(&self) -> Option<i64> {
        let versions = self.rows.values().filter_map(|row| row.version.as_ref());
        versions.filter_map(|v| v.version.seen.latest()).map(|hlc| hlc.0).max()
    }

    fn take_row(
        &mut self,
        table: &Table,
        old: Option<Image>,
        new: Option<Image>,
        place: i32,
    ) -> anyhow::Result<()> {
        let old_key = old.as_ref().map(|image| key(table, image)).transpose()?;
        let new_key = new.as_ref().map(|image| key(table, image)).transpose()?;
        let stays = old_key == new_key;
        if let Some(key) = old_key {
            let row = self.row(key, place);
            row.see(old, false);
            if !stays {
                row.new = None;
            }
        }
        if let Some(key) = new_key {
            let row = self.row(key, place);
            row.see(None, !stays);
            row.new = new;
        }
        Ok(())
    }

    fn take_version(
        &mut self,
        tables: &BTreeMap<TableName, Table>,
        row: &Image,
        place: i32,
    ) -> anyhow::Result<()> {
        let text = |name: &str| row.get(name).and_then(Option::as_deref);
        let field = |name: &str| text(name).with_context(|| format!("a version has no {name}"));
        let relation: TableName = field("relation")?.parse()?;
        if !tables.contains_key(&relation) {
            // Not shared here: a file that is not the same in every region.
            return Ok(());
        }
        let key = field("key")?;
        let values = serde_json::from_str(key).context("understand a version's key")?;
        let version = state::lift(serde_json::from_str(field("state")?)?)?;
        let aside = text("image").map(serde_json::from_str).transpose()?;
        let version =
            NetVersion { key: key.to_owned(), version, deleted: field("deleted")? == "t", aside };
        self.row(Key { table: relation, values }, place).version = Some(version);
        Ok(())
    }

    fn row(&mut self, key: Key, place: i32) -> &mut NetRow {
        self.rows.entry(key).or_insert_with(|| NetRow { change: place, ..NetRow::default() })
    }
}

impl NetRow {
    /// Only what was there first counts as what was there before.
    fn see(&mut self, old: Option<Image>, inserted: bool) {
        if !self.changed {
            (self.old, self.inserted, self.changed) = (old, inserted, true);
        }
    }

    pub fn operation(&self) -> Operation {
        let deleted = self.version.as_ref().is_some_and(|version| version.deleted);
        if deleted || (self.changed && self.new.is_none()) {
            Operation::Delete
        } else if self.inserted {
            Operation::Insert
        } else {
            Operation::Update
        }
    }

    /// The row as its origin has it now; `None` where it came without a version.
    pub fn logical(&self) -> Option<Logical> {
        let version = self.version.as_ref()?;
        let image = self.new.clone().or_else(|| version.aside.clone());
        Some(Logical { version: version.version.clone(), image })
    }
}

fn key(table: &Table, image: &Image) -> anyhow::Result<Key> {
    let value = |column: &String| {
        let value = image.get(column).cloned().flatten();
        value.with_context(|| format!("a row of {} has no key \"{column}\"", table.name))
    };
    let values = table.key.iter().map(value).collect::<anyhow::Result<_>>()?;
    Ok(Key { table: table.name.clone(), values })
}

/// A row by column names. A value that was not sent again is the old row's.
fn image(relation: &Relation, row: &Row, old: Option<&Row>) -> Image {
    let mut image = Image::new();
    for (i, (column, value)) in relation.columns.iter().zip(row).enumerate() {
        let value = match value {
            Value::Unchanged => old.and_then(|old| old.get(i)).unwrap_or(value),
            sent => sent,
        };
        match value {
            Value::Unchanged => continue,
            Value::Null => image.insert(column.name.clone(), None),
            Value::Text(text) => {
                let text = String::from_utf8_lossy(text).into_owned();
                image.insert(column.name.clone(), Some(text))
            }
        };
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key { table: TableName::new("public", "note"), values: vec![id.into()] }
    }

    fn net(id: &str, operation: &str, body: &str) -> Net {
        let mut net = Net::default();
        let image = Image::from([("body".to_owned(), Some(body.to_owned()))]);
        let Key { table, values } = key(id);
        net.put(table, values, operation, Some(image), Version::default());
        net
    }

    #[test]
    fn of_several_transactions_the_first_says_where_and_the_last_says_what() {
        let mut whole = net("1", "insert", "first");
        whole.absorb((Lsn(10), 7), net("1", "update", "second")).unwrap();
        whole.absorb((Lsn(20), 8), net("2", "update", "other")).unwrap();
        whole.absorb((Lsn(30), 9), net("1", "update", "last")).unwrap();
        let (one, two) = (&whole.rows[&key("1")], &whole.rows[&key("2")]);
        assert_eq!((one.first, two.first), (Some((Lsn(10), 7)), Some((Lsn(30), 9))));
        assert_eq!(one.operation(), Operation::Insert);
        assert_eq!(one.new.as_ref().unwrap()["body"].as_deref(), Some("last"));
    }

    #[test]
    fn a_row_without_a_version_or_a_version_without_its_row_is_not_brought_together() {
        let bare = |net: &mut Net| net.rows.get_mut(&key("1")).unwrap().version = None;
        let mut whole = net("1", "update", "first");
        let mut next = net("1", "update", "next");
        bare(&mut next);
        let next = whole.absorb((Lsn(10), 7), next).unwrap_err();
        assert_eq!(whole.rows[&key("1")].new.as_ref().unwrap()["body"].as_deref(), Some("first"));
        bare(&mut whole);
        assert!(whole.absorb((Lsn(10), 7), next).is_err());
        let mut alone = net("1", "update", "next");
        alone.rows.get_mut(&key("1")).unwrap().changed = false;
        assert!(net("1", "update", "first").absorb((Lsn(10), 7), alone).is_err());
    }
}
