//! How old may what a read sees be, and how does a region know how old that is?
//!
//! It asks the owners how far they are. Once its tables show all that they had committed when they
//! answered, they show everything that was committed before the question:
//!
//! ```text
//!   here    |asked ------------------ as of `asked` from now on -->
//!   owner        |lease live, log ends at 0/9A8
//!   here                      |shows 0/9A8
//! ```
//!
//! That rests on the clock of the region that asks and on nobody else's, so clocks that differ and
//! networks that are slow cost time and never the truth. An answer counts for what its sender may write at
//! that moment by its lease: what others had written there before is in its own tables by then, and it says how
//! far those are.
//!
//! This is the read index of Raft (Ongaro, "Consensus: bridging theory and practice", section 6.4), with a
//! leader for each partition. Rows of shared tables have no owner: of them it says nothing.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::history::covered;
use crate::id::{Origin, PartitionRange, RegionId};
use crate::lsn::{Cut, Frontier, Lsn};
use crate::ownership::Ownership;
use crate::time::{Millis, Time};

/// What a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything that was committed anywhere before the transaction began.
    Strong,
    /// Everything that was committed so long before the transaction began.
    Bounded(Millis),
    /// Everything that the session has written and seen, and what its token names.
    Session,
    /// Whatever there is.
    Eventual,
}

/// A text that is no freshness.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a freshness: expected strong, bounded(5s), session or eventual")]
pub struct FreshnessError(pub String);

impl Freshness {
    /// Returns up to when everything must be shown for a transaction that begins at `now`; `None`
    /// where no moment is asked for.
    pub fn as_of(self, now: Time) -> Option<Time> {
        // A commit of this very millisecond may be older than the transaction.
        let begun = now + Millis(1);
        match self {
            Self::Strong => Some(begun),
            Self::Bounded(age) => Some(Time(begun.0.saturating_sub(age.0))),
            Self::Session | Self::Eventual => None,
        }
    }
}

/// PostgreSQL's.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration as PostgreSQL's settings have it, but never without its unit: `250ms`, `5s`, `2min`.
pub fn duration(text: &str) -> Option<Millis> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor).map(Millis)
}

impl FromStr for Freshness {
    type Err = FreshnessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.trim().to_ascii_lowercase();
        let bound = || duration(lower.strip_prefix("bounded(")?.strip_suffix(')')?);
        match lower.as_str() {
            "strong" => Ok(Self::Strong),
            "session" => Ok(Self::Session),
            "eventual" => Ok(Self::Eventual),
            _ => {
                let age = bound().ok_or_else(|| FreshnessError(text.to_owned()))?;
                Ok(Self::Bounded(age))
            }
        }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strong => f.write_str("strong"),
            Self::Bounded(age) => write!(f, "bounded({}ms)", age.0),
            Self::Session => f.write_str("session"),
            Self::Eventual => f.write_str("eventual"),
        }
    }
}

/// What a region says of itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it could write then: its lease was live.
    pub owns: Vec<PartitionRange>,
    /// Where its log ends with everything that it had committed.
    pub end: Cut,
    /// What its tables showed of other logs.
    pub shown: Frontier,
}

impl Answer {
    /// Whoever shows this shows all that could be seen there.
    pub fn everything(self) -> Frontier {
        let mut all = self.shown;
        all.advance(&self.end.origin, self.end.lsn);
        all
    }
}

/// Returns what has to be shown so that nothing is missing that was committed before all of `answers` were
/// asked for; `None` while nobody answers for some of the partitions, of which there are `total`.
pub fn read_index(total: u32, answers: Vec<Answer>) -> Option<Frontier> {
    let mut owned: Vec<PartitionRange> = answers.iter().flat_map(|a| a.owns.clone()).collect();
    owned.sort_unstable_by_key(|range| range.first);
    let reached = owned.iter().try_fold(0, |reached, range| {
        (range.first <= reached).then(|| reached.max(range.last.saturating_add(1)))
    });
    if reached? < total {
        return None;
    }
    let owners = answers.into_iter().filter(|answer| !answer.owns.is_empty());
    let mut needed = Frontier::default();
    owners.for_each(|owner| needed.join(&owner.everything()));
    Some(needed)
}

/// Questions that are answered, and wait for this region's tables to show what was answered.
const OPEN_MAX: usize = 256;

