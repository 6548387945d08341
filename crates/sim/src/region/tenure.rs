//! How does a region hold on to its lease, open its guard, and let go?
//!
//! Order matters twice. The PostgreSQL clock is read before the renewal is sent, and the guard's
//! deadline is set only with an ownership that was read after the renewal: so whoever fences this
//! region and then waits out its lease waits long enough. And once a guard is closed for a
//! hand-over, only a grant opens it again: a barrier that is on its way may still arrive.

use std::collections::BTreeSet;
use std::rc::Rc;

use domicile_core::id::{PartitionId, RegionId, RunId};
use domicile_core::lease::{Held, Seen};
use domicile_core::lsn::Cut;
use domicile_core::opening::{self, Open, Repairs, Rows};
use domicile_core::ownership::{OwnershipChange, State};
use domicile_core::promise::{Ask, Needed, judge};
use domicile_core::time::{Millis, PgTime, Time};

use super::{Agent, Context, Host, Renewal, send};
use crate::directory::Snapshot;
use crate::message::Message;
use crate::postgres::{EntryKind, Guard};

/// A renewal without an answer is given up after this long.
const RENEWAL_PATIENCE: Millis = Millis(1000);
/// After so long without a renewal the peers are asked as well.
const ASKS_AFTER: Millis = Millis(1200);
/// A directory that was not read for so long is not heard: what it does not say means nothing.
const UNHEARD_AFTER: Millis = Millis(1000);

/// Promises that the peers are asked for.
pub struct Asking {
    at: Time,
    wall: PgTime,
    start: u64,
    /// The ownership that they are for.
    revision: u64,
    given: BTreeSet<RegionId>,
}

impl Agent {
    pub(super) fn renew(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let now = host.clock.monotonic(cx.now);
        if let Renewal::Sent { at, .. } = self.renewal
            && now.since(at) > RENEWAL_PATIENCE
        {
            self.renewal = Renewal::Idle;
        }
        if now < self.due.renew || !host.postgres.answers() {
            return;
        }
        self.due.renew = now + cx.setup.terms.renew_every;
        if now.since(self.renewed_at) > ASKS_AFTER {
            self.ask_peers(host, cx, now);
        }
        if matches!(self.renewal, Renewal::Sent { .. }) {
            return;
        }
        let (wall, start) = (host.clock.wall(cx.now), host.postgres.start);
        self.renewal = Renewal::Sent { at: now, wall, start };
        send(cx, cx.setup.directory(), Message::Renew { token: now });
    }

    pub(super) fn renewed(&mut self, cx: &mut Context<'_>, token: Time, revision: u64) {
        if let Renewal::Sent { at, wall, start } = self.renewal
            && at == token
        {
            self.held = Some(Held { sent_at: at });
            (self.renewed_at, self.asking) = (at, None);
            self.renewal = Renewal::Reading { revision, wall, start };
            self.ask_directory(cx);
        }
    }

    /// Asks for what the directory does not grant.
    fn ask_peers(&mut self, host: &Host, cx: &mut Context<'_>, now: Time) {
        let Some(state) = &self.state else { return };
        let revision = state.ownership_revision;
        let terms = &cx.setup.terms;
        let ask = Ask::new(&host.id, &state.ownership, revision, terms);
        let (wall, start) = (host.clock.wall(cx.now), host.postgres.start);
        for peer in self.needed(host, cx).of {
            let to = cx.setup.index(&peer).expect("regions never change here");
            send(cx, to, Message::AskPromise { token: now, ask: ask.clone() });
        }
        let given = BTreeSet::new();
        self.asking = Some(Asking { at: now, wall, start, revision, given });
    }

    fn needed(&self, host: &Host, cx: &Context<'_>) -> Needed {
        let known = self.ownership().expect("nobody asks before it has read the directory");
        Needed::new(cx.setup.rpo, known, &host.id, &cx.setup.regions)
    }

