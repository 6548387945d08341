//! What happens to a transaction whose first statement a guard refused?
//!
//! The client has not heard of the refusal. `core::route` says where the transaction may be tried
//! next; only when it gives up is the refusal, the last one, the client's answer.

use bytes::Bytes;
use domicile_core::id::RegionId;
use domicile_core::route::{Caller, Next, Redirect, Refusal};
use domicile_pg::backend::{self, Report, TransactionStatus, field, tag};
use domicile_pg::sqlstate;
use tokio::time::timeout;

use super::attempt::{Answer, Attempt};
use super::backend::OpenError;
use super::cut;
use super::decided::Why;
use super::link::Link;
use super::moving::{OPEN_WAIT_MAX, Wait, Woken};
use super::refusals::{self, End};
use super::session::{Session, budget};
use super::statuses::Statuses;

impl Session {
    /// Whatever the client says now begins a transaction. Only its own gateway sends that elsewhere.
    pub fn begin_attempt(&mut self) {
        let may_go = self.caller == Caller::Client;
        self.attempt = may_go.then(|| Attempt::new(self.memory.remembered()));
        self.home.in_transaction = false;
    }

    /// Keeps what the client says, as long as it may have to be said again.
    pub fn keep(&mut self, tag: u8, raw: &Bytes, whole: bool) {
        if self.attempt.as_mut().is_some_and(|attempt| !attempt.say(tag, raw, whole)) {
            self.settle();
        }
    }

    /// Returns whether the client has to wait for an answer before it is heard again.
    pub fn is_owed(&self) -> bool {
        self.attempt.as_ref().is_some_and(Attempt::is_owed)
    }

    /// Returns whether an answer is given to the client now.
    pub fn is_given(&mut self, tag: u8, raw: &Bytes) -> Result<bool, End> {
        let Some(attempt) = &mut self.attempt else { return Ok(true) };
        let refusal = if tag == tag::ERROR_RESPONSE { read_refusal(raw) } else { None };
        match attempt.answer(tag, raw, refusal) {
            Answer::Given => Ok(true),
            Answer::Kept => Ok(false),
            Answer::Settles => {
                self.settle();
                Ok(true)
            }
            Answer::Differs => Err(refusals::answers_otherwise(&self.active().region)),
        }
    }

    /// The transaction stays where it is: the client gets what was kept from it.
    pub fn settle(&mut self) {
        let Some(attempt) = &mut self.attempt else { return };
        if let Some((_, raw)) = attempt.take_refusal() {
            self.client.outgoing.extend_from_slice(&raw);
        }
        if attempt.settle() {
            self.attempt = None;
        }
    }

