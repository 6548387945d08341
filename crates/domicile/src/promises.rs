//! What has this agent promised to others in the directory's stead, and what do they promise it?
//!
//! How long a promise holds and whose suffice is decided in [`domicile_core::promise`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::bail;
use domicile_core::id::RegionId;
use domicile_core::lease::LeaseTerms;
use domicile_core::promise::{Ask, Needed, Promises};
use domicile_core::time::{Millis, Time};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::peer;
use crate::proto::PromiseRequest;

/// What this process has promised. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Given {
    clock: Clock,
    terms: LeaseTerms,
    promises: Arc<Mutex<Promises>>,
}

impl Given {
    pub fn new(clock: Clock, terms: LeaseTerms) -> Self {
        let promises = Arc::new(Mutex::new(Promises::new(clock.now())));
        Self { clock, terms, promises }
    }

    pub fn terms(&self) -> &LeaseTerms {
        &self.terms
    }

    pub fn give(&self, to: &RegionId) {
        let now = self.clock.now();
        self.lock().give(to, now);
    }

    /// When something was promised to `to` last.
    pub fn given(&self, to: &RegionId) -> Option<Time> {
        self.lock().given(to)
    }

    /// Does a promise to `to` still hold? Whoever asked for it was alive.
    pub fn holds(&self, to: &RegionId) -> bool {
        self.lock().hold(to, self.clock.now(), &self.terms)
    }

    /// For how long `to` may still live on what was promised here, be it before a restart.
    pub fn left(&self, to: &RegionId) -> Millis {
        self.lock().left(to, self.clock.now(), &self.terms)
    }

    fn lock(&self) -> MutexGuard<'_, Promises> {
        // Every change leaves it whole.
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks peers for a promise. Returns who has given one as soon as those suffice.
///
/// # Errors
///
/// When they do not suffice `within` that time; it says why of each that was asked.
pub async fn ask(
    peers: &BTreeMap<RegionId, peer::Client>,
    cluster: &str,
    needed: &Needed,
    ask: &Ask,
    within: Duration,
) -> anyhow::Result<BTreeSet<RegionId>> {
    let asked = peers.iter().filter(|(region, _)| needed.of.contains(*region));
    let mut answers: FuturesUnordered<_> = asked
        .map(|(region, peer)| {
            let (mut peer, request) = (peer.clone(), lower(cluster, ask));
            async move { (region, timeout(within, peer.promise(request)).await) }
        })
        .collect();
    let (mut given, mut refused) = (BTreeSet::new(), Vec::new());
    while let Some((region, answer)) = answers.next().await {
        match answer {
            Ok(Ok(_)) => given.insert(region.clone()),
            Ok(Err(status)) => {
                refused.push(format!("{region}: {}", status.message()));
                continue;
            }
            Err(_) => {
                refused.push(format!("{region}: no answer"));
                continue;
            }
        };
        if needed.suffice(&given) {
            return Ok(given);
        }
    }
    bail!("{} of {} promises are given ({})", given.len(), needed.count, refused.join("; "))
}

fn lower(cluster: &str, ask: &Ask) -> PromiseRequest {
    PromiseRequest {
        cluster: cluster.to_owned(),
        region: ask.from.to_string(),
        ownership_revision: ask.revision,
        epochs: peer::lower_epochs(&ask.epochs),
        ttl_ms: ask.ttl.0,
    }
}

/// Reads what [`ask`] sends, once the region is known.
pub fn lift(request: &PromiseRequest, from: RegionId) -> Ask {
    let PromiseRequest { ownership_revision, epochs, ttl_ms, .. } = request;
    Ask {
        from,
        revision: *ownership_revision,
        epochs: peer::lift_epochs(epochs),
        ttl: Millis(*ttl_ms),
    }
}
