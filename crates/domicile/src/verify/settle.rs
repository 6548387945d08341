//! Which of these rows truly differ? Those that still do when everything on its way has arrived.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use domicile_core::compare::{Judgement, Round, judge};
use domicile_core::id::RegionId;
use domicile_core::lsn::Frontier;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{Differing, Side, Tables};
use crate::peer::compare::{Mark, RemoteTable, mark_of};
use crate::postgres::compare::{Key, Look};

/// Rounds after which a row that changes all the time is left alone.
const ROUNDS_MAX: usize = 8;
/// How long a region may take to show what another had committed.
const ARRIVAL_WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct Settled {
    pub(super) differing: Vec<Differing>,
    pub(super) open: Vec<Key>,
}

/// A row that is not settled yet, with its rounds so far.
struct Candidate {
    key: Key,
    rounds: Vec<Round>,
}

/// What a region must show before the next round begins.
#[derive(Default)]
struct Cover {
    marks: Vec<Mark>,
    /// Of origins that are not compared.
    others: Frontier,
}

pub(super) async fn settle(
    sides: &[Side],
    tables: &Tables,
    keys: Vec<Key>,
) -> anyhow::Result<Settled> {
    let mut settled = Settled::default();
    let mut candidates: Vec<Candidate> =
        keys.into_iter().map(|key| Candidate { key, rounds: Vec::new() }).collect();
    let mut cover = Cover::default();
    for _ in 0..ROUNDS_MAX {
        let keys: Vec<Key> = candidates.iter().map(|candidate| candidate.key.clone()).collect();
        let looks =
            tables.sides.iter().map(|(region, table)| covered(region, table, &keys, &cover));
        let looks: Option<Vec<Look>> = try_join_all(looks).await?.into_iter().collect();
        let Some(looks) = looks else { break };
        let looked_at = candidates.len();
        candidates = judge_all(tables, candidates, &looks, &mut settled);
        tracing::debug!(table = %tables.name, looked_at, left = candidates.len(), "looked at rows");
        if candidates.is_empty() {
            break;
        }
        cover = cover_of(sides, &looks).await?;
    }
    settled.open.extend(candidates.into_iter().map(|candidate| candidate.key));
    Ok(settled)
}

/// Looks at rows as soon as the region shows what it must; `None` when it does not get there.
async fn covered(
    region: &RegionId,
    table: &RemoteTable,
    keys: &[Key],
    cover: &Cover,
) -> anyhow::Result<Option<Look>> {
    let deadline = Instant::now() + ARRIVAL_WAIT_MAX;
    loop {
        let look = table.look(keys).await.with_context(|| format!("look at region {region}"))?;
        if covers(region, &look, cover) {
            return Ok(Some(look));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn covers(region: &RegionId, look: &Look, cover: &Cover) -> bool {
    let marked = cover.marks.iter().all(|mark| {
        if mark.origin.region == *region {
            look.settled_xid >= mark.next_xid
        } else {
            look.applied.get(&mark.origin) >= mark.log_end
        }
    });
    marked && look.applied.missing(&cover.others, region).is_none()
}

/// What the next round must show so that it covers this one.
async fn cover_of(sides: &[Side], looks: &[Look]) -> anyhow::Result<Cover> {
    let marks = try_join_all(sides.iter().map(|side| async move {
        let mark = mark_of(side.peer.clone()).await;
        mark.with_context(|| format!("ask region {} how far it is", side.region))
    }))
    .await?;
    let compared = |region: &RegionId| sides.iter().any(|side| side.region == *region);
    let mut others = Frontier::default();
    for look in looks {
        for (origin, lsn) in look.shown.iter().filter(|(origin, _)| !compared(&origin.region)) {
            others.advance(origin, lsn);
        }
    }
    Ok(Cover { marks, others })
}

/// Settles what can be settled by this round; returns the rest.
fn judge_all(
    tables: &Tables,
    candidates: Vec<Candidate>,
    looks: &[Look],
    settled: &mut Settled,
) -> Vec<Candidate> {
    let blank = vec![vec![None; looks.len()]; candidates.len()];
    let (mut rounds, mut partitions): (Vec<Round>, Vec<Vec<Option<u32>>>) =
        (blank, vec![vec![None; looks.len()]; candidates.len()]);
    for (side, look) in looks.iter().enumerate() {
        for row in &look.rows {
            if let Some(round) = rounds.get_mut(row.index) {
                round[side] = Some(row.seen.clone());
                partitions[row.index][side] = row.partition;
            }
        }
    }
    let mut rest = Vec::new();
    for ((mut candidate, round), partitions) in candidates.into_iter().zip(rounds).zip(partitions) {
        candidate.rounds.push(round);
        match judge(&candidate.rounds) {
            Judgement::Alike => {}
            Judgement::Open => rest.push(candidate),
            Judgement::Differs => settled.differing.push(differing(tables, candidate, partitions)),
        }
    }
    rest
}

fn differing(tables: &Tables, candidate: Candidate, partitions: Vec<Option<u32>>) -> Differing {
    let regions = || tables.sides.iter().map(|(region, _)| region.clone());
    let last = candidate.rounds.last().into_iter().flatten();
    let hashes: BTreeMap<RegionId, Option<i64>> =
        regions().zip(last.map(|seen| seen.as_ref().map(|seen| seen.hash))).collect();
    let partitions = regions().zip(partitions).collect();
    Differing { key: candidate.key, hashes, partitions, owner: None }
}
