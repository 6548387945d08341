//! How is a session that reads near its clients, in a region that is not the owner of everything, kept from writing
//! there?
//!
//! By PostgreSQL itself: `default_transaction_read_only` stands on its server, so what would write fails with 25006,
//! whatever the table, and also in functions, views and DDL. That is taken for a guard's refusal: it is given the owner's
//! name, and the transaction begins anew there. Whoever [chooses](super::modes) to write in its text is led there first.
//!
//! The setting is made before the session's first transaction, not with each. Whatever takes it back, a client, a
//! function or a wash, the server says so, and it is made again. Clients hear nothing of it: for them the session writes.

use bytes::{Bytes, BytesMut};
use domicile_core::route::{self, Caller, Refusal};
use domicile_pg::backend::{self, Report, field};
use domicile_pg::sqlstate;
use tokio::time::timeout;

use super::attempt::Attempt;
use super::backend::{Backend, OpenError};
use super::cut;
use super::memory::Memory;
use super::modes;
use super::moving::OPEN_WAIT_MAX;
use super::refusals::{self, End};
use super::session::Session;
use super::statuses::Statuses;

const SETTING: &[u8] = b"default_transaction_read_only";
const KEEP: &[u8] = b"SET default_transaction_read_only = on";
const LET: &[u8] = b"RESET default_transaction_read_only";
/// More temporary tables than a session has.
const TEMPORARY_MAX: usize = 256;

impl Backend {
    /// Has transactions that begin here only read, or be as the session has made them.
    pub async fn only_read(&mut self, only: bool, memory: &Memory) -> Result<(), OpenError> {
        if self.only_reads == only {
            return Ok(());
        }
        let queries = if only {
            self.put_only_reads();
            1
        } else {
            domicile_pg::frontend::put_query(&mut self.link.outgoing, LET);
            // The session may have its own.
            1 + self.put_settings(memory)
        };
        self.until_ready(queries, &mut Statuses::default()).await?;
        self.only_reads = only;
        Ok(())
    }

    pub fn put_only_reads(&mut self) {
        domicile_pg::frontend::put_query(&mut self.link.outgoing, KEEP);
    }

    /// The server says what one of its settings is now.
    pub fn hear_status(&mut self, raw: &Bytes) {
        self.only_reads &= !matches!(
            backend::parameter_status(&cut::body(raw)),
            Ok((SETTING, value)) if value != b"on"
        );
    }
}

impl Session {
    /// Before a transaction begins at home: may it write there?
    pub async fn keep_from_writing(&mut self) -> Result<(), End> {
        let only = self.is_only_to_read();
        self.reading.only_reads = only;
        if self.home.only_reads == only {
            return Ok(());
        }
        let keeping = self.home.only_read(only, &self.memory);
        match Box::pin(timeout(OPEN_WAIT_MAX, keeping)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(refusals::server_gone()),
        }
    }

    /// Do the transactions that the session begins in this region only read?
    pub fn is_only_to_read(&self) -> bool {
        let config = &self.shared.config;
        self.caller == Caller::Client
            && self.reading.is_here()
            && !self.reading.writes_here
            && self.home.region == config.region
            && route::only_reads(config.mode, &config.region, &self.shared.routes())
    }

    /// Is the client's transaction, as it stands, where PostgreSQL keeps it from writing?
    pub fn is_only_reading(&self) -> bool {
        self.reading.only_reads && self.at_other.is_none()
    }

    /// Has PostgreSQL say who may write, where it refuses a transaction that only reads.
    pub fn name_owner(&self, raw: Bytes) -> Bytes {
        let body = cut::body(&raw);
        let report = match Report::read(&body) {
            Ok(report) if sqlstate::READ_ONLY_SQL_TRANSACTION.is(report.code()) => report,
            _ => return raw,
        };
        // A guard knows better.
        if report.get(field::DETAIL).is_some() {
            return raw;
        }
        let refusal = Refusal::of_whole(&self.shared.routes());
        let report = refusals::only_read(report, &self.home.region, &refusal);
        let mut out = BytesMut::new();
        report.put_error(&mut out);
        out.freeze()
    }

    /// Is what was refused about temporary tables? Those are the session's, on this server and no other.
    pub fn is_of_temporary(&mut self, attempt: &Attempt) -> bool {
        let mut is_of_one = false;
        for (tag, raw) in attempt.said() {
            let Some(text) = self.text(*tag, &cut::body(raw)) else { continue };
            let temporary = &mut self.reading.temporary;
            is_of_one |= modes::mentions(&text, temporary);
            for name in modes::temporary(&text) {
                is_of_one = true;
                if temporary.len() < TEMPORARY_MAX && !temporary.contains(&name) {
                    temporary.push(name);
                }
            }
        }
        is_of_one
    }

    /// Is it only of the gateway's doing that the server says this of its settings?
    pub fn is_ours_to_know(&self, raw: &Bytes) -> bool {
        self.is_only_reading()
            && backend::parameter_status(&cut::body(raw)) == Ok((SETTING, b"on".as_slice()))
    }
}
