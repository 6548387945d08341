//! What every region added counts, once.
//!
//! Each region's total is kept apart, so a total that comes late, twice, or by way of another
//! region replaces the one before it instead of being added again.

use std::collections::BTreeMap;

use super::Cell;
use crate::conflict::version::Version;
use crate::id::RegionId;

/// The local value, with each total that is newer on the other side in place of ours.
pub fn cell(local: &Version, incoming: &Version, column: &str) -> Cell {
    let (mut plus, mut minus) = (Vec::new(), Vec::new());
    for (region, total) in incoming.sums.get(column).into_iter().flatten() {
        if incoming.seen.of(region) > local.seen.of(region) {
            plus.push(total.clone());
            minus.extend(local.sums.get(column).and_then(|sums| sums.get(region)).cloned());
        }
    }
    if plus.is_empty() { Cell::Local } else { Cell::Add { plus, minus } }
}

/// Joins the totals of two versions of the same life: of each region the newer one.
pub fn join(one: &Version, other: &Version) -> BTreeMap<String, BTreeMap<RegionId, String>> {
    let mut sums = one.sums.clone();
    for (column, totals) in &other.sums {
        let sums = sums.entry(column.clone()).or_default();
        for (region, total) in totals {
            if other.seen.of(region) > one.seen.of(region) || !sums.contains_key(region) {
                sums.insert(region.clone(), total.clone());
            }
        }
    }
    sums
}
