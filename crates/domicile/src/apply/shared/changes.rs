//! Which changes of tables make the rows what was decided?
//!
//! Those of the rows and those of their versions, as if one transaction of another region had made
//! them: so they are written in the same sets as its changes are.

use std::sync::Arc;

use domicile_core::change::{
    Change, Column, Identity, Relation, Row as Values, Transaction, Value,
};
use domicile_core::conflict::Image;
use domicile_core::id::TableName;
use serde_json::Value as Json;

use super::row::lower_image;
use super::{Outcome, Row, Target};
use crate::postgres::shared::table::Table;
use crate::postgres::shared::{state, version_table};

/// The columns of `domicile.version`. The first two are its key.
const VERSION: [&str; 7] = ["relation", "key", "hlc", "state", "image", "deleted", "round"];

pub(super) fn changes(rows: &[Row<'_>]) -> Transaction {
    let mut made = Transaction::default();
    for row in rows {
        let Outcome::Becomes(target) = &row.outcome else { continue };
        match (&row.shown, target.image.as_ref().filter(|_| target.alive)) {
            (Some(shown), Some(image)) => update(&mut made, row.table, shown, image),
            (Some(shown), None) => delete(&mut made, row.table, shown),
            (None, Some(image)) => insert(&mut made, row.table, image),
            (None, None) => {}
        }
        note(&mut made, row, target);
    }
    made
}

/// Sets the columns that become another value.
fn update(made: &mut Transaction, table: &Table, shown: &Image, image: &Image) {
    let mut changes = false;
    let values = table.columns.iter().map(|column| {
        let name = &column.name;
        let new = image.get(name);
        let differs = new.is_some() && new != shown.get(name);
        changes |= differs;
        let sent = if table.is_key(name) { shown.get(name) } else { new.filter(|_| differs) };
        sent.map_or(Value::Unchanged, value)
    });
    let new: Values = values.collect();
    if changes {
        let relation = relation(made, table, |_| true);
        made.changes.push(Change::Update { relation, old: None, new });
    }
}

fn delete(made: &mut Transaction, table: &Table, shown: &Image) {
    let values = table.columns.iter().map(|column| {
        let name = &column.name;
        shown.get(name).filter(|_| table.is_key(name)).map_or(Value::Unchanged, value)
    });
    let old = values.collect();
    let relation = relation(made, table, |_| true);
    made.changes.push(Change::Delete { relation, old });
}

/// A column that the row has no value for gets its default.
fn insert(made: &mut Transaction, table: &Table, image: &Image) {
    let values = table.columns.iter().filter_map(|column| image.get(&column.name));
    let new = values.map(value).collect();
    let relation = relation(made, table, |name| image.contains_key(name));
    made.changes.push(Change::Insert { relation, new });
}

/// What is known of the row; and the row itself where it cannot be seen in its table.
fn note(made: &mut Transaction, row: &Row<'_>, target: &Target) {
    let text = |json: Json| Value::text(json.to_string());
    let aside = target.image.as_ref().filter(|_| !target.alive);
    let new = vec![
        Value::text(row.key.table.to_string()),
        Value::text(row.key_text.clone()),
        Value::text(target.version.seen.latest().unwrap_or_default().0.to_string()),
        text(state::lower(&target.version)),
        aside.map_or(Value::Null, |image| text(lower_image(image))),
        Value::text(if target.alive { "f" } else { "t" }),
        Value::Null,
    ];
    let columns = VERSION.iter().enumerate();
    let columns = columns.map(|(i, name)| Column { name: (*name).to_owned(), key: i < 2 });
    let relation = place(made, version_table(), columns.collect());
    made.changes.push(match row.has_version {
        true => Change::Update { relation, old: None, new },
        false => Change::Insert { relation, new },
    });
}

fn value(value: &Option<String>) -> Value {
    value.as_ref().map_or(Value::Null, |text| Value::text(text.clone()))
}

/// The place of a relation with those of the table's columns that are `given`.
fn relation(made: &mut Transaction, table: &Table, given: impl Fn(&str) -> bool) -> u32 {
    let columns = table.columns.iter().filter(|column| given(&column.name));
    let columns =
        columns.map(|column| Column { name: column.name.clone(), key: table.is_key(&column.name) });
    place(made, table.name.clone(), columns.collect())
}

fn place(made: &mut Transaction, table: TableName, columns: Vec<Column>) -> u32 {
    let relation = Relation { table, identity: Identity::Default, columns };
    let known = made.relations.iter().position(|known| **known == relation);
    let place = known.unwrap_or_else(|| {
        made.relations.push(Arc::new(relation));
        made.relations.len() - 1
    });
    u32::try_from(place).unwrap_or(u32::MAX)
}
