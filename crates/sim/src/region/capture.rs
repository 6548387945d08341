//! What goes from the slot into our own log, and what may the slot be told?
//!
//! A commit that is kept out of the history is journaled first. Its client, if it still waits
//! for an acknowledgement, is cut off: confirming a position past it would tell it "done".

use std::rc::Rc;
use std::sync::Arc;

use domicile_core::change::{Change, Identity, Relation, Transaction, Value};
use domicile_core::history::{Admission, admit};
use domicile_core::id::TableName;
use domicile_core::lsn::Lsn;
use domicile_core::progress::Rpo;

use super::{Agent, Context, Host, Output, Wake};
use crate::clock::MS;
use crate::disk::Record;
use crate::postgres::{Entry, EntryKind};
use crate::setup::{Key, Sabotage};

impl Agent {
    pub(super) fn capture(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let (Some(mut cursor), true) = (self.cursor, self.settled()) else { return };
        let Some(ownership) = self.ownership().cloned() else { return };
        let origin = &cx.setup.origins[host.index];
        while let Some(entry) = host.postgres.flushed_from(cursor).first().cloned() {
            if let EntryKind::Local { .. } = &entry.kind {
                let record = record_of(&entry, host, cx);
                match admit(&ownership, origin, &record.transaction, |_| true) {
                    Admission::Admit => self.append(host, cx, record),
                    Admission::Divert(reason) => {
                        let ids = vec![record.id];
                        self.journal(host, cx, ids, record.keys.clone(), reason.slug());
                        self.cut_off(host, cx, &[entry.lsn]);
                        self.progress.seen(entry.lsn);
                    }
                    Admission::Wait => break,
                }
            } else {
                self.progress.seen(entry.lsn);
            }
            cursor += 1;
            self.cursor = Some(cursor);
        }
    }

    fn append(&mut self, host: &mut Host, cx: &mut Context<'_>, record: Record) {
        self.progress.captured(record.transaction.lsn, host.clock.monotonic(cx.now));
        cx.oracle.captured(host.index, record.id, &record.transaction.stamps, cx.now);
        host.disk.logs[host.index].append(Rc::new(record));
        self.ask_flush(cx);
    }

    pub(super) fn ask_flush(&mut self, cx: &mut Context<'_>) {
        if !self.flush_asked {
            self.flush_asked = true;
            let after = cx.rng.between(1, 8) * MS / 2;
            cx.out.push(Output::Wake { after, wake: Wake::Flushed });
        }
    }

    pub(super) fn flushed(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        self.flush_asked = false;
        host.disk.logs.iter_mut().for_each(|log| log.flush());
        self.progress.flushed(host.disk.logs[host.index].flushed);
        self.answer_askers(host, cx);
        self.fetch(host, cx);
    }

    /// Clients whose commits are not history learn nothing: their connections end.
    pub(super) fn cut_off(&self, host: &mut Host, cx: &Context<'_>, commits: &[Lsn]) {
        if !cx.setup.breaks(Sabotage::ConfirmDiverted) {
            host.postgres.waiting.retain(|lsn, _| !commits.contains(lsn));
        }
    }

    /// Tells the slot how far everything is safe: PostgreSQL lets the clients up to there go.
    pub(super) fn confirm(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let upto = self.confirmable(host, cx);
        if upto <= host.postgres.confirmed || !self.lease_live(host, cx) {
            return;
        }
        host.postgres.confirmed = upto;
        while let Some((lsn, id)) = host.postgres.waiting.first_key_value().map(|(l, i)| (*l, *i))
            && lsn <= upto
        {
            host.postgres.waiting.remove(&lsn);
            cx.oracle.acknowledged(id, cx.now);
        }
    }

    fn confirmable(&mut self, host: &Host, cx: &Context<'_>) -> Lsn {
        if cx.setup.breaks(Sabotage::ForgetAge) && matches!(cx.setup.rpo, Rpo::Within { .. }) {
            return self.progress.end();
        }
        let until = self.held.map(|held| held.deadline(&cx.setup.terms));
        self.progress.confirmable(cx.setup.rpo, host.clock.monotonic(cx.now), until)
    }

    /// Has every commit of this region been read from the slot and judged?
    pub(super) fn caught_up(&self, host: &Host) -> bool {
        self.cursor.is_some_and(|cursor| {
            let rest = host.postgres.flushed_from(cursor);
            !rest.iter().any(|e| matches!(e.kind, EntryKind::Local { .. }))
        })
    }
}

fn record_of(entry: &Entry, host: &Host, cx: &Context<'_>) -> Record {
    let EntryKind::Local { id, keys, stamps, barrier } = &entry.kind else {
        unreachable!("only local commits are captured");
    };
    let mut needs = cx.setup.frontier(&host.postgres.tables.applied);
    needs = needs.iter().filter(|(_, lsn)| lsn.0 > 0).map(|(o, l)| (o.clone(), l)).collect();
    let transaction = Transaction {
        lsn: entry.lsn,
        xid: *id,
        needs,
        stamps: stamps.clone(),
        barrier: barrier.clone(),
        relations: if keys.is_empty() { Vec::new() } else { vec![Arc::new(relation())] },
        changes: keys.iter().map(|key| change(*key, *id)).collect(),
        ..Transaction::default()
    };
    Record { transaction, id: *id, keys: keys.clone() }
}

fn relation() -> Relation {
    let table = TableName::new("public", "accounts");
    Relation { table, identity: Identity::Default, columns: Vec::new() }
}

fn change(key: Key, id: u32) -> Change {
    let new = vec![Value::text(key.to_le_bytes()), Value::text(id.to_le_bytes())];
    Change::Insert { relation: 0, new }
}
