//! Could a region be lost now, and another take over what it owns?
//!
//! Asked all the time and of each region, long before one is: whoever finds out only then has an outage.

use std::collections::BTreeMap;

use super::plan::{Refusal, STALENESS_MAX, against_failover};
use super::safety::Undertaking;
use super::{Facts, Intent};
use crate::config::FailoverPolicy;
use crate::id::RegionId;
use crate::time::{Millis, Time};

/// The state in which the loss of a region could not be made up for.
pub const NOT_FAILOVER_READY: &str = "not_failover_ready";

/// How often all regions are asked about.
const EVALUATE_EVERY: Millis = Millis(60_000);
/// How often while one of them is not ready, so that it is soon told when it is.
const EVALUATE_AGAIN: Millis = Millis(5000);
/// A restart, or a load that peaks, lasts less.
const WORTH_TELLING_AFTER: Millis = Millis(600_000);

/// What would be in the way of a failover.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    #[error("{0}")]
    Refused(Refusal),
    #[error(
        "{able} of the others answer, and {needed} have to say that it is gone \
         (failover.observers)"
    )]
    TooFewObservers { able: usize, needed: usize },
    #[error(
        "{able} of the others answer, and {needed} have to seal its log, or what was acknowledged \
         could be missing"
    )]
    TooFewSeals { able: usize, needed: usize },
}

/// Returns everything that is in the way of a failover of `lost` to whichever region; nothing when one
/// is ready, or there is nothing to take over.
pub fn unready(lost: &RegionId, policy: &FailoverPolicy, facts: &Facts) -> Vec<Unready> {
    if !facts.ownership.owns_anything(lost) {
        return Vec::new();
    }
    let holders = facts.ownership.holders().filter(|holder| *holder != lost);
    let able = holders.clone().filter(|holder| facts.is_reachable(holder)).count();
    let mut found = Vec::new();
    if policy.automatic && able < policy.observers {
        found.push(Unready::TooFewObservers { able, needed: policy.observers });
    }
    let needed = match facts.rpo.copies() {
        0 => 1,
        copies => (holders.count() + 1).saturating_sub(copies),
    };
    if able < needed {
        found.push(Unready::TooFewSeals { able, needed });
    }
    // How much may be lost is another question, and has another answer each second.
    let frozen = facts.against_safety(&Undertaking::TakeOver { loss: Some(Millis(0)) });
    found.extend(frozen.into_iter().map(|why| Unready::Refused(Refusal::Safety(why))));
    let survivors = facts.ownership.members().iter().filter(|member| *member != lost);
    let refusals: Vec<Vec<Refusal>> = survivors.map(|to| against(lost, to, facts)).collect();
    if !refusals.iter().any(Vec::is_empty) {
        found.extend(refusals.into_iter().flatten().map(Unready::Refused));
    }
    found
}

/// What is against `to` as the one that takes over.
fn against(lost: &RegionId, to: &RegionId, facts: &Facts) -> Vec<Refusal> {
    let intent = Intent::Failover { from: lost.clone(), to: to.clone(), attested: true };
    let mut reasons = against_failover(&intent, facts);
    let seen = facts.regions.get(lost).and_then(|seen| seen.staleness.get(to));
    if let Some(staleness) = seen.filter(|staleness| **staleness > STALENESS_MAX) {
        let (to, owner, staleness) = (to.clone(), lost.clone(), *staleness);
        reasons.push(Refusal::TooFarBehind { to, owner, staleness });
    }
    reasons
}

/// What one agent finds, again and again. By its own clock.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    asked_at: Option<Time>,
    found: BTreeMap<RegionId, Found>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Nothing when a failover would be possible.
    pub against: Vec<Unready>,
    /// When it began not to be.
    since: Option<Time>,
}

impl Watch {
    /// Is it time to ask again?
    pub fn is_due(&self, now: Time) -> bool {
        let ready = self.found.values().all(|found| found.against.is_empty());
        let every = if ready { EVALUATE_EVERY } else { EVALUATE_AGAIN };
        self.asked_at.is_none_or(|at| now.since(at) >= every)
    }

    /// Asks about every member.
    pub fn ask(&mut self, policy: &FailoverPolicy, facts: &Facts) {
        let members = facts.ownership.members().iter();
        let found = members.map(|lost| {
            let against = unready(lost, policy, facts);
            let before = self.found.get(lost).and_then(|found| found.since);
            let since = (!against.is_empty()).then(|| before.unwrap_or(facts.now));
            (lost.clone(), Found { against, since })
        });
        self.found = found.collect();
        self.asked_at = Some(facts.now);
    }

    /// What was found last, of each member.
    pub fn found(&self) -> &BTreeMap<RegionId, Found> {
        &self.found
    }

    /// Does every member stand ready to be lost, as far as was asked?
    pub fn all_ready(&self) -> bool {
        self.asked_at.is_some() && self.found.values().all(|found| found.against.is_empty())
    }

