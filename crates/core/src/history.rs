//! Does this transaction belong to the replicated history?
//!
//! The history is the truth, not the table: a write that is not part of it is kept in the
//! conflict journal and its rows are repaired. Three callers ask: capture before it appends to
//! its own log, a peer before it appends to its copy, and an agent that comes back after its
//! partitions were given away.

use crate::change::{Stamp, Transaction};
use crate::id::{Epoch, Origin, PartitionRange, RegionId, TableName};
use crate::lsn::{Cut, Frontier, Lsn};
use crate::ownership::{Ownership, Verdict};

/// Whether a transaction may enter the history, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    Admit,
    /// Keep it out, journal it, repair its rows.
    Divert(Reason),
    /// The ownership known here is too old, or a cut is being decided: ask again later.
    Wait,
}

/// Why a transaction is not part of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Written by an owner after the end of its epoch: an unshipped tail.
    BeyondCut(Cut),
    /// Written past the guard: rows of a guarded table without the guard's stamp.
    Unstamped,
    /// Stamped with an epoch that was never this region's.
    NeverGranted(Stamp),
}

impl Reason {
    /// All names.
    pub const SLUGS: [&str; 3] = ["beyond_cut", "unstamped", "never_granted"];

    /// The name under which the conflict journal keeps it.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::BeyondCut(_) => "beyond_cut",
            Self::Unstamped => "unstamped",
            Self::NeverGranted(_) => "never_granted",
        }
    }
}

/// Decides about one transaction of `origin`; `guarded` says whether a table has an owner.
///
/// A transaction is atomic: one stamp outside the history keeps all of it out.
pub fn admit(
    ownership: &Ownership,
    origin: &Origin,
    transaction: &Transaction,
    guarded: impl Fn(&TableName) -> bool,
) -> Admission {
    // A relation is listed only when a change speaks of it.
    let touched = || transaction.relations.iter().any(|relation| guarded(&relation.table));
    if transaction.stamps.is_empty() && touched() {
        return Admission::Divert(Reason::Unstamped);
    }
    let mut wait = false;
    for stamp in &transaction.stamps {
        match ownership.verdict(origin, transaction.lsn, *stamp) {
            Verdict::InHistory => {}
            Verdict::BeyondCut(cut) => return Admission::Divert(Reason::BeyondCut(cut)),
            Verdict::NeverGranted => return Admission::Divert(Reason::NeverGranted(*stamp)),
            Verdict::Undecided => wait = true,
        }
    }
    if wait { Admission::Wait } else { Admission::Admit }
}

/// May a transaction that needs `needs` be applied where `applied` is shown?
///
/// What was committed in this region, `own`, is shown here, but for commits that wait for a copy: a peer
/// may show them and have built on them before they show themselves where they were made. They are
/// `released` up to a place; `None` where none waits.
///
/// A cause that lies beyond the end of its origin's history will never come: its region had
/// applied a tail before it learned of the cut. It is not waited for.
pub fn covered(
    needs: &Frontier,
    applied: &Frontier,
    own: &RegionId,
    released: Option<&Cut>,
    ownership: Option<&Ownership>,
) -> bool {
    needs.iter().all(|(origin, lsn)| {
        let at = match released.filter(|released| released.origin == *origin) {
            Some(released) => released.lsn,
            None if origin.region == *own => return true,
            None => applied.get(origin),
        };
        at >= lsn || ownership.is_some_and(|known| known.ends_at(origin, at))
    })
}

/// A peer's promise to accept nothing more of some epochs. Durable and irrevocable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seal {
    /// The region whose epochs are sealed.
    pub region: RegionId,
    pub range: PartitionRange,
    /// This epoch and every older one.
    pub epoch: Epoch,
    /// What was flushed here of that region's logs when the seal was made.
    pub held: Vec<Cut>,
}

/// Why a peer refuses a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Sealed { stamp: Stamp },
    Outside(Reason),
}

