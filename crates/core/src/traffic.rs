//! Where are clients led that ask by name, and how often is one of them answered?
//!
//! The answer is what the directory has committed: who owns something takes clients. What is seen of a
//! region may only take it out of the answer, never put another in. Were it the other way round, a name
//! server that is cut off would lead clients to a region that owns nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::id::RegionId;
use crate::ownership::Ownership;
use crate::time::Time;

/// Returns the regions that clients are led to: those that own something, are not known to be down and are
/// not drained.
///
/// Where there is none of these a drained one serves them still. When all are down, or nobody owns anything
/// for a moment, there is nothing better than the last word of the directory: all owners, or all members.
pub fn led_to(
    ownership: &Ownership,
    down: &BTreeSet<RegionId>,
    drained: &BTreeSet<RegionId>,
) -> Vec<RegionId> {
    let members: Vec<RegionId> = ownership.members().iter().cloned().collect();
    let mut owners = members.clone();
    owners.retain(|region| ownership.owns_data(region));
    let mut up = owners.clone();
    up.retain(|region| !down.contains(region));
    let mut open = up.clone();
    open.retain(|region| !drained.contains(region));
    [open, up, owners, members].into_iter().find(|regions| !regions.is_empty()).unwrap_or_default()
}

/// Returns the region among those `led_to` whose networks have all of `client`'s: the one with the smallest of
/// them, and the first of equals.
pub fn nearest<'a>(
    led_to: &[RegionId],
    networks: impl Iterator<Item = (&'a RegionId, IpNet)>,
    client: IpNet,
) -> Option<RegionId> {
    let of = networks.filter(|(region, network)| {
        led_to.contains(region) && network.contains(&client.trunc()) && network.prefix_len() > 0
    });
    let mut best: Option<(&RegionId, u8)> = None;
    for (region, network) in of {
        if best.is_none_or(|(_, prefix)| network.prefix_len() > prefix) {
            best = Some((region, network.prefix_len()));
        }
    }
    best.map(|(region, _)| region.clone())
}

