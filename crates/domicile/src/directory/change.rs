//! How are ownership and incarnations changed so that two changes never build on the same value?

use anyhow::{Context, bail};
use domicile_core::id::RegionId;
use domicile_core::ownership::{Ownership, OwnershipChange};
use domicile_core::runbook::safety::Undertaking;

use super::documents::{
    IncarnationDocument, OWNERSHIP_KEY, incarnation_key, json, lift_ownership, lower_ownership,
};
use super::safety::{Grounds, admit};
use super::{Client, Written};

/// Attempts at a compare-and-set before the facts are gathered anew.
const ATTEMPTS: usize = 8;

/// Changes ownership by compare-and-set and returns it with its revision afterwards.
///
/// The first attempt builds on `known`, which costs one round trip when nothing has changed since;
/// the others read first. A change that core refuses has been made already, or overruled: that is
/// no error here, and what stands now is returned. One that begins something fails with
/// [`super::safety::AgainstSafety`] where the rules are against it, as the directory has them now.
pub async fn change_ownership(
    directory: &Client,
    cluster: &str,
    change: &OwnershipChange,
    known: (&Ownership, u64),
    grounds: &Grounds,
) -> anyhow::Result<(Ownership, u64)> {
    let (mut ownership, mut revision) = (known.0.clone(), known.1);
    let mut read = false;
    for _ in 0..ATTEMPTS {
        match ownership.apply(change) {
            Ok(next) => {
                let begins = Undertaking::of_change(change, &ownership, grounds.loss);
                if let Some(undertaking) = begins {
                    admit(directory, &undertaking, grounds.overridden.as_ref()).await?;
                }
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
        if let Some(range) = ownership.forgets(known.0) {
            bail!("the directory is older than what was seen before: see partition {range}");
        }
        read = true;
    }
    bail!("ownership keeps changing under our hands")
}

/// Names the incarnation of `region` that comes after `before`, unless that or a later one is named
/// already. Its agent sees that and starts anew.
pub async fn begin_incarnation(
    directory: &Client,
    region: &RegionId,
    before: u32,
) -> anyhow::Result<()> {
    let key = incarnation_key(region);
    let found = directory.get(&key).await?;
    let named = found.as_ref().map(|document| serde_json::from_slice(&document.value));
    let named: Option<IncarnationDocument> =
        named.transpose().context("read the region's incarnation")?;
    if named.is_some_and(|named| named.incarnation > before) {
        return Ok(());
    }
    let incarnation = before.checked_add(1).context("count incarnations")?;
    let seen = found.map_or(0, |document| document.revision);
    match directory.write(&key, seen, Some(json(&IncarnationDocument { incarnation }))).await? {
        Written::At(_) => Ok(()),
        Written::Conflict(_) => bail!("somebody else begins an incarnation of {region}"),
    }
}
