//! What is true now, as far as this region can see?
//!
//! Times the other regions' leases on our own clock, probes a region whose lease fell silent, and
//! asks every region how it sees things. Judges nothing: `core::outage` and `core::runbook` do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::health::{Behind, DRAINED};
use domicile_core::id::RegionId;
use domicile_core::lease::{HolderTerms, Seen};
use domicile_core::opening::{NOT_OPENED, UNSETTLED};
use domicile_core::outage::{Probe, Sighting, judge};
use domicile_core::ownership::Ownership;
use domicile_core::probation::{LossCount, Losses};
use domicile_core::publication::PASSED_OVER;
use domicile_core::retention::LeftBehind;
use domicile_core::runbook::safety::Safety;
use domicile_core::runbook::{Facts, RegionFacts, Successor, WitnessFacts};
use domicile_core::time::{Millis, Time};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Clock};
use crate::directory::View;
use crate::directory::documents::{LeaseDocument, lease_key, lift_left_behind, lift_terms};
use crate::directory::view::OwnershipView;
use crate::log::Logs;
use crate::peer;
use crate::positions::Positions;
use crate::promises::Given;
use crate::proto::{ProbeRequest, StatusRequest};
use crate::status::{LastHeard, PeerStatus, RegionStatus, lift_frontier};

/// How often every region is asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(900);

/// What this agent has seen of the others. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    shared: Arc<Shared>,
}

/// What an observer looks at.
pub struct Sources {
    pub config: Arc<Config>,
    pub region: RegionId,
    pub clock: Clock,
    pub leases: watch::Receiver<Arc<View>>,
    pub safety: watch::Receiver<Arc<Safety>>,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    /// Regions that nobody waits for any more.
    pub reseeds: watch::Receiver<Arc<View>>,
    pub logs: Logs,
    pub positions: Positions,
    pub own_status: watch::Receiver<Arc<RegionStatus>>,
    pub peers: BTreeMap<RegionId, peer::Client>,
    pub promises: Given,
}

struct Shared {
    sources: Sources,
    seen: Mutex<BTreeMap<RegionId, Remembered>>,
}

#[derive(Clone, Default)]
struct Remembered {
    lease: Option<Seen>,
    /// As the lease says.
    terms: Option<HolderTerms>,
    losses: Losses,
    /// The last answer and when it came.
    status: Option<(Time, RegionStatus)>,
    probe: Option<Probe>,
}

impl Remembered {
    /// Did it answer lately?
    fn answers(&self, now: Time) -> bool {
        let lately = Millis(3 * ANSWER_TIMEOUT.as_millis() as u64 / 2);
        self.status.as_ref().is_some_and(|(at, _)| now.since(*at) <= lately)
    }
}

impl Observer {
    pub fn new(sources: Sources) -> Self {
        Self { shared: Arc::new(Shared { sources, seen: Mutex::default() }) }
    }

