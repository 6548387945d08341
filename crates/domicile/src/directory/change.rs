//! How is ownership changed so that two changes never build on the same value?

use anyhow::{Context, bail};
use domicile_core::ownership::{Ownership, OwnershipChange};

use super::documents::{OWNERSHIP_KEY, lift_ownership, lower_ownership};
use super::{Client, Written};

/// Attempts at a compare-and-set before the facts are gathered anew.
const ATTEMPTS: usize = 8;

/// Changes ownership by compare-and-set and returns it with its revision afterwards.
///
/// The first attempt builds on `known`, which costs one round trip when nothing has changed since;
/// the others read first. A change that core refuses has been made already, or overruled: that is
/// no error here, and what stands now is returned.
pub async fn change_ownership(
    directory: &Client,
    cluster: &str,
    change: &OwnershipChange,
    known: (&Ownership, u64),
) -> anyhow::Result<(Ownership, u64)> {
    let (mut ownership, mut revision) = (known.0.clone(), known.1);
    let mut read = false;
    for _ in 0..ATTEMPTS {
        match ownership.apply(change) {
            Ok(next) => {
                let value = lower_ownership(cluster, &next);
                let written = directory.write(OWNERSHIP_KEY, revision, Some(value)).await?;
                if let Written::At(revision) = written {
                    tracing::info!(revision, "ownership changed: {change:?}");
                    return Ok((next, revision));
                }
            }
            Err(refusal) if read => {
                tracing::debug!(?change, "not changed: {refusal}");
                return Ok((ownership, revision));
            }
            // What was known may be old: the directory's own word decides.
            Err(_) => {}
        }
        let document = directory.get(OWNERSHIP_KEY).await?.context("there is no ownership")?;
        (ownership, revision) = (lift_ownership(cluster, &document.value)?, document.revision);
        read = true;
    }
    bail!("ownership keeps changing under our hands")
}
