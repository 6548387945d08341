//! How does a region hold on to its lease, open its guard, and let go?
//!
//! Order matters twice. The PostgreSQL clock is read before the renewal is sent, and the guard's
//! deadline is set only with an ownership that was read after the renewal: so whoever fences this
//! region and then waits out its lease waits long enough. And once a guard is closed for a
//! hand-over, only a grant opens it again: a barrier that is on its way may still arrive.

use std::rc::Rc;

use domicile_core::id::{PartitionId, RunId};
use domicile_core::lease::{Held, Seen};
use domicile_core::lsn::Cut;
use domicile_core::opening::{self, Open, Repairs, Rows};
use domicile_core::ownership::{OwnershipChange, State};
use domicile_core::time::{Millis, Time};

use super::{Agent, Context, Host, Renewal, send};
use crate::directory::Snapshot;
use crate::message::Message;
use crate::postgres::{EntryKind, Guard};

/// A renewal without an answer is given up after this long.
const RENEWAL_PATIENCE: Millis = Millis(1000);

impl Agent {
    pub(super) fn renew(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let now = host.clock.monotonic(cx.now);
        if let Renewal::Sent { at, .. } = self.renewal
            && now.since(at) > RENEWAL_PATIENCE
        {
            self.renewal = Renewal::Idle;
        }
        let waiting = matches!(self.renewal, Renewal::Sent { .. });
        if now < self.due.renew || waiting || !host.postgres.answers() {
            return;
        }
        self.due.renew = now + cx.setup.terms.renew_every;
        let (wall, start) = (host.clock.wall(cx.now), host.postgres.start);
        self.renewal = Renewal::Sent { at: now, wall, start };
        send(cx, cx.setup.directory(), Message::Renew { token: now });
    }

    pub(super) fn renewed(&mut self, cx: &mut Context<'_>, token: Time, revision: u64) {
        if let Renewal::Sent { at, wall, start } = self.renewal
            && at == token
        {
            self.held = Some(Held { sent_at: at });
            self.renewal = Renewal::Reading { revision, wall, start };
            self.ask_directory(cx);
        }
    }

    /// Takes over a newer state of the directory.
    pub(super) fn learn(&mut self, host: &mut Host, cx: &mut Context<'_>, read: Rc<Snapshot>) {
        if self.state.as_ref().is_some_and(|known| known.revision > read.revision) {
            return;
        }
        let now = host.clock.monotonic(cx.now);
        for (seen, revision) in self.leases.iter_mut().zip(&read.leases) {
            if *revision > 0 {
                *seen = Some(Seen::note(*seen, *revision, now));
            }
        }
        if self.ownership_revision() != read.ownership_revision {
            self.executions.values_mut().for_each(|e| e.look_again());
            self.due.operate = now;
        }
        self.state = Some(read);
        self.extend(host, cx);
    }

    /// Sets the guard's deadline for a renewal whose ownership is known now.
    fn extend(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let Renewal::Reading { revision, wall, start } = self.renewal else { return };
        let fresh = self.state.as_ref().is_some_and(|known| known.revision >= revision);
        if !fresh || !host.postgres.answers() {
            return;
        }
        self.renewal = Renewal::Idle;
        let life = cx.setup.terms.ttl - cx.setup.terms.margin;
        let deadline = domicile_core::time::PgTime(wall.0 + life.0 as i64 * 1000);
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
