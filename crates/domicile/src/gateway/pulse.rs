//! Which regions have stopped answering, as far as this gateway can see?
//!
//! A region that loses its power or its network says no goodbye: a statement that waits for it
//! would wait until TCP gives up, which takes a quarter of an hour. So each peer is asked for one
//! byte every second. A peer that is silent is not dead, and nothing about ownership follows from
//! it: only the sessions of this gateway stop waiting for it.
//!
//! The PostgreSQL of this region is watched by its agent. It counts as silent here once others own
//! what the region owned, too: a server that only stands still for a while keeps its sessions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::id::RegionId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Config, Routes, Target};

const BEAT: Duration = Duration::from_secs(1);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// A peer that missed so many beats in a row is silent: after 4 to 8 s.
const MISSES_MAX: u32 = 4;

/// The regions that are silent now.
pub type Silent = watch::Receiver<BTreeSet<RegionId>>;

/// Begins to listen to every region, until the set is dropped.
pub fn listen(
    config: &Config,
    routes: watch::Receiver<Arc<Routes>>,
    silent: &watch::Sender<BTreeSet<RegionId>>,
) -> JoinSet<()> {
    let peers = config.peers.iter();
    let follow = |(region, target): (&RegionId, &Target)| {
        follow(region.clone(), target.clone(), silent.clone())
    };
    let mut pulses: JoinSet<()> = peers.map(follow).collect();
    pulses.spawn(follow_own(config.region.clone(), routes, silent.clone()));
    pulses
}

async fn follow_own(
    region: RegionId,
    mut routes: watch::Receiver<Arc<Routes>>,
    silent: watch::Sender<BTreeSet<RegionId>>,
) {
    loop {
        let abandoned = routes.borrow_and_update().abandoned;
        let changed = silent.send_if_modified(|all| match abandoned {
            true => all.insert(region.clone()),
            false => all.remove(&region),
        });
        if changed && abandoned {
            tracing::warn!(
                "nobody waits for PostgreSQL any more: it is silent, and others own everything"
            );
        }
        if routes.changed().await.is_err() {
            return;
        }
    }
}

async fn follow(region: RegionId, target: Target, silent: watch::Sender<BTreeSet<RegionId>>) {
    let mut misses = 0_u32;
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let answer = tokio::time::timeout(ANSWER_WAIT_MAX, target.ask()).await;
        let answers = matches!(answer, Ok(Ok(())));
        misses = if answers { 0 } else { misses.saturating_add(1) };
        let is_silent = misses >= MISSES_MAX;
        let changed = silent.send_if_modified(|all| {
            if is_silent { all.insert(region.clone()) } else { answers && all.remove(&region) }
        });
        if changed && is_silent {
            tracing::warn!(%region, "the gateway of a peer does not answer");
        } else if changed {
            tracing::info!(%region, "the gateway of a peer answers again");
        }
    }
}
