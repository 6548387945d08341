//! What does one region's conflict journal hold?

use domicile_core::id::RegionId;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::{GenericClient, Row};

use crate::cli::connect::{self, ConnectError};

const LIST: &str = include_str!("list.sql");

/// One row of `domicile.journal`, with the region it was read from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    pub region: String,
    pub id: i64,
    /// UTC, as in `2026-03-01T12:00:00.000Z`: sorts by time.
    pub at: String,
    pub origin: String,
    pub lsn: Option<String>,
    pub xid: Option<i64>,
    pub relation: String,
    pub operation: String,
    pub key: Option<Value>,
    pub old: Option<Value>,
    pub new: Option<Value>,
    /// The row that was here.
    pub local: Option<Value>,
    pub conflict: String,
    pub reason: Option<String>,
    /// Of a shared table: how it was decided, and for whom.
    pub policy: Option<String>,
    pub winner: Option<String>,
    /// As in docs/operating/conflicts.md.
    pub status: String,
}

impl Entry {
    /// The row that lost; nothing where a deletion lost.
    pub fn lost(&self) -> &Option<Value> {
        if self.incoming_won() { &self.local } else { &self.new }
    }

    /// The row that stayed; nothing where a deletion won, or where that is not known.
    pub fn stayed(&self) -> &Option<Value> {
        if self.incoming_won() { &self.new } else { &self.local }
    }

    fn incoming_won(&self) -> bool {
        self.winner.as_deref() == Some("incoming")
    }
}

/// Which entries are asked for; what is absent does not filter.
#[derive(Clone, Debug)]
pub struct Filter {
    pub id: Option<i64>,
    pub relation: Option<String>,
    /// A region's name, or an origin's.
    pub origin: Option<String>,
    pub status: Option<String>,
    pub limit: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("region \"{region}\": {source}")]
    Connect { region: RegionId, source: ConnectError },
    #[error(
        "region \"{region}\" has no conflict journal yet: its database lacks the schema \
         \"domicile\", which the region's agent installs when it first starts"
    )]
    NotInstalled { region: RegionId },
    #[error("region \"{region}\": read journal: {}", connect::cause(source))]
    Read { region: RegionId, source: tokio_postgres::Error },
}

pub async fn read(
    region: &RegionId,
    postgres: &str,
    filter: &Filter,
) -> Result<Vec<Entry>, JournalError> {
    let client = connect::connect(postgres)
        .await
        .map_err(|source| JournalError::Connect { region: region.clone(), source })?;
    let Filter { id, relation, origin, status, limit } = filter;
    let rows =
        client.query(LIST, &[id, relation, origin, limit, status]).await.map_err(|source| {
            let missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
            if source.code().is_some_and(|code| missing.contains(code)) {
                JournalError::NotInstalled { region: region.clone() }
            } else {
                JournalError::Read { region: region.clone(), source }
            }
        })?;
    rows.iter()
        .map(|row| lift(region, row))
        .collect::<Result<_, _>>()
        .map_err(|source| JournalError::Read { region: region.clone(), source })
}

/// Closes entries; returns the numbers of those that exist.
pub async fn close(
    client: &impl GenericClient,
    ids: &[i64],
) -> Result<Vec<i64>, tokio_postgres::Error> {
    let sql = "UPDATE domicile.journal
               SET status = 'resolved',
                   resolved_at = coalesce(resolved_at, clock_timestamp())
               WHERE id = ANY ($1) RETURNING id";
    Ok(client.query(sql, &[&ids]).await?.iter().map(|row| row.get(0)).collect())
}

fn lift(region: &RegionId, row: &Row) -> Result<Entry, tokio_postgres::Error> {
    let text = |column| row.try_get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    Ok(Entry {
        region: region.to_string(),
        id: row.try_get("id")?,
        at: text("at")?,
        origin: text("origin")?,
        lsn: row.try_get("lsn")?,
        xid: row.try_get("xid")?,
        relation: text("relation")?,
        operation: text("operation")?,
        key: row.try_get("key")?,
        old: row.try_get("old")?,
        new: row.try_get("new")?,
        local: row.try_get("local")?,
        conflict: text("conflict")?,
        reason: row.try_get("reason")?,
        policy: row.try_get("policy")?,
        winner: row.try_get("winner")?,
        status: text("status")?,
    })
}
