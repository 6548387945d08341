//! Which steps of a batch can be made before the batch ahead of it has committed?
//!
//! Those of rows that the other does not change. PostgreSQL's locks and the number of rows that are
//! found keep any choice right, so two keys may be taken for one, and none has to be known: what is
//! chosen badly waits, or fails and is made again.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::{Step, key};
use crate::change::{Relation, Row};

/// The rows that a batch changes.
#[derive(Clone, Debug)]
pub enum Touched {
    /// Hashes of tables and keys, in order.
    Rows(Vec<u64>),
    /// It is not known: all of them.
    Everything,
}

/// The steps of a batch, and what they touch.
#[derive(Debug)]
pub struct Parted<'t> {
    /// These can be made before the batch ahead has committed, in this order.
    pub early: Vec<Step<'t>>,
    /// These cannot.
    pub late: Vec<Step<'t>>,
    pub touched: Touched,
}

/// Parts the steps of a batch by what the batch ahead of it touches.
pub fn part<'t>(steps: Vec<Step<'t>>, ahead: &Touched) -> Parted<'t> {
    if steps.iter().any(|step| matches!(step, Step::One { .. })) {
        return Parted { early: Vec::new(), late: steps, touched: Touched::Everything };
    }
    let (mut early, mut late, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        let Step::Rows { relation, deed, rows } = step else { continue };
        let table = Table::new(relation);
        let (mut free, mut held) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let hash = table.hash(&row);
            hashes.extend(hash);
            if ahead.holds(hash) { held.push(row) } else { free.push(row) }
        }
        let step = |rows: Vec<Cow<'t, Row>>| Step::Rows { relation, deed: deed.clone(), rows };
        early.extend((!free.is_empty()).then(|| step(free)));
        late.extend((!held.is_empty()).then(|| step(held)));
    }
    hashes.sort_unstable();
    Parted { early, late, touched: Touched::Rows(hashes) }
}

impl Touched {
    /// A row without a key is new: nobody else has touched it.
    fn holds(&self, hash: Option<u64>) -> bool {
        match self {
            Self::Everything => true,
            Self::Rows(hashes) => hash.is_some_and(|hash| hashes.binary_search(&hash).is_ok()),
        }
    }
}

struct Table<'t> {
    relation: &'t Relation,
    /// Has taken the table's name.
    hasher: DefaultHasher,
}

impl<'t> Table<'t> {
    fn new(relation: &'t Relation) -> Self {
        let mut hasher = DefaultHasher::new();
        relation.table.hash(&mut hasher);
        Self { relation, hasher }
    }

    /// `None` for a row without a key.
    fn hash(&self, row: &Row) -> Option<u64> {
        let mut hasher = self.hasher.clone();
        key(self.relation, row)?.hash(&mut hasher);
        Some(hasher.finish())
    }
}
