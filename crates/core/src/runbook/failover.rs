//! Which failovers does nobody have to ask for, and who starts them?

use super::{Facts, Intent};
use crate::config::FailoverPolicy;
use crate::id::RegionId;
use crate::lsn::{Frontier, Lsn};
use crate::outage::Outage;

/// Returns the failovers that nobody has to ask for: of each region whose outage is confirmed and which owns
/// something that no run has in its hands yet. What holds up one of them holds up no other.
///
/// The survivor that has least to do takes over; the first by name when they are equal.
pub fn automatic(policy: &FailoverPolicy, facts: &Facts) -> Vec<Intent> {
    if !policy.automatic {
        return Vec::new();
    }
    let lost = facts.regions.iter().filter(|(region, seen)| {
        matches!(seen.outage, Some(Outage::Confirmed { .. }))
            && facts.ownership.owns_anything(region)
    });
    let taken_over = lost.filter_map(|(from, _)| {
        let to = successor(from, facts)?;
        Some(Intent::Failover { from: from.clone(), to, attested: false })
    });
    taken_over.collect()
}

/// Returns the failovers that `here` starts without being asked: of what it would take over itself.
///
/// Regions know different things of each other, so each may leave it to another. Whoever could take over
/// leaves it to a better one only until the lease has been over for as long as it takes to suspect anybody.
pub fn started_by(here: &RegionId, policy: &FailoverPolicy, facts: &Facts) -> Vec<Intent> {
    let ours = |due: Intent| {
        let Intent::Failover { from, to, attested } = &due else { return None };
        if to == here {
            return Some(due);
        }
        let over_at = facts.regions.get(from)?.lease_over_at?;
        let overdue = facts.now >= over_at + policy.suspect_after;
        (overdue && may_take_over(here, from, facts)).then(|| Intent::Failover {
            from: from.clone(),
            to: here.clone(),
            attested: *attested,
        })
    };
    automatic(policy, facts).into_iter().filter_map(ours).collect()
}

/// Returns the reachable region that shows most of what `from` has written, and of those the one
/// that holds most: to fetch a log costs less time than to apply it, and writes wait for both.
///
/// One that has rows to repair only where there is no other: it would open what it is given later. So one
/// that cannot apply what comes, which may never show all; and one that comes and goes: it would be lost again.
pub fn successor(from: &RegionId, facts: &Facts) -> Option<RegionId> {
    let end = |positions: &Frontier| -> (u32, Lsn) {
        let origins = positions.iter().filter(|(origin, _)| origin.region == *from);
        origins.map(|(origin, lsn)| (origin.incarnation, lsn)).max().unwrap_or_default()
    };
    let near = |region: &RegionId| {
        let seen = facts.regions.get(region);
        seen.map(|seen| {
            let is_well = (!seen.cannot_apply, seen.is_settled(), !seen.on_probation);
            (is_well, end(&seen.applied), end(&seen.flushed))
        })
    };
    let candidates = facts.regions.keys().filter(|region| may_take_over(region, from, facts));
    candidates.max_by(|a, b| near(a).cmp(&near(b)).then_with(|| b.cmp(a))).cloned()
}

fn may_take_over(region: &RegionId, from: &RegionId, facts: &Facts) -> bool {
    let Some(seen) = facts.regions.get(region) else { return false };
    let member = facts.ownership.members().contains(region);
    let whole =
        seen.reachable && !seen.left_behind && !seen.cannot_write && !facts.lease_over(region);
    region != from && member && whole
}