    /// Keeps looking until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        for (region, client) in self.shared.sources.peers.clone() {
            tokio::spawn(self.clone().ask(region, client, shutdown.clone()));
        }
        let sources = &self.shared.sources;
        let mut leases = sources.leases.clone();
        let (mut connected, mut awake) = (false, sources.clock.now());
        // Renewals wake it far more often.
        let suspect_after = sources.config.failover.suspect_after;
        let at_least = Duration::from_millis(suspect_after.0 / 4);
        loop {
            let view = leases.borrow_and_update().clone();
            let now = sources.clock.now();
            let stood_still = Seen::stood_still(awake, now, suspect_after);
            awake = now;
            if (view.connected && !connected) || stood_still {
                self.hear_again();
            }
            connected = view.connected;
            self.note_leases(&view);
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = leases.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(at_least) => {}
            }
        }
    }

    /// After a loss of the directory every lease has its full length again: the holders could
    /// not renew either, or we could not see it. So it is after this process stood still.
    fn hear_again(&self) {
        let now = self.shared.sources.clock.now();
        for remembered in self.lock().values_mut() {
            remembered.lease = remembered.lease.map(|lease| lease.heard_again(now));
        }
    }

    fn note_leases(&self, view: &View) {
        let now = self.shared.sources.clock.now();
        let suspect_after = self.shared.sources.config.failover.suspect_after;
        let mut seen = self.lock();
        for region in &self.shared.sources.config.regions {
            if let Some((value, revision)) = view.documents.get(&lease_key(&region.id)) {
                let remembered = seen.entry(region.id.clone()).or_default();
                if remembered.lease.is_none_or(|lease| lease.revision != *revision) {
                    let document = serde_json::from_slice::<LeaseDocument>(value).ok();
                    remembered.terms =
                        document.and_then(|lease| lease.terms).as_ref().map(lift_terms);
                }
                let lease = Seen::note(remembered.lease, *revision, now);
                remembered.losses.saw(remembered.lease, lease, now, suspect_after);
                remembered.lease = Some(lease);
            }
        }
    }

    async fn ask(self, region: RegionId, mut client: peer::Client, shutdown: CancellationToken) {
        loop {
            let answer = timeout(ANSWER_TIMEOUT, client.status(StatusRequest {})).await;
            let status = answer
                .ok()
                .and_then(Result::ok)
                .and_then(|answer| serde_json::from_str(&answer.into_inner().json).ok());
            let now = self.shared.sources.clock.now();
            self.hear_promised(&region);
            if let Some(status) = status {
                self.lock().entry(region.clone()).or_default().status = Some((now, status));
            }
            if self.silent_for(&region, now) >= self.shared.sources.config.failover.suspect_after {
                let probe = self.probe(&mut client).await;
                self.lock().entry(region.clone()).or_default().probe = Some(probe);
            } else {
                self.lock().entry(region.clone()).or_default().probe = None;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
        }
    }

    /// Who has just asked us for a promise was there, whatever the directory says.
    fn hear_promised(&self, region: &RegionId) {
        let Some(at) = self.shared.sources.promises.given(region) else { return };
        let mut seen = self.lock();
        let Some(remembered) = seen.get_mut(region) else { return };
        let later = |lease: Seen| if lease.at < at { lease.heard_again(at) } else { lease };
        remembered.lease = remembered.lease.map(later);
    }

    async fn probe(&self, client: &mut peer::Client) -> Probe {
        match timeout(ANSWER_TIMEOUT, client.probe(ProbeRequest { partition: None })).await {
            Ok(Ok(answer)) if answer.get_ref().writable => Probe::Written,
            Ok(Ok(_)) => Probe::Refused,
            Ok(Err(_)) | Err(_) => Probe::Unreachable,
        }
    }

    /// How long no renewal of the region's lease was seen; zero while the directory is not heard,
    /// because then nothing can be said.
    pub fn silent_for(&self, region: &RegionId, now: Time) -> Millis {
        if !self.shared.sources.leases.borrow().connected {
            return Millis(0);
        }
        let seen = self.lock();
        let lease = seen.get(region).and_then(|r| r.lease);
        lease.map_or(Millis(u64::MAX), |lease| lease.silent_for(now))
    }

    /// What a run needs to know, gathered now. `None` until the directory was read.
    pub fn facts(&self) -> Option<Facts> {
        let view = self.shared.sources.ownership.borrow().clone();
        if view.regressed {
            return None;
        }
        Some(self.facts_at(view.ownership.clone()?, view.revision))
    }

    /// The same, by an ownership that was read from the directory itself.
    pub fn facts_at(&self, ownership: Ownership, ownership_revision: u64) -> Facts {
        let sources = &self.shared.sources;
        let now = sources.clock.now();
        let seen = self.lock().clone();
        let regions = sources.config.regions.iter().map(|r| {
            let facts = self.region_facts(&r.id, &seen, now, ownership_revision);
            (r.id.clone(), facts)
        });
        let regions = regions.collect();
        let witnesses = sources.config.witnesses.iter().map(|witness| {
            let facts = self.witness_facts(&witness.id, &seen, now);
            (witness.id.clone(), facts)
        });
        let witnesses = witnesses.collect();
        Facts {
            now,
            rpo: sources.config.rpo,
            ownership,
            ownership_revision,
            regions,
            witnesses,
            seals: BTreeMap::new(),
            promises_over_at: None,
            canary_written: false,
            late_write_kept_out: false,
            seed_given_up: false,
            safety: self.safety(),
            overridden: None,
            approvals: Vec::new(),
            run_known_for: Millis(0),
            successor: Successor::NotBegun,
            answers: BTreeMap::new(),
            parts: BTreeMap::new(),
        }
    }

    fn region_facts(
        &self,
        region: &RegionId,
        seen: &BTreeMap<RegionId, Remembered>,
        now: Time,
        ownership_revision: u64,
    ) -> RegionFacts {
        let sources = &self.shared.sources;
        let remembered = seen.get(region).cloned().unwrap_or_default();
        // A renewal from before a fence may not have been heard yet: leases are judged only as
        // of a moment no earlier than the ownership that they are judged with.
        let heard = sources.leases.borrow().revision >= ownership_revision;
        let mut terms = sources.config.lease;
        // Whoever holds it longer than is configured here is waited for.
        terms.ttl = remembered.terms.map_or(terms.ttl, |told| told.ttl.max(terms.ttl));
        let rpo = remembered.terms.map(|told| told.rpo);
        let lease_over_at = remembered.lease.map(|lease| {
            if heard { lease.over_at(&terms) } else { now + terms.drift.outlast(terms.ttl) }
        });
        let silent_for = remembered.lease.map_or(Millis(0), |lease| lease.silent_for(now));
        if *region == sources.region {
            let own = sources.own_status.borrow().clone();
            let logs = sources.logs.all().into_iter();
            return RegionFacts {
                reachable: true,
                lease_over_at,
                silent_for,
                rpo,
                outage: None,
                flushed: logs.map(|(origin, log)| (origin, log.end())).collect(),
                applied: sources.positions.frontier(),
                durable: sources.positions.durable().unwrap_or_default(),
                // What is applied here goes by what is read here.
                ownership_read: 0,
                left_behind: self.is_left_behind(region),
                cannot_write: own.cannot_write(),
                cannot_apply: own.cannot_apply(),
                passed_over: own.says(PASSED_OVER),
                unsettled: own.says(UNSETTLED),
                repairs_pending: own.repairs_pending,
                not_opened: own.says(NOT_OPENED),
                on_probation: on_probation(region, seen, now),
                knows_canary: true,
                ownership_seen: own.ownership_seen,
                unheard: false,
                exposure: own.exposure(),
                open_writers: own.open_writers(),
                pace: own.pace(),
                capacity: sources.config.region(region).and_then(|region| region.capacity),
                staleness: own.staleness(),
                aware_of: own.aware_of(),
                seeding: own.asked_seeding(),
            };
        }
        let status = remembered.status.as_ref();
        let reachable = remembered.answers(now);
        let told = status.map(|(_, status)| status);
        // Nobody writes without a lease, and nobody has heard of what is written with one.
        let written_until = lease_over_at.map_or(now, |over_at| over_at.min(now));
        RegionFacts {
            reachable,
            lease_over_at,
            silent_for,
            rpo,
            outage: Some(self.outage(region, seen, now)),
            flushed: told.map(|s| lift_frontier(&s.flushed)).unwrap_or_default(),
            applied: told.map(|s| lift_frontier(&s.applied)).unwrap_or_default(),
            durable: told.map(|s| lift_frontier(&s.durable)).unwrap_or_default(),
            ownership_read: told.map_or(0, |s| s.ownership_read),
            left_behind: self.is_left_behind(region),
            cannot_write: told.is_some_and(RegionStatus::cannot_write),
            cannot_apply: told.is_some_and(RegionStatus::cannot_apply),
            passed_over: told.is_some_and(|s| s.says(PASSED_OVER)),
            unsettled: told.is_some_and(|s| s.says(UNSETTLED)),
            repairs_pending: told.map_or(0, |s| s.repairs_pending),
            not_opened: told.is_some_and(|s| s.says(NOT_OPENED)),
            on_probation: on_probation(region, seen, now),
            knows_canary: told.is_some_and(|s| s.owns_canary.is_some()),
            ownership_seen: told.map_or(0, |s| s.ownership_seen),
            unheard: status.is_none(),
            exposure: status
                .map(|(at, s)| s.exposure().after(written_until.since(*at), s.pace()))
                .unwrap_or_default(),
            open_writers: told.map(RegionStatus::open_writers).unwrap_or_default(),
            pace: told.map(RegionStatus::pace).unwrap_or_default(),
            capacity: sources.config.region(region).and_then(|region| region.capacity),
            staleness: told.map(RegionStatus::staleness).unwrap_or_default(),
            aware_of: told.map(RegionStatus::aware_of).unwrap_or_default(),
            seeding: told.and_then(RegionStatus::asked_seeding),
        }
    }

    fn witness_facts(
        &self,
        witness: &RegionId,
        seen: &BTreeMap<RegionId, Remembered>,
        now: Time,
    ) -> WitnessFacts {
        let sources = &self.shared.sources;
        if *witness == sources.region {
            let logs = sources.logs.all().into_iter();
            let flushed = logs.map(|(origin, log)| (origin, log.end())).collect();
            return WitnessFacts { reachable: true, flushed };
        }
        let remembered = seen.get(witness).cloned().unwrap_or_default();
        let told = remembered.status.as_ref();
        WitnessFacts {
            reachable: remembered.answers(now),
            flushed: told.map(|(_, status)| lift_frontier(&status.flushed)).unwrap_or_default(),
        }
    }

    /// Puts our own sighting beside what the other regions report.
    fn outage(
        &self,
        region: &RegionId,
        seen: &BTreeMap<RegionId, Remembered>,
        now: Time,
    ) -> domicile_core::outage::Outage {
        let sources = &self.shared.sources;
        let ours = seen.get(region);
        let heard = sources.leases.borrow().connected;
        let lease = ours.and_then(|ours| ours.lease).filter(|_| heard);
        let silent_for = lease.map_or(Millis(0), |lease| lease.silent_for(now));
        // A region that was never seen alive is starting up, not lost.
        let mut sightings = Vec::new();
        if let Some(probe) = self.probed(region, ours) {
            sightings.push(Sighting { observer: sources.region.clone(), silent_for, probe });
        }
        for (observer, remembered) in seen {
            let Some((at, status)) = &remembered.status else { continue };
            let told = status.peers.iter().find(|p| p.region == region.as_str());
            let (Some(told), true) = (told, observer != region) else { continue };
            sightings.push(Sighting {
                observer: observer.clone(),
                // What they said is as old as it is.
                silent_for: Millis(told.lease_silent_ms.saturating_sub(now.since(*at).0)),
                probe: told.probed().after(now.since(*at), &sources.config.lease),
            });
        }
        let policy = &sources.config.failover;
        judge(region, &sightings, policy.suspect_after, policy.observers)
    }

    /// Our own last probe of a region, for our status.
    pub fn probe_of(&self, region: &RegionId) -> Option<Probe> {
        self.probed(region, self.lock().get(region))
    }

    fn probed(&self, region: &RegionId, ours: Option<&Remembered>) -> Option<Probe> {
        let promised = self.shared.sources.promises.holds(region).then_some(Probe::Promised);
        promised.or(ours.and_then(|ours| ours.probe))
    }

    /// The rules of the cluster, as far as is known here.
    pub fn safety(&self) -> Safety {
        let known = self.shared.sources.safety.borrow().clone();
        Safety { now: clock::unix(), ..(*known).clone() }
    }

    /// By this agent's clock.
    pub fn now(&self) -> Time {
        self.shared.sources.clock.now()
    }

    /// How long a region is still on probation, by what we have seen ourselves.
    pub fn probation_of(&self, region: &RegionId, now: Time) -> Millis {
        self.lock().get(region).map_or(Millis(0), |seen| seen.losses.probation(now))
    }

    /// Which other regions go by another lease or another RPO than is configured here, as they say?
    pub fn other_terms(&self) -> Vec<(RegionId, HolderTerms)> {
        let sources = &self.shared.sources;
        let here = HolderTerms { ttl: sources.config.lease.ttl, rpo: sources.config.rpo };
        let seen = self.lock();
        let others = seen.iter().filter(|(region, _)| **region != sources.region);
        let told = others.filter_map(|(region, seen)| Some((region.clone(), seen.terms?)));
        told.filter(|(_, terms)| *terms != here).collect()
    }

    /// What a region said of itself when it was heard last.
    pub fn last_heard(&self, region: &RegionId, now: Time) -> Option<LastHeard> {
        let seen = self.lock();
        let (at, status) = seen.get(region)?.status.as_ref()?;
        let exposure = status.exposure();
        Some(LastHeard {
            ago_ms: now.since(*at).0,
            exposure_ms: exposure.age.0,
            exposure_commits: exposure.commits,
            exposure_bytes: exposure.bytes,
            commits_per_s: status.commits_per_s,
            wal_bytes_per_s: status.wal_bytes_per_s,
        })
    }

    /// How far we are behind each other region that owns something, as that told, `None` where it does
    /// not answer; `None` in all until the directory was read.
    pub fn behind(&self, now: Time) -> Option<BTreeMap<RegionId, Option<Behind>>> {
        let sources = &self.shared.sources;
        let view = sources.ownership.borrow().clone();
        let ownership = view.ownership.as_ref()?;
        let seen = self.lock();
        let others = sources.config.regions.iter().map(|other| &other.id);
        let owners = others.filter(|other| **other != sources.region && ownership.owns_data(other));
        let behind = owners.map(|owner| {
            let heard = seen.get(owner).filter(|remembered| remembered.answers(now));
            let told = heard.and_then(|remembered| remembered.status.as_ref());
            let behind = told.and_then(|(at, status)| {
                let us = |peer: &&PeerStatus| peer.region == sources.region.as_str();
                let us = status.peers.iter().find(us)?;
                let age = Millis(us.staleness_ms) + now.since(*at);
                Some(Behind { age, bytes: us.lag_bytes })
            });
            (owner.clone(), behind)
        });
        Some(behind.collect())
    }

    /// How often a region was suspected and heard again, by what we have seen ourselves.
    pub fn losses_of(&self, region: &RegionId) -> LossCount {
        self.lock().get(region).map(|seen| seen.losses.count()).unwrap_or_default()
    }

    /// The others that do not answer, or whose PostgreSQL does not.
    pub fn down(&self) -> BTreeSet<RegionId> {
        let sources = &self.shared.sources;
        let (seen, now) = (self.lock(), sources.clock.now());
        let up = |region: &RegionId| {
            let heard = seen.get(region).filter(|remembered| remembered.answers(now));
            let told = heard.and_then(|remembered| remembered.status.as_ref());
            told.is_some_and(|(_, status)| status.postgres_reachable)
        };
        let others = sources.config.regions.iter().map(|other| &other.id);
        let others = others.filter(|other| **other != sources.region);
        others.filter(|other| !up(other)).cloned().collect()
    }

    /// The others to which somebody wants no new clients to be led, by their last word.
    pub fn drained(&self) -> BTreeSet<RegionId> {
        let seen = self.lock();
        let drained = seen.iter().filter(|(_, remembered)| {
            remembered.status.as_ref().is_some_and(|(_, status)| status.says(DRAINED))
        });
        drained.map(|(region, _)| region.clone()).collect()
    }

    pub fn is_left_behind(&self, region: &RegionId) -> bool {
        self.left_behind().iter().any(|left| left.region == *region)
    }

    /// Everything that the directory says of regions that nobody waits for any more.
    pub fn left_behind(&self) -> Vec<LeftBehind> {
        let view = self.shared.sources.reseeds.borrow();
        view.documents.values().filter_map(|(value, _)| lift_left_behind(value).ok()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RegionId, Remembered>> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has anybody seen `region` come and go? All who answer are asked, that region too, so that all choose
/// the same successor; not all remember what one said that is lost now.
fn on_probation(region: &RegionId, seen: &BTreeMap<RegionId, Remembered>, now: Time) -> bool {
    let ours = seen.get(region).is_some_and(|seen| seen.losses.probation(now) > Millis(0));
    let told = seen.values().filter(|remembered| remembered.answers(now));
    let mut told = told.filter_map(|remembered| remembered.status.as_ref());
    ours || told.any(|(at, status)| {
        let mut peers = status.peers.iter().filter(|peer| peer.region == region.as_str());
        peers.any(|peer| peer.probation_ms > now.since(*at).0)
    })
}