    /// The server is ready again, and what it did was to refuse, or what the client has heard already.
    /// Sends a refused transaction where it may be taken, or its refusal to the client.
    pub async fn redirect(&mut self) -> Result<(), End> {
        let Some(mut attempt) = self.attempt.take() else { return Ok(()) };
        let Some((refusal, answer)) = attempt.take_refusal() else {
            self.attempt = Some(attempt);
            return Ok(());
        };
        self.active().in_transaction = self.track.status() != TransactionStatus::Idle;
        let clock = self.shared.clock;
        let by = self.active().region.clone();
        let patience = budget(&self.shared);
        let (mut redirect, mut wait) = attempt.way.take().unwrap_or_else(|| {
            (Redirect::new(clock.now(), patience), Wait::new(&self.shared, patience))
        });
        let routes = self.shared.routes();
        let is_only_read = self.is_only_reading();
        let mut next = if is_only_read && self.is_of_temporary(&attempt) {
            self.reading.writes_here = true;
            Next::Ask(by.clone())
        } else {
            if is_only_read {
                self.learn(&attempt);
            }
            redirect.refused(&by, refusal, &routes, clock.now())
        };
        loop {
            next = match next {
                Next::GiveUp => return self.give_refusal(&attempt, &answer),
                Next::Wait => {
                    self.recorder.waits();
                    let cancelled = self.cancellable.called();
                    let woken =
                        wait.pause(&self.shared, &mut self.routes, &mut self.client, cancelled);
                    if woken.await? == Woken::Cancelled {
                        let mut cancelled = bytes::BytesMut::new();
                        refusals::cancelled().put_error(&mut cancelled);
                        return self.give_refusal(&attempt, &cancelled);
                    }
                    // Who refused may have gone meanwhile.
                    self.home.look();
                    self.go_home(redirect.left(clock.now())).await?;
                    Next::Ask(self.home.region.clone())
                }
                Next::Ask(region) => match self.reach(&region, &attempt).await {
                    Ok(()) => {
                        let why = match is_only_read {
                            true => Why::OnlyRead { by },
                            false => Why::Refused { by },
                        };
                        if !self.reading.writes_here {
                            self.recorder.is_led(&why);
                            self.decided.leads(&region, why);
                        }
                        attempt.way = Some((redirect, wait));
                        self.await_first_turn().await;
                        self.say_again(attempt);
                        return Ok(());
                    }
                    Err(error) => {
                        tracing::debug!(%region, %error, "a refused transaction cannot go on");
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

    /// Makes the connection to `region` the active one, with the session as it was before `attempt`. When that
    /// fails, the one that was active still is.
    pub async fn reach(&mut self, region: &RegionId, attempt: &Attempt) -> Result<(), OpenError> {
        let before = self.memory.as_at(&attempt.before);
        let now = std::mem::replace(&mut self.memory, before);
        self.active().leave(&now);
        let reached = timeout(OPEN_WAIT_MAX, self.make_ready(region)).await;
        let reached = reached.unwrap_or(Err(OpenError::Slow));
        if reached.is_err() {
            self.memory = now;
            self.others.retain(|_, other| !other.astray);
            if self.home.astray {
                self.home.link = Link::closed();
            }
            self.active().stay();
        }
        reached
    }

    async fn make_ready(&mut self, region: &RegionId) -> Result<(), OpenError> {
        let is_home = *region == self.home.region;
        if is_home && self.home.link.has_ended() {
            return Err(OpenError::Closed);
        }
        if !is_home && self.shared.is_silent(region) {
            return Err(OpenError::Slow);
        }
        self.others.retain(|_, other| !other.link.has_ended());
        if !is_home && !self.others.contains_key(region) {
            let (opened, _) = self.open(region, None).await?;
            self.others.insert(region.clone(), opened);
        }
        let target = match is_home {
            true => &mut self.home,
            false => self.others.get_mut(region).expect("it was just put there"),
        };
        target.roll_back().await?;
        target.catch_up(&self.memory, &mut Statuses::default()).await?;
        self.active().roll_back().await?;
        if is_home {
            let only = self.is_only_to_read();
            self.home.only_read(only, &self.memory).await?;
            self.reading.only_reads = only;
        }
        self.at_other = Some(region.clone()).filter(|_| !is_home);
        Ok(())
    }

    /// Begins a transaction anew where [`Session::reach`] has led.
    pub fn say_again(&mut self, mut attempt: Attempt) {
        self.tell_cancels();
        self.recorder.asks();
        self.track.restart();
        for (tag, raw) in attempt.again().to_vec() {
            self.say(tag, &raw);
        }
        self.attempt = Some(attempt);
    }

    fn give_refusal(&mut self, attempt: &Attempt, answer: &[u8]) -> Result<(), End> {
        let status = if self.active().in_transaction {
            TransactionStatus::Failed
        } else if attempt.has_begun() {
            // The server would take what comes next for a transaction of its own.
            return Err(refusals::transaction_lost());
        } else {
            self.leave_other();
            TransactionStatus::Idle
        };
        self.client.outgoing.extend_from_slice(answer);
        self.tell_cancels();
        backend::put_ready_for_query(&mut self.client.outgoing, status);
        self.recorder.is_answered(status, true);
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