/// Decides whether a peer may append a record of `origin` to its copy of that log.
///
/// What lies within a cut that is known for good is admitted even under a seal: survivors that held
/// less fetch it from the one that held most.
pub fn accept(
    seals: &[Seal],
    ownership: &Ownership,
    origin: &Origin,
    lsn: Lsn,
    stamps: &[Stamp],
) -> Result<(), Refused> {
    for stamp in stamps {
        match ownership.verdict(origin, lsn, *stamp) {
            Verdict::BeyondCut(cut) => return Err(Refused::Outside(Reason::BeyondCut(cut))),
            Verdict::NeverGranted => return Err(Refused::Outside(Reason::NeverGranted(*stamp))),
            Verdict::InHistory if ownership.is_cut(*stamp) => continue,
            Verdict::InHistory | Verdict::Undecided => {}
        }
        if seals.iter().any(|seal| seal.forbids(origin, lsn, *stamp)) {
            return Err(Refused::Sealed { stamp: *stamp });
        }
    }
    Ok(())
}

/// May a copy of a log go on where another copy goes on, whose keeper goes by the ownership at
/// revision `theirs`?
///
/// That copy leaves out what its keeper knew to lie beyond a cut, and a position is told with the
/// ownership by which it was reached. Who goes on there by an older one would tell that it holds what
/// it never saw. The origin's own log is no such copy: whose commit it leaves out, it has told.
pub fn may_go_on_from(theirs: u64, ours: u64) -> bool {
    ours >= theirs
}

