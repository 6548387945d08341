//! Who adds the canary partition to ownership that has none, and when?
//!
//! A cluster that is founded has one from the beginning. An older one gets it once every member's agent
//! knows what it is: an older Domicile takes ownership that names it for broken, and would stop.

use super::Facts;
use crate::id::RegionId;
use crate::ownership::OwnershipChange;

/// Returns what `here` is to change: the owner of the first partition adds the canary, and gets it.
pub fn due(here: &RegionId, facts: &Facts) -> Option<OwnershipChange> {
    let ownership = &facts.ownership;
    let ours = ownership.entries().first()?.owner() == Some(here);
    if ownership.has_canary() || !ours {
        return None;
    }
    let knows =
        |member| facts.regions.get(member).is_some_and(|seen| seen.reachable && seen.knows_canary);
    ownership.members().iter().all(knows).then(|| OwnershipChange::AddCanary { by: here.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PartitionId;
    use crate::progress::Rpo;
    use crate::runbook::run::tests::facts;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    #[test]
    fn a_canary_is_added_once_and_only_when_everybody_knows_what_it_is() {
        let mut facts = facts(Rpo::None);
        let due_now = |facts: &Facts| ["ap", "eu", "us"].map(|here| due(&region(here), facts));
        for seen in facts.regions.values_mut() {
            seen.knows_canary = true;
        }
        let change = OwnershipChange::AddCanary { by: region("ap") };
        assert_eq!(due_now(&facts), [Some(change.clone()), None, None], "partition 0 is ap's");
        for older in [true, false] {
            let us = facts.regions.get_mut(&region("us")).unwrap();
            (us.reachable, us.knows_canary) = (older, !older);
            assert_eq!(due_now(&facts), [None, None, None]);
            let us = facts.regions.get_mut(&region("us")).unwrap();
            (us.reachable, us.knows_canary) = (true, true);
        }
        facts.ownership = facts.ownership.apply(&change).unwrap();
        let canary = facts.ownership.entry(PartitionId::CANARY).unwrap();
        assert_eq!(canary.owner(), Some(&region("ap")));
        assert_eq!(due_now(&facts), [None, None, None]);
    }
}
