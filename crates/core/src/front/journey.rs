//! Where does one request go next?
//!
//! Going on is safe while it is certain that nothing was done: nobody was reached, or another door says that it did
//! not hand the request on. Of a request that was handed on nothing is known until it is answered. Only one that reads
//! and has no body is said again then.

use std::collections::{BTreeMap, BTreeSet};

use super::{Wanted, Why};
use crate::id::{PartitionId, RegionId};
use crate::route::{Caller, Routes};
use crate::time::{Millis, Time};

/// What a door knows at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    pub routes: &'a Routes,
    /// All regions that have doors, in the order of the configuration.
    pub regions: &'a [RegionId],
    /// Those that did not answer lately.
    pub down: &'a BTreeSet<RegionId>,
    pub now: Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it to the application here, or to this region's door.
    To(RegionId),
    /// Until routes change, or a moment has passed.
    Wait,
    Answer(Why),
}

/// What came of sending it somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing has reached the region.
    Unreachable,
    /// Nothing has reached the region's application, which its door says.
    AppUnreachable,
    /// The region's door says that another region owns it, and handed it to nobody.
    NotOwner,
    /// Some of it may have been seen.
    BrokeOff,
    /// No answer has begun within what is allowed.
    Late,
}

/// One request on its way to a region that answers it.
#[derive(Clone, Debug)]
pub struct Journey {
    here: RegionId,
    caller: Caller,
    wanted: Wanted,
    /// It reads and has no body.
    repeatable: bool,
    since: Time,
    /// How long an owner is waited for.
    budget: Millis,
    failed: BTreeMap<RegionId, Why>,
    /// Broke off once, and is asked once more.
    again: BTreeSet<RegionId>,
    /// The owner was not found where it should be: a moment first.
    pausing: Option<Why>,
    replayed: bool,
    /// Nothing more may be tried.
    over: Option<Why>,
}

impl Journey {
    pub fn new(
        here: RegionId,
        caller: Caller,
        wanted: Wanted,
        repeatable: bool,
        since: Time,
        budget: Millis,
    ) -> Self {
        Self {
            here,
            caller,
            wanted,
            repeatable,
            since,
            budget,
            failed: BTreeMap::new(),
            again: BTreeSet::new(),
            pausing: None,
            replayed: false,
            over: None,
        }
    }

    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// How much of the budget is left.
    pub fn left(&self, now: Time) -> Millis {
        self.budget - now.since(self.since)
    }

    pub fn step(&mut self, sight: &Sight<'_>) -> Step {
        if let Some(why) = &self.over {
            return Step::Answer(why.clone());
        }
        if let Some(why) = self.pausing.take() {
            return self.wait(why, sight.now);
        }
        match self.wanted.clone() {
            Wanted::Here => self.once(self.here.clone()),
            Wanted::Anywhere if self.caller == Caller::Peer => self.once(self.here.clone()),
            Wanted::Anywhere => self.nearest(sight),
            Wanted::Region(region) => self.once(region),
            Wanted::Owner(partition) => self.owner(partition, sight),
        }
    }

    /// Sending it to `region` came to nothing.
    pub fn failed(&mut self, region: &RegionId, failure: Failure) {
        let why = {
            let region = region.clone();
            match failure {
                Failure::Unreachable if region == self.here => Why::AppUnreachable { region },
                Failure::Unreachable => Why::RegionUnreachable { region },
                Failure::AppUnreachable => Why::AppUnreachable { region },
                Failure::NotOwner => Why::NoOwner,
                Failure::BrokeOff => Why::BrokeOff { region },
                Failure::Late => Why::Late { region },
            }
        };
        let owner = matches!(self.wanted, Wanted::Owner(_));
        match failure {
            Failure::Unreachable | Failure::NotOwner if owner && *region != self.here => {
                self.pausing = Some(why);
            }
            // It may have been an idle connection that ended just then.
            Failure::BrokeOff if self.repeatable && self.again.insert(region.clone()) => {}
            Failure::BrokeOff if !self.repeatable => self.over = Some(why),
            Failure::Late => self.over = Some(why),
            Failure::Unreachable
            | Failure::AppUnreachable
            | Failure::NotOwner
            | Failure::BrokeOff => drop(self.failed.insert(region.clone(), why)),
        }
    }

    /// The application says that others have to answer, whose owner may be waited for anew.
    pub fn replay(&mut self, wanted: Wanted, now: Time) -> Result<(), Why> {
        if std::mem::replace(&mut self.replayed, true) {
            return Err(Why::ReplayedTwice);
        }
        (self.wanted, self.since) = (wanted, now);
        Ok(())
    }

    fn once(&self, region: RegionId) -> Step {
        self.failed.get(&region).cloned().map_or(Step::To(region), Step::Answer)
    }

    /// Here, then at the owner of everything, then in the others' order; those that are down last.
    fn nearest(&self, sight: &Sight<'_>) -> Step {
        let first = [Some(&self.here), sight.routes.owner_of_whole.as_ref()];
        let all = first.into_iter().flatten().chain(sight.regions);
        let left = all.filter(|region| !self.failed.contains_key(*region));
        match left.min_by_key(|region| sight.down.contains(*region)) {
            Some(region) => Step::To(region.clone()),
            None => self.once(self.here.clone()),
        }
    }

    fn owner(&self, partition: PartitionId, sight: &Sight<'_>) -> Step {
        let routes = sight.routes;
        match routes.owner_of(partition) {
            None => self.wait(Why::NoOwner, sight.now),
            // Its guard is about to open.
            Some(owner) if *owner == self.here && routes.settling && !routes.live => {
                self.wait(Why::NoOwner, sight.now)
            }
            Some(owner) if *owner == self.here => self.once(owner.clone()),
            Some(owner) => match self.caller {
                Caller::Client => self.once(owner.clone()),
                Caller::Peer => Step::Answer(Why::NotOwner { region: owner.clone() }),
            },
        }
    }

    fn wait(&self, why: Why, now: Time) -> Step {
        if now.since(self.since) < self.budget { Step::Wait } else { Step::Answer(why) }
    }
}

#[cfg(test)]
mod tests;
