//! How are the rules of safety asked, so that nobody gets round them, and how are they changed?
//!
//! The rules stand in one document, who owns what in another, and a compare-and-set is of one. So whoever begins
//! something reads the rules *after* the ownership that he builds on; and whoever changes the rules writes the
//! ownership once more as it is, after that. Then nothing builds any more on an ownership that was read before
//! the rules changed:
//!
//! ```text
//!   begins      reads ownership 7 . reads the rules . . . . . . . . writes by 7: refused, reads both again
//!   changes                               writes the rules . 7 -> 8
//! ```

use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use domicile_core::runbook::safety::{self, Override, Safety, Undertaking, Violation};
use domicile_core::time::Millis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::documents::{
    BEGUN_KEY, OWNERSHIP_KEY, POLICY_KEY, PolicyDocument, SAFETY_PREFIX, json, lift_safety,
    lower_begun,
};
use super::{Client, Written};
use crate::clock;

/// Attempts at a compare-and-set.
const ATTEMPTS: usize = 8;

/// The rules are against what was about to begin.
#[derive(Debug, thiserror::Error)]
#[error("the rules of safety are against it: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct AgainstSafety(pub Vec<Violation>);

/// What the rules have to know of a change that begins something.
#[derive(Clone, Debug, Default)]
pub struct Grounds {
    /// What it may cost where it is forced; `None` where nobody knows.
    pub loss: Option<Millis>,
    /// Who has it begin although the rules are against it.
    pub overridden: Option<Override>,
}

/// Asks the rules, as they stand in the directory now, and notes what they count.
///
/// Has to be called after the ownership was read that the change builds on.
pub(super) async fn admit(
    directory: &Client,
    undertaking: &Undertaking,
    overridden: Option<&Override>,
) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        let (safety, begun_revision) = read(directory).await?;
        let violations = safety::against(undertaking, &safety);
        match overridden {
            Some(Override { by, reason }) if !violations.is_empty() => {
                let said = AgainstSafety(violations);
                tracing::warn!("{said}; it begins all the same, as {by} wants: {reason}");
            }
            None if !violations.is_empty() => return Err(AgainstSafety(violations).into()),
            _ => {}
        }
        let Undertaking::HandOver { run, ranges } = undertaking else { return Ok(()) };
        if !safety.policy.counts() || ranges.is_empty() {
            return Ok(());
        }
        // Before it begins: of two that begin at one moment the second counts the first.
        let noted = lower_begun(&safety.noting(run, ranges).begun);
        let written = directory.write(BEGUN_KEY, begun_revision, Some(noted)).await?;
        if let Written::At(_) = written {
            return Ok(());
        }
    }
    bail!("other hand-overs keep beginning: try again")
}

/// Returns what the directory says, and the revision of what has begun.
pub async fn read(directory: &Client) -> anyhow::Result<(Safety, u64)> {
    let documents = directory.read(SAFETY_PREFIX).await?.documents;
    let find = |key: &str| documents.iter().find(|document| document.key == key);
    let value = |key: &str| find(key).map(|document| document.value.as_ref());
    let safety = lift_safety(value(POLICY_KEY), value(BEGUN_KEY), clock::unix());
    Ok((safety, find(BEGUN_KEY).map_or(0, |document| document.revision)))
}

/// Changes the rules. Once this returns, nothing begins that they forbid.
///
/// Rules that cannot be read are begun anew.
pub async fn change(
    directory: &Client,
    mut change: impl FnMut(&mut PolicyDocument),
) -> anyhow::Result<PolicyDocument> {
    for _ in 0..ATTEMPTS {
        let found = directory.get(POLICY_KEY).await?;
        let revision = found.as_ref().map_or(0, |document| document.revision);
        let mut policy = found.map_or_else(Default::default, |document| {
            serde_json::from_slice(&document.value).unwrap_or_default()
        });
        change(&mut policy);
        let written = directory.write(POLICY_KEY, revision, Some(json(&policy))).await?;
        if let Written::At(_) = written {
            renew_ownership(directory).await?;
            return Ok(policy);
        }
    }
    bail!("somebody else keeps changing the rules: try again")
}

/// Returns the rules as they are stored.
pub async fn read_policy(directory: &Client) -> anyhow::Result<PolicyDocument> {
    let Some(found) = directory.get(POLICY_KEY).await? else {
        return Ok(PolicyDocument::default());
    };
    serde_json::from_slice(&found.value).context("read the rules of safety")
}

/// Writes the ownership as it is. Where somebody else is faster, it has another revision by that.
async fn renew_ownership(directory: &Client) -> anyhow::Result<()> {
    if let Some(found) = directory.get(OWNERSHIP_KEY).await? {
        directory.write(OWNERSHIP_KEY, found.revision, Some(found.value)).await?;
    }
    Ok(())
}

/// Follows the rules, and what has begun, for as long as somebody holds the receiver. For what is told and
/// planned: whoever begins something asks the directory itself.
pub fn follow(client: &Client, shutdown: CancellationToken) -> watch::Receiver<Arc<Safety>> {
    let mut documents = client.follow(SAFETY_PREFIX, shutdown);
    let (sender, receiver) = watch::channel(Arc::default());
    tokio::spawn(async move {
        loop {
            let seen = documents.borrow_and_update().clone();
            let value =
                |key: &str| seen.documents.get(key).map(|(value, _): &(Bytes, u64)| &**value);
            let safety = lift_safety(value(POLICY_KEY), value(BEGUN_KEY), clock::unix());
            sender.send_replace(Arc::new(safety));
            if sender.is_closed() || documents.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}
