//! What may be decided when writes did not know of each other: one file per policy.

pub mod delta;
pub mod last_write_wins;
pub mod manual;
pub mod owner_wins;
pub mod sql;

use std::collections::BTreeMap;

use super::version::Version;
use crate::id::RegionId;

/// How conflicts in one shared table are decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Column by column; see [`Columns`].
    Merge(Columns),
    /// The row as a whole, of the region that comes first in this list.
    OwnerWins(Vec<RegionId>),
    /// The row as a whole, as a function in PostgreSQL makes it of both.
    Sql { function: String, deletes: Deletes },
    /// The row as a whole: the later write is shown until a person has decided.
    Manual(Deletes),
}

/// Policies of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Of the columns that are not named.
    pub rest: ColumnPolicy,
    pub named: BTreeMap<String, ColumnPolicy>,
    pub deletes: Deletes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnPolicy {
    /// Together with all other columns of this policy, the later write wins.
    Row,
    /// The later write of this column wins.
    Own,
    /// What every region added counts.
    Delta,
    /// The greatest value ever written stays, in PostgreSQL's own order: null is no value, NaN is
    /// greater than infinity. A trigger lifts a write that would step back, so that the values of
    /// both sides are all there is to compare.
    Greatest,
    /// The least value ever written stays, likewise.
    Least,
}

/// What a deletion and a write that did not know of each other come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    /// What the later one of both did.
    Latest,
    DeleteWins,
    UpdateWins,
}

impl Policy {
    /// Is what a region made of a row in one transaction contained in what it makes of it in the
    /// next? Then only the last of several is to be met.
    pub fn keeps_up(&self) -> bool {
        match self {
            // Row and version name every column's latest write, every sum and every extreme.
            Self::Merge(_) => true,
            // A write that nobody has taken over yet is a sibling of its own.
            Self::OwnerWins(_) | Self::Sql { .. } | Self::Manual(_) => false,
        }
    }
}

impl Columns {
    pub fn of(&self, column: &str) -> ColumnPolicy {
        self.named.get(column).copied().unwrap_or(self.rest)
    }
}

impl Default for Columns {
    fn default() -> Self {
        Self { rest: ColumnPolicy::Row, named: BTreeMap::new(), deletes: Deletes::Latest }
    }
}

impl Deletes {
    /// Is the row there?
    pub fn alive(self, version: &Version) -> bool {
        let Some(deleted) = &version.deleted else { return true };
        match self {
            Self::DeleteWins => false,
            Self::Latest => version.alive.as_ref() > Some(deleted),
            Self::UpdateWins => version.alive > version.over,
        }
    }
}

/// Where a column's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Local,
    Incoming,
    /// The local value, plus these decimals, minus those.
    Add {
        plus: Vec<String>,
        minus: Vec<String>,
    },
    Greatest,
    Least,
}
