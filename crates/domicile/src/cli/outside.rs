//! What can be seen of the cluster from outside: by asking the directory and every agent?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use domicile_core::config::Config;
use domicile_core::id::RegionId;
use domicile_core::opening::{NOT_OPENED, UNSETTLED};
use domicile_core::outage::{Sighting, judge};
use domicile_core::ownership::Ownership;
use domicile_core::publication::PASSED_OVER;
use domicile_core::runbook::safety::Safety;
use domicile_core::runbook::{Facts, RegionFacts, Successor, WitnessFacts};
use domicile_core::time::{Millis, Time};
use tokio::time::timeout;

use crate::directory::documents::{OWNERSHIP_KEY, RESEED_PREFIX, lift_left_behind, lift_ownership};
use crate::directory::{self};
use crate::peer;
use crate::proto::StatusRequest;
use crate::status::{LastHeard, RegionStatus, lift_frontier};
use crate::tls::Credentials;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The directory's word and every region's own.
pub struct Outside {
    pub directory: directory::Client,
    pub ownership: Ownership,
    pub ownership_revision: u64,
    /// The rules of the cluster.
    pub safety: Safety,
    /// Regions that have to be seeded again.
    pub left_behind: BTreeSet<RegionId>,
    /// Witnesses' too. `Err` says why one does not answer.
    pub statuses: BTreeMap<RegionId, Result<RegionStatus, String>>,
}

impl Outside {
    pub async fn look(config: &Config) -> anyhow::Result<Self> {
        let directory = directory::Client::open(config)?;
        let document = directory
            .get(OWNERSHIP_KEY)
            .await?
            .context("the directory has no ownership yet: no agent has started")?;
        let reseeds = directory.read(RESEED_PREFIX).await?.documents;
        let left = reseeds.iter().map(|document| Ok(lift_left_behind(&document.value)?.region));
        Ok(Self {
            left_behind: left.collect::<anyhow::Result<_>>()?,
            ownership: lift_ownership(&config.cluster, &document.value)?,
            ownership_revision: document.revision,
            safety: directory::safety::read(&directory).await?.0,
            statuses: ask_all(config).await,
            directory,
        })
    }

    /// What a plan is made of. Only durations come from other clocks: "now" is arbitrary here.
    pub fn facts(&self, config: &Config) -> Facts {
        let now = Time(1 << 40);
        let regions = config.region_ids().into_iter().map(|region| {
            let facts = self.region_facts(config, &region, now);
            (region, facts)
        });
        Facts {
            now,
            rpo: config.rpo,
            ownership: self.ownership.clone(),
            ownership_revision: self.ownership_revision,
            regions: regions.collect(),
            witnesses: config.witnesses.iter().map(|w| self.witness_facts(&w.id)).collect(),
            seals: BTreeMap::new(),
            promises_over_at: None,
            canary_written: false,
            late_write_kept_out: false,
            seed_given_up: false,
            safety: self.safety.clone(),
            overridden: None,
            approvals: Vec::new(),
            run_known_for: Millis(0),
            successor: Successor::NotBegun,
            answers: BTreeMap::new(),
            parts: BTreeMap::new(),
        }
    }

    fn witness_facts(&self, witness: &RegionId) -> (RegionId, WitnessFacts) {
        let told = self.statuses.get(witness).and_then(|s| s.as_ref().ok());
        let flushed = told.map(|status| lift_frontier(&status.flushed)).unwrap_or_default();
        (witness.clone(), WitnessFacts { reachable: told.is_some(), flushed })
    }

