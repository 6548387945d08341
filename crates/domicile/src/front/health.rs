//! Who did not answer lately?
//!
//! Learned from requests alone. Whoever is known to be down is only asked last: a mistake costs a detour.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use domicile_core::id::RegionId;
use domicile_core::time::{Millis, Time};

/// How long a failure says something about the next request.
const DOWN_FOR: Millis = Millis(2000);

/// Regions, and when their door or their application last failed to take a request.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<RegionId, Time>>);

impl Health {
    pub fn failed(&self, region: &RegionId, now: Time) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(region.clone(), now);
    }

    pub fn answered(&self, region: &RegionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(region);
    }

    pub fn down(&self, now: Time) -> BTreeSet<RegionId> {
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = failed.iter().filter(|(_, at)| now.since(**at) < DOWN_FOR);
        lately.map(|(region, _)| region.clone()).collect()
    }
}
