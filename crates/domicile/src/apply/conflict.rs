//! A change met a row that is not what its origin saw: what happens?
//!
//! The owner's version wins and what it displaces goes to the conflict journal. A change that
//! PostgreSQL refuses is journaled too, and the rest of its transaction goes on: one broken row
//! must not stop a region, except where it is the schema that is not the same: then apply waits for
//! the DDL (`behind`). While a repaired region converges, rows may already show what is
//! about to be applied: then nothing was displaced and nothing is journaled.

use domicile_core::change::{Change, Relation, Row, Transaction, Value};
use domicile_core::conflict::one_key;
use domicile_core::id::{Origin, PartitionId};
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::behind::explains;
use super::is_transient;
use super::statement::{
    Statement, insert, replace, select, select_incoming, statement, target, update,
};
use crate::pieces::Piece;
use crate::postgres::journal;
use crate::postgres::target::{Target, Targets};

/// Applies every change of `piece` in the transaction that is open, settling conflicts as it goes.
pub async fn apply(
    postgres: &impl GenericClient,
    targets: &Targets,
    origin: &Origin,
    piece: &Piece,
    converging: bool,
) -> anyhow::Result<()> {
    let transaction = &piece.transaction;
    for (index, change) in transaction.changes.iter().enumerate() {
        postgres.batch_execute("SAVEPOINT change").await?;
        let met = match apply_one(postgres, targets, transaction, change).await {
            Ok(met) => met,
            Err(error) if is_transient(&error) => return Err(error),
            Err(error) => {
                let relations = change.relations().iter();
                let relations = relations
                    .filter_map(|r| transaction.relations.get(*r as usize).map(AsRef::as_ref));
                if let Some(behind) = explains(&error, relations) {
                    return Err(behind.into());
                }
                postgres.batch_execute("ROLLBACK TO SAVEPOINT change").await?;
                let reason = format!("PostgreSQL refused it: {error:#}");
                // Who has the value may be a row that waits for repair itself.
                let repair = is_taken(&error);
                Some(Met { conflict: "apply_error", reason, local: None, winner: None, repair })
            }
        };
        postgres.batch_execute("RELEASE SAVEPOINT change").await?;
        let Some(met) = met else { continue };
        // What somebody was told is here is not, or not everywhere. A unique value may be any row's.
        let displaces = met.local.is_some() || met.conflict == "apply_error";
        let open = displaces
            && match met.repair {
                true => !journal::has_marks(postgres, transaction, change).await?,
                false => !journal::is_in_question(postgres, transaction, change).await?,
            };
        if met.repair {
            journal::mark_for_repair(postgres, transaction, change).await?;
        }
        if !converging || met.conflict == "apply_error" {
            tracing::warn!(%origin, lsn = %transaction.lsn, conflict = met.conflict, "{}", met.reason);
            let (conflict, reason) = (met.conflict, met.reason.as_str());
            let Met { local, winner, .. } = met;
            let entry =
                journal::Entry { origin, piece, index, local, conflict, reason, winner, open };
            journal::write(postgres, &entry).await?;
        }
    }
    Ok(())
}

/// What a change met, under PostgreSQL 18's names for conflicts.
struct Met {
    conflict: &'static str,
    reason: String,
    /// The local row that was there.
    local: Option<serde_json::Value>,
    /// Which of the two rows stays, where there were two.
    winner: Option<&'static str>,
    /// The row cannot be made right from the change alone.
    repair: bool,
}

async fn apply_one(
    postgres: &impl GenericClient,
    targets: &Targets,
    transaction: &Transaction,
    change: &Change,
) -> anyhow::Result<Option<Met>> {
    let statement = statement(targets, transaction, change)?;
    let relation = |index: u32| &transaction.relations[index as usize];
    match change {
        Change::Truncate { relations, restart_identity } => {
            let tables: Result<Vec<&Target>, _> =
                relations.iter().map(|r| target(targets, relation(*r))).collect();
            truncate(postgres, &statement, &tables?, *restart_identity).await
        }
        Change::Insert { relation: r, new } => {
            let relation = relation(*r);
            match inserted(postgres, &statement).await? {
                true => Ok(None),
                false => {
                    insert_exists(postgres, target(targets, relation)?, transaction, relation, new)
                        .await
                }
            }
        }
        Change::Update { relation: r, old, new } => {
            let relation = relation(*r);
            let target = target(targets, relation)?;
            let identity = old.as_ref().unwrap_or(new);
            if execute(postgres, &statement).await? > 0
                || target.has_identity_always()
                    && execute(
                        postgres,
                        &replace(target, relation, identity, new, &transaction.stamps),
                    )
                    .await?
                        > 0
            {
                return Ok(None);
            }
            update_missing(postgres, target, transaction, relation, identity, new).await
        }
        Change::Delete { .. } if execute(postgres, &statement).await? > 0 => Ok(None),
        Change::Delete { .. } => Ok(Some(Met {
            conflict: "delete_missing",
            reason: "the row to delete is not there".into(),
            local: None,
            winner: None,
            repair: false,
        })),
    }
}

