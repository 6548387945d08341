//! How is a region asked to be seeded?
//!
//! By a document in the directory, which its agent sees: so asking twice is asking once.

use anyhow::{Context as _, bail};
use domicile_core::id::{RegionId, RunId};
use domicile_core::membership::last_incarnation;
use domicile_core::runbook::Facts;
use domicile_core::runbook::safety::Override;

use crate::directory::change::begin_incarnation;
use crate::directory::documents::{
    RESEED_PREFIX, SeedDocument, json, lift_left_behind, lower_override, seed_key,
};
use crate::directory::{Client, Document, Written};

/// What a region is to be seeded with.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub region: RegionId,
    /// The region whose rows it copies.
    pub from: RegionId,
    /// It is that one and no other.
    pub exactly: bool,
    /// Rows that its tables have already go.
    pub replace: bool,
    /// The run that asks, if one does.
    pub run: Option<RunId>,
    /// Who has it join although the rules of safety are against it.
    pub overridden: Option<Override>,
}

/// Writes down what is wanted, unless as much stands there already. Returns which seeding it is.
pub async fn ask(directory: &Client, wanted: &Wanted, facts: &Facts) -> anyhow::Result<String> {
    let Wanted { region, from, exactly, replace, run, overridden } = wanted;
    let before = last_incarnation(region, facts);
    if before > 0 {
        // What it wrote when it was a member before stays what it was.
        begin_incarnation(directory, region, before).await?;
    }
    // It is waited for again.
    for document in directory.read(RESEED_PREFIX).await?.documents {
        if lift_left_behind(&document.value)?.region == *region {
            directory.write(&document.key, document.revision, None).await?;
        }
    }
    let key = seed_key(region);
    let found = directory.get(&key).await?;
    let known = found.as_ref().map(read).transpose()?;
    let fits = known
        .filter(|known| (!exactly || known.from == from.as_str()) && (known.replace || !replace));
    let safety_override = overridden.as_ref().map(|by| lower_override(by, Vec::new()));
    let document = match fits {
        Some(known) if known.safety_override.is_some() || safety_override.is_none() => {
            return Ok(known.id);
        }
        // It is the same seeding: what was copied need not be copied again.
        Some(known) => SeedDocument { safety_override, ..known },
        None => SeedDocument {
            id: uuid::Uuid::now_v7().to_string(),
            from: from.to_string(),
            replace: *replace,
            run: run.as_ref().map(ToString::to_string),
            safety_override,
        },
    };
    let seen = found.map_or(0, |document| document.revision);
    match directory.write(&key, seen, Some(json(&document))).await? {
        Written::At(_) => Ok(document.id),
        Written::Conflict(_) => bail!("somebody else adds region {region} too"),
    }
}

/// Returns which seeding of a region is asked for now.
pub async fn asked(directory: &Client, region: &RegionId) -> anyhow::Result<Option<String>> {
    let document = directory.get(&seed_key(region)).await?;
    Ok(document.as_ref().map(read).transpose()?.map(|document| document.id))
}

/// Takes back what `run` has asked, if it has.
pub async fn give_up_of(directory: &Client, region: &RegionId, run: &RunId) -> anyhow::Result<()> {
    match directory.get(&seed_key(region)).await? {
        Some(document) if read(&document)?.run.as_deref() == Some(run.0.as_str()) => {
            directory.write(&document.key, document.revision, None).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Takes back what was asked, if it was.
pub async fn give_up(directory: &Client, region: &RegionId) -> anyhow::Result<()> {
    let key = seed_key(region);
    if let Some(document) = directory.get(&key).await? {
        directory.write(&key, document.revision, None).await?;
    }
    Ok(())
}

fn read(document: &Document) -> anyhow::Result<SeedDocument> {
    serde_json::from_slice(&document.value).context("read the seed document")
}
