//! What is the least that has to be done so that the rows end as after all these changes?
//!
//! Changes of many transactions become a few steps: rows of one table that are inserted, updated
//! or deleted together, each row at most once. Consecutive changes of one row are folded into one.
//! What cannot be folded (a new key, a table without a key, TRUNCATE) is a step by itself, in its
//! place between the others.
//!
//! **Invariant:** the changes of one row, and everything before and after a step by itself, keep
//! their order. Different rows may change places, so a value of a unique index may still be held by
//! a row whose change comes later: then PostgreSQL refuses, and the caller goes change by change.

mod overlap;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::change::{Change, Identity, Relation, Row, Transaction, Value};
pub use overlap::{Parted, Touched, part};

/// Something to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'t> {
    /// Rows with different keys; each must be found, or not be there yet, as its deed says. Rows
    /// that are looked for come in the order of their keys: neighbours in an index are close by.
    Rows { relation: &'t Relation, deed: Deed, rows: Vec<Cow<'t, Row>> },
    /// One change as it is.
    One { transaction: &'t Transaction, change: &'t Change },
}

/// In this order within a table: what frees a unique value comes before what takes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// By the key; the rows' other values mean nothing.
    Delete,
    /// Sets these columns, by position, in the row with this key. They hold all that was sent.
    Update {
        columns: Vec<usize>,
    },
    Insert,
}

/// Folds the changes of `transactions`, which are applied together or not at all.
pub fn fold(transactions: &[Transaction]) -> Vec<Step<'_>> {
    let mut folding = Folding::default();
    for transaction in transactions {
        // Where each of the transaction's relations is among the open tables.
        let mut places = vec![None; transaction.relations.len()];
        for change in &transaction.changes {
            folding.take(transaction, change, &mut places);
        }
    }
    folding.flush();
    folding.steps
}

#[derive(Default)]
struct Folding<'t> {
    steps: Vec<Step<'t>>,
    open: Vec<Table<'t>>,
    /// Counts how often the open tables were closed: places from before mean nothing.
    round: usize,
}

struct Table<'t> {
    relation: &'t Arc<Relation>,
    rows: Vec<Folded<'t>>,
    by_key: BTreeMap<Key<'t>, usize>,
}

struct Folded<'t> {
    net: Net,
    row: Cow<'t, Row>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Net {
    Insert,
    Update,
    Delete,
}

/// Round and index of an open table.
type Place = Option<(usize, usize)>;

impl<'t> Folding<'t> {
    fn take(&mut self, transaction: &'t Transaction, change: &'t Change, places: &mut [Place]) {
        let (index, net, row) = match change {
            Change::Insert { relation, new } => (*relation, Net::Insert, new),
            Change::Update { relation, old: None, new } => (*relation, Net::Update, new),
            Change::Delete { relation, old } => (*relation, Net::Delete, old),
            Change::Update { old: Some(_), .. } | Change::Truncate { .. } => {
                return self.by_itself(transaction, change);
            }
        };
        let Some(relation) = transaction.relations.get(index as usize) else {
            return self.by_itself(transaction, change);
        };
        let key = key(relation, row);
        if key.is_none() && net != Net::Insert {
            return self.by_itself(transaction, change);
        }
        let mut table = self.table(relation, &mut places[index as usize]);
        if let Some(at) = key.as_ref().and_then(|key| self.open[table].by_key.get(key)).copied() {
            if self.open[table].rows[at].merge(net, row) {
                return;
            }
            self.flush();
            table = self.table(relation, &mut places[index as usize]);
        }
        let table = &mut self.open[table];
        if let Some(key) = key {
            table.by_key.insert(key, table.rows.len());
        }
        table.rows.push(Folded { net, row: Cow::Borrowed(row) });
    }

    fn by_itself(&mut self, transaction: &'t Transaction, change: &'t Change) {
        self.flush();
        self.steps.push(Step::One { transaction, change });
    }

    /// Finds or opens the table of `relation`.
    fn table(&mut self, relation: &'t Arc<Relation>, place: &mut Place) -> usize {
        if let Some((round, index)) = *place
            && round == self.round
        {
            return index;
        }
        let index = match self.open.iter().position(|table| table.relation == relation) {
            Some(index) => index,
            None => {
                // The same table with other columns: its rows of before come first.
                if self.open.iter().any(|table| table.relation.table == relation.table) {
                    self.flush();
                }
                self.open.push(Table { relation, rows: Vec::new(), by_key: BTreeMap::new() });
                self.open.len() - 1
            }
        };
        *place = Some((self.round, index));
        index
    }

    fn flush(&mut self) {
        self.round += 1;
        for Table { relation, rows, by_key } in self.open.drain(..) {
            let mut deeds: BTreeMap<Deed, Vec<Cow<'t, Row>>> = BTreeMap::new();
            let mut rows: Vec<Option<Folded<'t>>> = rows.into_iter().map(Some).collect();
            for at in by_key.into_values() {
                if let Some(Folded { net, row }) = rows[at].take_if(|row| row.net != Net::Insert) {
                    let deed = match net {
                        Net::Delete => Deed::Delete,
                        _ => Deed::Update { columns: sent(&row) },
                    };
                    deeds.entry(deed).or_default().push(row);
                }
            }
            // New rows stay in the order in which they came, which is often that of their time.
            let new: Vec<_> = rows.into_iter().flatten().map(|Folded { row, .. }| row).collect();
            if !new.is_empty() {
                deeds.insert(Deed::Insert, new);
            }
            let rows = deeds.into_iter().map(|(deed, rows)| Step::Rows { relation, deed, rows });
            self.steps.extend(rows);
        }
    }
}

impl Folded<'_> {
    /// Adds a later change of the same row; false when the two cannot be one.
    fn merge(&mut self, net: Net, row: &Row) -> bool {
        match (self.net, net) {
            (Net::Insert | Net::Update, Net::Update) => {
                let values = self.row.to_mut();
                for (value, later) in values.iter_mut().zip(row) {
                    if *later != Value::Unchanged {
                        value.clone_from(later);
                    }
                }
                true
            }
            (Net::Update, Net::Delete) => {
                self.net = Net::Delete;
                *self.row.to_mut() = row.clone();
                true
            }
            // A row that comes and goes may have met another one here; one that goes and comes
            // again takes all its columns from the new one.
            _ => false,
        }
    }
}

fn sent(row: &Row) -> Vec<usize> {
    row.iter().enumerate().filter(|(_, v)| **v != Value::Unchanged).map(|(i, _)| i).collect()
}

/// The values of a row's key.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key<'t> {
    One(Text<'t>),
    Several(Vec<Text<'t>>),
}

/// A value as text. What is shorter comes first, which is the order of numbers.
#[derive(PartialEq, Eq, Hash)]
struct Text<'t>(&'t [u8]);

impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.len(), self.0).cmp(&(other.0.len(), other.0))
    }
}

impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The row's key; `None` where rows have none or it was not sent.
fn key<'t>(relation: &Relation, row: &'t Row) -> Option<Key<'t>> {
    if !matches!(relation.identity, Identity::Default | Identity::Index) {
        return None;
    }
    let text = |(_, value): (usize, &'t Value)| match value {
        Value::Text(text) => Some(Text(text)),
        Value::Null | Value::Unchanged => None,
    };
    let mut values = relation.key_of(row).map(text);
    let first = values.next()??;
    match values.collect::<Option<Vec<_>>>()? {
        none if none.is_empty() => Some(Key::One(first)),
        more => Some(Key::Several(std::iter::once(first).chain(more).collect())),
    }
}

#[cfg(test)]
mod tests;
