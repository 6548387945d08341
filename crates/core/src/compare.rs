//! Do regions hold the same rows, and whose word counts where they do not?
//!
//! Regions are looked at one after the other while writes go on, so most differences are only
//! changes on their way. A row is looked at in *rounds*; between two rounds everything that any
//! region showed in the first has become visible in every region (the later round *covers* the
//! earlier one). Then two regions truly differ in a row when
//!
//! ```text
//!   round        1        2        3
//!   region a     row  ............ same row, untouched in between
//!   region b              other
//! ```
//!
//! because the changes that `a` shows in 1 are among those that `b` shows in 2, which are among
//! those that `a` shows in 3: the same ones, yet the rows are not the same. Nothing is assumed of
//! who writes the row, or how it is applied.

use std::collections::BTreeSet;

use crate::id::RegionId;

/// What a range of rows comes to in one region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub rows: u64,
    /// The sum of all rows' hashes.
    pub hash: i128,
}

/// What to do about a range, by its sums in all regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The regions are alike here.
    Done,
    /// Divide it by the keys of this region, which has most rows in it.
    Split(usize),
    /// Compare its rows one by one.
    List,
}

/// Returns what to do about a range, of which at most `rows_max` rows may be listed at once.
pub fn next(sums: &[Sum], rows_max: u64) -> Next {
    if sums.windows(2).all(|pair| pair[0] == pair[1]) {
        return Next::Done;
    }
    match sums.iter().enumerate().max_by_key(|(_, sum)| sum.rows) {
        Some((largest, sum)) if sum.rows > rows_max => Next::Split(largest),
        _ => Next::List,
    }
}

/// A row as one region showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub hash: i64,
    /// Is another one as soon as anybody has written the row in that region, even to the same
    /// values.
    pub version: String,
}

/// One row in one round, region by region; `None` where there is no such row.
pub type Round = Vec<Option<Seen>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Alike,
    Differs,
    /// The row changes from round to round: nothing can be said yet.
    Open,
}

/// Judges a row by its rounds, of which each covers the one before.
pub fn judge(rounds: &[Round]) -> Judgement {
    if rounds.last().is_none_or(alike) {
        return Judgement::Alike;
    }
    let differ = rounds.windows(3).any(|three| {
        let (before, between, after) = (&three[0], &three[1], &three[2]);
        before.iter().zip(after).any(|(before, after)| {
            let still = before.as_ref().filter(|_| before == after);
            still.is_some_and(|row| between.iter().any(|other| hash(other) != Some(row.hash)))
        })
    });
    if differ { Judgement::Differs } else { Judgement::Open }
}

/// Returns whether all regions show the same row, or none.
pub fn alike(round: &Round) -> bool {
    round.windows(2).all(|pair| hash(&pair[0]) == hash(&pair[1]))
}

fn hash(seen: &Option<Seen>) -> Option<i64> {
    seen.as_ref().map(|seen| seen.hash)
}

/// Returns the region whose version of a row counts.
///
/// `owners` are the regions that own the row's partition, by each region's own image of the row;
/// `None` where there is no such row. A region that has the row and owns it is believed; where
/// none does, the one that all others name is believed to have deleted it.
pub fn authority(owners: &[(RegionId, Option<RegionId>)]) -> Result<RegionId, Disputed> {
    let named: BTreeSet<&RegionId> =
        owners.iter().filter_map(|(_, owner)| owner.as_ref()).collect();
    let claiming: Vec<&RegionId> = owners
        .iter()
        .filter(|(region, owner)| owner.as_ref() == Some(region))
        .map(|(r, _)| r)
        .collect();
    match (claiming.as_slice(), named.len()) {
        ([one], _) => Ok((*one).clone()),
        ([], 1) => Ok(named.into_iter().next().cloned().expect("there is one")),
        _ => Err(Disputed),
    }
}

/// No region, or more than one, is the owner of a row by its own image of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the regions do not agree whose row it is")]
pub struct Disputed;

/// A table as one region knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Columns that hold data of their own, in any order.
    pub columns: Vec<Column>,
    /// Sets of columns that identify a row, the primary key first.
    pub keys: Vec<Vec<String>>,
    /// The server's encoding: hashes are of encoded text.
    pub encoding: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Names the order of the column's values; the same name is the same order everywhere.
    /// `None` where nothing is known of it.
    pub order: Option<String>,
}

/// How a table is compared, the same in all regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// In one order for all regions.
    pub columns: Vec<String>,
    pub by: By,
}

/// How the rows of a table are divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Into ranges of the key.
    Key(Vec<String>),
    /// By a hash of the key: regions do not sort it alike.
    KeyHash(Vec<String>),
    /// By a hash of the whole row, which is all that identifies it.
    Row,
}

/// Returns how to compare a table, or why its regions cannot be compared.
pub fn layout(shapes: &[(RegionId, Shape)]) -> Result<Layout, String> {
    let [(first_region, first), rest @ ..] = shapes else {
        return Err("there is no region to compare".to_owned());
    };
    let names = |shape: &Shape| -> BTreeSet<String> {
        shape.columns.iter().map(|column| column.name.clone()).collect()
    };
    let columns = names(first);
    for (region, shape) in rest {
        let theirs = names(shape);
        if let Some(column) = columns.difference(&theirs).next() {
            return Err(format!(
                "column \"{column}\" is in region {first_region}, not in {region}"
            ));
        }
        if let Some(column) = theirs.difference(&columns).next() {
            return Err(format!(
                "column \"{column}\" is in region {region}, not in {first_region}"
            ));
        }
        if shape.encoding != first.encoding {
            return Err(format!(
                "region {region} stores text as {}, region {first_region} as {}",
                shape.encoding, first.encoding
            ));
        }
    }
    let common = first.keys.iter().find(|key| {
        let same =
            |other: &Vec<String>| other.iter().collect::<BTreeSet<_>>() == key.iter().collect();
        rest.iter().all(|(_, shape)| shape.keys.iter().any(same))
    });
    let order = |shape: &Shape, name: &str| {
        shape.columns.iter().find(|column| column.name == name).and_then(|c| c.order.clone())
    };
    let sorted_alike = |name: &String| {
        let ours = order(first, name);
        ours.is_some() && rest.iter().all(|(_, shape)| order(shape, name) == ours)
    };
    let by = match common {
        Some(key) if key.iter().all(sorted_alike) => By::Key(key.clone()),
        Some(key) => By::KeyHash(key.clone()),
        None => By::Row,
    };
    Ok(Layout { columns: columns.into_iter().collect(), by })
}

#[cfg(test)]
mod tests;
