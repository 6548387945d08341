//! What does this agent see of the others, and what does it tell them?

use std::collections::BTreeMap;
use std::rc::Rc;

use domicile_core::id::{PartitionId, RunId};
use domicile_core::lsn::Frontier;
use domicile_core::outage::{Probe, Sighting, judge};
use domicile_core::ownership::Ownership;
use domicile_core::progress::{Exposure, Pace};
use domicile_core::runbook::safety::Safety;
use domicile_core::runbook::{Facts, RegionFacts, Successor, WitnessFacts};
use domicile_core::time::{Millis, Time};

use super::ship::progress_of;
use super::{Agent, Context, Host, send};
use crate::clock::Micros;
use crate::message::{Message, Report};
use crate::setup::{Sabotage, Setup};

const REPORT_EVERY: Millis = Millis(150);
/// A peer that was not heard of for this long is not reachable; an older probe says nothing.
const HEARD_LATELY: Millis = Millis(1000);

fn without_witnesses(ownership: &Ownership) -> Ownership {
    let (members, entries) = (ownership.members().clone(), ownership.entries().to_vec());
    let without = Ownership::from_entries(members, entries).expect("it was one");
    without.with_turns(ownership.turns().to_vec())
}

impl Agent {
    pub(super) fn report(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let now = host.clock.monotonic(cx.now);
        // By which ownership it passed over what, an agent cannot tell before it has read it.
        if now < self.due.report || self.state.is_none() {
            return;
        }
        self.due.report = now + REPORT_EVERY;
        let progress: Vec<_> = (0..cx.setup.count()).map(|o| progress_of(host, o)).collect();
        cx.oracle.reported(host.index, &progress);
        // A database that is down admits nothing, and comes back without a guard.
        let ownership_seen =
            if host.postgres.up { self.guard_revision } else { self.ownership_revision() };
        let sightings = (0..cx.setup.count())
            .filter_map(|r| Some((r, self.sighting(host, cx.setup, r, now)?)))
            .collect();
        let ownership_read = self.ownership_revision();
        let report = Rc::new(Report { progress, ownership_read, ownership_seen, sightings });
        for peer in (0..cx.setup.count()).filter(|r| *r != host.index) {
            send(cx, peer, Message::Report(report.clone()));
        }
    }

    pub(super) fn hear(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        from: usize,
        report: Rc<Report>,
    ) {
        self.count(cx, from, report.progress[host.index], report.ownership_read);
        self.heard[from] = Some((host.clock.monotonic(cx.now), report));
    }

    fn sighting(&self, host: &Host, setup: &Setup, region: usize, now: Time) -> Option<Sighting> {
        if region == host.index {
            return None;
        }
        let seen = self.leases[region]?;
        let silent_for = if self.hears_directory(now) { seen.silent_for(now) } else { Millis(0) };
        let probe = match self.probes[region] {
            _ if self.promises.hold(&setup.regions[region], now, &setup.terms) => Probe::Promised,
            Some((at, probe)) if now.since(at) < HEARD_LATELY => probe,
            _ => Probe::Unreachable,
        };
        Some(Sighting { observer: host.id.clone(), silent_for, probe })
    }

    /// Asks regions whose lease has fallen silent to write through their guard.
    pub(super) fn observe(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let now = host.clock.monotonic(cx.now);
        if now < self.due.observe {
            return;
        }
        self.due.observe = now + Millis(250);
        for region in (0..cx.setup.count()).filter(|r| *r != host.index) {
            let silent = self.leases[region].map_or(Millis(0), |seen| seen.silent_for(now));
            if silent >= cx.setup.policy.suspect_after {
                send(cx, region, Message::ProbeGuard);
            }
        }
    }

    pub(super) fn answer_probe(&mut self, host: &mut Host, cx: &mut Context<'_>, asker: usize) {
        let wall = host.clock.wall(cx.now);
        let open = host.postgres.guard.as_ref().is_some_and(|guard| {
            let first = guard.open.first().map(|open| PartitionId(open.range.first));
            first.is_some_and(|p| host.postgres.admits(p, wall, false).is_some())
        });
        let probe = match host.postgres.answers() {
            true if open => Probe::Written,
            true => Probe::Refused,
            false => Probe::Unreachable,
        };
        send(cx, asker, Message::Probed(probe));
    }

