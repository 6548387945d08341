//! What becomes of writes that turn out not to be history?
//!
//! They go to the conflict journal and out of the log, and the rows they touched are taken from
//! a peer. Not from any peer at any moment: its rows must be neither older than ours, nor show
//! anything that we could not find out later to lie past a cut. So while a repair is under way
//! nothing is applied here, and the answer is used only when the peer's position covers ours and
//! our *logs* cover the peer's.

use std::rc::Rc;

use domicile_core::history::{Admission, admit};
use domicile_core::lsn::Lsn;
use domicile_core::time::{Millis, Time};

use super::{Agent, Context, Host, send};
use crate::disk::Log;
use crate::message::{Message, Rows};
use crate::postgres::EntryKind;
use crate::setup::{Key, Sabotage};

const REPAIR_PATIENCE: Millis = Millis(900);
/// After so many peers that could not help, perhaps none can: each may show a row that is itself
/// no history. Then the logs must tell.
const REPAIR_MISSES_MAX: u32 = 6;

pub struct Repair {
    asked_at: Time,
    peer: usize,
    answer: Option<Rc<Rows>>,
}

impl Agent {
    /// Looks for writes past every cut that has become known.
    pub(super) fn divert_tails(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        if !self.settled() {
            self.divert_new_tails(host, cx);
        }
        let revision = self.ownership_revision();
        if let Some(ownership) = self.state.as_ref().map(|state| state.ownership.clone()) {
            let holders = match cx.setup.breaks(Sabotage::CountStrangers) {
                true => cx.setup.regions.iter().cloned().collect(),
                false => ownership.holders().cloned().collect(),
            };
            self.progress.examined(revision, &holders);
        }
    }

    fn divert_new_tails(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let Some(ownership) = self.ownership().cloned() else { return };
        let before = self.diverted.replace(ownership.clone());
        if cx.setup.breaks(Sabotage::IgnoreCut) {
            return;
        }
        for origin in 0..cx.setup.count() {
            let name = &cx.setup.origins[origin];
            let shown = match origin == host.index {
                true => Lsn(u64::MAX),
                false => host.postgres.tables.applied[origin],
            };
            let Some(from) = ownership.first_new_cut(before.as_deref(), name) else { continue };
            let from = from.min(shown);
            let taken = host.disk.logs[origin].take_out(|record| {
                record.transaction.lsn > from
                    && matches!(
                        admit(&ownership, name, &record.transaction, |_| true),
                        Admission::Divert(_)
                    )
            });
            if taken.is_empty() {
                continue;
            }
            if origin == host.index {
                let commits: Vec<Lsn> = taken.iter().map(|r| r.transaction.lsn).collect();
                self.cut_off(host, cx, &commits);
            }
            let rows = taken.iter().flat_map(|r| r.keys.iter().copied()).collect();
            self.journal(host, cx, taken.iter().map(|r| r.id).collect(), rows, "beyond_cut");
        }
    }

    pub(super) fn journal(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        ids: Vec<u32>,
        rows: Vec<Key>,
        reason: &str,
    ) {
        cx.trace.line(cx.now, format_args!("{} journals {ids:?}: {reason}", host.id));
        cx.oracle.diverted(host.index, &ids);
        host.postgres.write_through(EntryKind::Divert { ids, rows });
        self.repair = None;
    }

    pub(super) fn repair_rows(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let tables = &host.postgres.tables;
        // A row that history has overwritten since needs nothing.
        let shows = |key: &Key| tables.journal.contains(&tables.rows[*key as usize]);
        let healed: Vec<_> = tables.repair.iter().filter(|key| !shows(key)).copied().collect();
        if !healed.is_empty() {
            let rows = healed.iter().map(|key| (*key, tables.rows[*key as usize])).collect();
            host.postgres.write_through(EntryKind::Repair { rows });
        }
        if host.postgres.tables.repair.is_empty() {
            (self.repair, self.repair_misses) = (None, 0);
            return;
        }
        let now = host.clock.monotonic(cx.now);
        let Some(repair) = &self.repair else { return self.ask_rows(host, cx, now) };
        if let Some(rows) = repair.answer.clone()
            && self.trustworthy(host, cx, repair.peer, &rows)
        {
            let meant = |(key, _): &&(Key, u32)| host.postgres.tables.repair.contains(key);
            let rows: Vec<_> = rows.rows.iter().filter(meant).copied().collect();
            self.repair_misses += u32::from(rows.is_empty());
            if !rows.is_empty() {
                cx.trace.line(cx.now, format_args!("{} repairs {rows:?}", host.id));
                host.postgres.write_through(EntryKind::Repair { rows });
            }
            self.repair = None;
            self.due.repair = now + Millis(cx.rng.between(50, 400));
        } else if now.since(repair.asked_at) > REPAIR_PATIENCE {
            self.repair = None;
            self.repair_misses += 1;
            self.due.repair = now + Millis(cx.rng.between(50, 400));
        }
    }

