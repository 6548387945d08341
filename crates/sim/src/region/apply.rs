//! Which record of another origin may be shown here next?
//!
//! The next one of its log, once this region's tables cover what its origin had seen. Rows and
//! progress are one transaction, with an asynchronous commit: a crash loses both or none.

use domicile_core::history::{Admission, admit};

use super::{Agent, Context, Host};
use crate::postgres::EntryKind;

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
            let here = cx.setup.frontier(&host.postgres.tables.applied);
            if here.missing(&transaction.needs, &host.id).is_some() {
                return false;
            }
        }
        let shown = &host.postgres.tables.applied;
        cx.oracle.applied(host.index, origin, shown, upto, record.as_deref());
        host.postgres.write(EntryKind::Apply { origin, record, upto });
        true
    }
}
