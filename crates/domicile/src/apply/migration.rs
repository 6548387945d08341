//! Is this transaction a migration, and what if its statements fail here?

use anyhow::Context;
use domicile_core::change::{Change, Transaction, Value};
use domicile_core::config::Config;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{blocked, is_transient};
use crate::postgres::migration::{self, Migration, migration_table};

/// The state that `domicile status` shows.
pub const CONDITION: &str = "migration_failed";

/// Apply waits until this is mended: nothing of what comes after it is applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("migration {number} ({name}) fails here: {said}")]
pub struct MigrationFailed {
    number: i64,
    name: String,
    said: String,
    /// Only for somebody who uses a table.
    waits: bool,
}

impl MigrationFailed {
    /// The state that it is.
    pub fn condition(&self) -> &'static str {
        if self.waits { blocked::CONDITION } else { CONDITION }
    }

    /// What to do about it.
    pub fn way_out(&self, region: &str) -> String {
        if self.waits {
            return format!(
                "migration {} ({}) waits for a table that somebody uses, and what comes behind it waits with \
                 it: look for transactions that are open for long (pg_stat_activity, pg_prepared_xacts) and \
                 have them end; it is tried again until then",
                self.number, self.name
            );
        }
        format!(
            "{self}. It is tried again until it runs: take out of its way what only this region has; \
             or, if this region has what it makes, domicile migrate --pass {} --region {region}",
            self.number
        )
    }
}

/// Runs the migrations that `transaction` brings, in the transaction that is open. Returns whether
/// there was one.
pub async fn run(
    client: &Client,
    config: &Config,
    transaction: &Transaction,
) -> anyhow::Result<bool> {
    let all = migrations(transaction)?;
    for migration in &all {
        if let Err(error) = migration::run(client, config, migration).await {
            let waits = is_lock_timeout(&error);
            if is_transient(&error) && !waits {
                return Err(error);
            }
            let Migration { number, name, .. } = migration.clone();
            return Err(MigrationFailed { number, name, said: said(&error), waits }.into());
        }
    }
    Ok(!all.is_empty())
}

fn migrations(transaction: &Transaction) -> anyhow::Result<Vec<Migration>> {
    let mut found = Vec::new();
    for change in &transaction.changes {
        let Change::Insert { relation, new } = change else { continue };
        let Some(relation) = transaction.relations.get(*relation as usize) else { continue };
        if relation.table != migration_table() {
            continue;
        }
        let field = |name: &str| {
            let at = relation.columns.iter().position(|column| column.name == name);
            match at.and_then(|at| new.get(at)) {
                Some(Value::Text(text)) => Ok(String::from_utf8(text.to_vec())?),
                _ => anyhow::bail!("a migration has no {name}"),
            }
        };
        let number = field("number")?.parse().context("read a migration's number")?;
        found.push(Migration { number, name: field("name")?, sql: field("sql")? });
    }
    Ok(found)
}

fn is_lock_timeout(error: &anyhow::Error) -> bool {
    let postgres = error.downcast_ref::<tokio_postgres::Error>();
    postgres.is_some_and(|error| error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE))
}

fn said(error: &anyhow::Error) -> String {
    let postgres = error.downcast_ref::<tokio_postgres::Error>();
    let said = postgres.and_then(|error| error.as_db_error());
    said.map_or_else(|| format!("{error:#}"), |said| said.message().to_owned())
}
