//! Does a transaction of a session that reads near write, as far as can be seen before it is refused?
//!
//! It may say so itself ([`modes`](super::modes)), or its statement calls what is taken for something that writes
//! ([`catalogue`](super::catalogue)), unless it promises to read only. Then it goes on at the owner of everything,
//! before the client's message. Only what nobody has seen anything of can.

use bytes::Bytes;
use domicile_core::id::RegionId;
use domicile_core::route::reads;
use domicile_pg::backend::TransactionStatus;
use domicile_pg::frontend::{self, Frontend, tag as from_client};

use super::attempt::Attempt;
use super::cut;
use super::decided::Why;
use super::modes::{self, Says};
use super::moving::Wait;
use super::refusals::{self, End};
use super::session::{Session, budget};

impl Session {
    /// Has a transaction that says that it writes go on where it may. Returns what is to be passed on in the place of
    /// the client's message, mostly that itself; `None` where the client has heard why nothing is.
    pub async fn follow_writes(
        &mut self,
        tag: u8,
        raw: Bytes,
        whole: bool,
    ) -> Result<Option<Bytes>, End> {
        if !self.is_only_reading() {
            return Ok(Some(raw));
        }
        let is_open = self.attempt.as_ref().is_some_and(|attempt| !attempt.is_settled());
        let may_go = is_open && self.track.is_quiet();
        let says = self.says(tag, &raw, whole);
        self.reading.promised |= says == Some(Says::Reads);
        let (chooses, why) = match says {
            Some(Says::Writes) => (whole, Why::SaysItWrites),
            Some(Says::Asks) => (false, Why::SaysItWrites),
            Some(Says::Reads) => return Ok(Some(raw)),
            None if may_go && !self.reading.promised => {
                let Some(why) = Box::pin(self.why_writes(tag, &raw)).await else {
                    return Ok(Some(raw));
                };
                (false, Why::Writes(why))
            }
            None => return Ok(Some(raw)),
        };
        if may_go {
            if Box::pin(self.go_on_at_owner(chooses, why)).await? || !chooses {
                return Ok(Some(raw));
            }
            if self.track.is_idle() {
                self.recorder.gives_up();
            }
            let report = refusals::cannot_write(&self.home.region);
            self.refuse(tag, &report);
            return Ok(None);
        }
        // In the middle of a pipeline it has to fail, or PostgreSQL would let it write here.
        let runs = matches!(tag, from_client::QUERY | from_client::BIND);
        if !chooses || !runs {
            return Ok(Some(raw));
        }
        Ok(Some(self.reworded.refuse(&raw, refusals::CHOSEN_TOO_LATE)))
    }

    /// What the next message says of its transaction. One that is too large to be said again is taken for one that
    /// writes: a refusal would be the client's.
    fn says(&mut self, tag: u8, raw: &Bytes, whole: bool) -> Option<Says> {
        let runs = matches!(tag, from_client::QUERY | from_client::PARSE | from_client::BIND);
        if !whole {
            return runs.then_some(Says::Writes);
        }
        let body = cut::body(raw);
        match frontend::read(tag, &body).ok()? {
            Frontend::Parse { statement, sql } => {
                let says = modes::read(sql);
                if statement.is_empty() {
                    self.reading.unnamed = says;
                }
                says
            }
            Frontend::Bind { statement: b"", .. } => self.reading.unnamed,
            _ => modes::read(&self.text(tag, &body)?),
        }
    }

    /// Why the next message is taken for one that writes, by its text and what is known of what that calls.
    async fn why_writes(&self, tag: u8, raw: &Bytes) -> Option<reads::Why> {
        let text = self.text(tag, &cut::body(raw))?;
        let functions = &self.shared.config.functions;
        let why = functions.why_writes(self.startup.database(), &text).await?;
        // Those are here and nowhere else.
        let is_of_temporary =
            modes::mentions(&text, &self.reading.temporary) || !modes::temporary(&text).is_empty();
        Some(why).filter(|_| !is_of_temporary)
    }

    /// Has it in mind that what a transaction said was refused where it only reads.
    pub fn learn(&self, attempt: &Attempt) {
        let last =
            attempt.said().iter().rev().find_map(|(tag, raw)| self.text(*tag, &cut::body(raw)));
        if let Some(text) = last {
            self.shared.config.functions.was_refused(&text);
        }
    }

    /// Begins the open transaction anew at the owner of everything, and waits for one where it must. Returns whether
    /// it has got there.
    async fn go_on_at_owner(&mut self, must: bool, why: Why) -> Result<bool, End> {
        let Some(attempt) = self.attempt.take() else { return Ok(false) };
        self.active().in_transaction = self.track.status() != TransactionStatus::Idle;
        let mut wait = Wait::new(&self.shared, budget(&self.shared));
        loop {
            let owner = self.routes.borrow_and_update().owner_of_whole.clone();
            if let Some(owner) = owner
                && self.reaches(&owner, &attempt, &why).await
            {
                self.say_again(attempt);
                return Ok(true);
            }
            if !must || wait.is_over() {
                self.attempt = Some(attempt);
                return Ok(false);
            }
            self.recorder.waits();
            let cancelled = std::future::pending();
            wait.pause(&self.shared, &mut self.routes, &mut self.client, cancelled).await?;
        }
    }

    async fn reaches(&mut self, owner: &RegionId, attempt: &Attempt, why: &Why) -> bool {
        match self.reach(owner, attempt).await {
            Ok(()) => {
                self.recorder.is_led(why);
                self.decided.leads(owner, why.clone());
                true
            }
            Err(error) => {
                tracing::debug!(region = %owner, %error, "a transaction that writes does not get to its owner");
                false
            }
        }
    }
}
