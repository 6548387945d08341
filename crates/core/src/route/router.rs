//! What does a gateway need to know of ownership, and when is it worth another attempt?

use std::sync::Arc;

use super::Routes;
use crate::id::RegionId;
use crate::ownership::{Entry, Ownership, State};
use crate::time::Time;

/// What one region sees at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// `None` until it was read for the first time.
    pub ownership: Option<&'a Ownership>,
    pub revision: u64,
    /// The revision that the region's guard goes by.
    pub guard_revision: u64,
    /// Until when that guard admits writes.
    pub lease_until: Option<Time>,
    /// The region's PostgreSQL does not answer its sessions.
    pub silent: bool,
}

/// Keeps one region's routes.
#[derive(Debug)]
pub struct Router {
    region: RegionId,
    /// Everything is one partition.
    whole: bool,
    known: Option<Ownership>,
    /// The same, or an older one by which guards admit the same.
    owners: Option<Arc<Ownership>>,
    /// The newest revision that gave the region something.
    ours_at: u64,
    routes: Routes,
}

impl Router {
    pub fn new(region: RegionId, whole: bool) -> Self {
        Self { region, whole, known: None, owners: None, ours_at: 0, routes: Routes::default() }
    }

    /// Returns the routes when they are not what they were.
    pub fn see(&mut self, sight: Sight<'_>, now: Time) -> Option<&Routes> {
        let opened = self.note(sight);
        // What was granted just now is not open yet.
        let behind = sight.guard_revision < self.ours_at;
        let entries = sight.ownership.map_or(&[][..], Ownership::data);
        let live = !behind && sight.lease_until.is_some_and(|until| now < until);
        let opened = opened || (live && !self.routes.live);
        let owns = sight.ownership.is_none_or(|known| known.owns_data(&self.region));
        let next = Routes {
            version: self.routes.version,
            owner_of_whole: entries.first().filter(|_| self.whole).and_then(|e| e.owner()).cloned(),
            next_of_whole: entries.first().filter(|_| self.whole).and_then(next_owner).cloned(),
            settling: sight.ownership.is_none()
                || behind
                || entries.iter().any(|entry| entry.state.run().is_some()),
            live,
            abandoned: sight.silent && !owns,
            openings: self.routes.openings + u64::from(opened),
            owners: self.owners.clone(),
        };
        if next == self.routes {
            return None;
        }
        self.routes = Routes { version: next.version + 1, ..next };
        Some(&self.routes)
    }

    /// Returns whether another region may write more than before.
    fn note(&mut self, sight: Sight<'_>) -> bool {
        let Some(next) = sight.ownership.filter(|next| self.known.as_ref() != Some(*next)) else {
            return false;
        };
        let before = self.known.replace(next.clone());
        if self.owners.as_ref().is_none_or(|owners| !owners.admits_like(next)) {
            self.owners = Some(Arc::new(next.clone()));
        }
        let gained =
            |of: &RegionId| before.as_ref().is_none_or(|before| next.gives_data(before, of));
        if gained(&self.region) {
            self.ours_at = sight.revision;
        }
        let mut owners = next.data().iter().filter_map(|entry| entry.state.admits());
        owners.any(|owner| *owner != self.region && gained(owner))
    }
}

