//! Which peers have stopped answering, as far as this gateway can see?
//!
//! A region that loses its power or its network says no goodbye: a statement that waits for it
//! would wait until TCP gives up, which takes a quarter of an hour. So each peer is asked for one
//! byte every second. A peer that is silent is not dead, and nothing about ownership follows from
//! it: only the sessions of this gateway stop waiting for it.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use domicile_core::id::RegionId;
use domicile_pg::startup;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Config, Target};

const BEAT: Duration = Duration::from_secs(1);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// A peer that missed so many beats in a row is silent: after 4 to 8 s.
const MISSES_MAX: u32 = 4;

/// The peers that are silent now.
pub type Silent = watch::Receiver<BTreeSet<RegionId>>;

/// Begins to listen to every peer, until the set is dropped.
pub fn listen(config: &Config, silent: &watch::Sender<BTreeSet<RegionId>>) -> JoinSet<()> {
    let peers = config.peers.iter();
    peers.map(|(region, target)| follow(region.clone(), target.clone(), silent.clone())).collect()
}

async fn follow(region: RegionId, target: Target, silent: watch::Sender<BTreeSet<RegionId>>) {
    let mut misses = 0_u32;
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let answer = tokio::time::timeout(ANSWER_WAIT_MAX, ask(&target)).await;
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

/// Asks for encryption, which is answered at once and by the gateway itself.
async fn ask(target: &Target) -> io::Result<()> {
    let mut link = target.connect().await?;
    startup::put_ssl_request(&mut link.outgoing);
    while link.incoming.is_empty() {
        if link.has_ended() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        link.moved().await;
    }
    Ok(())
}
