//! How does a record get from one region's log into another's?
//!
//! The reader pulls: from the origin, or from any peer when the origin does not answer. A peer
//! stops at the first record that a seal forbids, and passes over what lies beyond a known cut.

use std::rc::Rc;

use domicile_core::history::{Refused, Seal, accept, may_go_on_from};
use domicile_core::id::RunId;
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::progress::Progress;
use domicile_core::time::{Millis, Time};

use super::{Agent, Context, Host, send};
use crate::disk::Record;
use crate::message::Message;
use crate::setup::Sabotage;

const BATCH_RECORDS_MAX: usize = 64;
/// An asker is answered after this long even when there is nothing.
const ASKER_PATIENCE: Millis = Millis(300);
const FETCH_PATIENCE: Millis = Millis(700);

#[derive(Clone, Debug, Default)]
pub struct Fetching {
    asked_at: Option<Time>,
    /// Odd: ask some other peer than the origin.
    misses: u32,
}

/// A peer that waits for more of a log.
#[derive(Clone, Debug)]
pub struct Asker {
    peer: usize,
    origin: usize,
    after: Lsn,
    until: Time,
}

pub struct Batch {
    pub revision: u64,
    pub origin: usize,
    pub after: Lsn,
    pub upto: Lsn,
    pub records: Vec<Rc<Record>>,
}

impl Agent {
    pub(super) fn fetch(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        if self.state.is_none() {
            return;
        }
        let now = host.clock.monotonic(cx.now);
        self.expire_askers(host, cx, now);
        for origin in (0..cx.setup.count()).filter(|o| *o != host.index) {
            let log = &host.disk.logs[origin];
            let fetching = &mut self.fetches[origin];
            if fetching.asked_at.is_some_and(|at| now.since(at) > FETCH_PATIENCE) {
                *fetching = Fetching { asked_at: None, misses: fetching.misses + 1 };
            }
            if fetching.asked_at.is_some() || log.received != log.flushed {
                continue;
            }
            fetching.asked_at = Some(now);
            let relay = (host.index + 1 + cx.rng.index(cx.setup.count() - 1)) % cx.setup.count();
            let peer = if fetching.misses.is_multiple_of(2) { origin } else { relay };
            let progress = progress_of(host, origin);
            let revision = self.ownership_revision();
            send(cx, peer, Message::Fetch { origin, after: log.received, progress, revision });
        }
    }

    pub(super) fn serve(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        peer: usize,
        origin: usize,
        after: Lsn,
        (progress, revision): (Progress, u64),
    ) {
        if origin == host.index {
            self.count(cx, peer, progress, revision);
        }
        let until = host.clock.monotonic(cx.now) + ASKER_PATIENCE;
        self.askers.retain(|a| (a.peer, a.origin) != (peer, origin));
        self.askers.push(Asker { peer, origin, after, until });
        self.answer_askers(host, cx);
    }

    /// A peer told how far it is with our log.
    pub(super) fn count(&mut self, cx: &Context<'_>, peer: usize, told: Progress, revision: u64) {
        let revision = if cx.setup.breaks(Sabotage::CountEarly) { 0 } else { revision };
        self.progress.peer(&cx.setup.regions[peer], told, revision);
    }

    /// Answers everyone for whom there is something now.
    pub(super) fn answer_askers(&mut self, host: &Host, cx: &mut Context<'_>) {
        let revision = self.ownership_revision();
        self.askers.retain(|asker| {
            let more = host.disk.logs[asker.origin].flushed > asker.after;
            if more {
                answer(host, cx, asker, revision);
            }
            !more
        });
    }

    fn expire_askers(&mut self, host: &Host, cx: &mut Context<'_>, now: Time) {
        let revision = self.ownership_revision();
        self.askers.retain(|asker| {
            if now >= asker.until {
                answer(host, cx, asker, revision);
            }
            now < asker.until
        });
    }

