//! What happens to each message between the client and its server?
//!
//! Nothing is held back except the first answer to a statement that may go elsewhere, and
//! nothing is read further than the buffers of the other side have room for.

use bytes::{Bytes, BytesMut};
use domicile_core::route::Caller;
use domicile_pg::backend::{self, Authentication, Report, TransactionStatus, tag};
use domicile_pg::frontend::{self, tag as from_client};
use domicile_pg::scram::MECHANISM_PLUS;

use super::backend::is_passing;
use super::cut::{self, Piece};
use super::refusals::{self, End};
use super::secure::Other;
use super::session::Session;
use super::stand_in::LetInBy;
use super::unconfirmed::{self, Told};

impl Session {
    /// Passes on what the client sent, as far as there is room for it. Returns whether that is all that is here.
    pub async fn relay_to_server(&mut self) -> Result<bool, End> {
        // What comes behind a statement that may have to go elsewhere must not be done before.
        while !self.is_owed() && !self.track.is_full() && self.active().link.has_room() {
            // Whether the next message begins a transaction, only the server can say.
            if self.begun
                && !self.client_cutter.is_inside()
                && self.track.awaits_end()
                && (self.reading.freshness().is_some()
                    || self.key.said.is_some()
                    || self.is_commented_next())
            {
                break;
            }
            if self.is_early() {
                break;
            }
            let piece = self.client_cutter.next(&mut self.client.incoming);
            let Some(piece) = piece.map_err(|e| refusals::protocol(&e))? else { return Ok(true) };
            self.dropping &= matches!(piece, Piece::Rest { .. });
            match piece {
                Piece::Whole { tag: from_client::TERMINATE, .. } if self.track.is_quiet() => {
                    return Err(End::Quietly);
                }
                Piece::Whole { tag: from_client::TERMINATE, raw } => {
                    // The server closes after it has answered what was asked before.
                    self.leaving = true;
                    self.active().link.outgoing.extend_from_slice(&raw);
                }
                Piece::Whole { tag: from_client::SYNC, .. } if self.skipping => {
                    self.skipping = false;
                    backend::put_ready_for_query(&mut self.client.outgoing, self.track.status());
                }
                _ if self.skipping => {}
                Piece::Whole { tag, .. } if self.is_left_over(tag) => {}
                Piece::Head { tag, .. } if self.is_left_over(tag) => self.dropping = true,
                Piece::Rest { .. } if self.dropping => {}
                Piece::Whole { tag, raw } => self.pass_on(tag, raw, true).await?,
                Piece::Head { tag, raw } => self.pass_on(tag, raw, false).await?,
                Piece::Rest { raw } => self.active().link.outgoing.extend_from_slice(&raw),
            }
        }
        Ok(false)
    }

    /// Is the next message one that a session asks, and the login is not over? What it asks of its reads is not known
    /// before, nor, where servers are shared, which of them it is for.
    fn is_early(&self) -> bool {
        !self.begun
            && !self.client_cutter.is_inside()
            && !matches!(
                self.client.incoming.first(),
                None | Some(&from_client::PASSWORD | &from_client::TERMINATE)
            )
    }

    /// Is it what a client still sends of a COPY that has failed? PostgreSQL passes it over, and nothing begins with it.
    fn is_left_over(&self, tag: u8) -> bool {
        let is_of_copy =
            matches!(tag, from_client::COPY_DATA | from_client::COPY_DONE | from_client::COPY_FAIL);
        is_of_copy && self.begun && self.track.is_idle()
    }

