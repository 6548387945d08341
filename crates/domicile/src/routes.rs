//! What does the gateway need to know of ownership?

use std::sync::Arc;

use domicile_core::id::RegionId;
use domicile_core::route::Routes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::directory::view;
use crate::tenure::TenureState;

/// Publishes a new value whenever what it says has changed.
pub struct RoutePublisher {
    pub region: RegionId,
    pub clock: Clock,
    /// Everything is one partition.
    pub whole: bool,
    pub ownership: watch::Receiver<Arc<view::OwnershipView>>,
    pub tenure: watch::Receiver<TenureState>,
    pub routes: watch::Sender<Arc<Routes>>,
}

impl RoutePublisher {
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let view = self.ownership.borrow_and_update().clone();
            let tenure = self.tenure.borrow_and_update().clone();
            let now = self.clock.now();
            let known = view.ownership.as_ref();
            let first = known.and_then(|o| o.entries().first());
            // What was granted just now is not open yet.
            let behind = tenure.guard_revision < view.revision;
            let next = Routes {
                version: self.routes.borrow().version,
                owner_of_whole: first.filter(|_| self.whole).and_then(|e| e.owner()).cloned(),
                settling: known.is_none_or(|ownership| {
                    ownership.entries().iter().any(|e| e.state.run().is_some())
                        || (behind && ownership.owns_anything(&self.region))
                }),
                live: !behind && tenure.lease_until.is_some_and(|until| now < until),
            };
            self.routes.send_if_modified(|routes| {
                let changed = **routes != next;
                if changed {
                    *routes = Arc::new(Routes { version: next.version + 1, ..next });
                }
                changed
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.ownership.changed() => if changed.is_err() { return },
                changed = self.tenure.changed() => if changed.is_err() { return },
            }
        }
    }
}
