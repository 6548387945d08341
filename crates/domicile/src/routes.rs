//! What does the gateway need to know of ownership?

use std::sync::Arc;

use domicile_core::id::RegionId;
use domicile_core::ownership::Ownership;
use domicile_core::route::Routes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::directory::view::OwnershipView;
use crate::tenure::TenureState;

/// Publishes a new value whenever what it says has changed.
pub struct RoutePublisher {
    pub region: RegionId,
    pub clock: Clock,
    /// Everything is one partition.
    pub whole: bool,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub tenure: watch::Receiver<TenureState>,
    pub routes: watch::Sender<Arc<Routes>>,
}

impl RoutePublisher {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut gains = Gains::default();
        loop {
            let view = self.ownership.borrow_and_update().clone();
            let tenure = self.tenure.borrow_and_update().clone();
            let before = self.routes.borrow().clone();
            let elsewhere = gains.note(&view, &self.region);
            let next = self.routes(&view, &tenure, gains.ours_at);
            let opened = elsewhere || (next.live && !before.live);
            let next = Routes {
                version: before.version,
                openings: before.openings + u64::from(opened),
                ..next
            };
            if *before != next {
                self.routes.send_replace(Arc::new(Routes { version: next.version + 1, ..next }));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.ownership.changed() => if changed.is_err() { return },
                changed = self.tenure.changed() => if changed.is_err() { return },
            }
        }
    }

    fn routes(&self, view: &OwnershipView, tenure: &TenureState, gained_at: u64) -> Routes {
        let now = self.clock.now();
        let known = view.ownership.as_ref();
        let first = known.and_then(|ownership| ownership.entries().first());
        // What was granted just now is not open yet.
        let behind = tenure.guard_revision < gained_at;
        Routes {
            owner_of_whole: first.filter(|_| self.whole).and_then(|e| e.owner()).cloned(),
            settling: known.is_none_or(|ownership| {
                behind || ownership.entries().iter().any(|entry| entry.state.run().is_some())
            }),
            live: !behind && tenure.lease_until.is_some_and(|until| now < until),
            ..Routes::default()
        }
    }
}

/// Who may write more than before?
#[derive(Default)]
struct Gains {
    known: Option<Ownership>,
    /// The newest revision that gave our own region something.
    ours_at: u64,
}

impl Gains {
    /// Returns whether another region gained something.
    fn note(&mut self, view: &OwnershipView, region: &RegionId) -> bool {
        let Some(next) = &view.ownership else { return false };
        if self.known.as_ref() == Some(next) {
            return false;
        }
        let before = self.known.replace(next.clone());
        let gained = |of: &RegionId| before.as_ref().is_none_or(|before| next.gives(before, of));
        if gained(region) {
            self.ours_at = view.revision;
        }
        let mut owners = next.entries().iter().filter_map(|entry| entry.state.admits());
        owners.any(|owner| owner != region && gained(owner))
    }
}

#[cfg(test)]
mod tests {
    use domicile_core::id::{PartitionRange, RunId};
    use domicile_core::lsn::{Cut, Lsn};
    use domicile_core::ownership::OwnershipChange;

    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().expect("a region")
    }

    fn view(ownership: &Ownership, revision: u64) -> OwnershipView {
        OwnershipView { ownership: Some(ownership.clone()), revision, ..OwnershipView::default() }
    }

    #[test]
    fn only_what_opens_something_is_worth_another_attempt() {
        let [ap, eu] = ["ap", "eu"].map(region);
        let owned = Ownership::initial(2, &[ap.clone(), eu.clone()]);
        let run = RunId("1".into());
        let cut = Cut { origin: format!("{ap}-1").parse().expect("an origin"), lsn: Lsn(7) };
        let range = PartitionRange::new(0, 0);
        let changes = [
            OwnershipChange::HandOver { range, to: eu.clone(), run: run.clone() },
            OwnershipChange::Barrier { run: run.clone(), barrier: cut },
            OwnershipChange::Grant { run, to: eu.clone() },
        ];
        let (mut here, mut there) = (Gains::default(), Gains::default());
        assert!(here.note(&view(&owned, 1), &eu) && there.note(&view(&owned, 1), &ap));
        let mut now = owned;
        for (change, revision) in changes.iter().zip(2..) {
            now = now.apply(change).expect("allowed");
            let granted = revision == 4;
            assert!(!here.note(&view(&now, revision), &eu), "nothing is for another region");
            assert_eq!(here.ours_at, if granted { 4 } else { 1 });
            assert_eq!(there.note(&view(&now, revision), &ap), granted);
        }
        assert!(!there.note(&view(&now, 9), &ap), "a revision that changes nothing");
        assert_eq!(there.ours_at, 1);
    }
}
