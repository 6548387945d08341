//! Tells the gateway what it needs to know of ownership.

use std::sync::Arc;

use domicile_core::route::Routes;
use domicile_core::route::router::{Router, Sight};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::directory::view::OwnershipView;
use crate::postgres::pulse::Silence;
use crate::tenure::TenureState;

/// Publishes a new value whenever what it says has changed.
pub struct RoutePublisher {
    pub router: Router,
    pub clock: Clock,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub tenure: watch::Receiver<TenureState>,
    pub silence: watch::Receiver<Silence>,
    pub routes: watch::Sender<Arc<Routes>>,
}

impl RoutePublisher {
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let view = self.ownership.borrow_and_update().clone();
            let tenure = self.tenure.borrow_and_update().clone();
            let sight = Sight {
                ownership: view.ownership.as_ref(),
                revision: view.revision,
                guard_revision: tenure.guard_revision,
                lease_until: tenure.lease_until,
                silent: self.silence.borrow_and_update().connected,
            };
            if let Some(routes) = self.router.see(sight, self.clock.now()) {
                self.routes.send_replace(Arc::new(routes.clone()));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.ownership.changed() => if changed.is_err() { return },
                changed = self.tenure.changed() => if changed.is_err() { return },
                changed = self.silence.changed() => if changed.is_err() { return },
            }
        }
    }
}
