//! How does a shared server hear of what its client has prepared?
//!
//! By [the gateway's names](super::statements), and only when it is needed there: what a client prepares is prepared
//! at once, where it is then; what it has prepared elsewhere, before it is bound or described. What the server answers
//! to what it was not asked by the client is kept from it.

use bytes::{Bytes, BytesMut};
use domicile_pg::backend::{self, Report, tag as answer};
use domicile_pg::frontend::{self, Frontend, Named};
use domicile_pg::sqlstate;

use super::cut;
use super::memory::{Change, Memory};
use super::pool::Prepared;
use super::session::Session;
use super::setting::{self, Meaning};
use super::statements::Text;
use super::track::Track;

impl Session {
    /// Says to the active server what the client says: all of a message or, of a large one, its beginning.
    pub fn say(&mut self, tag: u8, raw: &Bytes) {
        let Self { home, others, at_other, track, memory, unnamed, .. } = self;
        let other = at_other.as_ref().and_then(|region| others.get_mut(region));
        let active = other.unwrap_or(home);
        let out = &mut active.link.outgoing;
        let prepared = active.shareable.as_mut().and_then(|shareable| shareable.prepared.as_mut());
        let Some(server) = prepared else {
            track.sent(tag, raw, memory);
            return out.extend_from_slice(raw);
        };
        let mut saying = Saying { server, out, track, memory, unnamed };
        saying.close_surplus();
        saying.say(tag, raw);
    }

    /// Answers a client that forgets in SQL what it has prepared by the protocol: a shared server does not know
    /// it by that name. Returns whether it has its answer.
    pub fn forget(&mut self, tag: u8, raw: &Bytes) -> bool {
        let is_renamed = self.at_other.is_none() && self.shares_transactions();
        if !is_renamed || !self.answers_alone() {
            return false;
        }
        let body = cut::body(raw);
        let Ok(Frontend::Query(sql)) = frontend::read(tag, &body) else { return false };
        let name = setting::deallocated(sql).map(Bytes::from);
        let Some(name) = name.filter(|name| self.memory.prepared().contains_key(name)) else {
            return false;
        };
        // Elsewhere it would have to be said.
        self.settle();
        self.memory.agreed(Change::Forget { name });
        let out = &mut self.client.outgoing;
        backend::put_command_complete(out, b"DEALLOCATE");
        backend::put_ready_for_query(out, self.track.status());
        true
    }

    /// A shared server has passed over what was to be prepared behind an error: it has not got it.
    pub fn doubt_skipped_names(&mut self) {
        if !self.track.takes_skipped() {
            return;
        }
        let shareable = self.active().shareable.as_mut();
        if let Some(server) = shareable.and_then(|shareable| shareable.prepared.as_mut()) {
            server.statements.retire_all();
        }
    }

    /// A shared server says that something failed: what is prepared there may not be what it seems.
    pub fn doubt_names(&mut self, error: &Bytes) {
        let is_preparing = self.track.is_preparing();
        let shareable = self.active().shareable.as_mut();
        let Some(server) = shareable.and_then(|shareable| shareable.prepared.as_mut()) else {
            return;
        };
        let body = cut::body(error);
        let report = Report::read(&body).unwrap_or_default();
        // It is gone, or what it returns is not what it was when it was prepared.
        let codes = [sqlstate::INVALID_SQL_STATEMENT_NAME, sqlstate::FEATURE_NOT_SUPPORTED];
        if is_preparing || codes.iter().any(|code| code.is(report.code())) {
            server.statements.retire_all();
        }
    }
}

/// A message on its way to a shared server.
struct Saying<'a> {
    server: &'a mut Prepared,
    out: &'a mut BytesMut,
    track: &'a mut Track,
    memory: &'a mut Memory,
    unnamed: &'a mut Option<Bytes>,
}

