//! Two owners have each written a row under one key: which one stays?
//!
//! Nothing keeps them from it where the key does not hold the partition key. Their changes come in
//! another order to each region, so nothing here depends on an order: the row of the lower partition
//! stays everywhere.

use crate::change::Stamp;
use crate::id::PartitionId;

/// Returns the partition under which a row that comes in was written. `found` is where its columns
/// lead here: over a parent row that may be another owner's by now. It was written under one of `stamps`.
pub fn written_under(found: Option<PartitionId>, stamps: &[Stamp]) -> Option<PartitionId> {
    let stamped = stamps.iter().map(|stamp| stamp.partition);
    let is_stamped = found.is_some_and(|found| stamped.clone().any(|stamp| stamp == found));
    if is_stamped { found } else { stamped.min().or(found) }
}

/// Does the row that is here stay, and not the one that comes in? The partitions are two.
pub fn local_stays(local: PartitionId, incoming: PartitionId) -> bool {
    local < incoming
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    fn stamps(partitions: &[u32]) -> Vec<Stamp> {
        let stamp = |n: &u32| Stamp { partition: PartitionId(*n), epoch: Epoch(1) };
        partitions.iter().map(stamp).collect()
    }

    #[test]
    fn a_row_is_of_the_partition_that_its_writer_was_admitted_to() {
        let under = |found: Option<u32>, partitions: &[u32]| {
            written_under(found.map(PartitionId), &stamps(partitions)).map(|partition| partition.0)
        };
        assert_eq!(under(Some(3), &[3]), Some(3));
        assert_eq!(under(Some(3), &[5, 3]), Some(3));
        assert_eq!(under(Some(3), &[7, 5]), Some(5), "its parent here is another owner's");
        assert_eq!(under(None, &[5]), Some(5), "its parent is not here");
        assert_eq!(under(Some(3), &[]), Some(3));
    }

    #[test]
    fn whichever_comes_first_the_same_one_stays() {
        let (low, high) = (PartitionId(1), PartitionId(6));
        assert!(local_stays(low, high) && !local_stays(high, low));
    }
}