/// Up to when a region shows everything, as far as it has asked.
#[derive(Clone, Debug, Default)]
pub struct AsOf {
    /// Oldest question first.
    open: VecDeque<(Time, Frontier)>,
    reached: Option<Time>,
}

impl AsOf {
    /// What was asked at `at` needs `needed` to be shown.
    pub fn answered(&mut self, at: Time, needed: Frontier) {
        let place = self.open.partition_point(|(asked, _)| *asked <= at);
        self.open.insert(place, (at, needed));
        if self.open.len() > OPEN_MAX {
            // Every other one says the same in larger steps; the newest stays.
            let mut keep = self.open.len().is_multiple_of(2);
            self.open.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Something was answered that is not shown yet.
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// Returns up to when everything is shown, now that region `own` shows `applied`.
    pub fn shown(
        &mut self,
        applied: &Frontier,
        own: &RegionId,
        ownership: Option<&Ownership>,
    ) -> Option<Time> {
        // The newest that is met says everything that older ones could.
        let is_met =
            |(_, needed): &(Time, Frontier)| covered(needed, applied, own, None, ownership);
        if let Some(met) = self.open.iter().rposition(is_met) {
            let at = self.open.drain(..=met).next_back().map(|(at, _)| at);
            self.reached = self.reached.max(at);
        }
        self.reached
    }
}

/// What a session has written and seen: another one, anywhere, that is given it sees no less.
///
/// What gateways sign of it, for passing on: `1.eu-1@0/16B3748,us-1@0/4F0.shop`, with the version of this form, the
/// places in logs, and the name of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub cluster: String,
    pub shown: Frontier,
}

/// A text that is no token of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("this is not a token: expected what \"SHOW domicile.token\" said")]
    Malformed,
    #[error("this token is from another cluster")]
    Stranger,
}

const TOKEN_VERSION: &str = "1";
/// Places in a token: more than a cluster has logs.
const TOKEN_PLACES_MAX: usize = 1024;

impl Token {
    /// Reads a token of `cluster`.
    pub fn read(text: &str, cluster: &str) -> Result<Self, TokenError> {
        let rest = text.strip_prefix(TOKEN_VERSION).and_then(|rest| rest.strip_prefix('.'));
        let (places, named) = rest.and_then(|r| r.split_once('.')).ok_or(TokenError::Malformed)?;
        if named != cluster {
            return Err(TokenError::Stranger);
        }
        let place = |text: &str| {
            let (origin, lsn) = text.split_once('@').ok_or(TokenError::Malformed)?;
            let origin: Origin = origin.parse().map_err(|_| TokenError::Malformed)?;
            let lsn: Lsn = lsn.parse().map_err(|_| TokenError::Malformed)?;
            Ok((origin, lsn))
        };
        let places = places.split(',').filter(|place| !place.is_empty());
        if places.clone().count() > TOKEN_PLACES_MAX {
            return Err(TokenError::Malformed);
        }
        let shown = places.map(place).collect::<Result<Frontier, TokenError>>()?;
        Ok(Self { cluster: cluster.to_owned(), shown })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOKEN_VERSION}.{}.{}", self.shown, self.cluster)
    }
}

/// Is what a session needs shown in region `own`?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Yes,
    /// It will come.
    NotYet,
    /// It will never come: a failover cut the history of that log before this place.
    Lost(Cut),
}

/// Says whether a region that shows `applied` shows all of `needed`. Its own commits it shows up to where none waits
/// for a copy any more, `released`; `None` where none waits.
pub fn seen(
    needed: &Frontier,
    applied: &Frontier,
    own: &RegionId,
    released: Option<&Cut>,
    ownership: Option<&Ownership>,
) -> Seen {
    let missing = needed.iter().filter(|(o, lsn)| match released.filter(|r| r.origin == **o) {
        Some(released) => released.lsn < *lsn,
        None => o.region != *own && applied.get(o) < *lsn,
    });
    let mut seen = Seen::Yes;
    for (origin, lsn) in missing {
        let is_own = origin.region == *own;
        if !is_own && ownership.is_some_and(|known| known.ends_at(origin, applied.get(origin))) {
            return Seen::Lost(Cut { origin: origin.clone(), lsn });
        }
        seen = Seen::NotYet;
    }
    seen
}

#[cfg(test)]
mod tests;
