//! What does a row of a shared table remember of its writes, so that any two regions' copies can
//! be made one?
//!
//! A version is a value with a join: joining is commutative, associative and idempotent, so it
//! does not matter in which order, how often, or by way of whom writes arrive.
//!
//! A row that was deleted and inserted anew has begun another *life*. What belongs to an earlier
//! life never touches a later one.

use std::collections::BTreeMap;

use super::Image;
use super::hlc::{Dot, Seen};
use super::policy::delta;

/// Stands for all columns that have no policy of their own.
pub const ROW: &str = "";

/// What is known of one row's writes. A row that was there before it was watched has the default.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Version {
    /// Every write that is in here, or that lost against one in here.
    pub seen: Seen,
    /// Counts insertions after deletions.
    pub life: u32,
    // All below is of this life.
    /// The last write that left the row there.
    pub alive: Option<Dot>,
    /// The last deletion.
    pub deleted: Option<Dot>,
    /// The last write that a deletion had seen.
    pub over: Option<Dot>,
    /// Column, or [`ROW`] -> the write that its value comes from.
    pub columns: BTreeMap<String, Dot>,
    /// Counter column -> region -> what that region has added so far, as a decimal.
    pub sums: BTreeMap<String, BTreeMap<crate::id::RegionId, String>>,
    /// The writes that did not know of each other, where the policy keeps all of them: none, or
    /// at least two, the earliest first.
    pub siblings: Vec<Sibling>,
    /// The row before the last write, where the policy asks for it.
    pub before: Option<Image>,
}

/// One of several writes that did not know of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    pub dot: Dot,
    /// `None` where the row was deleted.
    pub image: Option<Image>,
    /// The row that the write replaced.
    pub before: Option<Image>,
}

impl Version {
    /// Returns the join of both, but for their siblings.
    pub fn join(&self, other: &Version) -> Version {
        let mut seen = self.seen.clone();
        seen.join(&other.seen);
        if self.life != other.life {
            let later = if self.life > other.life { self } else { other };
            return Version { seen, siblings: Vec::new(), ..later.clone() };
        }
        let mut columns = self.columns.clone();
        for (column, dot) in &other.columns {
            let at = columns.entry(column.clone()).or_insert_with(|| dot.clone());
            if *dot > *at {
                *at = dot.clone();
            }
        }
        Version {
            seen,
            life: self.life,
            alive: self.alive.clone().max(other.alive.clone()),
            deleted: self.deleted.clone().max(other.deleted.clone()),
            over: self.over.clone().max(other.over.clone()),
            columns,
            sums: delta::join(self, other),
            siblings: Vec::new(),
            before: None,
        }
    }

    /// The last write of this life, whatever it did.
    pub fn last(&self) -> Option<&Dot> {
        self.alive.iter().chain(&self.deleted).max()
    }
}
