//! How does a client name its transaction, for when it is not told what became of it?
//!
//! By a token that says where it runs and which one it is. PostgreSQL says which; a message of the transaction's goes into
//! the WAL with that. The region's agent makes the message durable before the token is given: a number that a crash takes
//! out of the WAL PostgreSQL gives to another transaction, which may well commit.

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use domicile_core::lsn::Lsn;
use domicile_pg::backend::{Report, field, tag};
use domicile_pg::frontend::tag as from_client;
use domicile_pg::sqlstate;

use super::cut;
use super::refusals;
use super::session::Session;
use super::setting::ours::TRANSACTION;

/// What PostgreSQL is asked in the place of `SHOW domicile.transaction`, behind the name.
pub const ASKED: &str = "' || pg_catalog.pg_current_xact_id() || ' ' ||
    pg_catalog.pg_logical_emit_message(true, 'domicile.transaction', '";

impl Session {
    /// Returns whether a message that shows this setting has been refused: alone, and behind it the transaction is
    /// over already.
    pub fn refuses_to_name(&mut self, tag: u8, name: &str) -> bool {
        let refuses = name == TRANSACTION && tag == from_client::QUERY && self.track.is_idle();
        if refuses {
            self.refuse(tag, &refusals::no_transaction());
        }
        refuses
    }

    /// Returns the token of the open transaction, by what PostgreSQL says of it, and remembers that.
    pub async fn name_transaction(&mut self, said: &str) -> anyhow::Result<String> {
        let (xid, after) = said.split_once(' ').context("PostgreSQL says nothing of it")?;
        let (xid, after): (u64, Lsn) = (xid.parse()?, after.parse()?);
        let region = self.active().region.clone();
        let staleness = self.shared.config.staleness.as_ref().context("nobody signs any here")?;
        let origin = staleness.make_durable_at(&region).await?;
        let token = staleness.tokens().write_transaction(origin, xid, after)?;
        self.transaction = Some(token.clone());
        Ok(token)
    }

    /// Another region's gateway says that it lost the server, and knows no token.
    pub fn with_token(&self, tag: u8, raw: Bytes) -> Bytes {
        let token = self.transaction.as_deref().filter(|_| tag == tag::ERROR_RESPONSE);
        let Some(hint) = refusals::find_out(token) else { return raw };
        let (body, unknown) = (cut::body(&raw), sqlstate::TRANSACTION_RESOLUTION_UNKNOWN);
        let report = Report::read(&body).ok().filter(|report| unknown.is(report.code()));
        let Some(mut report) = report else { return raw };
        report.fields.retain(|(kind, _)| *kind != field::HINT);
        let mut told = BytesMut::new();
        report.hint(hint).put_error(&mut told);
        told.freeze()
    }
}
