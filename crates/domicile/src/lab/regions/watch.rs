//! What do the agents say of themselves, and how does one wait for it?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::error::RegionsError;
use crate::proto::StatusRequest;
use crate::proto::peer_client::PeerClient;
use crate::status::RegionStatus;
use crate::tls::{self, Credentials};

/// An agent that does not answer within this is as good as away.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);

/// What every region says, or why it says nothing.
pub type Statuses = BTreeMap<String, Result<RegionStatus, String>>;

/// Asks agents for their status, directly rather than over a link; cheap to clone.
#[derive(Clone, Debug)]
pub struct Observer {
    agents: BTreeMap<String, Channel>,
}

impl Observer {
    pub(super) fn new(
        agents: impl IntoIterator<Item = (String, SocketAddr)>,
        credentials: Option<&Arc<Credentials>>,
    ) -> Self {
        let connect = |address: SocketAddr| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            tls::channel(&endpoint.expect("an address makes a valid URI"), credentials)
        };
        let agents = agents.into_iter().map(|(name, address)| (name, connect(address))).collect();
        Self { agents }
    }

    /// Asks one region.
    ///
    /// # Panics
    ///
    /// When no region has that name.
    pub async fn status(&self, region: &str) -> Result<RegionStatus, RegionsError> {
        let channel = self.agents.get(region).expect("a region of the lab");
        let refuse = |reason: String| RegionsError::Ask { region: region.to_owned(), reason };
        let mut client = PeerClient::new(channel.clone());
        let answer = timeout(ANSWER_WAIT_MAX, client.status(StatusRequest {}))
            .await
            .map_err(|_| refuse("no answer".to_owned()))?
            .map_err(|status| refuse(status.message().to_owned()))?;
        serde_json::from_str(&answer.into_inner().json).map_err(|error| refuse(error.to_string()))
    }

    /// Asks all regions at the same time.
    pub async fn all(&self) -> Statuses {
        let ask = |region: &String| {
            let region = region.clone();
            async move {
                let status = self.status(&region).await.map_err(|error| error.to_string());
                (region, status)
            }
        };
        join_all(self.agents.keys().map(ask)).await.into_iter().collect()
    }
}

/// Returns what keeps the world from being ready, in words; nothing when it is.
pub fn unready(statuses: &Statuses, partitions: u32) -> Result<(), String> {
    let mut owned = vec![0_u32; partitions as usize];
    let mut seen = Vec::new();
    for (region, status) in statuses {
        let status = status.as_ref().map_err(Clone::clone)?;
        let refuse = |what: &str| Err(format!("region \"{region}\" {what}"));
        if !status.directory_connected {
            return refuse("does not reach the directory");
        }
        if status.witness {
            continue;
        }
        if !status.postgres_reachable {
            return refuse("does not reach its PostgreSQL");
        }
        if !status.lease_live {
            return refuse("has no live lease");
        }
        let connected = status.peers.iter().filter(|peer| peer.connected).count();
        if connected + 1 != statuses.len() {
            return refuse(&format!("has {connected} connected peers"));
        }
        for partition in partitions_of(status) {
            if let Some(owners) = owned.get_mut(partition as usize) {
                *owners += 1;
            }
        }
        seen.push(status.ownership_seen);
    }
    if seen.iter().any(|revision| *revision != seen[0]) {
        return Err("the regions do not see the same ownership yet".to_owned());
    }
    match owned.iter().position(|owners| *owners != 1) {
        Some(partition) => Err(format!("partition {partition} has {} owners", owned[partition])),
        None => Ok(()),
    }
}

/// Returns the partitions that a region says it owns.
pub fn partitions_of(status: &RegionStatus) -> impl Iterator<Item = u32> {
    status.owns.iter().flat_map(|range| {
        let (first, last) = range.partitions.split_once('-').unwrap_or_else(|| {
            let only = range.partitions.as_str();
            (only, only)
        });
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => first..last.saturating_add(1),
            _ => 0..0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{OwnedRange, PeerStatus};

    fn ready(region: &str, partitions: &str) -> (String, Result<RegionStatus, String>) {
        let status = RegionStatus {
            region: region.to_owned(),
            postgres_reachable: true,
            directory_connected: true,
            lease_live: true,
            owns: vec![OwnedRange { partitions: partitions.to_owned(), epoch: 1 }],
            ownership_seen: 4,
            peers: vec![PeerStatus { connected: true, ..Default::default() }],
            ..Default::default()
        };
        (region.to_owned(), Ok(status))
    }

    #[test]
    fn a_world_with_one_owner_for_each_partition_is_ready() {
        let statuses = Statuses::from([ready("eu", "0-2"), ready("us", "3")]);
        assert_eq!(unready(&statuses, 4), Ok(()));
        assert_eq!(unready(&statuses, 5).unwrap_err(), "partition 4 has 0 owners");
    }

    #[test]
    fn a_world_is_not_ready_while_an_agent_is_silent_or_two_own_one_partition() {
        let mut statuses = Statuses::from([ready("eu", "0-2"), ready("us", "2-3")]);
        assert_eq!(unready(&statuses, 4).unwrap_err(), "partition 2 has 2 owners");
        statuses.insert("us".to_owned(), Err("no answer".to_owned()));
        assert_eq!(unready(&statuses, 4).unwrap_err(), "no answer");
    }
}