impl Saying<'_> {
    /// Between two transactions nothing is bound to what is closed here.
    fn close_surplus(&mut self) {
        if !self.track.is_idle() {
            return;
        }
        if std::mem::take(&mut self.server.reads_apart) {
            self.server.statements.retire_all();
        }
        for name in self.server.statements.surplus() {
            self.close_quietly(&name);
        }
    }

    fn say(&mut self, tag: u8, raw: &Bytes) {
        let body = cut::body(raw);
        match frontend::read(tag, &body) {
            Ok(Frontend::Query(sql)) => {
                self.look_at(sql);
                if matches!(setting::read(sql), Meaning::DiscardAll | Meaning::DeallocateAll) {
                    self.server.statements.retire_all();
                }
                // As PostgreSQL does.
                (*self.unnamed, self.server.has_unnamed) = (None, false);
                self.pass(tag, raw);
            }
            Ok(Frontend::Parse { statement: b"", sql }) => {
                self.look_at(sql);
                *self.unnamed = Some(Bytes::copy_from_slice(raw));
                self.server.has_unnamed = true;
                self.pass(tag, raw);
            }
            Ok(Frontend::Parse { statement, sql }) => {
                self.look_at(sql);
                self.prepare(statement, tag, raw);
            }
            Ok(
                Frontend::Bind { statement: b"", .. } | Frontend::Describe(Named::Statement(b"")),
            ) => {
                self.prepare_unnamed();
                self.pass(tag, raw);
            }
            Ok(Frontend::Bind { statement, .. }) => match self.name(statement) {
                Some(name) => {
                    self.track.sent(tag, raw, self.memory);
                    frontend::put_bind_of(self.out, raw, name.as_bytes());
                }
                None => self.pass(tag, raw),
            },
            Ok(Frontend::Describe(Named::Statement(statement))) => match self.name(statement) {
                Some(name) => {
                    self.track.sent(tag, raw, self.memory);
                    frontend::put_describe_statement(self.out, name.as_bytes());
                }
                None => self.pass(tag, raw),
            },
            Ok(Frontend::Close(Named::Statement(statement))) => match self.close(statement) {
                Some(name) => {
                    self.track.sent(tag, raw, self.memory);
                    frontend::put_close_statement(self.out, name.as_bytes());
                }
                None => self.pass(tag, raw),
            },
            Ok(Frontend::FunctionCall) => {
                // What it calls is only a number.
                self.memory.bind();
                self.pass(tag, raw);
            }
            // Of a large one only the beginning is here.
            Err(_) if matches!(tag, frontend::tag::QUERY | frontend::tag::PARSE) => {
                self.look_at(&body);
                self.pass(tag, raw);
            }
            _ => self.pass(tag, raw),
        }
    }

    fn pass(&mut self, tag: u8, raw: &Bytes) {
        self.track.sent(tag, raw, self.memory);
        self.out.extend_from_slice(raw);
    }

    /// Binds the session to its server before anything is there that could not follow it elsewhere.
    fn look_at(&mut self, sql: &[u8]) {
        let meaning = setting::read(sql);
        let is_open = matches!(meaning, Meaning::Settings { .. }) && !self.track.is_idle();
        self.server.reads_apart |= is_open || setting::sets_locally(sql);
        if meaning == Meaning::Bound || setting::leaves_something(sql) {
            self.memory.bind();
        }
    }

    /// The client prepares something. A name that it has given already is an error, which the server says.
    fn prepare(&mut self, statement: &[u8], tag: u8, raw: &Bytes) {
        let body = cut::body(raw);
        if let Some(name) = self.name(statement) {
            self.track.sent(tag, raw, self.memory);
            return frontend::put_parse_as(self.out, &body, name.as_bytes());
        }
        let text = self.text(&body);
        // It is read again, by what holds now.
        if let Some(before) = self.server.statements.close(text) {
            self.close_quietly(&before);
        }
        self.track.sent(tag, raw, self.memory);
        let is_followed = self.track.prepared(statement, self.memory).is_some();
        if is_followed {
            let name = self.server.statements.prepare(text);
            frontend::put_parse_as(self.out, &body, name.as_bytes());
        } else {
            // The session is bound for it.
            self.out.extend_from_slice(raw);
        }
    }

    /// Returns by which name the server knows what the client has prepared, once it has read what is said here;
    /// `None` where it does not know it otherwise than the client.
    fn name(&mut self, statement: &[u8]) -> Option<String> {
        let parse = cut::body(self.track.prepared(statement, self.memory)?);
        let text = self.text(&parse);
        if let Some(name) = self.server.statements.find(text) {
            return Some(name);
        }
        let name = self.server.statements.prepare(text);
        frontend::put_parse_as(self.out, &parse, name.as_bytes());
        self.track.sent_quietly(answer::PARSE_COMPLETE);
        Some(name)
    }

    fn close(&mut self, statement: &[u8]) -> Option<String> {
        let parse = cut::body(self.track.prepared(statement, self.memory)?);
        let text = self.text(&parse);
        self.server.statements.close(text)
    }

    fn text(&self, parse: &Bytes) -> Text {
        let name = parse.iter().position(|byte| *byte == 0).map_or(0, |end| end + 1);
        Text::new(&parse[name..], self.memory.settings().map(|raw| &raw[..]))
    }

    fn prepare_unnamed(&mut self) {
        if let (Some(raw), false) = (&*self.unnamed, self.server.has_unnamed) {
            self.out.extend_from_slice(raw);
            self.track.sent_quietly(answer::PARSE_COMPLETE);
            self.server.has_unnamed = true;
        }
    }

    fn close_quietly(&mut self, name: &str) {
        frontend::put_close_statement(self.out, name.as_bytes());
        self.track.sent_quietly(answer::CLOSE_COMPLETE);
    }
}
