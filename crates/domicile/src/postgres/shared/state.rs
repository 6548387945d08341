//! `domicile.version.state` is a [`Version`]: the one lift and lower.

use std::collections::BTreeMap;

use anyhow::Context;
use domicile_core::conflict::Image;
use domicile_core::conflict::hlc::{Dot, Hlc, Seen};
use domicile_core::conflict::version::{Sibling, Version};
use domicile_core::id::RegionId;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wire {
    life: u32,
    seen: BTreeMap<String, i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alive: Option<WireDot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<WireDot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    over: Option<WireDot>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    columns: BTreeMap<String, WireDot>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sums: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    siblings: Vec<WireSibling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Image>,
}

/// Time and region.
#[derive(Serialize, Deserialize)]
struct WireDot(i64, String);

#[derive(Serialize, Deserialize)]
struct WireSibling {
    dot: WireDot,
    image: Option<Image>,
    before: Option<Image>,
}

pub fn lift(json: serde_json::Value) -> anyhow::Result<Version> {
    let wire: Wire = serde_json::from_value(json).context("understand a version")?;
    let seen = wire.seen.into_iter().map(|(region, at)| Ok((region.parse()?, Hlc(at))));
    let columns = wire.columns.into_iter().map(|(column, dot)| Ok((column, dot.lift()?)));
    let sums = wire.sums.into_iter().map(|(column, sums)| {
        let sums = sums.into_iter().map(|(region, sum)| Ok((region.parse()?, sum)));
        Ok((column, sums.collect::<anyhow::Result<BTreeMap<RegionId, String>>>()?))
    });
    let siblings = wire.siblings.into_iter().map(|sibling| {
        Ok(Sibling { dot: sibling.dot.lift()?, image: sibling.image, before: sibling.before })
    });
    Ok(Version {
        life: wire.life,
        seen: seen.collect::<anyhow::Result<Seen>>()?,
        alive: wire.alive.map(WireDot::lift).transpose()?,
        deleted: wire.deleted.map(WireDot::lift).transpose()?,
        over: wire.over.map(WireDot::lift).transpose()?,
        columns: columns.collect::<anyhow::Result<_>>()?,
        sums: sums.collect::<anyhow::Result<_>>()?,
        siblings: siblings.collect::<anyhow::Result<_>>()?,
        before: wire.before,
    })
}

pub fn lower(version: &Version) -> serde_json::Value {
    let dot = |dot: &Dot| WireDot(dot.hlc.0, dot.region.to_string());
    let sums = version.sums.iter().map(|(column, sums)| {
        let sums = sums.iter().map(|(region, sum)| (region.to_string(), sum.clone()));
        (column.clone(), sums.collect())
    });
    let wire = Wire {
        life: version.life,
        seen: version.seen.iter().map(|(region, at)| (region.to_string(), at.0)).collect(),
        alive: version.alive.as_ref().map(dot),
        deleted: version.deleted.as_ref().map(dot),
        over: version.over.as_ref().map(dot),
        columns: version.columns.iter().map(|(column, at)| (column.clone(), dot(at))).collect(),
        sums: sums.collect(),
        siblings: version
            .siblings
            .iter()
            .map(|s| WireSibling {
                dot: dot(&s.dot),
                image: s.image.clone(),
                before: s.before.clone(),
            })
            .collect(),
        before: version.before.clone(),
    };
    serde_json::to_value(wire).unwrap_or_default()
}

impl WireDot {
    fn lift(self) -> anyhow::Result<Dot> {
        Ok(Dot::new(Hlc(self.0), self.1.parse()?))
    }
}
