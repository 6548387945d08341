//! How does a snapshot travel from region to region? One lift and one lower.

use anyhow::Context;
use domicile_core::id::TableName;
use domicile_core::lsn::Lsn;
use domicile_core::seeding::Relation;

use crate::postgres::snapshot::{Shown, Snapshot};
use crate::proto::open_snapshot_response as answer;
use crate::proto::{Name, OpenSnapshotResponse};

/// What another region shows.
pub struct Told {
    pub snapshot: String,
    pub shown: Vec<Shown>,
    pub relations: Vec<Relation>,
    pub heard: i64,
    pub encoding: String,
}

pub fn lift(told: OpenSnapshotResponse) -> anyhow::Result<Told> {
    let OpenSnapshotResponse { snapshot, shown, relations, heard, encoding } = told;
    let shown = shown.into_iter().map(|shown| {
        let (origin, applied) = (shown.origin.parse()?, Lsn(shown.applied));
        Ok(Shown { origin, applied, converge_to: shown.converge_to.map(Lsn) })
    });
    let relations = relations.into_iter().map(|relation| {
        Ok(Relation {
            name: lift_name(relation.name)?,
            table: lift_name(relation.table)?,
            columns: relation.columns,
            blocks: relation.blocks,
            rows_estimate: relation.rows_estimate,
        })
    });
    let shown = shown.collect::<anyhow::Result<_>>()?;
    let relations = relations.collect::<anyhow::Result<_>>()?;
    Ok(Told { snapshot, shown, relations, heard, encoding })
}

pub fn lower(snapshot: &Snapshot) -> OpenSnapshotResponse {
    let shown = snapshot.shown.iter().map(|shown| answer::Shown {
        origin: shown.origin.to_string(),
        applied: shown.applied.0,
        converge_to: shown.converge_to.map(|lsn| lsn.0),
    });
    let relations = snapshot.relations.iter().map(|relation| answer::Relation {
        name: Some(lower_name(&relation.name)),
        table: Some(lower_name(&relation.table)),
        columns: relation.columns.clone(),
        blocks: relation.blocks,
        rows_estimate: relation.rows_estimate,
    });
    OpenSnapshotResponse {
        snapshot: snapshot.name.clone(),
        shown: shown.collect(),
        relations: relations.collect(),
        heard: snapshot.heard,
        encoding: snapshot.encoding.clone(),
    }
}

pub fn lift_name(name: Option<Name>) -> anyhow::Result<TableName> {
    let name = name.context("a table has a name")?;
    Ok(TableName::new(name.schema, name.table))
}

pub fn lower_name(name: &TableName) -> Name {
    Name { schema: name.schema.clone(), table: name.name.clone() }
}
