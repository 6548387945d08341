//! What does a client set, and ask for, of the settings that are the gateway's own?
//!
//! PostgreSQL takes what is set, as a setting that means nothing to it, and so answers in its place. What is asked
//! for it does not know. A query that comes alone is answered here. All else may stand in the middle of a pipeline: there
//! PostgreSQL is asked [in other words](super::reworded).
//!
//! A prepared statement sets something whenever it is bound, which is when drivers execute it.

use bytes::{Bytes, BytesMut};
use domicile_core::route::Caller;
use domicile_pg::backend::{self, TransactionStatus};
use domicile_pg::frontend::{self, Frontend, Named};

use super::comment;
use super::cut;
use super::refusals::{self, End};
use super::reworded::Place;
use super::session::Session;
use super::setting::ours::{FRESHNESS, KEY, REPORT, ROUTE, STALENESS, TOKEN, TRANSACTION, WAIT};
use super::setting::{self, Assignment};
use crate::staleness::Staleness;

/// What PostgreSQL says it has done.
const SHOW: &[u8] = b"SHOW";

impl Session {
    /// Takes in what a message of the client sets, or answers it. Returns what is to be passed on in its place;
    /// mostly that is the message itself.
    pub async fn hear(&mut self, tag: u8, raw: Bytes) -> Result<Option<Bytes>, End> {
        if self.caller == Caller::Peer || !self.begun {
            return Ok(Some(raw));
        }
        let (body, begins) = (cut::body(&raw), self.track.is_idle());
        if begins {
            self.forget_comment();
            self.take_comment_behind(tag, &body);
        }
        match frontend::read(tag, &body) {
            Ok(Frontend::Query(sql)) => {
                let comment = self.take_comment(comment::read(sql));
                if let Err(why) = comment.and_then(|()| self.take_in(&setting::assignments(sql))) {
                    return self.refuse_setting(tag, &raw, why);
                }
                match setting::shown(sql) {
                    Some(name) if self.refuses_to_name(tag, name) => Ok(None),
                    Some(TRANSACTION) => Ok(Some(self.reworded.show(&raw, TRANSACTION))),
                    Some(name) if self.answers_alone() => Box::pin(self.show(tag, name)).await,
                    Some(name) => Ok(Some(self.reworded.show(&raw, name))),
                    None => Ok(Some(raw)),
                }
            }
            Ok(Frontend::Parse { statement, sql }) => {
                let comment = comment::read(sql);
                if begins {
                    // What is wrong is told when it is executed, as of what it sets.
                    let _ = self.take_comment(comment.clone());
                }
                if !self.setters.prepare(statement, setting::assignments(sql), comment) {
                    return Err(refusals::too_many_setters());
                }
                let shown = setting::shown(sql);
                Ok(Some(shown.map_or(raw.clone(), |name| self.reworded.show(&raw, name))))
            }
            Ok(Frontend::Bind { statement, .. }) => {
                let comment = self.setters.comment(statement).cloned();
                let set = self.setters.get(statement).cloned();
                let taken = self.take_comment(comment);
                match taken.and_then(|()| self.take_in(set.as_slice())) {
                    Ok(()) => Ok(Some(raw)),
                    Err(why) => self.refuse_setting(tag, &raw, why),
                }
            }
            Ok(Frontend::Close(Named::Statement(name))) => {
                self.setters.forget(name);
                Ok(Some(raw))
            }
            _ => Ok(Some(raw)),
        }
    }

    /// Of a large message only the beginning is here: it sets nothing, and what it prepares is another statement
    /// than before. What it says of itself stands there.
    pub fn hear_beginning(&mut self, tag: u8, raw: &Bytes) -> Result<(), End> {
        if self.caller == Caller::Peer || !self.begun {
            return Ok(());
        }
        let (body, begins) = (cut::body(raw), self.track.is_idle());
        if begins {
            self.forget_comment();
        }
        let taken = match tag {
            frontend::tag::QUERY => self.take_comment(comment::read(&body)),
            frontend::tag::PARSE => {
                let name = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
                let (name, sql) = (&body[..name], body.get(name + 1..).unwrap_or_default());
                let comment = comment::read(sql);
                if begins {
                    let _ = self.take_comment(comment.clone());
                }
                match self.setters.prepare(name, Vec::new(), comment) {
                    true => Ok(()),
                    false => return Err(refusals::too_many_setters()),
                }
            }
            frontend::tag::BIND => {
                let statement = match frontend::read(tag, &body) {
                    Ok(Frontend::Bind { statement, .. }) => statement,
                    _ => return Ok(()),
                };
                self.take_comment(self.setters.comment(statement).cloned())
            }
            _ => Ok(()),
        };
        // The rest of it is not here yet, and cannot be refused alone.
        taken.map_err(refusals::invalid_for_session)
    }