impl Seal {
    fn forbids(&self, origin: &Origin, lsn: Lsn, stamp: Stamp) -> bool {
        let meant = self.region == origin.region
            && self.range.contains(stamp.partition)
            && stamp.epoch <= self.epoch;
        let held = self.held.iter().find(|h| h.origin == *origin).map_or(Lsn::ZERO, |h| h.lsn);
        meant && lsn > held
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{Change, Identity, Relation};
    use crate::id::{PartitionId, RunId};
    use crate::ownership::OwnershipChange;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn eu() -> Origin {
        Origin::new(region("eu"), 1)
    }

    fn two() -> Ownership {
        Ownership::initial(2, &[region("eu"), region("us")])
    }

    fn fenced() -> Ownership {
        two().apply(&OwnershipChange::Fence { from: region("eu"), run: RunId("1".into()) }).unwrap()
    }

    fn cut_at(lsn: u64) -> Ownership {
        let cut = Cut { origin: eu(), lsn: Lsn(lsn) };
        fenced().apply(&OwnershipChange::Cut { run: RunId("1".into()), cut }).unwrap()
    }

    fn stamp(partition: u32, epoch: u64) -> Stamp {
        Stamp { partition: PartitionId(partition), epoch: Epoch(epoch) }
    }

    fn write(lsn: u64, stamps: &[Stamp]) -> Transaction {
        Transaction {
            lsn: Lsn(lsn),
            stamps: stamps.to_vec(),
            relations: vec![Arc::new(Relation {
                table: TableName::new("public", "accounts"),
                identity: Identity::Default,
                columns: Vec::new(),
            })],
            changes: vec![Change::Insert { relation: 0, new: Vec::new() }],
            ..Transaction::default()
        }
    }

    #[test]
    fn a_write_past_the_guard_is_diverted() {
        let admission = admit(&two(), &eu(), &write(5, &[]), |_| true);
        assert_eq!(admission, Admission::Divert(Reason::Unstamped));
        assert_eq!(admit(&two(), &eu(), &write(5, &[]), |_| false), Admission::Admit);
    }

    #[test]
    fn one_stamp_outside_keeps_the_whole_transaction_out() {
        let both = write(5, &[stamp(0, 1), stamp(1, 1)]);
        assert_eq!(
            admit(&two(), &eu(), &both, |_| true),
            Admission::Divert(Reason::NeverGranted(stamp(1, 1)))
        );
    }

    #[test]
    fn a_tail_waits_for_its_cut() {
        let tail = write(5, &[stamp(0, 1)]);
        assert_eq!(admit(&fenced(), &eu(), &tail, |_| true), Admission::Wait);
        assert_eq!(admit(&cut_at(5), &eu(), &tail, |_| true), Admission::Admit);
        assert!(matches!(admit(&cut_at(4), &eu(), &tail, |_| true), Admission::Divert(_)));
    }

    fn seal(held: u64) -> Seal {
        Seal {
            region: region("eu"),
            range: PartitionRange::new(0, 0),
            epoch: Epoch(1),
            held: vec![Cut { origin: eu(), lsn: Lsn(held) }],
        }
    }

    #[test]
    fn a_sealed_peer_accepts_nothing_more_until_a_cut_allows_it() {
        let (seals, stamps) = ([seal(3)], [stamp(0, 1)]);
        let sealed = Err(Refused::Sealed { stamp: stamp(0, 1) });
        assert_eq!(
            accept(&seals, &two(), &eu(), Lsn(4), &stamps),
            sealed,
            "even before the fence is known"
        );
        assert_eq!(accept(&seals, &fenced(), &eu(), Lsn(4), &stamps), sealed);
        assert_eq!(accept(&seals, &cut_at(4), &eu(), Lsn(4), &stamps), Ok(()));
        assert!(accept(&seals, &cut_at(4), &eu(), Lsn(5), &stamps).is_err());
    }

    #[test]
    fn a_cause_beyond_the_cut_is_not_waited_for() {
        let us = region("us");
        let needs: Frontier = [(eu(), Lsn(9))].into_iter().collect();
        let applied: Frontier = [(eu(), Lsn(5))].into_iter().collect();
        let here = |known: Option<&Ownership>| covered(&needs, &applied, &us, None, known);
        assert!(!here(Some(&cut_at(7))), "there is more up to the cut");
        let granted = cut_at(5)
            .apply(&OwnershipChange::Grant { run: RunId("1".into()), to: us.clone() })
            .unwrap();
        assert!(here(Some(&granted)));
        assert!(!here(None));
    }

    #[test]
    fn ones_own_history_is_there_once_its_commits_wait_no_more() {
        let needs: Frontier = [(eu(), Lsn(9))].into_iter().collect();
        let here = |released: Option<Cut>, known: Option<&Ownership>| {
            covered(&needs, &Frontier::default(), &region("eu"), released.as_ref(), known)
        };
        let up_to = |lsn| Some(Cut { origin: eu(), lsn: Lsn(lsn) });
        assert!(here(None, None), "nothing waits");
        assert!(here(up_to(9), None));
        assert!(!here(up_to(8), None), "a peer shows it, and here it still waits");
        let granted = cut_at(5)
            .apply(&OwnershipChange::Grant { run: RunId("1".into()), to: region("us") })
            .unwrap();
        assert!(here(up_to(8), Some(&granted)), "it is beyond the cut: it stays where it is");
        let before = Cut { origin: Origin::new(region("eu"), 2), lsn: Lsn(1) };
        assert!(here(Some(before), None), "of an earlier incarnation nothing waits");
    }

    #[test]
    fn a_barrier_that_a_fence_may_overrule_opens_no_seal() {
        let (r, range) = (RunId("1".into()), PartitionRange::new(0, 0));
        let barrier = Cut { origin: eu(), lsn: Lsn(9) };
        let drained = two()
            .apply(&OwnershipChange::HandOver { range, to: region("us"), run: r.clone() })
            .and_then(|o| o.apply(&OwnershipChange::Barrier { run: r.clone(), barrier }))
            .unwrap();
        let stamps = [stamp(0, 1)];
        let sealed = Err(Refused::Sealed { stamp: stamp(0, 1) });
        assert_eq!(accept(&[seal(3)], &drained, &eu(), Lsn(4), &stamps), sealed);
        assert_eq!(accept(&[], &drained, &eu(), Lsn(4), &stamps), Ok(()));
        let granted = drained.apply(&OwnershipChange::Grant { run: r, to: region("us") }).unwrap();
        assert_eq!(accept(&[seal(3)], &granted, &eu(), Lsn(4), &stamps), Ok(()));
    }

    #[test]
    fn a_copy_goes_on_from_another_once_as_much_is_known_here() {
        assert!(may_go_on_from(7, 7));
        assert!(may_go_on_from(0, 7), "the origin's own log");
        assert!(!may_go_on_from(8, 7), "what is missing there lies beyond a cut");
    }

    #[test]
    fn a_seal_of_one_region_does_not_bind_another() {
        let us = Origin::new(region("us"), 1);
        assert_eq!(accept(&[seal(3)], &two(), &us, Lsn(4), &[stamp(1, 1)]), Ok(()));
    }
}