    pub(super) fn take_records(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        from: usize,
        batch: Batch,
    ) {
        let Some(known) = self.state.clone() else { return };
        let ownership = &known.ownership;
        let origin = &cx.setup.origins[batch.origin];
        let seals = &host.disk.seals;
        let log = &mut host.disk.logs[batch.origin];
        let fetching = &mut self.fetches[batch.origin];
        fetching.asked_at = None;
        if batch.after != log.received {
            return;
        }
        let (theirs, ours) = (batch.revision, known.ownership_revision);
        if from != batch.origin && !may_go_on_from(theirs, ours) {
            return;
        }
        let mut refused = false;
        for record in batch.records {
            let (lsn, stamps) = (record.transaction.lsn, &record.transaction.stamps);
            let accepted = accept(seals, ownership, origin, lsn, stamps);
            if let Err(why) = &accepted {
                let id = &host.id;
                cx.trace.line(cx.now, format_args!("{id} refuses {origin}@{lsn}: {why:?}"));
            }
            match accepted {
                Ok(()) => log.append(record),
                Err(Refused::Outside(_)) => log.cover(lsn),
                Err(Refused::Sealed { .. }) => {
                    refused = true;
                    break;
                }
            }
        }
        if !refused {
            log.cover(batch.upto);
        }
        if log.received > batch.after {
            self.ask_flush(cx);
        }
        let idle_relay = from != batch.origin && batch.upto <= batch.after;
        if refused || idle_relay {
            self.fetches[batch.origin].misses += 1;
            if refused {
                // Asking again at once would only be refused again.
                self.fetches[batch.origin].asked_at = Some(host.clock.monotonic(cx.now));
            }
        }
    }

    /// Promises, durably, to accept nothing more of these epochs.
    pub(super) fn seal(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        asker: usize,
        run: RunId,
        asked: Vec<Seal>,
    ) {
        host.disk.logs.iter_mut().for_each(|log| log.flush());
        let region = asked.first().map(|seal| seal.region.clone());
        let mut held: Vec<Cut> = Vec::new();
        for seal in asked {
            let region = cx.setup.index(&seal.region).expect("regions never change here");
            let same =
                |s: &&Seal| (&s.region, s.range, s.epoch) == (&seal.region, seal.range, seal.epoch);
            let seal = match host.disk.seals.iter().find(same) {
                Some(earlier) => earlier.clone(),
                None => {
                    let lsn = host.disk.logs[region].flushed;
                    let origin = cx.setup.origins[region].clone();
                    Seal { held: vec![Cut { origin, lsn }], ..seal }
                }
            };
            held.extend(seal.held.iter().cloned());
            if !cx.setup.breaks(Sabotage::SkipSeal) && !host.disk.seals.contains(&seal) {
                host.disk.seals.push(seal);
            }
        }
        cx.trace.line(cx.now, format_args!("{} seals for {run}: {held:?}", host.id));
        self.answer_askers(host, cx);
        let now = host.clock.monotonic(cx.now);
        let promised = match &region {
            Some(region) => self.promises.left(region, now, &cx.setup.terms),
            None => Millis(0),
        };
        send(cx, asker, Message::Sealed { run, held, promised });
    }
}

/// How far this region is with one origin. What is applied counts once it is durable.
pub(super) fn progress_of(host: &Host, origin: usize) -> Progress {
    let log = &host.disk.logs[origin];
    let applied =
        if origin == host.index { log.flushed } else { host.postgres.applied_durable[origin] };
    Progress { received: log.received, flushed: log.flushed, applied }
}

fn answer(host: &Host, cx: &mut Context<'_>, asker: &Asker, revision: u64) {
    let log = &host.disk.logs[asker.origin];
    let records: Vec<_> = log.after(asker.after).take(BATCH_RECORDS_MAX).cloned().collect();
    let upto = match records.last() {
        Some(last) if records.len() == BATCH_RECORDS_MAX => last.transaction.lsn,
        _ => log.flushed.max(asker.after),
    };
    let (origin, after) = (asker.origin, asker.after);
    send(cx, asker.peer, Message::Records { revision, origin, after, upto, records });
}