    /// Takes the rows from the logs here: each as the newest record of history left it.
    fn repair_from_logs(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let own = &host.disk.logs[host.index];
        if !self.caught_up(host) || own.received != own.flushed {
            return;
        }
        let newest = |key: Key| {
            let partition = cx.setup.partitions[key as usize];
            let shown = |(origin, log): (usize, &'_ Log)| {
                let upto = match origin == host.index {
                    true => log.flushed,
                    false => host.postgres.tables.applied[origin],
                };
                let writes = log.after(Lsn::ZERO).filter(|r| r.keys.contains(&key));
                let last = writes.take_while(|r| r.transaction.lsn <= upto).last()?;
                let stamp = last.transaction.stamps.iter().find(|s| s.partition == partition)?;
                Some((stamp.epoch, last.transaction.lsn, last.id))
            };
            let last = host.disk.logs.iter().enumerate().filter_map(shown).max();
            last.map_or(0, |(_, _, id)| id)
        };
        let rows: Vec<_> =
            host.postgres.tables.repair.iter().map(|key| (*key, newest(*key))).collect();
        cx.trace.line(cx.now, format_args!("{} repairs {rows:?} from its logs", host.id));
        host.postgres.write_through(EntryKind::Repair { rows });
        self.repair_misses = 0;
    }

    fn ask_rows(&mut self, host: &mut Host, cx: &mut Context<'_>, now: Time) {
        if now < self.due.repair {
            return;
        }
        if self.repair_misses > REPAIR_MISSES_MAX {
            return self.repair_from_logs(host, cx);
        }
        let peer = (host.index + 1 + cx.rng.index(cx.setup.count() - 1)) % cx.setup.count();
        self.repair = Some(Repair { asked_at: now, peer, answer: None });
        let keys = host.postgres.tables.repair.iter().copied().collect();
        send(cx, peer, Message::AskRows(keys));
    }

    fn trustworthy(&self, host: &Host, cx: &Context<'_>, peer: usize, rows: &Rows) -> bool {
        if cx.setup.breaks(Sabotage::RepairBlindly) {
            return true;
        }
        let covered = (0..cx.setup.count()).filter(|o| *o != host.index).all(|origin| {
            let shown = if origin == peer { rows.own } else { rows.applied[origin] };
            host.postgres.tables.applied[origin] <= shown && shown <= host.disk.logs[origin].flushed
        });
        let own = &host.disk.logs[host.index];
        let written = |key: &Key| own.after(Lsn::ZERO).filter(|r| r.keys.contains(key)).last();
        let mut keys = rows.rows.iter().map(|(key, _)| key);
        let own_covered = keys
            .all(|key| written(key).is_none_or(|r| r.transaction.lsn <= rows.applied[host.index]));
        let known = rows.ownership_revision >= self.ownership_revision();
        covered && own_covered && known && self.caught_up(host) && own.received == own.flushed
    }

    pub(super) fn serve_rows(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        asker: usize,
        keys: &[Key],
    ) {
        let blind = cx.setup.breaks(Sabotage::RepairBlindly);
        let able = host.postgres.answers() && self.settled() && self.caught_up(host);
        if !able && !blind {
            return;
        }
        let tables = &host.postgres.tables;
        let sound = keys.iter().filter(|key| blind || !tables.repair.contains(*key));
        let rows = Rows {
            rows: sound.map(|key| (*key, tables.rows[*key as usize])).collect(),
            applied: tables.applied.clone(),
            own: host.disk.logs[host.index].received,
            ownership_revision: self.ownership_revision(),
        };
        send(cx, asker, Message::Rows(Rc::new(rows)));
    }

    pub(super) fn take_rows(&mut self, from: usize, rows: Rc<Rows>) {
        if let Some(repair) = &mut self.repair
            && repair.peer == from
            && repair.answer.is_none()
        {
            repair.answer = Some(rows);
        }
    }
}
