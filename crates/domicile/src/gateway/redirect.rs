//! What happens to a statement that a guard refused before it did anything?
//!
//! The client has not heard of the refusal. `core::route` says where the statement may be tried
//! next; only when it gives up is the refusal, the last one, the client's answer.

use bytes::Bytes;
use domicile_core::id::RegionId;
use domicile_core::route::{Next, Redirect, Refusal};
use domicile_pg::backend::{self, Report, TransactionStatus, field, tag};
use domicile_pg::frontend::tag as from_client;
use domicile_pg::sqlstate;

use super::backend::{OpenError, Statuses};
use super::cut;
use super::moving::{Wait, Woken};
use super::refusals::{self, End};
use super::session::{Held, Session, budget};

impl Session {
    /// Keeps the first answer to a held query from the client while it may be a refusal.
    pub fn is_held_back(&mut self, tag: u8, raw: &Bytes) -> bool {
        let Some(held) = &mut self.held else { return false };
        let refused = held.refusal.is_some();
        match tag {
            // May come at any time and are no answer.
            tag::PARAMETER_STATUS | tag::NOTIFICATION_RESPONSE => false,
            tag::READY_FOR_QUERY if refused => false,
            tag::ERROR_RESPONSE if !refused => {
                let Some(refusal) = read_refusal(raw) else {
                    self.release();
                    return false;
                };
                held.refusal = Some((refusal, raw.clone()));
                self.track.received(tag, raw, &mut self.memory);
                true
            }
            _ => {
                self.release();
                false
            }
        }
    }

    /// The held query stays where it is: the client gets what was held back.
    pub fn release(&mut self) {
        if let Some(Held { refusal: Some((_, raw)), .. }) = self.held.take() {
            self.client.outgoing.extend_from_slice(&raw);
        }
    }

    /// The server is ready again: returns the held query if all it did was to refuse.
    pub fn take_refused(&mut self, ready: &Bytes) -> Option<(Held, (Refusal, Bytes))> {
        let idle = backend::ready_for_query(&cut::body(ready)) == Ok(TransactionStatus::Idle);
        if !idle {
            self.release();
        }
        let mut held = self.held.take()?;
        let refusal = held.refusal.take()?;
        Some((held, refusal))
    }

    /// Sends a refused query where it may be taken, or its refusal to the client.
    pub async fn redirect(&mut self, mut held: Held, refusal: (Refusal, Bytes)) -> Result<(), End> {
        let (refusal, answer) = refusal;
        let clock = self.shared.clock;
        let by = self.active().region.clone();
        let patience = budget(&self.shared);
        let (mut redirect, mut wait) = held.way.take().unwrap_or_else(|| {
            (Redirect::new(clock.now(), patience), Wait::new(&self.shared, patience))
        });
        let routes = self.shared.routes();
        let mut next = redirect.refused(&by, refusal, &routes, clock.now());
        self.at_other = None;
        loop {
            next = match next {
                Next::GiveUp => return self.give_refusal(&answer),
                Next::Wait => {
                    let cancelled = self.cancellable.called();
                    let woken =
                        wait.pause(&self.shared, &mut self.routes, &mut self.client, cancelled);
                    if woken.await? == Woken::Cancelled {
                        return self.give_cancelled();
                    }
                    self.go_home(redirect.left(clock.now())).await?;
                    Next::Ask(self.home.region.clone())
                }
                Next::Ask(region) => match self.reach(&region).await {
                    Ok(()) => {
                        held.way = Some((redirect, wait));
                        self.send_held(held);
                        return Ok(());
                    }
                    Err(error) => {
                        tracing::debug!(%region, %error, "a refused statement cannot go on");
                        if error.is_passing() {
                            redirect.unreachable(clock.now())
                        } else {
                            let told = refusals::not_sent_on(&region, &error);
                            told.put_notice(&mut self.client.outgoing);
                            Next::GiveUp
                        }
                    }
                },
            };
        }
    }

    /// Makes the connection to `region` the active one.
    async fn reach(&mut self, region: &RegionId) -> Result<(), OpenError> {
        if *region == self.home.region {
            return if self.home.link.has_ended() { Err(OpenError::Closed) } else { Ok(()) };
        }
        let mut other = match self.others.remove(region) {
            Some(other) if !other.link.has_ended() => {
                if self.shared.is_silent(region) {
                    return Err(OpenError::Slow);
                }
                other
            }
            Some(_) | None => self.open(region).await?.0,
        };
        if other.settings_version != self.memory.settings_version() {
            other.repeat_settings(&self.memory, &mut Statuses::new()).await?;
        }
        self.others.insert(region.clone(), other);
        self.at_other = Some(region.clone());
        Ok(())
    }

    fn send_held(&mut self, held: Held) {
        self.tell_cancels();
        self.track.sent(from_client::QUERY, &held.raw, &mut self.memory);
        let raw = held.raw.clone();
        self.active().link.outgoing.extend_from_slice(&raw);
        self.held = Some(held);
    }

    fn give_refusal(&mut self, answer: &Bytes) -> Result<(), End> {
        self.client.outgoing.extend_from_slice(answer);
        self.give_ready()
    }

    fn give_cancelled(&mut self) -> Result<(), End> {
        refusals::cancelled().put_error(&mut self.client.outgoing);
        self.give_ready()
    }

    fn give_ready(&mut self) -> Result<(), End> {
        self.tell_cancels();
        backend::put_ready_for_query(&mut self.client.outgoing, TransactionStatus::Idle);
        Ok(())
    }
}

/// Reads a guard's refusal; `None` for every other error.
fn read_refusal(raw: &Bytes) -> Option<Refusal> {
    let body = cut::body(raw);
    let report = Report::read(&body).ok()?;
    if report.ends_session() || !sqlstate::READ_ONLY_SQL_TRANSACTION.is(report.code()) {
        return None;
    }
    Refusal::read(report.get(field::DETAIL)?)
}
