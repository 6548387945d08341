//! Does a holder of logs still hold all that it once held?
//!
//! What it holds of a lost region's log may be all that there is of a commit, and a seal says how much that is. In
//! another folder than before, or with damaged records set aside, it would say too little, and a failover would end
//! the lost region's history before commits that were acknowledged. So the directory knows each holder's folder by a
//! name. In another folder every copy is **short** until it was caught up with at its home, whose log holds whatever
//! it has sent. Nor does the holder know there what it has sealed before.

use std::collections::BTreeSet;
use std::fmt;

use crate::id::{Origin, RegionId};
use crate::lsn::Lsn;
use crate::ownership::Ownership;
use crate::progress::Rpo;

/// The state in which a holder of short copies is shown.
pub const COPIES_SHORT: &str = "copies_short";

/// What a holder knows of its folder. All but `asked` outlives its agent, in that folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Copies {
    /// The directory has said whose folder this is since the agent began.
    pub asked: bool,
    /// It has said once that it is the holder's.
    pub claimed: bool,
    /// The logs of which records may be lacking that were once held.
    pub short: BTreeSet<Origin>,
    /// The regions that are not told how far their logs are held here. A seal that was promised in the folder
    /// before is forgotten, and what it forbids must not be acknowledged: that is over once the cut is known.
    pub silent_to: BTreeSet<RegionId>,
}

/// The folder that the directory knows as the holder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// There was never one, or a person has said that any will do.
    None,
    This,
    Another,
}

/// Why a seal is not promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSealed {
    /// The directory has not said yet whose folder this is.
    NotAsked,
    /// Records of this region's log may be lacking.
    Short(RegionId),
}

impl fmt::Display for NotSealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("the directory has not told it yet whose folder it has"),
            Self::Short(of) => write!(
                f,
                "{COPIES_SHORT}: it may lack records of region {of} that it held before its folder was lost or \
                 damaged: they come from {of} alone, or somebody says that they are given up (domicile region accept)"
            ),
        }
    }
}

impl std::error::Error for NotSealed {}

impl Copies {
    /// Goes by what the directory says. `others` are the logs that are followed here now; `ownership` is what
    /// the directory says now, where that is known.
    ///
    /// What this returns is to be remembered; then the directory is to be told where it names another folder
    /// than this one.
    pub fn judge(
        &self,
        named: Named,
        others: impl FnOnce() -> BTreeSet<Origin>,
        ownership: Option<&Ownership>,
    ) -> Self {
        let mut copies = self.clone();
        match named {
            // Damage that was found before is damage still.
            Named::None if !self.claimed => {}
            Named::None => copies.short.clear(),
            Named::This => (copies.asked, copies.claimed) = (true, true),
            // Also one that was the holder's once, and does not know what another has taken in since.
            Named::Another => {
                copies.claimed = false;
                copies.short.extend(others());
                copies.silent_to.extend(copies.short.iter().map(|origin| origin.region.clone()));
            }
        }
        if let Some(ownership) = ownership {
            copies.silent_to.retain(|region| ownership.awaits_cut(region));
        }
        copies
    }

    /// The copy of `origin` has had all that its home holds, which ends at `home_end`; tables here show it up to
    /// `shown`. A home that holds less than that has lost something itself, and its word does not count.
    ///
    /// What was written before that incarnation was compared everywhere when it began, and nobody waits for its
    /// records.
    pub fn caught_up(&mut self, origin: &Origin, home_end: Lsn, shown: Lsn) {
        if home_end < shown {
            return;
        }
        let lacks = |short: &Origin| {
            short.region != origin.region || short.incarnation > origin.incarnation
        };
        self.short.retain(lacks);
    }

    /// The short copies of logs that count.
    pub fn lacking(&self, members: &BTreeSet<RegionId>) -> BTreeSet<Origin> {
        let short = self.short.iter().filter(|origin| members.contains(&origin.region));
        short.cloned().collect()
    }

