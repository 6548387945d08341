//! Does a holder of logs still hold all that it once held?
//!
//! What it holds of a lost region's log may be all that there is of a commit, and a seal says how much that is. In
//! another folder than before, or with damaged records set aside, it would say too little, and a failover would end
//! the lost region's history before commits that were acknowledged. So the directory knows each holder's folder by a
//! name. In another folder every copy is **short** until it was caught up with at its home, whose log holds whatever
//! it has sent; then the directory knows that folder.

use std::collections::BTreeSet;
use std::fmt;

use crate::id::{Origin, RegionId};
use crate::progress::Rpo;

/// The state in which a holder of short copies is shown.
pub const COPIES_SHORT: &str = "copies_short";

/// What a holder remembers in its folder, of that folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Copies {
    /// The directory knew this folder as the holder's.
    pub claimed: bool,
    /// The logs of which records may be lacking that were once held; `None` while that is not known.
    pub short: Option<BTreeSet<Origin>>,
}

/// The folder that the directory knows as the holder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// There was never one, or a person has said that any will do.
    None,
    This,
    Another,
}

/// What is to be done when the directory was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Before the rest is remembered, the directory shall know this folder as the holder's.
    pub claim: bool,
    pub copies: Copies,
}

/// Why a seal is not promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// The region of whose log records may be lacking.
    pub of: RegionId,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of } = self;
        write!(
            f,
            "{COPIES_SHORT}: it may lack records of region {of} that it held before its folder was lost or damaged: \
             they come from {of} alone, or somebody says that they are given up (domicile region accept)"
        )
    }
}

impl std::error::Error for Short {}

impl Copies {
    /// Goes by what the directory says. `others` are the logs that are followed here now; `members` are the
    /// regions whose logs count, `None` while they are not known.
    pub fn judge(
        &self,
        named: Named,
        others: impl FnOnce() -> BTreeSet<Origin>,
        members: Option<&BTreeSet<RegionId>>,
    ) -> Judged {
        let mut copies = self.clone();
        let claim = match named {
            Named::None => {
                copies = Self { claimed: true, short: Some(BTreeSet::new()) };
                true
            }
            Named::This => {
                copies = Self { claimed: true, short: Some(copies.short.unwrap_or_default()) };
                false
            }
            // One that was the holder's once stayed away from what another has taken in since.
            Named::Another if self.claimed || self.short.is_none() => {
                copies = Self { claimed: false, short: Some(others()) };
                false
            }
            Named::Another => {
                copies.claimed = self.lacking(members).is_some_and(|lacking| lacking.is_empty());
                copies.claimed
            }
        };
        Judged { claim, copies }
    }

    /// The short copies of members' logs; `None` while that is not known.
    pub fn lacking(&self, members: Option<&BTreeSet<RegionId>>) -> Option<BTreeSet<Origin>> {
        let (short, members) = (self.short.as_ref()?, members?);
        Some(short.iter().filter(|origin| members.contains(&origin.region)).cloned().collect())
    }

    /// May it be promised to take nothing more of `region`, and told what is held of it?
    ///
    /// Where commits wait for no copy, none was promised, and what is not held is lost as a region's unshipped
    /// records are: reported with the failover.
    pub fn may_seal(&self, rpo: Rpo, region: &RegionId) -> Result<(), Short> {
        let whole = |short: &BTreeSet<Origin>| short.iter().all(|origin| origin.region != *region);
        if rpo == Rpo::None || self.short.as_ref().is_some_and(whole) {
            return Ok(());
        }
        Err(Short { of: region.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(names: &[&str]) -> BTreeSet<Origin> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn regions(names: &[&str]) -> BTreeSet<RegionId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    /// As after a look at the directory.
    fn look(copies: &Copies, named: Named) -> Judged {
        copies.judge(named, || origins(&["eu-1", "eu-2", "ap-1"]), Some(&regions(&["eu", "ap"])))
    }

    const ZERO: Rpo = Rpo::Zero { copies: 1 };

    #[test]
    fn the_first_folder_is_the_holder_s_and_lacks_nothing() {
        let first = look(&Copies::default(), Named::None);
        assert!(first.claim && first.copies.claimed);
        assert_eq!(first.copies.may_seal(ZERO, &"eu".parse().unwrap()), Ok(()));
        // It was claimed, and that was not remembered any more.
        assert_eq!(look(&Copies::default(), Named::This).copies, first.copies);
        assert_eq!(look(&first.copies, Named::This), Judged { claim: false, ..first });
    }

    #[test]
    fn nothing_is_sealed_before_the_folder_is_known_or_where_copies_are_short() {
        let eu = "eu".parse().unwrap();
        let unknown = Copies::default();
        assert!(unknown.may_seal(ZERO, &eu).is_err());
        let mut other = look(&unknown, Named::Another).copies;
        for caught_up in ["eu-2", "eu-1"] {
            assert!(other.may_seal(ZERO, &eu).is_err());
            assert_eq!(other.may_seal(Rpo::None, &eu), Ok(()), "nothing was promised");
            let short = other.short.as_mut().unwrap();
            assert!(short.remove(&caught_up.parse().unwrap()));
        }
        assert_eq!(other.may_seal(ZERO, &eu), Ok(()));
        assert!(other.may_seal(ZERO, &"ap".parse().unwrap()).is_err());
    }

    #[test]
    fn another_folder_becomes_the_holder_s_once_it_lacks_nothing_of_a_member() {
        let short = look(&Copies::default(), Named::Another).copies;
        assert_eq!(look(&short, Named::Another), Judged { claim: false, copies: short.clone() });
        let (named, left) = (Named::Another, regions(&["eu"]));
        let whole = Copies { short: Some(origins(&["ap-1"])), ..short.clone() };
        let judged = whole.judge(named, || unreachable!(), Some(&left));
        assert!(judged.claim && judged.copies.claimed, "ap is no member any more");
        assert!(!whole.judge(named, || unreachable!(), None).claim, "who is a member is not known");
        // A person gives up what may be lacking.
        let accepted = look(&short, Named::None);
        assert!(accepted.claim && accepted.copies.short == Some(BTreeSet::new()));
    }

    #[test]
    fn a_folder_of_before_is_another_one() {
        let before = Copies { claimed: true, short: Some(BTreeSet::new()) };
        let judged = look(&before, Named::Another);
        assert_eq!(judged.copies.short, Some(origins(&["eu-1", "eu-2", "ap-1"])));
        assert!(!judged.claim && !judged.copies.claimed);
    }
}
