//! Two rows want the same value of a unique index: which one is shown?
//!
//! The one that was written later; the other is kept aside, hidden, and is shown again if the
//! value becomes free. A row is shown exactly when no shown row of a higher rank is in its way:
//! for any set of rows there is one such choice, so regions that know the same rows show the
//! same ones.

use std::collections::BTreeSet;

use super::Kind;
use super::hlc::Dot;
use super::version::Version;

/// A row's claim to its values. Rows that were there before the table was watched come last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    written: Option<Dot>,
    /// Decides between rows that one transaction wrote.
    key: String,
}

impl Rank {
    pub fn of(version: &Version, key: &str) -> Self {
        Self { written: version.alive.clone(), key: key.to_owned() }
    }

    /// May a row of this rank be shown in place of those in its way?
    pub fn displaces(&self, in_the_way: &[Rank]) -> bool {
        in_the_way.iter().all(|other| self > other)
    }
}

/// PostgreSQL's name for a row that was kept out by `others` or displaced them; `inserted` says
/// whether it was new.
pub fn kind(inserted: bool, others: usize) -> Kind {
    match (others, inserted) {
        (2.., _) => Kind::MultipleUniqueConflicts,
        (_, true) => Kind::InsertExists,
        (_, false) => Kind::UpdateExists,
    }
}

/// Returns which rows are shown, by the definition above; `collide` tells of two rows.
pub fn shown(ranks: &[Rank], collide: impl Fn(usize, usize) -> bool) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by(|a, b| ranks[*b].cmp(&ranks[*a]));
    let mut shown = BTreeSet::new();
    for row in order {
        if !shown.iter().any(|other| collide(row, *other)) {
            shown.insert(row);
        }
    }
    shown
}
