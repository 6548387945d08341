//! Has everything come to rest, and if not, what is still moving?

use domicile_core::id::PartitionId;
use domicile_core::ownership::State;

use super::{Event, REST_WITHIN, World};
use crate::clock::{MS, SECOND};
use crate::invariants::Kind;

impl World {
    /// Looks again and again until nothing is left to do, or the time is up.
    pub(super) fn rest(&mut self) {
        self.resume_all();
        let restless = self.restless();
        if restless.is_empty() {
            let tables: Vec<_> = self.regions.iter().map(|r| &r.host.postgres.tables).collect();
            self.oracle.ended(&self.setup, &tables);
            self.done = true;
        } else if self.now > self.heal_at + REST_WITHIN {
            let rule = "after healing everything comes to rest";
            let shown: Vec<String> = restless.into_iter().take(12).collect();
            self.fail(Kind::Liveness, rule, shown.join("; "));
        } else {
            self.after(SECOND / 4 + 7 * MS, Event::Rest);
        }
    }

    fn restless(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let state = self.directory.read();
        for run in state.open_runs() {
            let id = &run.plan.run;
            let started = if run.started { "started" } else { "not started" };
            let asked = self.regions.iter().filter_map(|r| {
                let agent = r.agent.as_ref()?;
                agent.stands_at(&r.host, &self.setup, self.now, run)
            });
            let asked: Vec<String> = asked.collect();
            reasons.push(format!(
                "{id} ({}, {started}) goes on: {}",
                run.plan.intent,
                asked.join(" / ")
            ));
        }
        for entry in state.ownership.entries() {
            let State::Owned { by } = &entry.state else {
                reasons.push(format!("partition {} is {}", entry.range, entry.state));
                continue;
            };
            let Some(owner) = self.setup.index(by) else { continue };
            let host = &self.regions[owner].host;
            let wall = host.clock.wall(self.now);
            for number in entry.range.first..=entry.range.last {
                if host.postgres.admits(PartitionId(number), wall, false) != Some(entry.epoch) {
                    reasons.push(format!("{by} does not admit writes to partition {number}"));
                }
            }
        }
        for region in 0..self.setup.count() {
            self.unfinished(region, &mut reasons);
        }
        reasons
    }

    fn unfinished(&self, region: usize, reasons: &mut Vec<String>) {
        let place = &self.regions[region];
        let here = &place.host.id;
        if !place.agent.as_ref().is_some_and(|agent| agent.idle(&place.host)) {
            reasons.push(format!("the agent of {here} is busy"));
        }
        let postgres = &place.host.postgres;
        if !postgres.waiting.is_empty() {
            reasons.push(format!("clients of {here} wait for {:?}", postgres.waiting));
        }
        if !postgres.tables.repair.is_empty() {
            reasons.push(format!("{here} has rows to repair: {:?}", postgres.tables.repair));
        }
        for origin in (0..self.setup.count()).filter(|o| *o != region) {
            let end = self.regions[origin].host.disk.logs[origin].received;
            let applied = postgres.tables.applied[origin];
            if applied < end {
                let of = &self.setup.origins[origin];
                let held = place.host.disk.logs[origin].flushed;
                let agent = place.agent.as_ref();
                let why = agent.map(|a| a.apply_waits(&place.host, &self.setup, origin));
                reasons.push(format!(
                    "{here} applied {of} to {applied}, holds {held} of {end}: {}",
                    why.unwrap_or_default()
                ));
            }
        }
    }
}