    /// The regions whose failover has not been possible for long, with what is in the way.
    pub fn lasting(&self, now: Time) -> impl Iterator<Item = (&RegionId, &[Unready])> {
        let lasts = move |found: &Found| {
            found.since.is_some_and(|since| now.since(since) >= WORTH_TELLING_AFTER)
        };
        let lasting = self.found.iter().filter(move |(_, found)| lasts(found));
        lasting.map(|(lost, found)| (lost, found.against.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Rpo;
    use crate::runbook::run::tests::{facts, lose_eu};
    use crate::runbook::safety::{Freeze, Frozen};

    const POLICY: FailoverPolicy =
        FailoverPolicy { automatic: true, observers: 2, suspect_after: Millis(2000) };

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn told(lost: &str, facts: &Facts) -> Vec<String> {
        unready(&region(lost), &POLICY, facts).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_region_is_ready_to_be_lost_while_one_could_take_over_whoever_is_silent() {
        let mut facts = facts(Rpo::Zero { copies: 1 });
        for lost in ["ap", "eu", "us"] {
            assert!(told(lost, &facts).is_empty(), "{lost}");
        }
        // One of two that could take over cannot: the other can.
        facts.regions.get_mut(&region("us")).unwrap().left_behind = true;
        assert!(told("eu", &facts).is_empty());
        facts.regions.get_mut(&region("ap")).unwrap().lease_over_at = Some(Time(0));
        let expected = [
            "region \"ap\" holds no live lease, so it could not write what it is given",
            "region \"us\" lacks records that are gone, it has to be seeded again first",
        ];
        assert_eq!(told("eu", &facts), expected);
        // The reason of the reason is told.
        facts.regions.get_mut(&region("ap")).unwrap().cannot_write = true;
        assert!(
            told("eu", &facts)[0].starts_with("region \"ap\" could not write what it is given")
        );
    }

    #[test]
    fn a_second_loss_is_none_that_could_be_made_up_for_and_each_reason_is_told() {
        let mut facts = facts(Rpo::Zero { copies: 1 });
        lose_eu(&mut facts);
        assert!(told("eu", &facts).is_empty(), "it is being lost, and others take over");
        assert_eq!(
            told("ap", &facts),
            [
                "1 of the others answer, and 2 have to say that it is gone (failover.observers)",
                "1 of the others answer, and 2 have to seal its log, or what was acknowledged \
                 could be missing",
            ]
        );
        facts.rpo = Rpo::None;
        let by_hand = FailoverPolicy { automatic: false, ..POLICY };
        assert_eq!(unready(&region("ap"), &by_hand, &facts), [], "us takes over when told so");
        facts.regions.get_mut(&region("us")).unwrap().reachable = false;
        assert_eq!(unready(&region("ap"), &by_hand, &facts).len(), 3, "a seal, and both of them");
    }

    #[test]
    fn a_witness_observes_and_seals_where_a_second_region_is_silent() {
        let mut facts = facts(Rpo::Zero { copies: 1 });
        facts.regions.get_mut(&region("us")).unwrap().reachable = false;
        assert_eq!(told("eu", &facts).len(), 2);
        let members = ["eu", "ap"].map(region);
        facts.ownership =
            crate::ownership::Ownership::initial(9, &members).with_witnesses([region("metro")]);
        facts.witnesses.insert(region("metro"), Default::default());
        assert_eq!(told("eu", &facts).len(), 2, "it does not answer either");
        facts.witnesses.get_mut(&region("metro")).unwrap().reachable = true;
        assert!(told("eu", &facts).is_empty(), "{:?}", told("eu", &facts));
    }

    #[test]
    fn nobody_takes_over_while_all_is_frozen() {
        let mut facts = facts(Rpo::Zero { copies: 1 });
        for (of, reasons) in [(Frozen::Planned, 0), (Frozen::All, 1)] {
            let (by, reason) = ("ada".to_owned(), "the sale".to_owned());
            facts.safety.policy.freeze = Some(Freeze { of, by, reason });
            assert_eq!(told("eu", &facts).len(), reasons, "{:?}", told("eu", &facts));
        }
    }

    #[test]
    fn a_region_that_is_far_behind_could_not_take_over_at_once() {
        let mut facts = facts(Rpo::None);
        let eu = facts.regions.get_mut(&region("eu")).unwrap();
        for to in ["ap", "us"] {
            eu.staleness.insert(region(to), Millis(STALENESS_MAX.0 + 1));
        }
        assert_eq!(told("eu", &facts).len(), 2, "{:?}", told("eu", &facts));
        let eu = facts.regions.get_mut(&region("eu")).unwrap();
        eu.staleness.insert(region("us"), STALENESS_MAX);
        assert!(told("eu", &facts).is_empty());
    }

    #[test]
    fn what_owns_nothing_is_missed_by_nobody() {
        let mut facts = facts(Rpo::None);
        for seen in facts.regions.values_mut() {
            seen.reachable = false;
        }
        let owners = ["eu", "us"].map(region);
        facts.ownership =
            crate::ownership::Ownership::initial(9, &owners).with_members([region("ap")]);
        assert!(told("ap", &facts).is_empty() && !told("eu", &facts).is_empty());
    }

    #[test]
    fn what_lasts_is_told_and_what_is_over_is_seen_soon() {
        let (mut facts, mut watch) = (facts(Rpo::Zero { copies: 1 }), Watch::default());
        let mut at = |now: u64, ready: bool, watch: &mut Watch| {
            facts.now = Time(now);
            facts.regions.get_mut(&region("us")).unwrap().reachable = ready;
            facts.regions.values_mut().for_each(|seen| seen.lease_over_at = Some(Time(u64::MAX)));
            watch.ask(&POLICY, &facts);
            watch.lasting(Time(now)).map(|(lost, _)| lost.to_string()).collect::<Vec<_>>()
        };
        assert!(watch.is_due(Time(0)) && !watch.all_ready(), "nobody has asked yet");
        assert!(at(1000, true, &mut watch).is_empty());
        assert!(watch.all_ready() && !watch.is_due(Time(60_999)) && watch.is_due(Time(61_000)));
        assert!(at(61_000, false, &mut watch).is_empty());
        assert!(!watch.all_ready() && !watch.is_due(Time(65_999)) && watch.is_due(Time(66_000)));
        assert!(at(660_999, false, &mut watch).is_empty());
        assert_eq!(at(661_000, false, &mut watch), ["ap", "eu"]);
        assert!(at(666_000, true, &mut watch).is_empty());
        assert!(at(671_000, false, &mut watch).is_empty(), "it begins to count anew");
    }
}
