//! How does a row become what its owner has? It is marked, and the region's agent reads it again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use domicile_core::id::RegionId;
use tokio::time::Instant;

use super::settle::settle;
use super::{Differing, Side, Tables};
use crate::peer::server::lower_value;
use crate::postgres::compare::Key;
use crate::proto::{RepairRequest, repair_request};

/// How long agents may take to read the rows again.
const REPAIR_WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Rows that are marked with one request.
const ROWS_AT_ONCE: usize = 1000;

/// Returns how many of the rows are alike now.
pub(super) async fn repair(
    sides: &[Side],
    tables: &Tables,
    differing: &[Differing],
) -> anyhow::Result<u64> {
    let columns = tables.key();
    if columns.is_empty() {
        // Nothing tells its rows apart, so nothing can be said of one of them.
        return Ok(0);
    }
    let mut marks: BTreeMap<(RegionId, RegionId), Vec<repair_request::Row>> = BTreeMap::new();
    let mut marked: Vec<Key> = Vec::new();
    for row in differing {
        let Some((owner, partition)) = owner_of(row) else { continue };
        let right = row.hashes.get(owner).copied().flatten();
        for (region, hash) in row.hashes.iter().filter(|(region, _)| *region != owner) {
            if *hash != right {
                let mark = repair_request::Row {
                    columns: columns.to_vec(),
                    values: row.key.iter().cloned().map(lower_value).collect(),
                    partition,
                };
                marks.entry((region.clone(), owner.clone())).or_default().push(mark);
            }
        }
        marked.push(row.key.clone());
    }
    for ((region, owner), rows) in marks {
        let side = sides.iter().find(|side| side.region == region).context("a compared region")?;
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let request = RepairRequest {
                schema: tables.name.schema.clone(),
                table: tables.name.name.clone(),
                source: owner.to_string(),
                rows: rows.to_vec(),
            };
            let answer = side.peer.clone().repair(request).await;
            answer.map_err(|status| {
                anyhow::anyhow!("mark rows in region {region}: {}", status.message())
            })?;
        }
    }
    until_alike(sides, tables, marked).await
}

/// The owner, and the partition by which it is one.
fn owner_of(row: &Differing) -> Option<(&RegionId, u32)> {
    let owner = row.owner.as_ref()?;
    let by_owner = row.partitions.get(owner).copied().flatten();
    let partition = by_owner.or_else(|| row.partitions.values().copied().flatten().next())?;
    Some((owner, partition))
}

async fn until_alike(sides: &[Side], tables: &Tables, keys: Vec<Key>) -> anyhow::Result<u64> {
    let (all, deadline) = (keys.len(), Instant::now() + REPAIR_WAIT_MAX);
    let mut left = keys;
    loop {
        let settled = settle(sides, tables, left).await?;
        left = settled.differing.into_iter().map(|row| row.key).chain(settled.open).collect();
        if left.is_empty() || Instant::now() >= deadline {
            return Ok((all - left.len()) as u64);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