    /// Returns what the client is to hear where its server says this.
    pub async fn fill_in(&mut self, tag: u8, raw: Bytes) -> Result<Bytes, End> {
        let Some(place) = self.reworded.place(tag, &raw) else { return Ok(raw) };
        let mut out = BytesMut::new();
        match place {
            Place::Value(name) => {
                // PostgreSQL has answered and cannot take that back.
                let value = Box::pin(self.value_of(&name)).await;
                let value =
                    value.map_err(|error| refusals::ended_by(refusals::no_token(&error)))?;
                backend::put_row_of_one(&mut out, value.as_bytes());
            }
            Place::Shown => backend::put_command_complete(&mut out, SHOW),
            Place::Wrong(why) => refusals::invalid_value(why).put_error(&mut out),
        }
        Ok(out.freeze())
    }

    /// No transaction is open any more: tells the client what its token is now, where it wants to know that.
    pub async fn report_token(&mut self) {
        let was_told = self.statuses.get(TOKEN.as_bytes()).is_some();
        let token = match (self.reading.reports_token(), was_told) {
            // Rather none than one without what was just committed.
            (true, _) => Box::pin(self.token()).await.unwrap_or_default(),
            (false, true) => String::new(),
            (false, false) => return,
        };
        let (name, token) = (TOKEN.as_bytes(), token.as_bytes());
        if self.statuses.get(name) != Some(token) {
            backend::put_parameter_status(&mut self.client.outgoing, name, token);
            self.statuses.insert(name, token);
        }
    }

    fn take_in(&mut self, assignments: &[Assignment]) -> Result<(), String> {
        for assignment in assignments {
            self.key.set(assignment);
            let Assignment { name, value, local: false } = assignment else { continue };
            let tokens = self.shared.config.staleness.as_ref().map(Staleness::tokens);
            self.reading.set(name, value.as_deref(), tokens)?;
        }
        Ok(())
    }

    /// What a message sets cannot be. In the middle of something that has to fail with it, which is the server's to
    /// do.
    fn refuse_setting(&mut self, tag: u8, raw: &Bytes, why: String) -> Result<Option<Bytes>, End> {
        if self.track.is_idle() {
            self.refuse(tag, &refusals::invalid_value(why));
            return Ok(None);
        }
        Ok(Some(self.reworded.refuse(raw, &why)))
    }

    /// Returns whether a query can be answered without the server: nothing else is asked of that, and it
    /// would not say that the transaction has failed.
    pub fn answers_alone(&self) -> bool {
        self.track.is_quiet() && self.track.status() != TransactionStatus::Failed
    }

    async fn show(&mut self, tag: u8, name: &str) -> Result<Option<Bytes>, End> {
        match self.value_of(name).await {
            Ok(value) => {
                let out = &mut self.client.outgoing;
                backend::put_one_text(out, name.as_bytes(), value.as_bytes(), SHOW);
                backend::put_ready_for_query(out, self.track.status());
            }
            Err(error) => self.refuse(tag, &refusals::no_token(&error)),
        }
        Ok(None)
    }

    /// Returns what holds now. Fails where a token is asked for and there is none now.
    async fn value_of(&mut self, name: &str) -> anyhow::Result<String> {
        let (name, said) = name.split_once(' ').unwrap_or((name, ""));
        Ok(match name {
            TRANSACTION => self.name_transaction(said).await?,
            STALENESS => self.staleness().await,
            TOKEN => self.token().await?,
            FRESHNESS => self.reading.freshness().map(|f| f.to_string()).unwrap_or_default(),
            WAIT => format!("{}ms", self.reading.wait_max().0),
            KEY => self.key.shown(),
            ROUTE => self.decided.shown(),
            REPORT => if self.reading.reports_token() { "on" } else { "off" }.to_owned(),
            _ => String::new(),
        })
    }
}
