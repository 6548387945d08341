//! Drill: take the canary, and nothing else, from a region that is well, as a fence would if it were gone.

use super::{Blocker, Effect, Facts};
use crate::id::{PartitionId, RegionId, RunId};
use crate::ownership::OwnershipChange;
use crate::runbook::Unwell;
use crate::runbook::safety::Undertaking;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceCanary {
    pub run: RunId,
    pub from: RegionId,
}

impl FenceCanary {
    pub fn explain(&self) -> String {
        format!(
            "raise the epoch of the canary partition, which region {} owns, and name no owner",
            self.from
        )
    }

    pub fn done(&self, facts: &Facts) -> bool {
        let canary = facts.ownership.entry(PartitionId::CANARY);
        facts.in_hands(&self.run) || canary.and_then(|entry| entry.owner()) != Some(&self.from)
    }

    /// A region that is gone has no need of a drill.
    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        if !facts.is_reachable(&self.from) || facts.lease_over(&self.from) {
            return Some(Blocker::Unwell { region: self.from.clone(), why: Unwell::Silent });
        }
        let violations = facts.against_safety(&Undertaking::Drill);
        (!violations.is_empty()).then_some(Blocker::AgainstSafety { violations })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        let (from, run) = (self.from.clone(), self.run.clone());
        Some(Effect::Change(OwnershipChange::FenceCanary { from, run }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Origin, PartitionRange};
    use crate::lsn::{Cut, Lsn};
    use crate::outage::Outage;
    use crate::progress::Rpo;
    use crate::runbook::plan::Refusal;
    use crate::runbook::run::next;
    use crate::runbook::run::tests::{
        facts, go_on_with, perform, play, recorded, region, run, settle,
    };
    use crate::runbook::{Intent, Next, Outcome, Plan, Recorded, Step, Wish, plan};

    const RPOS: [Rpo; 2] = [Rpo::Zero { copies: 1 }, Rpo::None];

    /// The canary is eu's; us has it for a while.
    fn planned(rpo: Rpo) -> (Facts, Plan) {
        let mut facts = facts(rpo);
        facts.ownership = facts.ownership.with_canary(region("eu"));
        let intent = Intent::ForcedDrill { from: region("eu"), to: region("us") };
        let plan = plan(&run(), &intent, &facts).unwrap();
        (facts, plan)
    }

    /// Owner, epoch and former owners of the canary; of nothing else is anything changed.
    fn canary(facts: &Facts) -> (String, u64, Vec<String>) {
        let data = facts.ownership.data().iter();
        assert!(data.clone().all(|entry| entry.epoch.0 == 1 && entry.owner().is_some()));
        let entry = facts.ownership.entry(PartitionId::CANARY).unwrap();
        let former = entry.closed.iter().map(|closed| closed.by.to_string());
        (entry.owner().unwrap().to_string(), entry.epoch.0, former.collect())
    }

    fn came_back() -> (String, u64, Vec<String>) {
        ("eu".into(), 3, vec!["eu".into(), "us".into()])
    }

    #[test]
    fn a_forced_drill_takes_the_canary_alone_has_its_owner_write_late_and_gives_it_back() {
        for rpo in RPOS {
            let (mut facts, plan) = planned(rpo);
            let seen = facts.regions.get_mut(&region("eu")).unwrap();
            // It hears of the fence at once.
            seen.ownership_seen = u64::MAX;
            let (story, outcome) = play(&plan, &mut facts);
            assert_eq!(outcome, Outcome::Succeeded);
            let done: Vec<&str> = story.iter().filter_map(|s| s.strip_prefix("do ")).collect();
            let expected =
                ["fence_canary", "seal", "cut", "late_write", "grant", "verify", "give_back"];
            assert_eq!(done, expected, "{story:?}");
            assert_eq!(canary(&facts), came_back());
        }
    }

    #[test]
    fn a_forced_drill_that_another_agent_continues_at_any_point_ends_the_same() {
        for stop in 0..16 {
            let (mut facts, plan) = planned(RPOS[0]);
            for _ in 0..stop {
                let started = facts.ownership.had_its_turn(&plan.run);
                match next(&plan, &recorded(started), &facts) {
                    Next::Do { effect, .. } => perform(&mut facts, effect),
                    Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &plan),
                    Next::Finished(_) => break,
                }
            }
            facts.seals.clear();
            (facts.canary_written, facts.late_write_kept_out) = (false, false);
            let started = facts.ownership.had_its_turn(&plan.run);
            let (story, outcome) = go_on_with(&plan, recorded(started), &mut facts);
            assert_eq!(outcome, Outcome::Succeeded, "after {stop}: {story:?}");
            assert_eq!(canary(&facts), came_back(), "after {stop}");
        }
    }