/// Returns to whom a partition is being handed over.
fn next_owner(entry: &Entry) -> Option<&RegionId> {
    match &entry.state {
        State::HandingOver { to, .. } => Some(to),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PartitionId, PartitionRange, RunId};
    use crate::lsn::{Cut, Lsn};
    use crate::ownership::OwnershipChange;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    /// Its guard goes by `guard_revision`, and its lease is live.
    fn sight(ownership: &Ownership, revision: u64, guard_revision: u64) -> Sight<'_> {
        let lease_until = Some(Time(1000));
        let ownership = Some(ownership);
        Sight { ownership, revision, guard_revision, lease_until, silent: false }
    }

    #[test]
    fn only_what_opens_something_is_worth_another_attempt() {
        let run = RunId("1".into());
        let range = PartitionRange::new(0, 0);
        let barrier = Cut { origin: "ap-1".parse().unwrap(), lsn: Lsn(7) };
        let owned = Ownership::initial(2, &[region("ap"), region("eu")]);
        let moving = owned
            .apply(&OwnershipChange::HandOver { range, to: region("eu"), run: run.clone() })
            .unwrap();
        let announced =
            moving.apply(&OwnershipChange::Barrier { run: run.clone(), barrier }).unwrap();
        let granted = announced.apply(&OwnershipChange::Grant { run, to: region("eu") }).unwrap();

        let now = Time(0);
        let (mut old, mut new) =
            (Router::new(region("ap"), false), Router::new(region("eu"), false));
        let first = [&mut old, &mut new].map(|r| r.see(sight(&owned, 1, 1), now).unwrap().openings);
        for router in [&mut old, &mut new] {
            let routes = router.see(sight(&moving, 2, 1), now).unwrap();
            assert!(routes.settling && routes.live, "it still serves what it keeps");
            assert_eq!(routes.openings, first[0]);
            let owners = [0, 1, 2].map(|n| routes.owner_of(PartitionId(n)).cloned());
            assert_eq!(owners, [None, Some(region("eu")), None]);
            assert_eq!(router.see(sight(&announced, 3, 2), now), None, "nothing opens");
        }
        let there = old.see(sight(&granted, 4, 3), now).unwrap();
        assert!(!there.settling && there.openings == first[0] + 1);
        assert_eq!(there.owner_of(PartitionId(0)), Some(&region("eu")));
        let here = new.see(sight(&granted, 4, 3), now).unwrap();
        assert!(here.settling && !here.live && here.openings == first[1], "its guard is behind");
        let open = new.see(sight(&granted, 4, 4), now).unwrap();
        assert!(!open.settling && open.live && open.openings == first[1] + 1);
    }

    #[test]
    fn who_waits_for_everything_is_told_where_it_goes() {
        let run = RunId("1".into());
        let (range, to) = (PartitionRange::new(0, 0), region("eu"));
        let owned = Ownership::initial(1, &[region("ap")]).with_members([region("eu")]);
        let moving = owned.apply(&OwnershipChange::HandOver { range, to, run }).unwrap();
        let next = |whole, ownership| {
            let mut router = Router::new(region("ap"), whole);
            router.see(sight(ownership, 1, 1), Time(0)).unwrap().next_of_whole.clone()
        };
        assert_eq!(next(true, &moving), Some(region("eu")));
        assert_eq!(next(true, &owned), None);
        assert_eq!(next(false, &moving), None, "each partition may go somewhere else");
    }

    #[test]
    fn a_lease_that_comes_back_opens_what_the_region_owns() {
        let owned = Ownership::initial(2, &[region("ap"), region("eu")]);
        let mut router = Router::new(region("ap"), false);
        let lost = Sight { lease_until: None, ..sight(&owned, 1, 1) };
        let before = router.see(lost, Time(0)).unwrap().openings;
        assert_eq!(router.see(sight(&owned, 1, 1), Time(0)).unwrap().openings, before + 1);
        assert!(!router.see(sight(&owned, 1, 1), Time(1000)).unwrap().live, "it has run out");
    }

    #[test]
    fn only_a_silent_region_that_owns_nothing_any_more_is_abandoned() {
        let owned = Ownership::initial(2, &[region("ap"), region("eu")]);
        let lost = Ownership::initial(2, &[region("eu")]);
        let abandoned = |ownership, silent| {
            let sight = Sight { ownership, silent, ..sight(&owned, 1, 1) };
            let mut router = Router::new(region("ap"), false);
            router.see(sight, Time(0)).is_some_and(|routes| routes.abandoned)
        };
        assert!(abandoned(Some(&lost), true));
        assert!(!abandoned(Some(&lost), false), "it answers: what runs there may run on");
        assert!(!abandoned(Some(&owned), true), "it may stand still for a moment");
        assert!(!abandoned(None, true));
    }
}
