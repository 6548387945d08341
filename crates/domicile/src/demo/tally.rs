//! What did the clients see: what was acknowledged, refused, failed, left open, and when?
//!
//! Invariant: an operation counts as acknowledged only when its answer arrived, and as failed only
//! when the server said so. Everything else is unknown, never assumed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domicile_core::time::Time;
use serde::Serialize;
use uuid::Uuid;

/// Kinds of errors remembered with their text; more are only counted.
const ERROR_TEXTS_MAX: usize = 40;

/// Where the story is; what clients see is counted by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Building,
    Steady,
    Switchover,
    /// After the switchover, before the outage.
    Switched,
    Failover,
    /// The lost region's partitions have new owners.
    Survivors,
    Rejoin,
    Together,
    Proof,
}

impl Phase {
    pub const ALL: [Self; 9] = [
        Self::Building,
        Self::Steady,
        Self::Switchover,
        Self::Switched,
        Self::Failover,
        Self::Survivors,
        Self::Rejoin,
        Self::Together,
        Self::Proof,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Steady => "steady state",
            Self::Switchover => "switching over",
            Self::Switched => "switched over",
            Self::Failover => "a region is lost",
            Self::Survivors => "survivors carry on",
            Self::Rejoin => "it returns",
            Self::Together => "together again",
            Self::Proof => "comparing rows",
        }
    }

    /// Ownership does not move now, so what is right and wrong to write is clear.
    pub fn is_quiet(self) -> bool {
        matches!(self, Self::Steady | Self::Switched | Self::Survivors | Self::Together)
    }
}

/// One operation whose answer arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub op: Uuid,
    pub partition: u32,
    /// Index of the region that committed it, as its PostgreSQL said.
    pub region: usize,
    pub at: Time,
    pub took_ms: u64,
}

#[derive(Debug, Default)]
struct Counts {
    phase: Phase,
    acknowledged: Vec<Acknowledged>,
    unknown: Vec<Uuid>,
    unknown_in: BTreeMap<Phase, u64>,
    errors_in: BTreeMap<Phase, u64>,
    error_texts: BTreeMap<(Phase, String), u64>,
    reads: u64,
    refused_as_promised: u64,
    broken: Vec<String>,
    /// Acknowledged writes for each region that committed them.
    by_region: Vec<u64>,
}

/// Shared by all clients.
#[derive(Debug)]
pub struct Tally(Mutex<Counts>);

/// The totals that the screen shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub acknowledged: u64,
    pub unknown: u64,
    pub errors: u64,
    pub reads: u64,
    pub refused_as_promised: u64,
    pub by_region: Vec<u64>,
}

impl Tally {
    pub fn new(regions: usize) -> Self {
        Self(Mutex::new(Counts { by_region: vec![0; regions], ..Counts::default() }))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_phase(&self, phase: Phase) {
        self.counts().phase = phase;
    }

    pub fn phase(&self) -> Phase {
        self.counts().phase
    }

    pub fn acknowledge(&self, acknowledged: Acknowledged) {
        let mut counts = self.counts();
        if let Some(of_region) = counts.by_region.get_mut(acknowledged.region) {
            *of_region += 1;
        }
        counts.acknowledged.push(acknowledged);
    }

    pub fn read(&self) {
        self.counts().reads += 1;
    }

    /// The answer did not arrive: the operation may have happened or not.
    pub fn leave_open(&self, op: Option<Uuid>, text: &str) {
        let mut counts = self.counts();
        let phase = counts.phase;
        counts.unknown.extend(op);
        *counts.unknown_in.entry(phase).or_default() += 1;
        counts.remember(format!("unknown outcome: {text}"));
    }

    /// The server said that the operation did not happen.
    pub fn fail(&self, text: &str) {
        let mut counts = self.counts();
        let phase = counts.phase;
        *counts.errors_in.entry(phase).or_default() += 1;
        counts.remember(text.to_owned());
    }

    pub fn refuse_as_promised(&self) {
        self.counts().refused_as_promised += 1;
    }

    /// Something was admitted or refused that should not have been, or with other words.
    pub fn break_promise(&self, text: String) {
        let mut counts = self.counts();
        if counts.broken.len() < ERROR_TEXTS_MAX {
            counts.broken.push(text);
        }
    }

    pub fn totals(&self) -> Totals {
        let counts = self.counts();
        Totals {
            acknowledged: counts.acknowledged.len() as u64,
            unknown: counts.unknown_in.values().sum(),
            errors: counts.errors_in.values().sum(),
            reads: counts.reads,
            refused_as_promised: counts.refused_as_promised,
            by_region: counts.by_region.clone(),
        }
    }

    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.counts().acknowledged.clone()
    }

