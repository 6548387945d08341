//! What does PostgreSQL know of a transaction: how it ended, and whether it was kept out of the history?

use anyhow::Context;
use domicile_core::history::Reason;
use domicile_core::id::Origin;
use domicile_core::lsn::Lsn;
use domicile_core::outcome::{Status, Token};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// Returns how a transaction of this server ended. `None` where that is forgotten, or it never began.
pub async fn status(client: &Client, xid: u64) -> anyhow::Result<Option<Status>> {
    let sql = "SELECT pg_xact_status($1::text::xid8)";
    let row = match client.query_one(sql, &[&xid.to_string()]).await {
        // It is in the future.
        Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => return Ok(None),
        row => row.context("ask how a transaction ended")?,
    };
    Ok(match row.get::<_, Option<&str>>(0) {
        Some("committed") => Some(Status::Committed),
        Some("aborted") => Some(Status::RolledBack),
        Some("in progress") => Some(Status::InProgress),
        _ => None,
    })
}

/// Does the conflict journal have rows of the transaction as no part of the history?
pub async fn is_journaled(client: &Client, token: &Token) -> anyhow::Result<bool> {
    let Token { origin, after, .. } = token;
    let (origin, after): (&Origin, &Lsn) = (origin, after);
    let reasons: Vec<&str> = Reason::SLUGS.to_vec();
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM domicile.journal
                            WHERE origin = $1 AND lsn > $2::text::pg_lsn AND xid = $3
                              AND conflict = ANY ($4))",
            &[&origin.to_string(), &after.to_string(), &i64::from(token.xid_in_log()), &reasons],
        )
        .await
        .context("look into the conflict journal")?;
    Ok(row.get(0))
}
