//! Where does a session live, and where may a refused statement be tried next?
//!
//! A guard that refuses a statement names the owner. Following that name is safe, because
//! nothing of a refused statement happened; whether it is useful depends on what the guards say
//! one after the other. A statement that touches rows of two owners is refused by both, each
//! naming the other: that is an error for the client and not a reason to wait.

pub mod reads;
pub mod router;
pub mod rows;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::freshness::Freshness;
use crate::id::{Epoch, PartitionId, RegionId};
use crate::ownership::Ownership;
use crate::time::{Millis, Time};

/// How often all guards may answer in the same circle before the client gets the refusal.
///
/// More than once, because a guard and the directory may be some milliseconds apart.
pub const CIRCLES_MAX: u32 = 3;

/// Where sessions live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At the owner of the whole database (active-passive).
    FollowOwner,
    /// In the region where they arrived; only refused statements travel (active-active).
    Local,
}

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    Client,
    /// Another region's gateway: served here or not at all, so that nothing goes in circles.
    Peer,
}

/// What the gateway knows of ownership.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Routes {
    /// Grows with every change.
    pub version: u64,
    /// The one owner of everything; `None` while it is handed over or fenced, and where there are
    /// many partitions.
    pub owner_of_whole: Option<RegionId>,
    /// To whom everything is being handed over: sessions that wait may get ready there.
    pub next_of_whole: Option<RegionId>,
    /// Some hand-over or failover is under way.
    pub settling: bool,
    /// This region's own guard is open for what the region owns.
    pub live: bool,
    /// This region's PostgreSQL is silent and others own what it owned: nobody need wait for it.
    pub abandoned: bool,
    /// Grows whenever something can be written that could not before: what waits, waits for this.
    pub openings: u64,
    /// Who owns what, as far as that is known.
    pub owners: Option<Arc<Ownership>>,
}

impl Routes {
    /// Returns who may write `partition`; `None` while nobody may, or nobody knows.
    pub fn owner_of(&self, partition: PartitionId) -> Option<&RegionId> {
        self.owners.as_ref()?.entry(partition)?.state.admits()
    }
}

/// Where a session should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    At(RegionId),
    /// Nowhere now; soon there will be a place.
    Wait,
}

/// Returns where a session that arrived in `region` should be.
///
/// A region that is the owner but whose guard stays closed while nothing changes still serves
/// sessions: its reads are as good as ever, and its writes get a clear refusal.
pub fn home(mode: Mode, caller: Caller, region: &RegionId, routes: &Routes) -> Home {
    let here = Home::At(region.clone());
    if mode == Mode::Local {
        return here;
    }
    let opening = routes.settling && !routes.live;
    match (&routes.owner_of_whole, caller) {
        (Some(owner), _) if owner == region => {
            if opening {
                Home::Wait
            } else {
                here
            }
        }
        (Some(owner), Caller::Client) => Home::At(owner.clone()),
        (None, Caller::Client) => Home::Wait,
        (Some(_), Caller::Peer) => here,
        (None, Caller::Peer) => {
            if opening {
                Home::Wait
            } else {
                here
            }
        }
    }
}

/// Has a session that opens a connection now to open another one, by what is known `now`?
///
/// Not where its place is the same: what was begun is needed all the same, and whoever begins anew leaves a server with a
/// login that nobody waits for.
pub fn overtakes(
    mode: Mode,
    caller: Caller,
    region: &RegionId,
    before: &Routes,
    now: &Routes,
) -> bool {
    match mode {
        Mode::FollowOwner => home(mode, caller, region, now) != home(mode, caller, region, before),
        Mode::Local => (now.settling, now.live) != (before.settling, before.live),
    }
}

/// Does a session go on elsewhere when everything moves to another region, if it lives at the owner?
pub fn follows_owner(mode: Mode, caller: Caller) -> bool {
    mode == Mode::FollowOwner && caller == Caller::Client
}

/// Does a client's session that asks this of its reads live in its own region, whoever owns what?
pub fn reads_near(freshness: Option<Freshness>) -> bool {
    !matches!(freshness, None | Some(Freshness::Strong))
}

/// Is a session that reads in its own `region`, whoever owns what, kept from writing there?
///
/// Not where regions own parts: there it is the guards that say which rows are this one's, and what has no guard is each
/// region's own.
pub fn only_reads(mode: Mode, region: &RegionId, routes: &Routes) -> bool {
    mode == Mode::FollowOwner && routes.owner_of_whole.as_ref() != Some(region)
}

/// Does a transaction wait until the region that it reads in is as new as that?
///
/// The owner of everything always is.
pub fn waits(mode: Mode, freshness: Freshness) -> bool {
    mode == Mode::Local || freshness != Freshness::Strong
}

/// Returns who is asked instead of a region that did not become new enough in time; `None` where nobody
/// can answer for everything.
pub fn instead(mode: Mode, routes: &Routes) -> Option<&RegionId> {
    routes.owner_of_whole.as_ref().filter(|_| mode == Mode::FollowOwner)
}

