//! What does one region's conflict journal hold?

use domicile_core::id::RegionId;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

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
    /// The row that stayed.
    pub local: Option<Value>,
    pub conflict: String,
    pub reason: Option<String>,
}

/// Which entries are asked for; what is absent does not filter.
#[derive(Clone, Debug)]
pub struct Filter {
    pub id: Option<i64>,
    pub relation: Option<String>,
    /// A region's name, or an origin's.
    pub origin: Option<String>,
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
    let Filter { id, relation, origin, limit } = filter;
    let rows = client.query(LIST, &[id, relation, origin, limit]).await.map_err(|source| {
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
    })
}
