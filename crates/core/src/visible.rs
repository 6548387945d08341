//! Which of a region's own commits does its own PostgreSQL not show yet?
//!
//! A commit that waits for a copy is in the WAL, and so in the log, and other regions may show it: only whoever has
//! heard from them lets it go on, and until then its own server counts it among the transactions that run. Who
//! reads here at that moment would read an older state than one who reads there.

use std::collections::{BTreeSet, VecDeque};

use thiserror::Error;

use crate::lsn::Lsn;

/// What a snapshot of PostgreSQL does not show. Transactions are known by the lower half of their numbers: those
/// that are compared lie close together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// From here on nothing is shown.
    from: u32,
    before: BTreeSet<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a snapshot: expected xmin:xmax:xip")]
pub struct NotASnapshot(String);

impl Running {
    /// Reads what `pg_current_snapshot()` says: `xmin:xmax:xip,xip`.
    pub fn read(text: &str) -> Result<Self, NotASnapshot> {
        let refuse = || NotASnapshot(text.to_owned());
        let half = |number: &str| number.parse::<u64>().map(|n| n as u32).map_err(|_| refuse());
        let mut parts = text.splitn(3, ':').skip(1);
        let (from, before) = parts.next().zip(parts.next()).ok_or_else(refuse)?;
        let before = before.split(',').filter(|xid| !xid.is_empty()).map(half);
        Ok(Self { from: half(from)?, before: before.collect::<Result<_, _>>()? })
    }

    fn shows(&self, xid: u32) -> bool {
        (xid.wrapping_sub(self.from) as i32) < 0 && !self.before.contains(&xid)
    }
}

/// Commits of a log that nobody has looked for since: no more than run at once, where somebody looks.
const CAPTURED_MAX: usize = 16_384;

/// A region's own commits, of which it is not known yet whether its PostgreSQL shows them.
#[derive(Clone, Debug, Default)]
pub struct Hidden {
    /// The last of them last.
    captured: VecDeque<(Lsn, u32)>,
}

impl Hidden {
    /// The transaction `xid` goes into the log, where `lsn` is its end.
    pub fn captured(&mut self, lsn: Lsn, xid: u32) {
        if self.captured.len() == CAPTURED_MAX {
            // So many commits ago, and few sessions can wait at once.
            self.captured.pop_front();
        }
        self.captured.push_back((lsn, xid));
    }

    /// A snapshot was taken that does not show what is `running`.
    pub fn looked(&mut self, running: &Running) {
        self.captured.retain(|(_, xid)| !running.shows(*xid));
    }

    /// Is all of the log up to `end` certainly shown?
    pub fn shows(&self, end: Lsn) -> bool {
        self.captured.iter().all(|(lsn, _)| *lsn > end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(xids: &[u32]) -> Hidden {
        let mut hidden = Hidden::default();
        let lsns = (1..).map(|n| Lsn(n * 100));
        lsns.zip(xids).for_each(|(lsn, xid)| hidden.captured(lsn, *xid));
        hidden
    }

    fn running(text: &str) -> Running {
        Running::read(text).unwrap()
    }

    #[test]
    fn what_waits_is_hidden_and_what_lies_before_it_is_not() {
        let mut hidden = hidden(&[7, 9, 8]);
        assert!(hidden.shows(Lsn(99)) && !hidden.shows(Lsn(100)), "nobody has looked");
        hidden.looked(&running("8:10:8"));
        assert!(hidden.shows(Lsn(299)), "7 and 9 are shown");
        assert!(!hidden.shows(Lsn(300)));
        hidden.looked(&running("10:10:"));
        assert!(hidden.shows(Lsn(300)));
    }

    #[test]
    fn what_is_younger_than_a_snapshot_is_hidden() {
        let mut hidden = hidden(&[7, 10]);
        hidden.looked(&running("9:10:9"));
        assert!(hidden.shows(Lsn(100)) && !hidden.shows(Lsn(200)));
    }

    #[test]
    fn numbers_go_round() {
        // xmax is 2^32 + 2.
        let mut hidden = hidden(&[u32::MAX, 1, 2, 3]);
        hidden.looked(&running("4294967295:4294967298:4294967297"));
        assert!(hidden.shows(Lsn(199)), "the last one before the turn is shown");
        assert!(!hidden.shows(Lsn(200)));
        hidden.looked(&running("4294967298:4294967298:"));
        assert!(hidden.shows(Lsn(299)));
        assert!(!hidden.shows(Lsn(300)), "2 and 3 have not begun");
    }

    #[test]
    fn what_nobody_looks_for_takes_no_room() {
        let mut hidden = Hidden::default();
        (0..100_000).for_each(|n| hidden.captured(Lsn(u64::from(n)), n));
        assert_eq!(hidden.captured.len(), CAPTURED_MAX);
        assert!(!hidden.shows(Lsn(99_999)));
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "a:b:", "1:2:3,x", "1:x:", "1:2:3:4"] {
            assert_eq!(Running::read(text), Err(NotASnapshot(text.to_owned())), "{text}");
        }
    }
}
