//! Which place does this region have in every step of a sequence?
//!
//! A region takes the first free one when it first starts, by compare-and-set, and keeps it.

use std::collections::BTreeMap;

use anyhow::Context;
use domicile_core::id::RegionId;
use domicile_core::sequence::Place;

use super::documents::{PLACES_KEY, PlacesDocument, json};
use super::{Client, Written};

const CAS_ATTEMPTS: usize = 16;

/// Returns the region's place; it has one from now on.
pub async fn place_of(directory: &Client, region: &RegionId) -> anyhow::Result<Place> {
    for _ in 0..CAS_ATTEMPTS {
        let (mut places, revision) = read(directory).await?;
        if let Some(place) = places.get(region) {
            return Ok(*place);
        }
        let place = Place::free(&places).context("every place in a sequence's step is taken")?;
        places.insert(region.clone(), place);
        if write(directory, &places, revision).await? {
            return Ok(place);
        }
    }
    anyhow::bail!("other regions keep taking places in sequences")
}

async fn read(directory: &Client) -> anyhow::Result<(BTreeMap<RegionId, Place>, u64)> {
    let Some(found) = directory.get(PLACES_KEY).await? else { return Ok((BTreeMap::new(), 0)) };
    let document: PlacesDocument =
        serde_json::from_slice(&found.value).context("read the places in sequences")?;
    let lift = |(region, number): (String, i64)| {
        let place = Place::new(number).with_context(|| format!("there is no place {number}"))?;
        Ok((region.parse()?, place))
    };
    let places = document.places.into_iter().map(lift).collect::<anyhow::Result<_>>()?;
    Ok((places, found.revision))
}

async fn write(
    directory: &Client,
    places: &BTreeMap<RegionId, Place>,
    revision: u64,
) -> anyhow::Result<bool> {
    let places = places.iter().map(|(region, place)| (region.to_string(), place.number()));
    let value = json(&PlacesDocument { places: places.collect() });
    let written = directory.write(PLACES_KEY, revision, Some(value)).await?;
    Ok(matches!(written, Written::At(_)))
}
