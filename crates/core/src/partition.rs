//! Which partition does this row belong to?
//!
//! The guard in PostgreSQL answers the same question in SQL; a shared test holds the two answers
//! together (`crates/domicile/tests/agreement.rs`).

use thiserror::Error;

use crate::id::{PartitionId, RegionId};

/// At most this many partitions: ownership is stored as ranges, not one by one.
pub const PARTITIONS_MAX: u32 = 1_000_000;

/// Stands between the columns of a composite partition key (ASCII unit separator).
pub const KEY_SEPARATOR: u8 = 0x1F;

/// How rows are divided among owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// One partition: the whole database has one owner.
    Whole,
    /// `count` partitions by the hash of the partition key.
    Hash { count: u32 },
    /// One partition per region; the key's value is the region's name.
    Home { regions: Vec<RegionId> },
}

/// The scheme, and whether one more partition stands for all `reference` tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub scheme: Scheme,
    pub has_reference: bool,
}

/// Why a row has no partition.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PartitionError {
    #[error("\"{value}\" is not a region, so the row has no home")]
    NoSuchHome { value: String },
}

impl Layout {
    /// How many partitions there are: at least 1.
    pub fn total(&self) -> u32 {
        let keyed = match &self.scheme {
            Scheme::Whole => 1,
            Scheme::Hash { count } => *count,
            Scheme::Home { regions } => u32::try_from(regions.len()).unwrap_or(u32::MAX),
        };
        keyed + u32::from(self.has_reference)
    }

    /// The partition of all `reference` tables: the last one.
    pub fn reference(&self) -> Option<PartitionId> {
        self.has_reference.then(|| PartitionId(self.total() - 1))
    }

    /// Returns the partition of a row by the text form of its partition key columns.
    pub fn partition_of(&self, key: &[&[u8]]) -> Result<PartitionId, PartitionError> {
        match &self.scheme {
            Scheme::Whole => Ok(PartitionId(0)),
            Scheme::Hash { count } => {
                let hash = hash_text(&key.join(&KEY_SEPARATOR)) & i64::MAX as u64;
                Ok(PartitionId((hash % u64::from(*count)) as u32))
            }
            Scheme::Home { regions } => {
                let value = key.join(&KEY_SEPARATOR);
                let home = regions.iter().position(|r| r.as_str().as_bytes() == value);
                home.map(|i| PartitionId(i as u32)).ok_or_else(|| PartitionError::NoSuchHome {
                    value: String::from_utf8_lossy(&value).into_owned(),
                })
            }
        }
    }
}

/// PostgreSQL's `hashtextextended(text COLLATE "C", 0)`, on little-endian servers.
///
/// Bob Jenkins' lookup3 (public domain, 2006) as PostgreSQL uses it for hash partitioning; its
/// results are part of PostgreSQL's on-disk format and stay as they are.
pub fn hash_text(text: &[u8]) -> u64 {
    let start = 0x9e37_79b9_u32.wrapping_add(text.len() as u32).wrapping_add(3_923_095);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut blocks = text.chunks_exact(12);
    for block in &mut blocks {
        a = a.wrapping_add(word(&block[0..4]));
        b = b.wrapping_add(word(&block[4..8]));
        c = c.wrapping_add(word(&block[8..12]));
        mix(&mut a, &mut b, &mut c);
    }
    let rest = blocks.remainder();
    let part = |from: usize, to: usize| word(&rest[from.min(rest.len())..to.min(rest.len())]);
    a = a.wrapping_add(part(0, 4));
    b = b.wrapping_add(part(4, 8));
    // The lowest byte of `c` is kept for the length.
    c = c.wrapping_add(part(8, 11) << 8);
    finish(&mut a, &mut b, &mut c);
    u64::from(b) << 32 | u64::from(c)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    let step = |x: &mut u32, y: u32, z: &mut u32, other: u32, turn: u32| {
        *x = x.wrapping_sub(y) ^ y.rotate_left(turn);
        *z = z.wrapping_add(other);
    };
    let (mut x, mut y, mut z) = (*a, *b, *c);
    for turns in [[4, 6, 8], [16, 19, 4]] {
        let w = z;
        step(&mut x, w, &mut z, y, turns[0]);
        let w = x;
        step(&mut y, w, &mut x, z, turns[1]);
        let w = y;
        step(&mut z, w, &mut y, x, turns[2]);
    }
    (*a, *b, *c) = (x, y, z);
}

fn finish(a: &mut u32, b: &mut u32, c: &mut u32) {
    let step = |x: &mut u32, y: u32, turn: u32| {
        *x = (*x ^ y).wrapping_sub(y.rotate_left(turn));
    };
    step(c, *b, 14);
    step(a, *c, 11);
    step(b, *a, 25);
    step(c, *b, 16);
    step(a, *c, 4);
    step(b, *a, 14);
    step(c, *b, 24);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(count: u32) -> Layout {
        Layout { scheme: Scheme::Hash { count }, has_reference: false }
    }

    #[test]
    fn the_hash_is_postgres_own() {
        // SELECT hashtextextended(x COLLATE "C", 0): from PostgreSQL 15.
        for (text, expected) in HASHES {
            assert_eq!(hash_text(text.as_bytes()) as i64, *expected, "{text:?}");
        }
    }

    const HASHES: &[(&str, i64)] = &[
        ("", -6939563903564495251),
        ("1", 8680131335536356089),
        ("42", -2402356501652256834),
        ("account", 5316605684045388807),
        ("a name of more than twelve bytes", -7084968793817457910),
        ("exactly12byt", -1607044592329689743),
        ("Grüße", 8534170718931255642),
        ("0123456789a", -2337649911100070775),
        ("12345678", -2672274306434209449),
    ];

    #[test]
    fn every_key_has_a_partition_within_the_count() {
        for i in 0..1000_u32 {
            let key = i.to_string();
            assert!(hash(7).partition_of(&[key.as_bytes()]).unwrap().0 < 7);
        }
    }

    #[test]
    fn columns_of_a_composite_key_do_not_run_into_each_other() {
        let layout = hash(1_000_000);
        assert_ne!(layout.partition_of(&[b"ab", b"c"]), layout.partition_of(&[b"a", b"bc"]));
    }

    #[test]
    fn a_home_that_is_no_region_is_refused() {
        let regions = vec!["eu".parse().unwrap(), "us".parse().unwrap()];
        let layout = Layout { scheme: Scheme::Home { regions }, has_reference: true };
        assert_eq!(layout.partition_of(&[b"us"]), Ok(PartitionId(1)));
        assert!(layout.partition_of(&[b"mars"]).is_err());
        assert_eq!(layout.reference(), Some(PartitionId(2)));
        assert_eq!(layout.total(), 3);
    }
}
