//! Are the rows of every region alike while writes go on, and what is done about those that are not?
//!
//! ```text
//!   find    ranges whose checksums differ -> their rows -> keys that may differ
//!   settle  the same keys, round after round, until only true differences remain
//!   repair  the rows that are not their owner's are read again from it
//! ```
//!
//! Regions are asked through their agents; what the answers mean is judged by `core::compare`.

use std::collections::BTreeMap;

use anyhow::Context;
use domicile_core::compare::{By, Layout, authority, layout};
use domicile_core::config::{Config, TableKind};
use domicile_core::id::{PartitionId, RegionId, TableName};
use domicile_core::ownership::Ownership;
use futures_util::future::try_join_all;

mod find;
mod repair;
mod settle;

use crate::peer;
use crate::peer::compare::{RemoteTable, shape_of};
use crate::postgres::compare::Key;
use crate::tls::Credentials;

/// Differing rows of one table that are told one by one.
pub const ROWS_TOLD_MAX: usize = 1000;

/// Compares regions.
pub struct Verifier {
    config: Config,
    sides: Vec<Side>,
}

#[derive(Clone)]
struct Side {
    region: RegionId,
    peer: peer::Client,
}

/// One table in all regions that are compared.
struct Tables {
    name: TableName,
    layout: Layout,
    sides: Vec<(RegionId, RemoteTable)>,
    /// About how many rows the first region has.
    rows_estimate: u64,
}

/// What became of one table.
#[derive(Debug, Default)]
pub struct Compared {
    /// The columns that identify a row; empty when nothing but the whole row does.
    pub key: Vec<String>,
    /// Rows of the region that has most of them.
    pub rows: u64,
    /// Rows that truly differ, at most [`ROWS_TOLD_MAX`] of them.
    pub differing: Vec<Differing>,
    pub differing_total: u64,
    /// Of these, how many are their owner's now.
    pub repaired: u64,
    /// Rows that changed as long as they were looked at, or whose changes did not arrive.
    pub open: Vec<Key>,
}

/// A row that is not the same everywhere.
#[derive(Clone, Debug)]
pub struct Differing {
    pub key: Key,
    /// The row's hash in each region, `None` where there is no such row.
    pub hashes: BTreeMap<RegionId, Option<i64>>,
    /// Each region's image of whose row it is.
    partitions: BTreeMap<RegionId, Option<u32>>,
    /// The region whose word counts, while there is one.
    pub owner: Option<RegionId>,
}

/// What is done about rows that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Tell,
    Repair,
}

/// How far a table is, for whoever shows it.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

impl Verifier {
    /// Compares these regions with each other.
    pub fn new(config: &Config, regions: &[RegionId]) -> anyhow::Result<Self> {
        let credentials = Credentials::of(config)?;
        let wanted = config.regions.iter().filter(|region| regions.contains(&region.id));
        let sides = wanted
            .map(|region| {
                let peer = peer::channel(&region.peer, credentials.as_ref())?;
                Ok(Side { region: region.id.clone(), peer })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { config: config.clone(), sides })
    }

    /// The tables that should be alike.
    pub fn tables(&self) -> Vec<TableName> {
        let listed = self.config.tables.iter();
        listed
            .filter(|(_, kind)| **kind != TableKind::Local)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// About how many rows a table has.
    pub async fn rows_estimate(&self, table: &TableName) -> anyhow::Result<u64> {
        let side = self.sides.first().context("there is no region to compare")?;
        Ok(shape_of(side.peer.clone(), table).await?.map_or(0, |(_, rows)| rows))
    }

    /// Compares one table, and has rows that differ read again from their owners when `then` says
    /// so. `Err(reason)` inside: it cannot be alike, as when a column is missing.
    pub async fn compare(
        &self,
        table: &TableName,
        ownership: &Ownership,
        then: Then,
        progress: Progress<'_>,
    ) -> anyhow::Result<Result<Compared, String>> {
        let tables = match self.open(table).await? {
            Ok(tables) => tables,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut compared = Compared { key: tables.key().to_vec(), ..Compared::default() };
        let settling = Settling { sides: &self.sides, tables: &tables, ownership, then };
        find::find(&settling, progress, &mut compared)
            .await
            .with_context(|| format!("compare table {table}"))?;
        Ok(Ok(compared))
    }

    async fn open(&self, table: &TableName) -> anyhow::Result<Result<Tables, String>> {
        let shapes = try_join_all(self.sides.iter().map(|side| async move {
            let shape = shape_of(side.peer.clone(), table).await;
            let asked = || format!("ask region {} for table {table}", side.region);
            anyhow::Ok((side.region.clone(), shape.with_context(asked)?))
        }))
        .await?;
        let rows_estimate =
            shapes.first().and_then(|(_, shape)| shape.as_ref()).map_or(0, |(_, rows)| *rows);
        let mut known = Vec::with_capacity(shapes.len());
        for (region, shape) in shapes {
            match shape {
                Some((shape, _)) => known.push((region, shape)),
                None => return Ok(Err(format!("does not exist in region {region}"))),
            }
        }
        let layout = match layout(&known) {
            Ok(layout) => layout,
            Err(reason) => return Ok(Err(reason)),
        };
        let sides = self.sides.iter().map(|side| {
            let remote = RemoteTable::new(side.peer.clone(), table.clone(), layout.clone());
            (side.region.clone(), remote)
        });
        let sides = sides.collect();
        Ok(Ok(Tables { name: table.clone(), layout, sides, rows_estimate }))
    }
}

/// What becomes of keys that may differ.
struct Settling<'a> {
    sides: &'a [Side],
    tables: &'a Tables,
    ownership: &'a Ownership,
    then: Then,
}

impl Settling<'_> {
    async fn settle(&self, keys: Vec<Key>, compared: &mut Compared) -> anyhow::Result<()> {
        let settled = settle::settle(self.sides, self.tables, keys).await?;
        compared.open.extend(settled.open);
        let mut differing = settled.differing;
        for row in &mut differing {
            row.owner = owner(row, self.ownership);
        }
        if self.then == Then::Repair {
            compared.repaired += repair::repair(self.sides, self.tables, &differing).await?;
        }
        compared.differing_total += differing.len() as u64;
        let room = ROWS_TOLD_MAX - compared.differing.len();
        compared.differing.extend(differing.into_iter().take(room));
        Ok(())
    }
}

impl Tables {
    fn key(&self) -> &[String] {
        match &self.layout.by {
            By::Key(key) | By::KeyHash(key) => key,
            By::Row => &[],
        }
    }
}

fn owner(row: &Differing, ownership: &Ownership) -> Option<RegionId> {
    let owners: Vec<(RegionId, Option<RegionId>)> = row
        .partitions
        .iter()
        .map(|(region, partition)| {
            let entry = partition.and_then(|number| ownership.entry(PartitionId(number)));
            (region.clone(), entry.and_then(|entry| entry.owner()).cloned())
        })
        .collect();
    authority(&owners).ok()
}
