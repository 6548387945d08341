//! The later write wins, for the whole row or for one column.

use super::Cell;
use crate::conflict::version::Version;

/// Decides by the writes that the values of `group` come from.
pub fn cell(local: &Version, incoming: &Version, group: &str) -> Cell {
    if incoming.columns.get(group) > local.columns.get(group) {
        Cell::Incoming
    } else {
        Cell::Local
    }
}

/// Did each side write `group` without knowing of the other's write?
pub fn contested(local: &Version, incoming: &Version, group: &str) -> bool {
    match (local.columns.get(group), incoming.columns.get(group)) {
        (Some(ours), Some(theirs)) => !incoming.seen.has(ours) && !local.seen.has(theirs),
        // Unwritten in this life, or there before the table was watched.
        _ => false,
    }
}