/// Returns who owns all of what a client's transaction is about, by the partitions of the keys that it names;
/// `None` where that is not looked at, or not known, or nobody owns all of it.
///
/// In an active-passive cluster one region owns everything. A session that asks how new its reads have to
/// be reads in its own region: how new others show what is not theirs is not known here.
pub fn of_keys(
    mode: Mode,
    caller: Caller,
    freshness: Option<Freshness>,
    partitions: &BTreeSet<PartitionId>,
    routes: &Routes,
) -> Option<RegionId> {
    if !is_led(mode, caller, freshness) {
        return None;
    }
    owner_of_all(partitions, routes.owners.as_ref()?).cloned()
}

/// Returns who may write all of these partitions; `None` while nobody may.
pub fn owner_of_all<'a>(
    partitions: &BTreeSet<PartitionId>,
    ownership: &'a Ownership,
) -> Option<&'a RegionId> {
    let owner = |partition: &PartitionId| ownership.entry(*partition)?.state.admits();
    let mut owners = partitions.iter().map(owner);
    let first = owners.next()??;
    owners.all(|owner| owner == Some(first)).then_some(first)
}

/// Is it looked at where the keys of a transaction lead?
pub fn is_led(mode: Mode, caller: Caller, freshness: Option<Freshness>) -> bool {
    mode == Mode::Local && caller == Caller::Client && freshness.is_none()
}

/// What a guard says when it refuses: who may write, as far as it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `None` while a hand-over or a failover is under way.
    pub owner: Option<RegionId>,
    pub epoch: Epoch,
}

impl Refusal {
    /// Reads the DETAIL of a guard's error; `None` when somebody else wrote it.
    pub fn read(detail: &str) -> Option<Self> {
        let rest = detail.strip_prefix("Owner region: ")?;
        let (owner, rest) = rest.split_once(", epoch: ")?;
        let epoch = rest.strip_suffix('.')?.parse().ok()?;
        let owner = if owner == "none" { None } else { Some(owner.parse().ok()?) };
        Some(Self { owner, epoch: Epoch(epoch) })
    }

    /// What a region says that is only read, in the words of a guard: who may write everything.
    pub fn of_whole(routes: &Routes) -> Self {
        let entry = routes.owners.as_ref().and_then(|owners| owners.data().first());
        let epoch = entry.map_or(Epoch(0), |entry| entry.epoch);
        Self { owner: routes.owner_of_whole.clone(), epoch }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = self.owner.as_ref().map_or("none", RegionId::as_str);
        write!(f, "Owner region: {owner}, epoch: {}.", self.epoch)
    }
}

/// What to do with a statement that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the statement to this region.
    Ask(RegionId),
    /// Wait for a change or a moment, then begin again where the session lives.
    Wait,
    /// Give the client the last refusal.
    GiveUp,
}

/// One statement on its way to a region that takes it.
#[derive(Clone, Debug)]
pub struct Redirect {
    since: Time,
    budget: Millis,
    /// Who refused since we last began again, and in which words.
    round: Vec<(RegionId, Refusal)>,
    circle: Option<Circle>,
}

/// The same refusals by the same regions, while nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Circle {
    round: Vec<(RegionId, Refusal)>,
    version: u64,
    seen: u32,
}

impl Redirect {
    pub fn new(since: Time, budget: Millis) -> Self {
        Self { since, budget, round: Vec::new(), circle: None }
    }

    /// Region `by` refused the statement.
    pub fn refused(&mut self, by: &RegionId, refusal: Refusal, routes: &Routes, now: Time) -> Next {
        self.round.push((by.clone(), refusal.clone()));
        if self.is_over(now) {
            return Next::GiveUp;
        }
        let Some(owner) = refusal.owner else { return self.wait() };
        if owner == *by {
            // It knows that it is the owner; its guard is about to open.
            return self.wait();
        }
        if !self.round.iter().any(|(asked, _)| *asked == owner) {
            return Next::Ask(owner);
        }
        if routes.settling { self.wait() } else { self.circled(routes.version) }
    }

    /// The region that should have been asked next cannot be reached.
    pub fn unreachable(&mut self, now: Time) -> Next {
        if self.is_over(now) { Next::GiveUp } else { self.wait() }
    }

    /// How much of the budget is left.
    pub fn left(&self, now: Time) -> Millis {
        self.budget - now.since(self.since)
    }

    fn is_over(&self, now: Time) -> bool {
        now.since(self.since) >= self.budget
    }

    fn wait(&mut self) -> Next {
        self.round.clear();
        self.circle = None;
        Next::Wait
    }

    fn circled(&mut self, version: u64) -> Next {
        let round = std::mem::take(&mut self.round);
        let before = self.circle.take();
        let seen = match before {
            Some(circle) if circle.version == version && circle.round == round => circle.seen + 1,
            Some(_) | None => 1,
        };
        self.circle = Some(Circle { round, version, seen });
        if seen >= CIRCLES_MAX { Next::GiveUp } else { Next::Wait }
    }
}

#[cfg(test)]
mod tests;
