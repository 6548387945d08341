//! What is to be seen right now: regions, owners, links, rates and what was told so far?
//!
//! One poller asks the agents and publishes a whole picture; whoever draws or decides by it reads
//! the same one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_core::time::Time;
use tokio::sync::watch;

use super::tally::{Phase, Tally, Totals};
use crate::clock::Clock;
use crate::lab::regions::{Observer, partitions_of};
use crate::status::RegionStatus;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many rates are kept for the sparkline: half a minute.
pub const RATES_MAX: usize = 120;
const EVENTS_MAX: usize = 200;

/// How a region looks from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Building,
    Up,
    /// Its agent does not answer.
    Down,
    /// It answers, and is not back to normal yet.
    Joining,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionView {
    pub name: String,
    pub health: Health,
    /// What its agent said last; absent while it says nothing.
    pub status: Option<RegionStatus>,
    /// Writes acknowledged per second, the newest last.
    pub rates: VecDeque<u64>,
}

/// What kind of thing was told: it decides the colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
    Deed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at: Time,
    pub tone: Tone,
    pub text: String,
}

/// The whole picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scene {
    pub at: Time,
    pub title: String,
    pub phase: Phase,
    pub phase_since: Time,
    pub regions: Vec<RegionView>,
    /// Partition -> index of its owner.
    pub owners: Vec<Option<usize>>,
    pub totals: Totals,
    pub events: Vec<Event>,
}

/// Tells the story and keeps what was told; cheap to clone.
#[derive(Clone, Debug)]
pub struct Narrator {
    events: Arc<Mutex<Vec<Event>>>,
    clock: Clock,
    /// Print each event as a line, because no screen shows it.
    lines: bool,
}

impl Narrator {
    pub fn new(clock: Clock, lines: bool) -> Self {
        Self { events: Arc::default(), clock, lines }
    }

    pub fn say(&self, tone: Tone, text: impl Into<String>) {
        let event = Event { at: self.clock.now(), tone, text: text.into() };
        if self.lines {
            println!("{:>7.2} s  {}", event.at.0 as f64 / 1000.0, event.text);
        }
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        let beyond = events.len().saturating_sub(EVENTS_MAX);
        events.drain(..beyond);
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Looks at the world again and again.
pub struct Poller {
    pub observer: Observer,
    pub tally: Arc<Tally>,
    pub narrator: Narrator,
    pub clock: Clock,
    pub partitions: u32,
}

impl Poller {
    /// Publishes pictures until nobody looks at them any more.
    pub async fn run(self, scene: watch::Sender<Scene>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !scene.is_closed() {
            ticks.tick().await;
            let statuses = self.observer.all().await;
            let now = self.clock.now();
            scene.send_modify(|scene| {
                let totals = self.tally.totals();
                for (index, region) in scene.regions.iter_mut().enumerate() {
                    let status = statuses.get(&region.name).and_then(|answer| answer.as_ref().ok());
                    region.look(status.cloned(), statuses.len());
                    let count = |totals: &Totals| totals.by_region.get(index).copied().unwrap_or(0);
                    let gained = count(&totals) - count(&scene.totals);
                    region.note_rate(gained * 1000 / (now.0 - scene.at.0).max(1));
                }
                scene.owners = owners(&scene.regions, self.partitions);
                let phase = self.tally.phase();
                if scene.phase != phase {
                    (scene.phase, scene.phase_since) = (phase, now);
                }
                scene.events = self.narrator.events();
                (scene.totals, scene.at) = (totals, now);
            });
        }
    }
}

impl RegionView {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn look(&mut self, status: Option<RegionStatus>, regions: usize) {
        self.health = match (&status, self.health) {
            (None, Health::Building) => Health::Building,
            (None, _) => Health::Down,
            (Some(status), before) => match (is_well(status, regions), before) {
                (true, _) => Health::Up,
                // A region that loses a peer for a moment is still up itself.
                (false, Health::Up) if status.lease_live => Health::Up,
                (false, Health::Building) => Health::Building,
                (false, _) => Health::Joining,
            },
        };
        self.status = status;
    }

    fn note_rate(&mut self, rate: u64) {
        self.rates.push_back(rate);
        let beyond = self.rates.len().saturating_sub(RATES_MAX);
        self.rates.drain(..beyond);
    }

    /// The mean of the last second.
    pub fn rate(&self) -> u64 {
        let last: Vec<u64> = self.rates.iter().rev().take(4).copied().collect();
        last.iter().sum::<u64>() / (last.len() as u64).max(1)
    }
}

fn is_well(status: &RegionStatus, regions: usize) -> bool {
    let connected = status.peers.iter().filter(|peer| peer.connected).count();
    status.postgres_reachable
        && status.lease_live
        && status.repairs_pending == 0
        && connected + 1 == regions
}

/// Whom the agents name as owners. Two that claim one partition show as none: the newer
/// ownership has not reached both.
fn owners(regions: &[RegionView], partitions: u32) -> Vec<Option<usize>> {
    let newest = |region: &RegionView| region.status.as_ref().map(|s| s.ownership_seen);
    let seen = regions.iter().filter_map(newest).max();
    let mut owners = vec![None; partitions as usize];
    for (index, region) in regions.iter().enumerate() {
        let current = region.status.iter().filter(|s| Some(s.ownership_seen) == seen);
        for partition in current.flat_map(partitions_of) {
            if let Some(owner) = owners.get_mut(partition as usize) {
                *owner = Some(index);
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{OwnedRange, PeerStatus};

    fn region(name: &str, ownership_seen: u64, partitions: &str) -> RegionView {
        let owns = vec![OwnedRange { partitions: partitions.to_owned(), epoch: 1 }];
        let status = RegionStatus { ownership_seen, owns, ..RegionStatus::default() };
        RegionView { status: Some(status), ..RegionView::new(name) }
    }

    #[test]
    fn an_agent_that_lags_behind_does_not_name_owners() {
        let regions = [region("eu", 4, "0-3"), region("us", 5, "2-5"), RegionView::new("ap")];
        let all = owners(&regions, 7);
        assert_eq!(all, [None, None, Some(1), Some(1), Some(1), Some(1), None]);
    }

    #[test]
    fn a_region_that_comes_back_is_joining_until_all_is_well() {
        let mut view = RegionView { health: Health::Up, ..RegionView::new("eu") };
        view.look(None, 2);
        assert_eq!(view.health, Health::Down);
        let mut status = RegionStatus {
            postgres_reachable: true,
            lease_live: true,
            repairs_pending: 3,
            peers: vec![PeerStatus { connected: true, ..Default::default() }],
            ..Default::default()
        };
        view.look(Some(status.clone()), 2);
        assert_eq!(view.health, Health::Joining);
        status.repairs_pending = 0;
        view.look(Some(status), 2);
        assert_eq!(view.health, Health::Up);
    }
}