/// Returns false when a row is in the way, whichever way PostgreSQL says so.
async fn inserted(postgres: &impl GenericClient, insert: &Statement<'_>) -> anyhow::Result<bool> {
    postgres.batch_execute("SAVEPOINT insert").await?;
    let inserted = match execute(postgres, insert).await {
        Ok(rows) => rows > 0,
        Err(error) if is(&error, &SqlState::UNIQUE_VIOLATION) => {
            postgres.batch_execute("ROLLBACK TO SAVEPOINT insert").await?;
            false
        }
        Err(error) => return Err(error),
    };
    postgres.batch_execute("RELEASE SAVEPOINT insert").await?;
    Ok(inserted)
}

/// Empties exactly the listed tables. Where a table that is not among them refers to one,
/// PostgreSQL truncates nothing, so the rows are deleted one by one.
async fn truncate(
    postgres: &impl GenericClient,
    truncate: &Statement<'_>,
    tables: &[&Target],
    restart_identity: bool,
) -> anyhow::Result<Option<Met>> {
    postgres.batch_execute("SAVEPOINT truncate").await?;
    match execute(postgres, truncate).await {
        Ok(_) => {}
        Err(error) if is(&error, &SqlState::FEATURE_NOT_SUPPORTED) => {
            postgres.batch_execute("ROLLBACK TO SAVEPOINT truncate").await?;
            for table in tables {
                postgres.execute(&format!("DELETE FROM {}", table.rows()), &[]).await?;
                if restart_identity {
                    postgres.execute(RESTART_IDENTITY, &[&table.name]).await?;
                }
            }
        }
        Err(error) => return Err(error),
    }
    postgres.batch_execute("RELEASE SAVEPOINT truncate").await?;
    Ok(None)
}

const RESTART_IDENTITY: &str = "
    SELECT setval(s.seqrelid, s.seqstart, false)
    FROM pg_depend d
    JOIN pg_sequence s ON s.seqrelid = d.objid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = $1::text::regclass AND d.deptype IN ('a', 'i')";

async fn insert_exists(
    postgres: &impl GenericClient,
    target: &Target,
    transaction: &Transaction,
    relation: &Relation,
    new: &Row,
) -> anyhow::Result<Option<Met>> {
    let Some(local) = fetch(postgres, &select(target, relation, new)).await? else {
        return Err(Taken.into());
    };
    let other = of_other_owner(postgres, target, (transaction, relation, new), &local).await?;
    if let Some(incoming) = other {
        return settle(postgres, target, relation, (new, incoming), local, "insert_exists").await;
    }
    put_or_insert(postgres, target, relation, new).await?;
    Ok(Some(Met {
        conflict: "insert_exists",
        reason: "a row with this key was there; the owner's version replaced it".into(),
        local: Some(local.image),
        winner: Some("incoming"),
        repair: false,
    }))
}

async fn update_missing(
    postgres: &impl GenericClient,
    target: &Target,
    transaction: &Transaction,
    relation: &Relation,
    identity: &Row,
    new: &Row,
) -> anyhow::Result<Option<Met>> {
    if let Some(local) = fetch(postgres, &select(target, relation, new)).await?
        && let Some(incoming) =
            of_other_owner(postgres, target, (transaction, relation, new), &local).await?
    {
        let rows = (new, incoming);
        return settle(postgres, target, relation, rows, local, "update_origin_differs").await;
    }
    // A key change may have been applied already: then the row stands under its new key.
    let moved = put(postgres, target, relation, new).await?;
    let whole = is_whole(new);
    if !moved && !relation.columns.iter().any(|column| column.key) {
        anyhow::bail!("nothing says which row is meant: the table has no replica identity");
    }
    if !moved && whole {
        execute(postgres, &insert(target, relation, new)).await?;
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
        winner: None,
        repair: !moved && !whole,
    }))
}

