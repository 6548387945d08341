//! What lies between the regions, and how is it cut?
//!
//! One relay for each ordered pair and purpose, so that a link may be cut one way only and peers
//! may be cut off while gateways still see each other. The directory is a fourth place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::error::RegionsError;
use crate::lab::relay::{Relay, RelayControl};

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// `from` reads the replication log of `to`, seals, asks for its status.
    Peer,
    /// The gateway of `from` sends statements to the gateway of `to`.
    Gateway,
    /// The door of `from` sends requests of HTTP to the door of `to`.
    Http,
    /// The agent of `from` reaches the directory; `to` is empty.
    Directory,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    from: String,
    to: String,
    purpose: Purpose,
}

/// All relays of the lab.
#[derive(Debug, Default)]
pub struct Links(BTreeMap<Link, Relay>);

impl Links {
    /// Starts one relay and returns where `from` finds it.
    pub(super) async fn add(
        &mut self,
        from: &str,
        to: &str,
        purpose: Purpose,
        target: SocketAddr,
        one_way: Duration,
    ) -> Result<SocketAddr, RegionsError> {
        let relay = Relay::start(target).await.map_err(RegionsError::Relay)?;
        relay.control().set_delay(one_way);
        let address = relay.address();
        let link = Link { from: from.to_owned(), to: to.to_owned(), purpose };
        self.0.insert(link, relay);
        Ok(address)
    }

    pub(super) fn address(&self, from: &str, to: &str, purpose: Purpose) -> Option<SocketAddr> {
        let link = Link { from: from.to_owned(), to: to.to_owned(), purpose };
        self.0.get(&link).map(Relay::address)
    }

    /// Cuts everything between two regions, both ways.
    pub fn cut(&self, one: &str, other: &str) {
        self.between(one, other).for_each(RelayControl::cut);
    }

    pub fn heal(&self, one: &str, other: &str) {
        self.between(one, other).for_each(RelayControl::heal);
    }

    /// Cuts a region off from all others and from the directory.
    pub fn isolate(&self, region: &str) {
        self.of(region).for_each(RelayControl::cut);
    }

    pub fn rejoin(&self, region: &str) {
        self.of(region).for_each(RelayControl::heal);
    }

    /// Keeps every other region from reading this one's replication log; gateways still reach it.
    pub fn stop_shipping(&self, region: &str) {
        self.shipping(region).for_each(RelayControl::cut);
    }

    pub fn resume_shipping(&self, region: &str) {
        self.shipping(region).for_each(RelayControl::heal);
    }

    /// Keeps a region from reading the others' replication logs; they go on reading its own.
    pub fn stop_reading(&self, region: &str) {
        self.reading(region).for_each(RelayControl::cut);
    }

    pub fn resume_reading(&self, region: &str) {
        self.reading(region).for_each(RelayControl::heal);
    }

    /// Cuts a region's agent off from the directory only.
    pub fn cut_directory(&self, region: &str) {
        self.to_directory(region).for_each(RelayControl::cut);
    }

    pub fn heal_directory(&self, region: &str) {
        self.to_directory(region).for_each(RelayControl::heal);
    }

    /// Sets the delay of all links between regions, one way.
    pub fn set_delay(&self, one_way: Duration) {
        self.where_link(|link| link.purpose != Purpose::Directory)
            .for_each(|control| control.set_delay(one_way));
    }

    /// Limits all links between regions, each way.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        self.where_link(|link| link.purpose != Purpose::Directory)
            .for_each(|control| control.set_bandwidth(bytes_per_second));
    }

    /// Returns whether peers cannot read the log of `to` from `from`.
    pub fn is_cut(&self, from: &str, to: &str) -> bool {
        let link = Link { from: from.to_owned(), to: to.to_owned(), purpose: Purpose::Peer };
        self.0.get(&link).is_some_and(|relay| relay.control().is_cut())
    }

    fn where_link(&self, meant: impl Fn(&Link) -> bool) -> impl Iterator<Item = &RelayControl> {
        self.0.iter().filter(move |(link, _)| meant(link)).map(|(_, relay)| relay.control())
    }

    fn between(&self, one: &str, other: &str) -> impl Iterator<Item = &RelayControl> {
        self.where_link(move |link| {
            (link.from == one && link.to == other) || (link.from == other && link.to == one)
        })
    }

    fn of(&self, region: &str) -> impl Iterator<Item = &RelayControl> {
        self.where_link(move |link| link.from == region || link.to == region)
    }

    fn shipping(&self, region: &str) -> impl Iterator<Item = &RelayControl> {
        self.where_link(move |link| link.to == region && link.purpose == Purpose::Peer)
    }

    fn reading(&self, region: &str) -> impl Iterator<Item = &RelayControl> {
        self.where_link(move |link| link.from == region && link.purpose == Purpose::Peer)
    }

    fn to_directory(&self, region: &str) -> impl Iterator<Item = &RelayControl> {
        self.where_link(move |link| link.from == region && link.purpose == Purpose::Directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn three() -> Links {
        let mut links = Links::default();
        let target = SocketAddr::from(([127, 0, 0, 1], 9));
        for from in ["ap", "eu", "us"] {
            for to in ["ap", "eu", "us"].into_iter().filter(|to| *to != from) {
                for purpose in [Purpose::Peer, Purpose::Gateway] {
                    links.add(from, to, purpose, target, Duration::ZERO).await.unwrap();
                }
            }
            links.add(from, "", Purpose::Directory, target, Duration::ZERO).await.unwrap();
        }
        links
    }

    fn cut_links(links: &Links) -> usize {
        links.0.values().filter(|relay| relay.control().is_cut()).count()
    }

    #[tokio::test]
    async fn an_isolated_region_loses_every_link_and_the_directory() {
        let links = three().await;
        links.isolate("eu");
        assert_eq!(cut_links(&links), 9);
        assert!(links.is_cut("us", "eu") && links.is_cut("eu", "us") && !links.is_cut("us", "ap"));
        links.rejoin("eu");
        assert_eq!(cut_links(&links), 0);
    }

    #[tokio::test]
    async fn a_region_that_cannot_ship_still_reads_from_the_others() {
        let links = three().await;
        links.stop_shipping("eu");
        assert!(links.is_cut("us", "eu") && links.is_cut("ap", "eu"));
        assert!(!links.is_cut("eu", "us"));
        assert_eq!(cut_links(&links), 2);
    }
}