    pub(super) fn answer_ask(
        &mut self,
        host: &Host,
        cx: &mut Context<'_>,
        asker: usize,
        token: Time,
        ask: &Ask,
    ) {
        let now = host.clock.monotonic(cx.now);
        let known = self.state.as_ref().map(|state| state.ownership_revision);
        if let Err(why) = judge(ask, known, &host.disk.seals, &cx.setup.terms) {
            let (here, from) = (&host.id, &ask.from);
            cx.trace.line(cx.now, format_args!("{here} promises {from} nothing: {why}"));
            return;
        }
        self.promises.give(&ask.from, now);
        // It is there.
        self.leases[asker] = self.leases[asker].map(|seen| seen.heard_again(now));
        send(cx, asker, Message::Promised { token });
    }

    pub(super) fn promised(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        from: usize,
        token: Time,
    ) {
        let revision = self.ownership_revision();
        let peer = cx.setup.regions[from].clone();
        let asked = self.asking.as_mut().filter(|a| a.at == token && a.revision == revision);
        let Some(asking) = asked else { return };
        asking.given.insert(peer);
        let (wall, start) = (asking.wall, asking.start);
        if start != host.postgres.start || !host.postgres.answers() {
            return;
        }
        let given = asking.given.clone();
        if self.needed(host, cx).suffice(&given) {
            cx.trace.line(cx.now, format_args!("{} lives on promises of {given:?}", host.id));
            self.asking = None;
            let newer = self.held.is_none_or(|held| held.sent_at < token);
            if newer {
                self.held = Some(Held { sent_at: token });
                self.on_promises = true;
                self.set_deadline(host, cx, wall, start);
            }
        }
    }

    /// Takes over a newer state of the directory.
    pub(super) fn learn(&mut self, host: &mut Host, cx: &mut Context<'_>, read: Rc<Snapshot>) {
        if self.state.as_ref().is_some_and(|known| known.revision > read.revision) {
            return;
        }
        let now = host.clock.monotonic(cx.now);
        if !self.hears_directory(now) {
            for seen in self.leases.iter_mut().flatten() {
                *seen = seen.heard_again(now);
            }
        }
        self.heard_directory = Some(now);
        for (seen, revision) in self.leases.iter_mut().zip(&read.leases) {
            if *revision > 0 {
                *seen = Some(Seen::note(*seen, *revision, now));
            }
        }
        if self.ownership_revision() != read.ownership_revision {
            self.executions.values_mut().for_each(|e| e.look_again());
            self.due.operate = now;
        }
        let gains = match (self.ownership(), &read.ownership) {
            (Some(before), after) => after.gives(before, &host.id),
            (None, _) => true,
        };
        self.state = Some(read);
        if gains && self.on_promises {
            // The promises that it lives on do not speak of what it gains.
            (self.held, self.on_promises) = (None, false);
            host.postgres.guard = None;
        }
        self.extend(host, cx);
    }

    /// Was the directory read lately?
    pub(super) fn hears_directory(&self, now: Time) -> bool {
        self.heard_directory.is_some_and(|at| now.since(at) < UNHEARD_AFTER)
    }

    /// Sets the guard's deadline for a renewal whose ownership is known now.
    fn extend(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let Renewal::Reading { revision, wall, start } = self.renewal else { return };
        let fresh = self.state.as_ref().is_some_and(|known| known.revision >= revision);
        if !fresh || !host.postgres.answers() {
            return;
        }
        (self.renewal, self.on_promises) = (Renewal::Idle, false);
        self.set_deadline(host, cx, wall, start);
    }

    fn set_deadline(&mut self, host: &mut Host, cx: &mut Context<'_>, wall: PgTime, start: u64) {
        let life = cx.setup.terms.ttl - cx.setup.terms.margin;
        let deadline = PgTime(wall.0 + life.0 as i64 * 1000);
        let open = match host.postgres.guard.take() {
            Some(guard) if guard.start == start => guard.open,
            _ => Vec::new(),
        };
        host.postgres.guard = Some(Guard { start, granted_at: wall, deadline, open });
        self.guard_revision = 0;
        self.set_guard(host, cx);
    }

