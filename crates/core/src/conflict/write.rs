//! What does a write in this region make of its row's version?
//!
//! In a region's database a trigger answers this; this is what it must do, and what the properties
//! try.

use std::collections::{BTreeMap, BTreeSet};

use super::hlc::{Dot, Hlc};
use super::version::Version;
use super::{Image, Operation};
use crate::id::RegionId;

/// One write as the trigger sees it.
#[derive(Clone, Debug)]
pub struct Write {
    pub operation: Operation,
    /// The columns (or the row) whose values it sets.
    pub columns: BTreeSet<String>,
    /// Counter column -> what it adds.
    pub deltas: BTreeMap<String, String>,
    /// The row before, where the policy asks for it.
    pub before: Option<Image>,
}

/// Returns the version after `write` by `region`. `here` is false where the row cannot be seen in
/// its table, though its version is known: deleted, or hidden.
///
/// `add` adds two decimals.
pub fn stamp(
    known: Option<(&Version, bool)>,
    write: &Write,
    region: &RegionId,
    clock: Hlc,
    heard: Hlc,
    add: impl Fn(&str, &str) -> String,
) -> Version {
    let (mut version, here) = match known {
        Some((version, here)) => (version.clone(), here),
        None => (Version::default(), write.operation != Operation::Insert),
    };
    let dot = Dot::new(Hlc::next(clock, heard, version.seen.latest()), region.clone());
    version.seen.note(&dot);
    version.siblings.clear();
    version.before = write.before.clone();
    match write.operation {
        Operation::Insert => {
            if !here {
                let (seen, life) = (version.seen, version.life + 1);
                let before = version.before;
                version = Version { seen, life, before, ..Version::default() };
            }
            version.alive = Some(dot.clone());
        }
        Operation::Update => version.alive = Some(dot.clone()),
        Operation::Delete => {
            version.over = version.alive.clone();
            version.deleted = Some(dot.clone());
        }
    }
    for column in &write.columns {
        version.columns.insert(column.clone(), dot.clone());
    }
    for (column, delta) in &write.deltas {
        let sums = version.sums.entry(column.clone()).or_default();
        let sum = sums.get(region).map_or(delta.clone(), |sum| add(sum, delta));
        sums.insert(region.clone(), sum);
    }
    version
}

/// Returns the version after a write that changes nothing: it is replicated, and that is all.
pub fn touch(known: &Version, region: &RegionId, clock: Hlc, heard: Hlc) -> Version {
    let mut version = known.clone();
    let hlc = Hlc::next(clock, heard, version.seen.latest());
    version.seen.note(&Dot::new(hlc, region.clone()));
    version
}