    /// Returns whether an operation on one of these partitions was acknowledged after `since`.
    pub fn served_since(&self, since: Time, meant: impl Fn(&Acknowledged) -> bool) -> bool {
        let counts = self.counts();
        counts.acknowledged.iter().rev().take_while(|ack| ack.at > since).any(meant)
    }

    /// Errors that clients saw in this phase, unknown outcomes included.
    pub fn errors_in(&self, phase: Phase) -> u64 {
        let counts = self.counts();
        let of = |map: &BTreeMap<Phase, u64>| map.get(&phase).copied().unwrap_or(0);
        of(&counts.errors_in) + of(&counts.unknown_in)
    }

    pub fn error_texts(&self) -> Vec<(Phase, String, u64)> {
        let counts = self.counts();
        let texts = counts.error_texts.iter();
        texts.map(|((phase, text), count)| (*phase, text.clone(), *count)).collect()
    }

    pub fn broken(&self) -> Vec<String> {
        self.counts().broken.clone()
    }
}

impl Counts {
    fn remember(&mut self, text: String) {
        let key = (self.phase, text);
        if self.error_texts.len() < ERROR_TEXTS_MAX || self.error_texts.contains_key(&key) {
            *self.error_texts.entry(key).or_default() += 1;
        }
    }
}

/// How long did a set of partitions go without an acknowledgement when its owner changed: from
/// the last one by `from` to the first one by anybody else, as the clients saw it.
///
/// None while nothing was acknowledged on one of the two sides.
pub fn pause_ms(
    acknowledged: &[Acknowledged],
    partitions: &[u32],
    from: usize,
    since: Time,
) -> Option<u64> {
    let moved = || acknowledged.iter().filter(|ack| partitions.contains(&ack.partition));
    let first = moved().filter(|ack| ack.region != from && ack.at >= since).map(|ack| ack.at).min();
    let first = first?;
    let last = moved().filter(|ack| ack.region == from).map(|ack| ack.at).max()?;
    Some(first.0.saturating_sub(last.0))
}

/// The longest that a client waited for an answer that came between the two times.
pub fn slowest_ms(acknowledged: &[Acknowledged], from: Time, to: Time) -> u64 {
    let within = acknowledged.iter().filter(|ack| (from..=to).contains(&ack.at));
    within.map(|ack| ack.took_ms).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(partition: u32, region: usize, at: u64) -> Acknowledged {
        Acknowledged { op: Uuid::now_v7(), partition, region, at: Time(at), took_ms: at / 10 }
    }

    #[test]
    fn a_pause_lasts_from_the_old_owners_last_answer_to_the_new_owners_first() {
        let seen = [ack(1, 0, 100), ack(2, 0, 140), ack(7, 2, 150), ack(1, 1, 190), ack(2, 1, 260)];
        assert_eq!(pause_ms(&seen, &[1, 2], 0, Time(120)), Some(50));
        assert_eq!(pause_ms(&seen, &[7], 0, Time(120)), None);
    }

    #[test]
    fn the_slowest_statement_is_looked_for_where_it_was_answered() {
        let seen = [ack(1, 0, 900), ack(1, 0, 100), ack(1, 0, 140)];
        assert_eq!(slowest_ms(&seen, Time(50), Time(200)), 14);
    }

    #[test]
    fn errors_are_counted_where_the_story_was() {
        let tally = Tally::new(2);
        tally.set_phase(Phase::Switchover);
        tally.fail("partition 7 has no owner");
        tally.set_phase(Phase::Failover);
        tally.leave_open(Some(Uuid::now_v7()), "connection closed");
        tally.leave_open(None, "connection closed");
        assert_eq!(tally.errors_in(Phase::Switchover), 1);
        assert_eq!(tally.errors_in(Phase::Failover), 2);
        assert_eq!(tally.totals().unknown, 2);
        assert_eq!(tally.error_texts().len(), 2);
    }
}
