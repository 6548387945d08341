//! A change met a row that is not what its origin saw: what happens?
//!
//! The owner's version wins and what it displaces goes to the conflict journal. A change that
//! PostgreSQL refuses is journaled too, and the rest of its transaction goes on: one broken row
//! must not stop a region. While a repaired region converges, rows may already show what is
//! about to be applied: then nothing was displaced and nothing is journaled.

use domicile_core::change::{Change, Relation, Row, Transaction, Value};
use domicile_core::id::Origin;
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use super::is_transient;
use super::statement::{Statement, select, statement, update};
use crate::pieces::Piece;
use crate::postgres::journal;

/// Applies every change of `piece` in the transaction that is open, settling conflicts as it goes.
pub async fn apply(
    postgres: &impl GenericClient,
    origin: &Origin,
    piece: &Piece,
    converging: bool,
) -> anyhow::Result<()> {
    let transaction = &piece.transaction;
    for (index, change) in transaction.changes.iter().enumerate() {
        postgres.batch_execute("SAVEPOINT change").await?;
        let met = match apply_one(postgres, transaction, change).await {
            Ok(met) => met,
            Err(error) if is_transient(&error) => return Err(error),
            Err(error) => {
                postgres.batch_execute("ROLLBACK TO SAVEPOINT change").await?;
                let reason = format!("PostgreSQL refused it: {error:#}");
                Some(Met { conflict: "apply_error", reason, local: None, repair: false })
            }
        };
        postgres.batch_execute("RELEASE SAVEPOINT change").await?;
        let Some(met) = met else { continue };
        if met.repair {
            journal::mark_for_repair(postgres, transaction, change).await?;
        }
        if !converging || met.conflict == "apply_error" {
            tracing::warn!(%origin, lsn = %transaction.lsn, conflict = met.conflict, "{}", met.reason);
            let (conflict, reason) = (met.conflict, met.reason.as_str());
            let local = met.local;
            let entry = journal::Entry { origin, piece, index, local, conflict, reason };
            journal::write(postgres, &entry).await?;
        }
    }
    Ok(())
}

/// What a change met, under PostgreSQL 18's names for conflicts.
struct Met {
    conflict: &'static str,
    reason: String,
    /// The local row that was displaced.
    local: Option<serde_json::Value>,
    /// The row cannot be made right from the change alone.
    repair: bool,
}

async fn apply_one(
    postgres: &impl GenericClient,
    transaction: &Transaction,
    change: &Change,
) -> anyhow::Result<Option<Met>> {
    let Some(statement) = statement(transaction, change) else {
        anyhow::bail!("the change names no relation");
    };
    let relation = |index: u32| &transaction.relations[index as usize];
    let rows = execute(postgres, &statement).await?;
    match change {
        Change::Truncate { .. } => Ok(None),
        _ if rows > 0 => Ok(None),
        Change::Insert { relation: r, new } => insert_exists(postgres, relation(*r), new).await,
        Change::Update { relation: r, old, new } => {
            let identity = old.as_ref().unwrap_or(new);
            update_missing(postgres, relation(*r), identity, new).await
        }
        Change::Delete { .. } => Ok(Some(Met {
            conflict: "delete_missing",
            reason: "the row to delete is not there".into(),
            local: None,
            repair: false,
        })),
    }
}

async fn insert_exists(
    postgres: &impl GenericClient,
    relation: &Relation,
    new: &Row,
) -> anyhow::Result<Option<Met>> {
    let local = fetch(postgres, &select(relation, new)).await?;
    if local.is_none() {
        anyhow::bail!("another row has the same value in a unique index");
    }
    execute(postgres, &update(relation, new, new)).await?;
    Ok(Some(Met {
        conflict: "insert_exists",
        reason: "a row with this key was there; the owner's version replaced it".into(),
        local,
        repair: false,
    }))
}

async fn update_missing(
    postgres: &impl GenericClient,
    relation: &Relation,
    identity: &Row,
    new: &Row,
) -> anyhow::Result<Option<Met>> {
    // A key change may have been applied already: then the row stands under its new key.
    let moved = execute(postgres, &update(relation, new, new)).await? > 0;
    let whole = !new.contains(&Value::Unchanged);
    if !moved && whole {
        let change = Change::Insert { relation: 0, new: new.clone() };
        let only = Transaction { relations: vec![relation.clone()], ..Transaction::default() };
        if let Some(insert) = statement(&only, &change) {
            execute(postgres, &insert).await?;
        }
    }
    let key_changed = identity != new;
    Ok(Some(Met {
        conflict: "update_missing",
        reason: if key_changed && moved {
            "the row already has its new key".into()
        } else {
            "the row to update is not there; the owner's version was put in its place".into()
        },
        local: None,
        repair: !moved && !whole,
    }))
}

async fn execute(client: &impl GenericClient, statement: &Statement<'_>) -> anyhow::Result<u64> {
    Ok(client.execute(&statement.sql, &parameters(statement)).await?)
}

async fn fetch(
    client: &impl GenericClient,
    statement: &Statement<'_>,
) -> anyhow::Result<Option<serde_json::Value>> {
    let row = client.query_opt(&statement.sql, &parameters(statement)).await?;
    Ok(row.map(|row| row.get(0)))
}

fn parameters<'a>(statement: &'a Statement<'_>) -> Vec<&'a (dyn ToSql + Sync)> {
    statement.parameters.iter().map(|p| p as &(dyn ToSql + Sync)).collect()
}
