//! What did it come to, in words and for a machine?

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::Deed;
use crate::contender::Name;

/// One failover or switchover, as the clients saw it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Before it.
    pub writes_per_s: usize,
    /// From the last acknowledgement before to the first one after.
    pub gap: Duration,
    /// From one acknowledgement of a client to its next, at the longest.
    pub longest_wait: Duration,
    /// The longest flush of the disk that was under way meanwhile.
    pub slowest_flush: Duration,
    pub acknowledged: usize,
    /// Acknowledged, and not there afterwards.
    pub lost: usize,
    /// How many of which kind.
    pub errors: BTreeMap<String, usize>,
    /// What was done when.
    pub steps: Option<String>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            writes_per_s,
            gap,
            longest_wait,
            slowest_flush,
            acknowledged,
            lost,
            errors,
            steps,
        } = self;
        let [gap, wait, flush] = [gap, longest_wait, slowest_flush].map(Duration::as_millis);
        let errors: Vec<String> =
            errors.iter().map(|(what, count)| format!("{count} times {what}")).collect();
        let errors = if errors.is_empty() { "none".to_owned() } else { errors.join(", ") };
        write!(
            f,
            "{gap} ms, one client up to {wait} ms (a flush took up to {flush} ms), errors: {errors}; \
             {lost} of {acknowledged} acknowledged writes lost, at {writes_per_s} a second"
        )?;
        steps.iter().try_for_each(|steps| write!(f, "; {steps}"))
    }
}

#[derive(Serialize)]
pub struct Report {
    runs: usize,
    clients: usize,
    round_trip_ms: u128,
    ours: BTreeMap<&'static str, Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patroni_default: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patroni_fastest: Option<Figures>,
    #[serde(skip)]
    events: BTreeMap<Name, Events>,
}

#[derive(Default)]
struct Events {
    failovers: Vec<Event>,
    switchovers: Vec<Event>,
}

#[derive(Clone, Copy, Serialize)]
pub struct Figures {
    /// Before anything was done, in the middle.
    pub writes_per_s: usize,
    pub rto_p50_ms: u128,
    pub rto_p99_ms: u128,
    /// Of all failovers together.
    pub lost_acknowledged: usize,
    pub failover_errors: usize,
    /// Of all clients the one that waited longest, in the worst run.
    pub failover_longest_wait_ms: u128,
    pub switchover_p50_ms: u128,
    pub switchover_p99_ms: u128,
    pub switchover_longest_wait_ms: u128,
    /// The slowest flush of the disk in the longest switchover.
    pub switchover_longest_flush_ms: u128,
    pub switchover_lost_acknowledged: usize,
    pub switchover_errors: usize,
}

impl Report {
    pub fn new(runs: usize, clients: usize, round_trip: Duration) -> Self {
        Self {
            runs,
            clients,
            round_trip_ms: round_trip.as_millis(),
            ours: BTreeMap::new(),
            patroni_default: None,
            patroni_fastest: None,
            events: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, name: Name, deed: Deed, event: Event) {
        let events = self.events.entry(name).or_default();
        match deed {
            Deed::Kill => events.failovers.push(event),
            Deed::HandOver => events.switchovers.push(event),
        }
        let Some(figures) = events.figures() else { return };
        match name {
            Name::OursDefault => drop(self.ours.insert("default", figures)),
            Name::OursMany => drop(self.ours.insert("many", figures)),
            Name::OursShared => drop(self.ours.insert("shared", figures)),
            Name::OursFast => drop(self.ours.insert("fast", figures)),
            Name::OursSealed => drop(self.ours.insert("sealed", figures)),
            Name::PatroniDefault => self.patroni_default = Some(figures),
            Name::PatroniFastest => self.patroni_fastest = Some(figures),
        }
    }

    /// Those of which there are any, in order.
    pub fn figures(&self) -> impl Iterator<Item = (Name, Figures)> {
        self.events.iter().filter_map(|(name, events)| Some((*name, events.figures()?)))
    }

    pub fn write(&self, json: &Path) -> anyhow::Result<()> {
        if let Some(folder) = json.parent() {
            std::fs::create_dir_all(folder).context("make the folder of the figures")?;
        }
        let text = serde_json::to_vec_pretty(self).context("print the figures")?;
        std::fs::write(json, text).with_context(|| format!("write {}", json.display()))
    }

    pub fn words(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "",
            "writes a second",
            "failover p50 ms",
            "p99 ms",
            "acknowledged and lost",
            "errors",
            "switchover p50 ms",
            "p99 ms",
            "one client ms",
            "errors",
        ]);
        for (name, figures) in self.figures() {
            table.add_row([
                name.words().to_owned(),
                figures.writes_per_s.to_string(),
                figures.rto_p50_ms.to_string(),
                figures.rto_p99_ms.to_string(),
                figures.lost_acknowledged.to_string(),
                figures.failover_errors.to_string(),
                figures.switchover_p50_ms.to_string(),
                figures.switchover_p99_ms.to_string(),
                figures.switchover_longest_wait_ms.to_string(),
                figures.switchover_errors.to_string(),
            ]);
        }
        let mut words = table.to_string();
        for (name, events) in &self.events {
            for (deed, events) in
                [("failovers", &events.failovers), ("switchovers", &events.switchovers)]
            {
                words += &format!("\n{}: errors in {deed}: {}", name.words(), kinds(events));
            }
        }
        words
    }
}

impl Events {
    /// `None` before there is one of each kind.
    fn figures(&self) -> Option<Figures> {
        let (failovers, switchovers) = (&self.failovers, &self.switchovers);
        if failovers.is_empty() || switchovers.is_empty() {
            return None;
        }
        let mut rates: Vec<usize> =
            failovers.iter().chain(switchovers).map(|event| event.writes_per_s).collect();
        rates.sort_unstable();
        Some(Figures {
            writes_per_s: rates[rates.len() / 2],
            rto_p50_ms: percentile(failovers, 50)?,
            rto_p99_ms: percentile(failovers, 99)?,
            lost_acknowledged: failovers.iter().map(|event| event.lost).sum(),
            failover_errors: errors(failovers),
            failover_longest_wait_ms: longest_wait(failovers),
            switchover_p50_ms: percentile(switchovers, 50)?,
            switchover_p99_ms: percentile(switchovers, 99)?,
            switchover_longest_wait_ms: longest_wait(switchovers),
            switchover_longest_flush_ms: switchovers
                .iter()
                .max_by_key(|event| event.gap)?
                .slowest_flush
                .as_millis(),
            switchover_lost_acknowledged: switchovers.iter().map(|event| event.lost).sum(),
            switchover_errors: errors(switchovers),
        })
    }
}

fn errors(events: &[Event]) -> usize {
    events.iter().flat_map(|event| event.errors.values()).sum()
}

/// How often which SQLSTATE.
fn kinds(events: &[Event]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (what, count) in events.iter().flat_map(|event| &event.errors) {
        *kinds.entry(what).or_default() += count;
    }
    let kinds: Vec<String> =
        kinds.iter().map(|(what, count)| format!("{count} times {what}")).collect();
    if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
}

/// In milliseconds.
fn longest_wait(events: &[Event]) -> u128 {
    events.iter().map(|event| event.longest_wait.as_millis()).max().unwrap_or_default()
}

/// The smallest gap that so many per cent of them do not pass.
fn percentile(events: &[Event], per_cent: usize) -> Option<u128> {
    let mut gaps: Vec<u128> = events.iter().map(|event| event.gap.as_millis()).collect();
    gaps.sort_unstable();
    gaps.get((gaps.len() * per_cent).div_ceil(100).saturating_sub(1)).copied()
}