    /// Makes the guard's partitions those that this region owns, as far as they may be opened.
    pub(super) fn set_guard(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let Some(ownership) = self.ownership().cloned() else { return };
        let Some(guard) = &host.postgres.guard else {
            // Nothing is admitted without a guard's grant, whatever the ownership says.
            self.guard_revision = self.ownership_revision();
            return;
        };
        let fresh = opening::fresh(&ownership, &host.id, &guard.open);
        let rows = Rows { judged: self.caught_up(host), examined: self.diverted.as_deref() };
        let repaired = host.postgres.tables.repair.iter();
        let of = repaired.map(|key| cx.setup.partitions[*key as usize]).collect();
        let repairs = Repairs { anywhere: false, of };
        let closed = opening::closed(&fresh, &host.id, rows, &repairs);
        self.put_guard(host, cx, opening::open(&ownership, &host.id, &closed));
    }

    fn put_guard(&mut self, host: &mut Host, cx: &mut Context<'_>, open: Vec<Open>) {
        self.guard_revision = self.ownership_revision();
        if let Some(guard) = &mut host.postgres.guard
            && guard.open != open
        {
            let list: Vec<String> =
                open.iter().map(|Open { range, epoch }| format!("{range}:{epoch}")).collect();
            cx.trace.line(cx.now, format_args!("{} guard {}", host.id, list.join(" ")));
            guard.open = open;
        }
    }

    /// Hands over what a run asks for: close the guard, let writers finish, name the barrier.
    pub(super) fn drain(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let Some(ownership) = self.ownership().cloned() else { return };
        let mut asked: Vec<RunId> = Vec::new();
        for entry in ownership.entries() {
            if let State::HandingOver { by, run, barrier: None, .. } = &entry.state
                && *by == host.id
                && !asked.contains(run)
            {
                asked.push(run.clone());
            }
        }
        self.draining.retain(|run, _| asked.contains(run));
        for run in asked {
            let meant =
                |p: PartitionId| ownership.entry(p).is_some_and(|e| e.state.run() == Some(&run));
            if !self.draining.contains_key(&run) {
                self.draining.insert(run.clone(), None);
                self.set_guard(host, cx);
            }
            if self.draining[&run].is_none() && host.postgres.drained(meant) {
                let lsn = write_barrier(host, cx, &run);
                self.draining.insert(run.clone(), Some(lsn));
            }
            self.name_barrier(host, cx, &run);
        }
    }

    fn name_barrier(&mut self, host: &mut Host, cx: &mut Context<'_>, run: &RunId) {
        let Some(Some(lsn)) = self.draining.get(run).copied() else { return };
        if host.disk.logs[host.index].flushed < lsn {
            return;
        }
        let now = host.clock.monotonic(cx.now);
        let execution = self.executions.entry(run.clone()).or_default();
        if !execution.may_act(now) {
            return;
        }
        execution.acted(now);
        let origin = cx.setup.origins[host.index].clone();
        let change = OwnershipChange::Barrier { run: run.clone(), barrier: Cut { origin, lsn } };
        self.swap(host, cx, &change);
    }

    /// May this agent let a client know that its commit is safe?
    pub(super) fn lease_live(&self, host: &Host, cx: &Context<'_>) -> bool {
        let now = host.clock.monotonic(cx.now);
        self.held.is_some_and(|held| held.live(now, &cx.setup.terms))
    }
}

fn write_barrier(host: &mut Host, cx: &mut Context<'_>, run: &RunId) -> domicile_core::lsn::Lsn {
    let id = cx.oracle.next_id();
    let barrier = Some(run.clone());
    let kind = EntryKind::Local { id, keys: Vec::new(), stamps: Vec::new(), barrier };
    let lsn = host.postgres.write_through(kind);
    cx.oracle.committed(host.index, id, lsn, &[], &[], &host.postgres.tables.applied);
    cx.trace.line(cx.now, format_args!("{} barrier {run} at {lsn}", host.id));
    lsn
}