    #[test]
    fn one_whose_target_is_lost_or_that_is_aborted_gives_the_canary_back_at_a_new_epoch() {
        for aborted in [true, false] {
            for stop in 0..5 {
                let (mut facts, plan) = planned(RPOS[0]);
                for _ in 0..stop {
                    match next(&plan, &recorded(false), &facts) {
                        Next::Do { effect, .. } => perform(&mut facts, effect),
                        other => panic!("{other:?}"),
                    }
                    if facts.ownership.entry(PartitionId::CANARY).unwrap().owner().is_some() {
                        break;
                    }
                }
                let taken = stop > 0;
                let wish = aborted.then(|| Wish::Abort { by: "ada".into() });
                if !aborted {
                    let us = facts.regions.get_mut(&region("us")).unwrap();
                    (us.reachable, us.lease_over_at) = (false, None);
                }
                let recorded = Recorded { wish, ..recorded(taken) };
                // Without its seal nobody knows where the old owner's history ends.
                if stop < 2 && !aborted {
                    continue;
                }
                let (story, outcome) = go_on_with(&plan, recorded, &mut facts);
                let back = Outcome::CalledOff { back_to: region("eu") };
                let expected = if aborted { Outcome::Aborted } else { back };
                assert_eq!(outcome, expected, "after {stop}: {story:?}");
                let once = ("eu".into(), 2, vec!["eu".into()]);
                let never = ("eu".into(), 1, Vec::new());
                assert_eq!(canary(&facts), if taken { once } else { never }, "after {stop}");
            }
        }
    }

    #[test]
    fn one_whose_owner_is_lost_in_earnest_leaves_the_canary_with_its_target() {
        let (mut facts, plan) = planned(RPOS[0]);
        let grant = plan.steps.iter().position(|step| matches!(step, Step::Grant(_))).unwrap();
        for lost in [false, true] {
            let step = loop {
                let started = facts.ownership.had_its_turn(&plan.run);
                match next(&plan, &recorded(started), &facts) {
                    Next::Do { step, effect: Effect::WriteLate { .. } } => break step,
                    Next::Do { step, .. } if step == grant => break step,
                    Next::Do { effect, .. } => perform(&mut facts, effect),
                    Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &plan),
                    Next::Finished(outcome) => panic!("{outcome:?}"),
                }
            };
            assert_eq!(step == grant, lost);
            let eu = facts.regions.get_mut(&region("eu")).unwrap();
            eu.reachable = false;
            eu.outage = Some(Outage::Confirmed { by: vec![region("ap"), region("us")] });
        }
    }

    #[test]
    fn one_is_refused_where_it_would_be_no_drill() {
        let (mut facts, _) = planned(RPOS[0]);
        let why = |facts: &Facts, from: &str, to: &str| {
            let intent = Intent::ForcedDrill { from: region(from), to: region(to) };
            plan(&run(), &intent, facts).map(drop).unwrap_err()
        };
        assert_eq!(why(&facts, "eu", "eu"), [Refusal::SameRegion(region("eu"))]);
        assert_eq!(why(&facts, "ap", "us"), [Refusal::NotCanarys(region("ap"))]);
        let eu = facts.regions.get_mut(&region("eu")).unwrap();
        eu.repairs_pending = 3;
        let rows = Refusal::Unrepaired { to: region("eu"), rows: 3 };
        assert_eq!(why(&facts, "eu", "us"), [rows], "it could not come back");
        let eu = facts.regions.get_mut(&region("eu")).unwrap();
        (eu.repairs_pending, eu.lease_over_at) = (0, None);
        assert_eq!(why(&facts, "eu", "us"), [Refusal::NoLease(region("eu"))]);
        facts.ownership = crate::ownership::Ownership::initial(9, &[region("eu"), region("us")]);
        let none = Refusal::NoSuchPartition(PartitionRange::CANARY);
        assert_eq!(why(&facts, "eu", "us")[0], none);
    }

    #[test]
    fn one_whose_canary_others_have_moved_before_it_began_is_overruled() {
        let (mut facts, plan) = planned(RPOS[0]);
        let other = RunId("2".into());
        let (range, to) = (PartitionRange::CANARY, region("ap"));
        let change = OwnershipChange::HandOver { range, to, run: other };
        facts.ownership = facts.ownership.apply(&change).unwrap();
        // Its owner still writes it.
        let refused =
            facts.ownership.apply(&OwnershipChange::FenceCanary { from: region("eu"), run: run() });
        assert!(refused.is_err(), "what is on its way is nobody's to fence but a failover's");
        let barrier = Cut { origin: Origin::new(region("eu"), 1), lsn: Lsn(120) };
        let run = RunId("2".into());
        for change in [
            OwnershipChange::Barrier { run: run.clone(), barrier },
            OwnershipChange::Grant { run, to: region("ap") },
        ] {
            facts.ownership = facts.ownership.apply(&change).unwrap();
        }
        let ended = next(&plan, &recorded(false), &facts);
        assert_eq!(ended, Next::Finished(Outcome::Overruled));
    }
}
