//! Which rows may differ? Checksums of ranges first, single rows only where those differ.

use std::collections::BTreeMap;

use domicile_core::compare::{By, Next, Sum, next};
use futures_util::future::try_join_all;

use super::{Compared, Progress, Settling, Tables};
use crate::postgres::compare::{Buckets, Key, Range};

/// Rows of a range: a checksum takes some milliseconds, and its rows fit into a message.
const RANGE_ROWS: u64 = 10_000;
/// A range that has grown beyond this is divided before its rows are listed.
const LIST_ROWS_MAX: u64 = 4 * RANGE_ROWS;
/// Ranges that are summed with one question.
const RANGES_AT_ONCE: u32 = 8;
/// Keys that are settled together.
const KEYS_AT_ONCE: usize = 2000;
/// Buckets of a table of unknown size.
const BUCKETS_MIN: u64 = 64;

/// Has keys that may differ settled, some at a time.
pub(super) async fn find(
    settling: &Settling<'_>,
    progress: Progress<'_>,
    compared: &mut Compared,
) -> anyhow::Result<()> {
    let tables = settling.tables;
    let mut found = Vec::new();
    if let By::Key(_) = tables.layout.by {
        let mut rest = Some(Range::default());
        while let Some(range) = rest {
            let (parts, more) = divide(tables, 0, &range).await?;
            rest = more;
            let mut pending = parts;
            while !pending.is_empty() {
                pending = some_ranges(tables, pending, progress, compared, &mut found).await?;
                if found.len() >= KEYS_AT_ONCE {
                    settling.settle(std::mem::take(&mut found), compared).await?;
                }
            }
        }
    } else {
        let modulus = (tables.rows_estimate / RANGE_ROWS).max(BUCKETS_MIN);
        for some in differing_buckets(tables, modulus, progress, compared).await? {
            found.extend(list_buckets(tables, modulus, some).await?);
            if found.len() >= KEYS_AT_ONCE {
                settling.settle(std::mem::take(&mut found), compared).await?;
            }
        }
    }
    if found.is_empty() { Ok(()) } else { settling.settle(found, compared).await }
}

/// Divides a range by the keys of one region. What lies behind the last part that was asked for
/// is left for later.
async fn divide(
    tables: &Tables,
    side: usize,
    range: &Range,
) -> anyhow::Result<(Vec<Range>, Option<Range>)> {
    let bounds = tables.sides[side].1.split(range, RANGE_ROWS, RANGES_AT_ONCE).await?;
    let more = bounds.len() == RANGES_AT_ONCE as usize;
    let mut after = range.after.clone();
    let mut parts = Vec::with_capacity(bounds.len() + 1);
    for bound in bounds {
        parts.push(Range { after: std::mem::replace(&mut after, bound.clone()), upto: bound });
    }
    let rest = Range { after, upto: range.upto.clone() };
    if more {
        return Ok((parts, Some(rest)));
    }
    parts.push(rest);
    Ok((parts, None))
}

/// Sums ranges in all regions. Adds the keys of rows that differ to `found`; returns the ranges
/// that are to be summed again, in smaller parts.
async fn some_ranges(
    tables: &Tables,
    mut ranges: Vec<Range>,
    progress: Progress<'_>,
    compared: &mut Compared,
    found: &mut Vec<Key>,
) -> anyhow::Result<Vec<Range>> {
    let mut later = ranges.split_off(ranges.len().min(RANGES_AT_ONCE as usize));
    let sums = tables.sides.iter().map(|(_, table)| table.sum_ranges(&ranges));
    let sums: Vec<Vec<Sum>> = try_join_all(sums).await?;
    tracing::debug!(table = %tables.name, ranges = ranges.len(), "summed ranges");
    for (i, range) in ranges.into_iter().enumerate() {
        let sums: Vec<Sum> = sums.iter().filter_map(|side| side.get(i).copied()).collect();
        let rows = sums.iter().map(|sum| sum.rows).max().unwrap_or(0);
        match next(&sums, LIST_ROWS_MAX) {
            Next::Split(side) => {
                let (parts, more) = divide(tables, side, &range).await?;
                later.extend(parts);
                later.extend(more);
                continue;
            }
            Next::List => {
                let lists = tables.sides.iter().map(|(_, table)| table.list_range(&range));
                found.extend(differing(try_join_all(lists).await?));
            }
            Next::Done => {}
        }
        compared.rows += rows;
        progress(rows);
    }
    Ok(later)
}

/// Buckets whose sums differ, in groups whose rows may be listed at once.
async fn differing_buckets(
    tables: &Tables,
    modulus: u64,
    progress: Progress<'_>,
    compared: &mut Compared,
) -> anyhow::Result<Vec<Vec<u64>>> {
    let sums = tables.sides.iter().map(|(_, table)| table.sum_buckets(modulus));
    let sums = try_join_all(sums).await?;
    let mut buckets: BTreeMap<u64, Vec<Sum>> = BTreeMap::new();
    let regions = sums.len();
    for (side, sums) in sums.into_iter().enumerate() {
        for (bucket, sum) in sums {
            buckets.entry(bucket).or_insert_with(|| vec![Sum::default(); regions])[side] = sum;
        }
    }
    let mut groups: Vec<Vec<u64>> = Vec::new();
    let mut room = 0;
    for (bucket, sums) in buckets {
        let rows = sums.iter().map(|sum| sum.rows).max().unwrap_or(0);
        compared.rows += rows;
        progress(rows);
        if next(&sums, u64::MAX) == Next::Done {
            continue;
        }
        match groups.last_mut() {
            Some(group) if rows <= room => group.push(bucket),
            _ => {
                groups.push(vec![bucket]);
                room = LIST_ROWS_MAX;
            }
        }
        room = room.saturating_sub(rows);
    }
    Ok(groups)
}

async fn list_buckets(
    tables: &Tables,
    modulus: u64,
    remainders: Vec<u64>,
) -> anyhow::Result<Vec<Key>> {
    let buckets = Buckets { modulus, remainders };
    let lists = tables.sides.iter().map(|(_, table)| table.list_buckets(&buckets));
    Ok(differing(try_join_all(lists).await?))
}

/// Keys that do not have the same hash in every list.
fn differing(lists: Vec<Vec<(Key, i64)>>) -> Vec<Key> {
    let regions = lists.len();
    let mut rows: BTreeMap<Key, Vec<Option<i64>>> = BTreeMap::new();
    for (side, list) in lists.into_iter().enumerate() {
        for (key, hash) in list {
            rows.entry(key).or_insert_with(|| vec![None; regions])[side] = Some(hash);
        }
    }
    let differ = |hashes: &Vec<Option<i64>>| hashes.windows(2).any(|pair| pair[0] != pair[1]);
    rows.into_iter().filter(|(_, hashes)| differ(hashes)).map(|(key, _)| key).collect()
}
