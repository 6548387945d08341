//! Which record of another origin may be shown here next?
//!
//! The next one of its log, once this region's tables cover what its origin had seen. Rows and
//! progress are one transaction, with an asynchronous commit: a crash loses both or none.

use domicile_core::history::{Admission, admit};
use domicile_core::lsn::Lsn;

use super::{Agent, Context, Host};
use crate::disk::Log;
use crate::postgres::EntryKind;
use crate::setup::Setup;

/// Transactions applied before the agent looks at anything else.
const APPLY_AT_ONCE_MAX: usize = 32;

impl Agent {
    pub(super) fn apply(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        // A repair compares two regions' progress: ours stands still meanwhile.
        if !self.settled() || self.repair.is_some() {
            return;
        }
        for _ in 0..APPLY_AT_ONCE_MAX {
            let mut moved = false;
            let here = host.index;
            for origin in (0..cx.setup.count()).filter(|o| *o != here) {
                moved |= self.apply_next(host, cx, origin);
            }
            if !moved {
                return;
            }
        }
    }

    fn apply_next(&self, host: &mut Host, cx: &mut Context<'_>, origin: usize) -> bool {
        let Some(ownership) = self.ownership() else { return false };
        let applied = host.postgres.tables.applied[origin];
        let log = &host.disk.logs[origin];
        let (record, upto) = match log.after(applied).next() {
            Some(record) => (Some(record.clone()), record.transaction.lsn),
            None if log.flushed > applied => (None, log.flushed),
            None => return false,
        };
        if let Some(record) = &record {
            let transaction = &record.transaction;
            let name = &cx.setup.origins[origin];
            if admit(ownership, name, transaction, |_| true) != Admission::Admit {
                return false;
            }
            let here = cx.setup.frontier(&covered(host));
            if here.missing(&transaction.needs, &host.id).is_some() {
                return false;
            }
        }
        let shown = &host.postgres.tables.applied;
        cx.oracle.applied(host.index, origin, shown, upto, record.as_deref());
        host.postgres.write(EntryKind::Apply { origin, record, upto });
        true
    }

    /// What the next record of `origin` waits for; for the report of a world that never rests.
    pub fn apply_waits(&self, host: &Host, setup: &Setup, origin: usize) -> String {
        let applied = &host.postgres.tables.applied;
        let next = host.disk.logs[origin].after(applied[origin]).next();
        let (Some(record), Some(ownership)) = (next, self.ownership()) else {
            return "no record".into();
        };
        let transaction = &record.transaction;
        let admission = admit(ownership, &setup.origins[origin], transaction, |_| true);
        let missing = setup.frontier(&covered(host)).missing(&transaction.needs, &host.id);
        format!("record {} at {}: {admission:?}, lacks {missing:?}", record.id, transaction.lsn)
    }
}

/// How far this region shows each origin's history.
///
/// Nothing of it lies between what is applied and the next record of the log. That matters when
/// a cause was diverted later: its position is then in no log, and whoever waited for a record
/// there would wait for ever.
fn covered(host: &Host) -> Vec<Lsn> {
    let next = |(log, applied): (&Log, &Lsn)| match log.after(*applied).next() {
        Some(record) => Lsn(record.transaction.lsn.0 - 1),
        None => log.flushed.max(*applied),
    };
    host.disk.logs.iter().zip(&host.postgres.tables.applied).map(next).collect()
}
