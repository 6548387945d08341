//! Whom does one ask what became of a transaction?
//!
//! Everybody who holds a log, all at once. Then the directory: what the log has is held against cuts that are no older
//! than what was told of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use domicile_core::id::RegionId;
use domicile_core::outcome::{Token, Told};
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::peer::{self, outcome};

/// A whole log may have to be read.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

/// What everybody says of a transaction; `Err` says why one says nothing.
pub type Answers = BTreeMap<RegionId, Result<Told, String>>;

pub async fn ask_all(peers: BTreeMap<RegionId, peer::Client>, token: &Token) -> Answers {
    let asked = peers.into_iter().map(|(holder, peer)| async move {
        (holder, ask(peer, token).await.map_err(|error| format!("{error:#}")))
    });
    join_all(asked).await.into_iter().collect()
}

async fn ask(mut peer: peer::Client, token: &Token) -> anyhow::Result<Told> {
    let answer = timeout(ANSWER_WAIT_MAX, peer.outcome(outcome::lower_asked(token)))
        .await
        .context("the agent is silent")?
        .map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    outcome::lift(answer.into_inner()).context("read what the agent says")
}