    /// Every message of a client comes this way, so what waits here is boxed where it begins to wait and not before.
    async fn pass_on(&mut self, tag: u8, mut raw: Bytes, whole: bool) -> Result<(), End> {
        self.check_console(tag)?;
        let may_miss = self.unbound && !self.begun && tag == from_client::PASSWORD;
        if may_miss && frontend::misses_binding(&cut::body(&raw)) {
            return Err(refusals::cannot_be_bound());
        }
        if whole && !self.begun && tag == from_client::PASSWORD {
            self.login.client_says(&cut::body(&raw));
        }
        if whole {
            let Some(heard) = self.hear(tag, raw).await? else { return Ok(()) };
            raw = heard;
            if self.forget(tag, &raw) {
                return Ok(());
            }
        } else {
            self.hear_beginning(tag, &raw)?;
        }
        if self.begun && self.track.is_idle() {
            if !self.pass_gate(tag, whole).await? {
                return Ok(());
            }
            if !self.be_fresh(tag, &raw, whole).await? {
                self.recorder.gives_up();
                return Ok(());
            }
            if self.opens_soon() {
                Box::pin(self.await_opening()).await?;
            }
            if !self.await_turn(tag, whole).await? {
                self.recorder.gives_up();
                return Ok(());
            }
            if !self.be_at_home(tag, whole).await? {
                self.recorder.gives_up();
                return Ok(());
            }
            self.turn = None;
            self.catch_up_at_home().await?;
            self.keep_from_writing().await?;
            if self.home.cold_since.is_some() {
                Box::pin(self.await_first_turn()).await;
            }
            self.begin_attempt();
            self.decide(tag, &raw);
        }
        self.follow_key(tag, &raw).await;
        let Some(raw) = self.follow_writes(tag, raw, whole).await? else { return Ok(()) };
        self.keep(tag, &raw, whole);
        if self.begun {
            self.recorder.asks();
        }
        self.say(tag, &raw);
        Ok(())
    }

    /// Passes on what the server sent, as far as there is room for it.
    pub async fn relay_to_client(&mut self) -> Result<(), End> {
        self.forget_idle_others();
        while self.client.has_room() {
            let active = self.active();
            let piece = active.cutter.next(&mut active.link.incoming);
            let Some(piece) = piece.map_err(|e| refusals::protocol(&e))? else {
                if self.active().link.has_ended() {
                    return self.server_ended();
                }
                break;
            };
            match piece {
                Piece::Whole { tag, raw } => self.answer(tag, raw).await?,
                Piece::Head { raw, .. } | Piece::Rest { raw } => {
                    self.settle();
                    if !self.unconfirmed.has_failed() {
                        self.client.outgoing.extend_from_slice(&raw);
                    }
                }
            }
        }
        Ok(())
    }

    async fn answer(&mut self, tag: u8, mut raw: Bytes) -> Result<(), End> {
        if self.track.answers_quietly(tag) {
            return Ok(());
        }
        if tag == tag::AUTHENTICATION {
            self.check_way_of(&raw)?;
            Box::pin(self.follow_login(&cut::body(&raw))).await;
            raw = self.keep_binding_back(raw);
        }
        if tag == tag::ERROR_RESPONSE && self.is_only_reading() {
            raw = self.name_owner(raw);
        }
        if tag == tag::PARAMETER_STATUS {
            self.active().hear_status(&raw);
            if self.is_ours_to_know(&raw) {
                return Ok(());
            }
        }
        self.note(tag, &raw);
        let is_given = self.is_given(tag, &raw)?;
        if !is_given && tag != tag::READY_FOR_QUERY {
            // What the server did counts, whatever its client is told.
            self.track.received(tag, &raw, &mut self.memory);
            return Ok(());
        }
        if tag == tag::ERROR_RESPONSE && self.goes_on_after(&raw) {
            tracing::debug!("a server ended an idle session for its own sake");
            return Ok(());
        }
        self.track.received(tag, &raw, &mut self.memory);
        if !is_given {
            return Box::pin(self.redirect()).await;
        }
        let told = self.unconfirmed.tell(tag, &raw);
        if tag == tag::READY_FOR_QUERY {
            self.doubt_skipped_names();
            self.first_turn = None;
            if !self.begun {
                Box::pin(self.begin()).await;
            }
            if self.track.status() == TransactionStatus::Idle {
                self.transaction = None;
                self.report_token().await;
            }
            self.client.outgoing.extend_from_slice(&raw);
            self.recorder.is_answered(self.track.status(), self.track.is_quiet());
            if self.track.is_idle() {
                self.attempt = None;
                self.key.forget_local();
                self.reading.forget_local();
                self.leave_other();
            }
            return Ok(());
        }
        match told {
            Told::AsItIs => {
                let raw = self.with_token(tag, raw);
                let told = self.fill_in(tag, raw).await?;
                self.client.outgoing.extend_from_slice(&told);
            }
            Told::Unknown => {
                let token = self.transaction.take();
                let unknown = unconfirmed::unknown(&self.active().region, token.as_deref());
                unknown.put_error(&mut self.client.outgoing);
            }
            Told::Nothing => {}
            Told::End => return Err(refusals::unconfirmed_copy()),
        }
        Ok(())
    }