/// Returns the partition of `new` where `local`, which has its key, is a row of another one.
async fn of_other_owner(
    postgres: &impl GenericClient,
    target: &Target,
    (transaction, relation, new): (&Transaction, &Relation, &Row),
    local: &Found,
) -> anyhow::Result<Option<PartitionId>> {
    if local.partition.is_none() {
        return Ok(None);
    }
    let found = fetch(postgres, &select_incoming(target, relation, new)).await?;
    let found = found.and_then(|incoming| incoming.partition);
    let incoming = one_key::written_under(found, &transaction.stamps);
    Ok(incoming.filter(|_| incoming != local.partition))
}

/// Two owners have each written a row under one key: makes it the one that stays everywhere.
async fn settle(
    postgres: &impl GenericClient,
    target: &Target,
    relation: &Relation,
    (new, incoming): (&Row, PartitionId),
    local: Found,
    conflict: &'static str,
) -> anyhow::Result<Option<Met>> {
    let here = local.partition.unwrap_or(incoming);
    let stays = one_key::local_stays(here, incoming);
    if !stays {
        put_or_insert(postgres, target, relation, new).await?;
    }
    let (PartitionId(of), PartitionId(and)) = (here, incoming);
    let PartitionId(kept) = if stays { here } else { incoming };
    Ok(Some(Met {
        conflict,
        reason: format!(
            "two owners have a row with this key, of partitions {of} and {and}: the one of \
             partition {kept} stays"
        ),
        local: Some(local.image),
        winner: Some(if stays { "local" } else { "incoming" }),
        repair: !stays && !is_whole(new),
    }))
}

fn is_whole(row: &Row) -> bool {
    !row.contains(&Value::Unchanged)
}

/// The row in the way may have gone meanwhile, by what comes from another region.
async fn put_or_insert(
    postgres: &impl GenericClient,
    target: &Target,
    relation: &Relation,
    new: &Row,
) -> anyhow::Result<()> {
    if !put(postgres, target, relation, new).await? && is_whole(new) {
        let inserted = execute(postgres, &insert(target, relation, new)).await?;
        // Another has come into its place: what stays is read from a peer.
        anyhow::ensure!(inserted > 0, Taken);
    }
    Ok(())
}

/// Makes the row that stands under the key of `new` the same; returns whether there is one.
async fn put(
    postgres: &impl GenericClient,
    target: &Target,
    relation: &Relation,
    new: &Row,
) -> anyhow::Result<bool> {
    if execute(postgres, &update(target, relation, None, new, &[])).await? > 0 {
        return Ok(true);
    }
    Ok(target.has_identity_always()
        && execute(postgres, &replace(target, relation, new, new, &[])).await? > 0)
}

/// A row is in the way that has another key.
#[derive(Debug, thiserror::Error)]
#[error("another row has the same value in a unique index")]
struct Taken;

fn is_taken(error: &anyhow::Error) -> bool {
    let states = [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION];
    error.is::<Taken>() || states.iter().any(|state| is(error, state))
}

fn is(error: &anyhow::Error, state: &SqlState) -> bool {
    let postgres = error.downcast_ref::<tokio_postgres::Error>();
    postgres.is_some_and(|error| error.code() == Some(state))
}

async fn execute(client: &impl GenericClient, statement: &Statement<'_>) -> anyhow::Result<u64> {
    Ok(client.execute(&statement.sql, &parameters(statement)).await?)
}

/// A row, and its partition where another owner may have one under the same key.
struct Found {
    image: serde_json::Value,
    partition: Option<PartitionId>,
}

async fn fetch(
    client: &impl GenericClient,
    statement: &Statement<'_>,
) -> anyhow::Result<Option<Found>> {
    let row = client.query_opt(&statement.sql, &parameters(statement)).await?;
    let partition = |row: &tokio_postgres::Row| {
        row.get::<_, Option<i32>>(1).map(|n| PartitionId(n.cast_unsigned()))
    };
    Ok(row.map(|row| Found { image: row.get(0), partition: partition(&row) }))
}

fn parameters<'a>(statement: &'a Statement<'_>) -> Vec<&'a (dyn ToSql + Sync)> {
    statement.parameters.iter().map(|p| p as &(dyn ToSql + Sync)).collect()
}