    fn region_facts(&self, config: &Config, region: &RegionId, now: Time) -> RegionFacts {
        let sightings: Vec<Sighting> = self.sightings(region).collect();
        let silent = sightings.iter().map(|s| s.silent_for).min().unwrap_or_default();
        let lasts = config.lease.drift.outlast(config.lease.ttl);
        let over_for = Millis(silent.0.saturating_sub(lasts.0));
        let policy = &config.failover;
        let told = self.statuses.get(region).and_then(|s| s.as_ref().ok());
        let remembered = self.last_heard(region);
        RegionFacts {
            reachable: told.is_some(),
            lease_over_at: Some(Time((now + lasts).0.saturating_sub(silent.0))),
            silent_for: silent,
            // Whoever plans goes by the same file as the agents.
            rpo: None,
            outage: Some(judge(region, &sightings, policy.suspect_after, policy.observers)),
            flushed: told.map(|s| lift_frontier(&s.flushed)).unwrap_or_default(),
            applied: told.map(|s| lift_frontier(&s.applied)).unwrap_or_default(),
            durable: told.map(|s| lift_frontier(&s.durable)).unwrap_or_default(),
            ownership_read: told.map_or(0, |s| s.ownership_read),
            left_behind: self.left_behind.contains(region),
            cannot_write: told.is_some_and(RegionStatus::cannot_write),
            cannot_apply: told.is_some_and(RegionStatus::cannot_apply),
            passed_over: told.is_some_and(|s| s.says(PASSED_OVER)),
            unsettled: told.is_some_and(|s| s.says(UNSETTLED)),
            repairs_pending: told.map_or(0, |s| s.repairs_pending),
            on_probation: self.is_on_probation(region),
            not_opened: told.is_some_and(|s| s.says(NOT_OPENED)),
            knows_canary: told.is_some_and(|s| s.owns_canary.is_some()),
            ownership_seen: told.map_or(0, |s| s.ownership_seen),
            unheard: told.is_none() && remembered.is_none(),
            exposure: told.map_or_else(
                || remembered.clone().unwrap_or_default().exposure(over_for),
                RegionStatus::exposure,
            ),
            open_writers: told.map(RegionStatus::open_writers).unwrap_or_default(),
            pace: told
                .map(RegionStatus::pace)
                .or(remembered.map(|it| it.pace()))
                .unwrap_or_default(),
            capacity: config.region(region).and_then(|region| region.capacity),
            staleness: told.map(RegionStatus::staleness).unwrap_or_default(),
            aware_of: told.map(RegionStatus::aware_of).unwrap_or_default(),
            seeding: told.and_then(RegionStatus::asked_seeding),
        }
    }

    /// What the others remember of a region, by whoever has heard it last.
    fn last_heard(&self, region: &RegionId) -> Option<LastHeard> {
        let peers = self.statuses.values().flatten().flat_map(|status| &status.peers);
        let about = peers.filter(|peer| peer.region == region.as_str());
        let heard = about.filter_map(|peer| peer.last_heard.clone());
        heard.min_by_key(|heard| heard.ago_ms)
    }

    fn is_on_probation(&self, region: &RegionId) -> bool {
        let mut peers = self.statuses.values().flatten().flat_map(|status| &status.peers);
        peers.any(|peer| peer.region == region.as_str() && peer.probation_ms > 0)
    }

    /// What the other regions have seen of `region`.
    fn sightings<'a>(&'a self, region: &'a RegionId) -> impl Iterator<Item = Sighting> + 'a {
        self.statuses.iter().filter(move |(observer, _)| *observer != region).filter_map(
            move |(observer, status)| {
                let seen =
                    status.as_ref().ok()?.peers.iter().find(|p| p.region == region.as_str())?;
                Some(Sighting {
                    observer: observer.clone(),
                    silent_for: Millis(seen.lease_silent_ms),
                    probe: seen.probed(),
                })
            },
        )
    }
}

/// The directory's word alone.
pub async fn read_ownership(config: &Config) -> anyhow::Result<Ownership> {
    let directory = directory::Client::open(config)?;
    let document = directory.get(OWNERSHIP_KEY).await?;
    let document = document.context("the directory has no ownership yet: no agent has started")?;
    lift_ownership(&config.cluster, &document.value)
}

/// Asks every agent at once.
pub async fn ask_all(config: &Config) -> BTreeMap<RegionId, Result<RegionStatus, String>> {
    let asked = config.holders().map(|(holder, address)| async move {
        (holder.clone(), ask(config, address).await.map_err(|e| format!("{e:#}")))
    });
    futures_util::future::join_all(asked).await.into_iter().collect()
}

/// Asks the agent at `address`.
pub async fn ask(config: &Config, address: &str) -> anyhow::Result<RegionStatus> {
    let mut client = peer::channel(address, Credentials::of(config)?.as_ref())?;
    let answer = timeout(ANSWER_TIMEOUT, client.status(StatusRequest {}))
        .await
        .context("the agent is silent")?
        .map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    serde_json::from_str(&answer.into_inner().json).context("read the agent's status")
}