    /// The transaction is over, and with it the need for another region.
    pub fn leave_other(&mut self) {
        let Some(region) = self.at_other.take() else { return };
        if let Some(other) = self.others.get_mut(&region) {
            other.leave(&self.memory);
            other.in_transaction = false;
        }
        self.reading.was_at(region);
        self.tell_cancels();
    }

    /// Asks nobody for a password that others could read on its way.
    fn check_way_of(&self, asked: &Bytes) -> Result<(), End> {
        let asked = backend::authentication(&cut::body(asked));
        let is_clear = self.caller == Caller::Client && self.other == Other::Clear;
        match asked {
            Ok(Authentication::CleartextPassword) if is_clear => {
                Err(refusals::password_in_the_clear())
            }
            _ => Ok(()),
        }
    }

    /// A peer's session goes nowhere else, but may have other servers here.
    async fn follow_login(&mut self, body: &[u8]) {
        if self.caller == Caller::Peer && !self.shared.pools.are_joined_by(&self.startup) {
            return;
        }
        self.login.server_says(body);
        if backend::authentication(body) == Ok(Authentication::Ok) {
            if let LetInBy::StandIn(known) = &self.let_in_by {
                return self.login.was_by(known.asked_by());
            }
            let role = self.startup.get("user").unwrap_or_default();
            self.login.is_over(&self.shared.config.roles, role).await;
        }
    }

    /// The server is ready for the first statement.
    async fn begin(&mut self) {
        self.begun = true;
        self.join_pool().await;
        self.is_let_in();
        if self.caller == Caller::Client {
            let role = self.startup.get("user").unwrap_or_default();
            let database = self.startup.database();
            let defaults = self.shared.config.roles.defaults(role, database).await;
            self.begin_with(&defaults);
        }
    }

    /// A client binds its login to the certificate that it was shown, and a server accepts only its own:
    /// others should not try.
    fn keep_binding_back(&mut self, offer: Bytes) -> Bytes {
        let (shown, own) = (&self.client.certificate, &self.home.link.certificate);
        if shown.is_some() && shown == own {
            return offer;
        }
        let mut rest = BytesMut::new();
        if !backend::put_sasl_without(&mut rest, &cut::body(&offer), MECHANISM_PLUS.as_bytes()) {
            return offer;
        }
        self.unbound = true;
        rest.freeze()
    }

    /// Remembers what later connections need to know.
    fn note(&mut self, tag: u8, raw: &Bytes) {
        let body = cut::body(raw);
        match tag {
            tag::PARAMETER_STATUS => self.statuses.note(&body),
            tag::BACKEND_KEY_DATA => {
                self.home.key = backend::backend_key_data(&body).ok();
                self.tell_cancels();
            }
            tag::ERROR_RESPONSE => {
                let ends = Report::read(&body).is_ok_and(|report| report.ends_session());
                self.farewell_said |= ends && !self.goes_on_after(raw);
                self.doubt_names(raw);
            }
            _ => {}
        }
    }

    /// Returns whether an idle session may hide from its client that the server ends it. What is
    /// meant for the client, as that it was idle for too long, is passed on.
    fn goes_on_after(&self, error: &Bytes) -> bool {
        self.begun && self.caller == Caller::Client && self.track.is_idle() && is_passing(error)
    }

    /// Nothing more will come from the active server.
    fn server_ended(&mut self) -> Result<(), End> {
        if !self.begun || self.leaving || self.farewell_said {
            return Err(End::Quietly);
        }
        if !self.track.is_quiet() {
            return Err(refusals::outcome_unknown(self.transaction.as_deref()));
        }
        if !self.track.is_idle() {
            return Err(refusals::transaction_lost());
        }
        self.record_servers();
        // The next message of the client finds a new home; a peer's gateway finds one by itself, unless the session
        // has only left it to others.
        match self.caller {
            Caller::Peer if !self.has_none() => Err(End::Quietly),
            Caller::Peer | Caller::Client => Ok(()),
        }
    }

    /// An unused connection may say something or end at any time.
    fn forget_idle_others(&mut self) {
        // Nothing is said to the client in the middle of a message, nor more than it takes.
        if self.active().cutter.is_inside() || !self.client.has_room() {
            return;
        }
        let before = self.others.len();
        let Self { others, at_other, client, .. } = self;
        others.retain(|region, other| {
            let is_used = at_other.as_ref() == Some(region);
            if !is_used {
                other.overhear(&mut client.outgoing);
            }
            is_used || !other.link.has_ended()
        });
        if self.others.len() < before {
            self.record_servers();
        }
    }
}
