//! In which pieces do the rows of a region's tables go to one that joins?
//!
//! A piece is some blocks of one table, so that several travel at a time, and one that breaks off
//! is begun again by itself.

use std::fmt;

use crate::id::TableName;

/// A table as it is stored: by itself, or as a part of a partitioned one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub name: TableName,
    /// Under which name its rows are replicated.
    pub table: TableName,
    pub columns: Vec<String>,
    pub blocks: u32,
    pub rows_estimate: u64,
}

/// The rows of a relation in the blocks from `first` on, before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub relation: &'a Relation,
    pub first: u32,
    /// `None` up to its end.
    pub end: Option<u32>,
    pub rows_estimate: u64,
}

impl fmt::Display for Piece<'_> {
    /// As the one who copies remembers it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from block {}", self.relation.name, self.first)
    }
}

/// Cuts relations into pieces of at most `blocks_max` blocks, those with most rows first, so that
/// whoever works on them ends at about the same time.
///
/// Panics when `blocks_max` is 0.
pub fn pieces(relations: &[Relation], blocks_max: u32) -> Vec<Piece<'_>> {
    let mut pieces: Vec<Piece> = relations.iter().flat_map(|r| cut(r, blocks_max)).collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.rows_estimate));
    pieces
}

fn cut(relation: &Relation, blocks_max: u32) -> impl Iterator<Item = Piece<'_>> {
    let count = u64::from(relation.blocks.div_ceil(blocks_max).max(1));
    let upto = move |n: u64| relation.rows_estimate * n / count;
    (0..relation.blocks.max(1)).step_by(blocks_max as usize).zip(0..).map(move |(first, n)| Piece {
        relation,
        first,
        end: (n + 1 < count).then(|| first + blocks_max),
        rows_estimate: upto(n + 1) - upto(n),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relation(blocks: u32, rows_estimate: u64) -> Relation {
        let name = TableName::new("public", "item");
        Relation { table: name.clone(), name, columns: Vec::new(), blocks, rows_estimate }
    }

    #[test]
    fn a_table_without_a_block_is_one_piece() {
        let empty = relation(0, 0);
        let found = pieces(std::slice::from_ref(&empty), 8);
        assert_eq!(found, [Piece { relation: &empty, first: 0, end: None, rows_estimate: 0 }]);
        assert_eq!(found[0].to_string(), "public.item from block 0");
    }

    proptest! {
        #[test]
        fn every_block_and_every_row_is_in_one_piece(
            blocks in 0..1000_u32, rows in 0..100_000_u64, blocks_max in 1..300_u32,
        ) {
            let relation = relation(blocks, rows);
            let mut found = pieces(std::slice::from_ref(&relation), blocks_max);
            prop_assert!(found.is_sorted_by_key(|piece| std::cmp::Reverse(piece.rows_estimate)));
            prop_assert_eq!(found.iter().map(|piece| piece.rows_estimate).sum::<u64>(), rows);
            found.sort_by_key(|piece| piece.first);
            let mut next = Some(0);
            for piece in &found {
                prop_assert_eq!(Some(piece.first), next);
                prop_assert!(piece.end.is_none_or(|end| end - piece.first <= blocks_max));
                next = piece.end;
            }
            prop_assert_eq!(next, None, "the last one has no end");
            prop_assert!(blocks - found[found.len() - 1].first.min(blocks) <= blocks_max);
        }
    }
}
