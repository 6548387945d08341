//! What became of a transaction whose client was not told?
//!
//! A client that has asked for the token of its transaction can name it afterwards, whatever became of the
//! connection. What is known of it is in three places, of which any may be gone:
//!
//! ```text
//!   PostgreSQL where it ran    committed, rolled back, in progress; or it has forgotten
//!   the log, and its copies    |after ...... |its commit, if it came that far ...... |cut
//!   the conflict journals      rows of it that a cut, or the guard, kept out of the history
//! ```
//!
//! Only what lies within the history is committed for good. So the log goes before PostgreSQL, which also says
//! "committed" of a tail that no other region will ever show.
//!
//! **Invariant:** nothing is called lost before everything was read that can ever be history. Rows of shared tables no cut
//! concerns: of them a lost region's come back with it.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use crate::change::Stamp;
use crate::id::{Origin, RegionId};
use crate::lsn::{Cut, Lsn};
use crate::ownership::{Ownership, Verdict};

/// Names a transaction, also when nobody knows any more what became of it.
///
/// What gateways sign of it: `1.eu-1@0/16B3748.4294968297.shop`, with the version of this form, the place in the WAL, the
/// transaction's number, and the name of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub cluster: String,
    /// Where it ran.
    pub origin: Origin,
    /// All 64 bits: PostgreSQL never gives it again.
    pub xid: u64,
    /// It had not committed yet when the WAL ended here.
    pub after: Lsn,
}

/// A text that is no token of a transaction of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("this is not a transaction's token: expected what \"SHOW domicile.transaction\" said")]
    Malformed,
    #[error("this token is of a transaction of another cluster")]
    Stranger,
}

const TOKEN_VERSION: &str = "1";

impl Token {
    /// Reads a token of `cluster`.
    pub fn read(text: &str, cluster: &str) -> Result<Self, TokenError> {
        let read = || {
            let rest = text.strip_prefix(TOKEN_VERSION)?.strip_prefix('.')?;
            let (place, rest) = rest.split_once('.')?;
            let (xid, named) = rest.split_once('.')?;
            let (origin, after) = place.split_once('@')?;
            let (origin, after) = (origin.parse().ok()?, after.parse().ok()?);
            Some(Self { cluster: named.to_owned(), origin, xid: xid.parse().ok()?, after })
        };
        let token = read().ok_or(TokenError::Malformed)?;
        if token.cluster == cluster { Ok(token) } else { Err(TokenError::Stranger) }
    }

    /// As the log has it. It comes again after four thousand million transactions, far behind its first record.
    pub fn xid_in_log(&self) -> u32 {
        (self.xid & u64::from(u32::MAX)) as u32
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, origin, xid, after } = self;
        write!(f, "{TOKEN_VERSION}.{origin}@{after}.{xid}.{cluster}")
    }
}

/// What one region, or a witness, says of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of what it writes itself now.
    pub origin: Origin,
    /// By its PostgreSQL, where the transaction ran there, in the incarnation that there still is.
    pub ran_here: Option<RanHere>,
    /// By its log of that origin, or its copy of it.
    pub log: InLog,
    /// Its conflict journal has rows of it as no part of the history.
    pub journaled: bool,
}

/// What PostgreSQL knows of a transaction of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RanHere {
    /// `None` where it has forgotten, or never knew.
    pub status: Option<Status>,
    /// All that had ended when it was asked stands in the log, or was kept out of it.
    pub captured: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Committed,
    RolledBack,
    /// Also while its commit waits for a copy.
    InProgress,
}

/// What a copy of the origin's log has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InLog {
    /// There is no such log here.
    NoLog,
    /// It is not between the token's place and this one.
    Absent { upto: Lsn },
    /// What came before this was let go, and it is not among the rest.
    Trimmed { upto: Lsn },
    /// Its commit. `shown` says whether it is visible here.
    Found { lsn: Lsn, stamps: Vec<Stamp>, shown: bool },
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is part of the history. Nobody holds a record of what changed no replicated row.
    Committed {
        held: Vec<RegionId>,
        shown: Vec<RegionId>,
    },
    /// It was committed where it ran, and is no part of the history. `journaled` names whose journal has it.
    PassedOver {
        journaled: Vec<RegionId>,
    },
    RolledBack,
    /// It was lost, or had never been committed: the history of its origin ended at this cut without it. What it wrote of
    /// shared tables may still come.
    NotHistory {
        end: Cut,
    },
    InProgress,
    Unknown(Unknown),
}

/// Why nobody can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Its region is silent, and nobody has taken over from it.
    Silent,
    /// A failover decides where the history of its region ends.
    Undecided,
    /// It was committed where it ran; whether it is history is not settled there.
    NotCaptured,
    /// Of those who answer nobody has the log up to its end.
    Behind { end: Cut },
    /// Those who answer have let go of what came before.
    Trimmed { upto: Lsn },
    /// Its region has begun another log since: how the old one ended is not known.
    BegunAnew { now: Origin },
    /// PostgreSQL has forgotten it, and the log does not have it.
    Forgotten,
}