    /// May it be promised to take nothing more of `region`, and told what is held of it?
    ///
    /// Where commits wait for no copy, none was promised, and what is not held is lost as a region's unshipped
    /// records are: reported with the failover.
    pub fn may_seal(&self, rpo: Rpo, region: &RegionId) -> Result<(), NotSealed> {
        if rpo == Rpo::None {
            return Ok(());
        }
        if !self.asked {
            return Err(NotSealed::NotAsked);
        }
        match self.short.iter().any(|origin| origin.region == *region) {
            true => Err(NotSealed::Short(region.clone())),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RunId;
    use crate::ownership::OwnershipChange;

    const ZERO: Rpo = Rpo::Zero { copies: 1 };

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn origin(name: &str) -> Origin {
        name.parse().unwrap()
    }

    fn others() -> BTreeSet<Origin> {
        ["eu-1", "eu-2", "ap-1"].map(origin).into()
    }

    /// Looks at the directory until that names this folder.
    fn look(copies: &Copies, named: Named) -> Copies {
        let ownership = Ownership::initial(1, &[region("eu"), region("ap")]);
        let copies = copies.judge(named, others, Some(&ownership));
        copies.judge(Named::This, || unreachable!(), Some(&ownership))
    }

    #[test]
    fn the_first_folder_is_the_holder_s_and_lacks_what_was_damaged() {
        let eu = region("eu");
        assert_eq!(Copies::default().may_seal(ZERO, &eu), Err(NotSealed::NotAsked));
        assert_eq!(look(&Copies::default(), Named::None).may_seal(ZERO, &eu), Ok(()));
        let damaged = Copies { short: [origin("eu-1")].into(), ..Copies::default() };
        for named in [Named::None, Named::This] {
            assert_eq!(
                look(&damaged, named).may_seal(ZERO, &eu),
                Err(NotSealed::Short(eu.clone()))
            );
        }
        // A person gives it up.
        let told = look(&damaged, Named::None);
        assert_eq!(look(&told, Named::None).may_seal(ZERO, &eu), Ok(()));
    }

    #[test]
    fn in_another_folder_nothing_is_sealed_before_it_was_had_again() {
        let (eu, ap) = (region("eu"), region("ap"));
        let before = look(&Copies::default(), Named::None);
        // One that comes back knows nothing of what another has taken in.
        for mut copies in [look(&Copies::default(), Named::Another), look(&before, Named::Another)]
        {
            assert_eq!(copies.short, others());
            copies.caught_up(&origin("eu-1"), Lsn(9), Lsn(9));
            assert_eq!(copies.may_seal(ZERO, &eu), Err(NotSealed::Short(eu.clone())));
            assert_eq!(copies.may_seal(Rpo::None, &eu), Ok(()), "nothing was promised");
            copies.caught_up(&origin("eu-2"), Lsn(8), Lsn(9));
            assert!(copies.may_seal(ZERO, &eu).is_err(), "its home has lost what is shown here");
            copies.caught_up(&origin("eu-2"), Lsn(9), Lsn(9));
            assert_eq!(copies.may_seal(ZERO, &eu), Ok(()));
            assert_eq!(copies.may_seal(ZERO, &ap), Err(NotSealed::Short(ap.clone())));
            assert_eq!(copies.lacking(&[eu.clone()].into()), BTreeSet::new());
        }
    }

    #[test]
    fn the_newest_incarnation_counts_for_those_before() {
        let mut copies = look(&Copies::default(), Named::Another);
        copies.caught_up(&origin("eu-2"), Lsn(9), Lsn(9));
        assert_eq!(copies.short, [origin("ap-1")].into());
    }

    #[test]
    fn whoever_is_sealed_is_told_nothing_in_another_folder_before_the_cut_is_known() {
        let regions = [region("eu"), region("ap")];
        let owned = Ownership::initial(1, &regions[..1]).with_members(regions.clone());
        let (from, run) = (region("eu"), RunId("1".into()));
        let fence = OwnershipChange::Fence { from, run };
        let fenced = owned.apply(&fence).unwrap();
        let copies = Copies::default().judge(Named::Another, others, Some(&fenced));
        assert_eq!(copies.silent_to, [region("eu")].into());
        let still = copies.judge(Named::This, || unreachable!(), Some(&fenced));
        assert_eq!(still.silent_to, [region("eu")].into());
        let over = still.judge(Named::This, || unreachable!(), Some(&owned));
        assert!(over.silent_to.is_empty());
    }
}
