//! A function in PostgreSQL makes one row of all of them.
//!
//! Called for one write after another in the same order everywhere, from the same writes: so it
//! need not be commutative to end alike in all regions, only deterministic.

use super::super::version::Sibling;
use super::{Deletes, manual};

/// Returns the siblings to fold, the earliest first; none when the row is deleted.
pub fn fold(siblings: &[Sibling], deletes: Deletes) -> Vec<usize> {
    let shown = manual::pick(siblings, deletes);
    if shown.is_none_or(|i| siblings[i].image.is_none()) {
        return Vec::new();
    }
    (0..siblings.len()).filter(|i| siblings[*i].image.is_some()).collect()
}
