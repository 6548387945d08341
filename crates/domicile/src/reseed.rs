//! When does a region whose slot is lost begin anew without a person?
//!
//! It only has the next incarnation begin, as `domicile reseed` does: the agent starts anew, makes a slot, and notes all
//! tables as passed over, which are then compared and repaired ([`passed_over`](crate::passed_over)).

use std::time::Duration;

use domicile_core::continuity::begins_anew;
use domicile_core::id::Origin;
use domicile_core::time::{Millis, Time};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::complain::Complaint;
use crate::continuity::Continuity;
use crate::directory;
use crate::directory::change::begin_incarnation;
use crate::observe::Observer;

const LOOK_EVERY: Duration = Duration::from_secs(1);

pub struct Reseeder {
    pub after: Millis,
    pub origin: Origin,
    pub clock: Clock,
    pub continuity: Continuity,
    pub observer: Observer,
    pub directory: directory::Client,
}

impl Reseeder {
    /// Looks until `shutdown`; once the next incarnation was begun, this agent ends by itself.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut since, mut complaint) = (None, Complaint::default());
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if !self.is_due(&mut since) {
                continue;
            }
            let Origin { region, incarnation } = &self.origin;
            match begin_incarnation(&self.directory, region, *incarnation).await {
                Ok(()) => {
                    tracing::warn!(origin = %self.origin, "the slot stays lost: the log begins anew by itself");
                    return shutdown.cancelled().await;
                }
                Err(error) => complaint.warn("the log does not begin anew", &error),
            }
        }
    }

    /// `since` is when the slot was first found lost, as long as it is.
    fn is_due(&self, since: &mut Option<Time>) -> bool {
        let (why, known) = self.continuity.found();
        let Some(why) = why else {
            *since = None;
            return false;
        };
        let now = self.clock.now();
        let stands = now.since(*since.get_or_insert(now));
        begins_anew(&why, known.as_ref(), stands, self.after, self.all_answer())
    }

    /// Tables are compared between all members.
    fn all_answer(&self) -> bool {
        let Some(facts) = self.observer.facts() else { return false };
        let members = facts.ownership.members().iter();
        members
            .filter(|member| **member != self.origin.region)
            .all(|member| facts.is_reachable(member))
    }
}