impl Outcome {
    /// The name under which programs know it.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Committed { .. } => "committed",
            Self::PassedOver { .. } => "passed_over",
            Self::RolledBack => "rolled_back",
            Self::NotHistory { .. } => "not_history",
            Self::InProgress => "in_progress",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Says what became of a transaction, by what was told of it and the ownership that was read after that.
pub fn outcome(token: &Token, told: &BTreeMap<RegionId, Told>, ownership: &Ownership) -> Outcome {
    let who = |is: &dyn Fn(&Told) -> bool| -> Vec<RegionId> {
        told.iter().filter(|(_, told)| is(told)).map(|(region, _)| region.clone()).collect()
    };
    let journaled = who(&|told| told.journaled);
    let ran_here = told.values().find_map(|told| told.ran_here);
    let status = ran_here.and_then(|ran| ran.status);
    let held = who(&|told| matches!(told.log, InLog::Found { .. }));
    let shown = who(&|told| matches!(told.log, InLog::Found { shown: true, .. }));
    match told.values().find_map(|told| belongs(token, told, ownership)) {
        Some(Belongs::Outside) => return Outcome::PassedOver { journaled },
        Some(Belongs::Undecided) => return Outcome::Unknown(Unknown::Undecided),
        Some(Belongs::InHistory) => {
            // Nobody was told of it, and a failover may still lose it.
            let waits = status == Some(Status::InProgress);
            return match held.iter().all(|holder| *holder == token.origin.region) && waits {
                true => Outcome::InProgress,
                false => Outcome::Committed { held, shown },
            };
        }
        None => {}
    }
    if !journaled.is_empty() {
        return Outcome::PassedOver { journaled };
    }
    match (status, ran_here) {
        (Some(Status::RolledBack), _) => Outcome::RolledBack,
        (Some(Status::InProgress), _) => Outcome::InProgress,
        (Some(Status::Committed), Some(RanHere { captured: true, .. })) => {
            Outcome::Committed { held, shown }
        }
        (Some(Status::Committed), _) => Outcome::Unknown(Unknown::NotCaptured),
        (None, ran_here) => in_no_log(token, told, ownership, ran_here),
    }
}

/// Where a record that was found belongs.
enum Belongs {
    InHistory,
    Outside,
    Undecided,
}

/// As `history::admit` has it: one stamp outside keeps all of it out. What the guard did not stamp would not have come
/// into the log, but for rows of shared tables, which no cut concerns.
fn belongs(token: &Token, told: &Told, ownership: &Ownership) -> Option<Belongs> {
    let InLog::Found { lsn, stamps, .. } = &told.log else { return None };
    let mut belongs = Belongs::InHistory;
    for stamp in stamps {
        match ownership.verdict(&token.origin, *lsn, *stamp) {
            Verdict::InHistory => {}
            Verdict::BeyondCut(_) | Verdict::NeverGranted => return Some(Belongs::Outside),
            Verdict::Undecided => belongs = Belongs::Undecided,
        }
    }
    Some(belongs)
}

/// No log that could be asked has it, and PostgreSQL says nothing.
fn in_no_log(
    token: &Token,
    told: &BTreeMap<RegionId, Told>,
    ownership: &Ownership,
    ran_here: Option<RanHere>,
) -> Outcome {
    let Token { origin, after, .. } = token;
    let trimmed = told.values().filter_map(|told| match told.log {
        InLog::Trimmed { upto } => Some(upto),
        _ => None,
    });
    let (trimmed, region) = (trimmed.min(), told.get(&origin.region));
    if let Some(end) = ownership.end_of(origin) {
        let reaches = |told: &Told| matches!(told.log, InLog::Absent { upto } if upto >= end);
        let read_to_its_end = *after >= end || told.values().any(reaches);
        let end = Cut { origin: origin.clone(), lsn: end };
        return match (read_to_its_end, trimmed) {
            (true, _) => Outcome::NotHistory { end },
            (false, Some(upto)) => Outcome::Unknown(Unknown::Trimmed { upto }),
            (false, None) => Outcome::Unknown(Unknown::Behind { end }),
        };
    }
    Outcome::Unknown(match (region, ran_here, trimmed) {
        (Some(Told { origin: now, .. }), _, _) if now != origin => {
            Unknown::BegunAnew { now: now.clone() }
        }
        (_, Some(_), Some(upto)) => Unknown::Trimmed { upto },
        (_, Some(_), None) => Unknown::Forgotten,
        (_, None, _) if ownership.awaits_cut(&origin.region) => Unknown::Undecided,
        (_, None, _) => Unknown::Silent,
    })
}

#[cfg(test)]
mod tests;