    pub(super) fn probed(&mut self, host: &Host, cx: &Context<'_>, from: usize, probe: Probe) {
        self.probes[from] = Some((host.clock.monotonic(cx.now), probe));
    }

    /// What this agent knows, as core wants to be told; `run` chooses the seals.
    pub(super) fn facts(
        &self,
        host: &Host,
        setup: &Setup,
        at: Micros,
        run: Option<&RunId>,
    ) -> Option<Facts> {
        let state = self.state.as_ref()?;
        let now = host.clock.monotonic(at);
        let execution = run.and_then(|run| self.executions.get(run));
        let mut regions: BTreeMap<_, _> = (0..setup.count())
            .map(|r| (setup.regions[r].clone(), self.region_facts(host, setup, r, now)))
            .collect();
        let witness = setup.witness().and_then(|witness| regions.remove_entry(witness));
        let witnesses = witness.into_iter().map(|(witness, seen)| {
            (witness, WitnessFacts { reachable: seen.reachable, flushed: seen.flushed })
        });
        let ownership = match setup.breaks(Sabotage::ForgetWitness) {
            true => without_witnesses(&state.ownership),
            false => (*state.ownership).clone(),
        };
        Some(Facts {
            now,
            rpo: setup.rpo,
            ownership,
            ownership_revision: state.ownership_revision,
            regions,
            witnesses: witnesses.collect(),
            seals: execution.map(|e| e.seals.clone()).unwrap_or_default(),
            promises_over_at: execution.and_then(|e| e.promises_over_at),
            canary_written: execution.is_some_and(|e| e.canary_written),
            late_write_kept_out: execution.is_some_and(|e| e.late_written),
            seed_given_up: false,
            safety: Safety::default(),
            overridden: None,
            approvals: Vec::new(),
            run_known_for: Millis(0),
            successor: Successor::NotBegun,
            answers: execution.map(|e| e.answers.clone()).unwrap_or_default(),
            parts: BTreeMap::new(),
        })
    }

    fn region_facts(&self, host: &Host, setup: &Setup, region: usize, now: Time) -> RegionFacts {
        let lately = |heard: &&(Time, Rc<Report>)| now.since(heard.0) < HEARD_LATELY;
        let report = self.heard[region].as_ref();
        let own = region == host.index;
        let progress: Vec<_> = if own {
            (0..setup.count()).map(|o| progress_of(host, o)).collect()
        } else {
            report.map(|(_, report)| report.progress.clone()).unwrap_or_default()
        };
        let origins = || setup.origins.iter().cloned().zip(&progress);
        let flushed: Frontier = origins().map(|(o, p)| (o, p.flushed)).collect();
        let applied: Frontier = origins().map(|(o, p)| (o, p.applied)).collect();
        let mut sightings: Vec<Sighting> =
            self.sighting(host, setup, region, now).into_iter().collect();
        for (_, heard) in self.heard.iter().flatten().filter(lately) {
            let told = heard.sightings.iter().filter(|(about, _)| *about == region);
            sightings.extend(told.map(|(_, sighting)| sighting.clone()));
        }
        let policy = &setup.policy;
        let name = &setup.regions[region];
        RegionFacts {
            reachable: own || report.as_ref().is_some_and(lately),
            lease_over_at: self.leases[region].map(|seen| seen.over_at(&setup.terms)),
            outage: Some(judge(name, &sightings, policy.suspect_after, policy.observers)),
            flushed,
            applied,
            ownership_seen: match report {
                _ if own => self.guard_revision,
                Some((_, report)) => report.ownership_seen,
                None => 0,
            },
            exposure: Exposure::default(),
            open_writers: Vec::new(),
            pace: Pace::default(),
            capacity: None,
            ..RegionFacts::default()
        }
    }
}
