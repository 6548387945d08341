//! The write of the region that comes first in the list wins.
//!
//! Only among writes that did not know of each other: any region may go on from what it sees. All
//! of them are kept until one replaces them, since "before" by rank and "after" by cause can run
//! in a circle of three.

use super::super::version::Sibling;
use crate::id::RegionId;

/// Returns which sibling is shown.
pub fn pick(siblings: &[Sibling], order: &[RegionId]) -> Option<usize> {
    let place = |region: &RegionId| order.iter().position(|o| o == region).unwrap_or(order.len());
    let rank =
        |sibling: &Sibling| (std::cmp::Reverse(place(&sibling.dot.region)), sibling.dot.clone());
    (0..siblings.len()).max_by_key(|i| rank(&siblings[*i]))
}