/// Returns one of the regions `led_to`. Of many `lot`s, spread evenly over all numbers, each region gets as large a
/// part as its weight; one without a weight weighs what the others do on average.
pub fn drawn(
    led_to: &[RegionId],
    weight: impl Fn(&RegionId) -> Option<u64>,
    lot: u64,
) -> Option<RegionId> {
    let known: Vec<u64> = led_to.iter().filter_map(&weight).map(|w| w.min(WEIGHT_MAX)).collect();
    let average = (known.iter().sum::<u64>() / known.len().max(1) as u64).max(1);
    let weigh = |region| weight(region).map_or(average, |w| w.min(WEIGHT_MAX));
    let total: u64 = led_to.iter().map(weigh).sum();
    let mut at = (u128::from(total) * u128::from(lot)) >> 64;
    led_to
        .iter()
        .find(|region| {
            let weight = u128::from(weigh(region));
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
        .cloned()
}

/// More makes no difference.
const WEIGHT_MAX: u64 = u32::MAX as u64;
/// Answers to one network in a second; further ones are sent on to TCP, which cannot be forged.
const PER_SECOND: u32 = 100;
/// Networks that are remembered; when there are more, all begin anew.
const NETWORKS_MAX: usize = 16_384;

/// Counts answers that went to addresses which anybody may have written onto a packet.
///
/// By network, as in "DNS Response Rate Limiting" (ISC, Technical Note 2012-1): what is beyond the rate is
/// answered truncated, with nothing in it.
#[derive(Debug, Default)]
pub struct AnswerRate {
    second: u64,
    answered: BTreeMap<IpAddr, u32>,
}

impl AnswerRate {
    /// May `client` be answered in full at `now`?
    pub fn admits(&mut self, client: IpAddr, now: Time) -> bool {
        let second = now.0 / 1000;
        if second != self.second || self.answered.len() >= NETWORKS_MAX {
            (self.second, self.answered) = (second, BTreeMap::new());
        }
        let answered = self.answered.entry(network(client)).or_default();
        *answered = answered.saturating_add(1);
        *answered <= PER_SECOND
    }
}

/// Of 24 bits, or of 56 in IPv6: whoever has one address of it has them all.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 72)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Origin, RunId};
    use crate::lsn::{Cut, Lsn};
    use crate::ownership::OwnershipChange;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn regions(names: &[&str]) -> Vec<RegionId> {
        names.iter().map(|name| region(name)).collect()
    }

    /// Where clients are led while some regions are down, and none is drained.
    fn led_past(ownership: &Ownership, down: &[&str]) -> Vec<RegionId> {
        led_to(ownership, &regions(down).into_iter().collect(), &BTreeSet::new())
    }

    /// Of three members eu and us own three partitions each.
    fn ownership() -> Ownership {
        let initial = Ownership::initial(6, &regions(&["eu", "us"]));
        initial.apply(&OwnershipChange::Join { region: region("ap") }).unwrap()
    }

    fn fence(from: &str) -> OwnershipChange {
        OwnershipChange::Fence { from: region(from), run: RunId(from.to_owned()) }
    }

    #[test]
    fn owners_that_are_not_known_to_be_down_take_clients() {
        assert_eq!(led_past(&ownership(), &[]), regions(&["eu", "us"]));
        assert_eq!(led_past(&ownership(), &["eu", "ap"]), regions(&["us"]));
    }

    #[test]
    fn who_sees_nobody_answers_as_the_directory_does() {
        assert_eq!(led_past(&ownership(), &["eu", "us", "ap"]), regions(&["eu", "us"]));
        let fenced =
            ["eu", "us"].iter().fold(ownership(), |now, lost| now.apply(&fence(lost)).unwrap());
        assert_eq!(led_past(&fenced, &["eu"]), regions(&["ap", "eu", "us"]));
    }

    #[test]
    fn a_drained_region_is_left_out_as_long_as_another_one_is_up() {
        let led = |down: &[&str], drained: &[&str]| {
            let [down, drained] = [down, drained].map(|names| regions(names).into_iter().collect());
            led_to(&ownership(), &down, &drained)
        };
        assert_eq!(led(&[], &["eu"]), regions(&["us"]));
        assert_eq!(led(&["us"], &["eu"]), regions(&["eu"]), "rather than one that is down");
        assert_eq!(led(&[], &["eu", "us"]), regions(&["eu", "us"]));
    }

    #[test]
    fn nobody_is_promoted_before_the_directory_says_so() {
        let run = || RunId("eu".to_owned());
        let fenced = ownership().apply(&fence("eu")).unwrap();
        assert_eq!(led_past(&fenced, &["eu"]), regions(&["us"]));
        let cut = Cut { origin: Origin::new(region("eu"), 1), lsn: Lsn(10) };
        let cut = fenced.apply(&OwnershipChange::Cut { run: run(), cut }).unwrap();
        let granted = cut.apply(&OwnershipChange::Grant { run: run(), to: region("ap") }).unwrap();
        assert_eq!(led_past(&granted, &["eu"]), regions(&["ap", "us"]));
    }

    #[test]
    fn clients_are_led_to_the_region_of_the_smallest_network_that_takes_any() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let (eu, us, ap) = (region("eu"), region("us"), region("ap"));
        let networks = [
            (&eu, net("10.0.0.0/8")),
            (&us, net("10.1.0.0/16")),
            (&ap, net("0.0.0.0/0")),
            (&us, net("2001:db8::/32")),
        ];
        let near = |led_to: &[&str], client: &str| {
            let found = nearest(&regions(led_to), networks.iter().copied(), net(client));
            found.map(|region| region.to_string())
        };
        let all = ["ap", "eu", "us"];
        assert_eq!(near(&all, "10.1.2.0/24").as_deref(), Some("us"));
        assert_eq!(near(&all, "10.0.0.0/12").as_deref(), Some("eu"), "not all of it is us's");
        assert_eq!(near(&["ap", "eu"], "10.1.2.3/32").as_deref(), Some("eu"), "us takes nobody");
        assert_eq!(near(&all, "192.0.2.0/24"), None, "who is near to everybody is near to nobody");
        assert_eq!(near(&all, "2001:db8:1::/48").as_deref(), Some("us"));
    }

    #[test]
    fn many_answers_are_dealt_out_by_weight() {
        let led_to = regions(&["ap", "eu", "us"]);
        let dealt = |weights: [Option<u64>; 3]| {
            let weight = |of: &RegionId| {
                let at = led_to.iter().position(|region| region == of).unwrap();
                weights[at]
            };
            let mut counts = [0; 3];
            for i in 0..6000_u64 {
                let found = drawn(&led_to, weight, i.wrapping_mul(u64::MAX / 6000)).unwrap();
                counts[led_to.iter().position(|region| *region == found).unwrap()] += 1;
            }
            counts.map(|count: i32| (count + 5) / 10)
        };
        assert_eq!(dealt([None, None, None]), [200, 200, 200]);
        assert_eq!(dealt([Some(1000), Some(2000), Some(3000)]), [100, 200, 300]);
        assert_eq!(dealt([Some(1000), None, Some(3000)]), [100, 200, 300]);
        assert_eq!(dealt([Some(u64::MAX), Some(u64::MAX), Some(u64::MAX)]), [200, 200, 200]);
        assert_eq!(drawn(&[], |_| None, 7), None);
        assert_eq!(drawn(&led_to, |_| None, u64::MAX), Some(region("us")));
    }

    #[test]
    fn a_network_gets_so_many_answers_a_second_and_others_get_theirs() {
        let mut rate = AnswerRate::default();
        let ours: Vec<IpAddr> = (1..=4).map(|host| Ipv4Addr::new(10, 0, 0, host).into()).collect();
        let admitted = |rate: &mut AnswerRate, now| {
            let asked = ours.iter().cycle().take(1000);
            asked.filter(|client| rate.admits(**client, Time(now))).count()
        };
        assert_eq!(admitted(&mut rate, 1000), 100);
        assert_eq!(admitted(&mut rate, 1999), 0);
        assert!(rate.admits(Ipv4Addr::new(10, 0, 1, 1).into(), Time(1999)));
        let mapped: Ipv6Addr = Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped();
        assert!(!rate.admits(mapped.into(), Time(1999)), "it is the same network");
        assert_eq!(admitted(&mut rate, 2000), 100);
    }

    #[test]
    fn forged_addresses_take_no_more_memory_than_is_there_for_them() {
        let mut rate = AnswerRate::default();
        for network in 0..100_000_u32 {
            rate.admits(Ipv4Addr::from_bits(network << 8).into(), Time(0));
            assert!(rate.answered.len() <= NETWORKS_MAX);
        }
    }
}
