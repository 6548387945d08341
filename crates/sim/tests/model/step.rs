//! Who may do what next? All of it, by anybody, at any time.

use std::collections::BTreeMap;

use domicile_core::history::Seal;
use domicile_core::id::{Epoch, RegionId};
use domicile_core::lsn::{Frontier, Lsn};
use domicile_core::outage::Outage;
use domicile_core::ownership::OwnershipChange;
use domicile_core::runbook::safety::Safety;
use domicile_core::runbook::{
    Answer, Effect, Facts, Intent, Next, Outcome, Recorded, RegionFacts, Successor, WitnessFacts,
    ended, next,
};
use domicile_core::time::Millis;

use crate::world::{AP, Log, NAMES, PARTITION, RunDocument, TERMS, World, id, origin};
use crate::{Fault, Protocol};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Write {
        region: usize,
    },
    Capture {
        region: usize,
    },
    Copy {
        to: usize,
        from: usize,
        of: usize,
    },
    Tell {
        peer: usize,
        to: usize,
    },
    /// A region reads the directory as it was at this revision.
    Learn {
        region: usize,
        revision: u64,
    },
    Announce {
        region: usize,
    },
    /// An agent takes a run a step further, by what it believes.
    Step {
        by: usize,
        run: usize,
        belief: Belief,
    },
    Restart {
        region: usize,
    },
    LoseFolder {
        region: usize,
    },
    Join,
    Renew {
        region: usize,
    },
    Tick,
}

/// What an executor takes for true without being able to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belief {
    /// Who answers.
    answers: Option<usize>,
    /// The target's lease is over.
    target_lost: bool,
    /// The region that is failed over is well.
    well: bool,
    /// The run's document is the one that was written at its beginning.
    outdated: bool,
}

impl Protocol {
    pub fn actions_in(&self, world: &World, actions: &mut Vec<Action>) {
        let is_there =
            |index: &usize| self.joins || self.is_region(*index) || self.is_witness(*index);
        for index in (0..3).filter(is_there) {
            self.actions_of(world, index, actions);
        }
        let joins = self.joins && !world.truth().members().contains(&id(AP));
        if joins {
            actions.push(Action::Join);
        }
        if self.has_leases() && world.now.0 < self.bounds.ticks {
            actions.push(Action::Tick);
        }
    }

    fn actions_of(&self, world: &World, index: usize, actions: &mut Vec<Action>) {
        let region = &world.regions[index];
        if region.guard.open.is_some() && world.writes.len() < self.bounds.writes {
            actions.push(Action::Write { region: index });
        }
        if world.restarts < self.bounds.restarts {
            actions.push(Action::Restart { region: index });
        }
        // Whoever has written is halted without its own log.
        let may_lose = region.wal.is_empty() && index == AP;
        if world.lost_folders < self.bounds.folders && may_lose {
            actions.push(Action::LoseFolder { region: index });
        }
        let latest = world.directory.latest().revision;
        let Some(read) = &region.read else {
            // The first reading is of the present.
            actions.push(Action::Learn { region: index, revision: latest });
            return;
        };
        if region.captured < region.wal.len() {
            actions.push(Action::Capture { region: index });
        }
        for of in (0..3).filter(|of| *of != index) {
            let end = region.logs[of].end;
            for from in (0..3).filter(|from| *from != index) {
                if world.regions[from].logs[of].end > end {
                    actions.push(Action::Copy { to: index, from, of });
                }
            }
            if end.0 > 0 && world.regions[of].read.is_some() {
                actions.push(Action::Tell { peer: index, to: of });
            }
        }
        for snapshot in &world.directory.snapshots {
            if snapshot.revision > read.revision {
                let revision = snapshot.revision;
                actions.push(Action::Learn { region: index, revision });
            }
        }
        if !region.barriers.is_empty() {
            actions.push(Action::Announce { region: index });
        }
        if self.has_leases() && latest < self.bounds.revisions && region.guard.open.is_some() {
            actions.push(Action::Renew { region: index });
        }
        if self.executors.contains(&index) {
            self.steps(world, index, actions);
        }
    }

    fn steps(&self, world: &World, by: usize, actions: &mut Vec<Action>) {
        let Some(known) = &world.regions[by].read else { return };
        for (run, plan) in self.runs.iter().enumerate() {
            // What is believed of others matters only while the run has something in its hands.
            let in_hands = known.ownership.ranges_of(&plan.run).next();
            let noted = &world.directory.runs[run];
            let outdated: &[bool] = match noted.started || noted.outcome.is_some() {
                true => &[false, true],
                false => &[false],
            };
            for outdated in outdated.iter().copied() {
                let belief = Belief { outdated, ..Belief::default() };
                let mut step = |belief| actions.push(Action::Step { by, run, belief });
                match (&plan.intent, in_hands) {
                    (Intent::Switchover { .. }, Some(_)) => {
                        step(Belief { target_lost: true, ..belief.clone() });
                    }
                    (Intent::Failover { from, .. }, Some(entry)) if entry.state.cut().is_none() => {
                        for peer in (0..3).filter(|peer| NAMES[*peer] != from.as_str()) {
                            step(Belief { answers: Some(peer), ..belief.clone() });
                        }
                    }
                    (Intent::Failover { attested: false, .. }, None) => {
                        step(Belief { well: true, ..belief.clone() });
                    }
                    _ => {}
                }
                step(belief);
            }
        }
    }

    pub fn perform(&self, world: &mut World, action: &Action) -> Option<()> {
        match action {
            Action::Write { region } => self.write(world, *region),
            Action::Capture { region } => self.capture(world, *region),
            Action::Copy { to, from, of } => self.copy(world, *to, *from, *of),
            Action::Tell { peer, to } => self.tell(world, *peer, *to),
            Action::Announce { region } => self.announce(world, *region),
            Action::Renew { region } => self.renew(world, *region),
            Action::Learn { region, revision } => {
                let mut snapshots = world.directory.snapshots.iter();
                let snapshot = snapshots.find(|s| s.revision == *revision)?.clone();
                self.learn(world, *region, snapshot);
                Some(())
            }
            Action::Step { by, run, belief } => self.step(world, *by, *run, belief),
            Action::Restart { region } => {
                self.restart(world, *region);
                Some(())
            }
            Action::LoseFolder { region } => {
                self.lose_folder(world, *region);
                Some(())
            }
            Action::Join => self.change(world, &OwnershipChange::Join { region: id(AP) }),
            Action::Tick => {
                world.now = world.now + Millis(1);
                Some(())
            }
        }
    }

    fn step(&self, world: &mut World, by: usize, run: usize, belief: &Belief) -> Option<()> {
        let plan = &self.runs[run];
        let known = world.regions[by].read.clone()?;
        let noted = match belief.outdated {
            true => RunDocument::default(),
            false => world.directory.runs[run].clone(),
        };
        if ended(&plan.run, noted.outcome.as_ref(), &known.ownership) {
            world.region(by).sealed[run].clear();
            return Some(());
        }
        let facts = self.facts(world, by, run, belief)?;
        let in_hands = facts.ownership.ranges_of(&plan.run).next().is_some();
        if in_hands && !noted.started {
            if belief.outdated {
                // Somebody else has written to the run's document.
                return None;
            }
            let started_revision = facts.ownership_revision;
            world.directory.runs[run] =
                RunDocument { started: true, started_revision, outcome: None };
        }
        let recorded = Recorded {
            started: noted.started || in_hands,
            started_revision: noted.started_revision,
            ..Recorded::default()
        };
        match next(plan, &recorded, &facts) {
            Next::Wait { .. } => None,
            Next::Finished(outcome) => {
                if belief.outdated {
                    return None;
                }
                world.region(by).sealed[run].clear();
                world.directory.runs[run].outcome = Some(outcome);
                Some(())
            }
            Next::Do {
                effect:
                    Effect::WriteCanary { .. }
                    | Effect::WriteLate { .. }
                    | Effect::Begin { .. }
                    | Effect::Exec { .. }
                    | Effect::Send { .. }
                    | Effect::WarmUp { .. }
                    | Effect::Seed { .. }
                    | Effect::GiveUpSeed { .. },
                ..
            } => None,
            Next::Do { effect: Effect::Change(change), .. } => {
                let done = self.change(world, &change);
                let latest = world.directory.latest();
                let started_revision = latest.ownership_revision;
                let holds = latest.ownership.ranges_of(&plan.run).next().is_some();
                let noted = &mut world.directory.runs[run];
                if holds && !noted.started && !belief.outdated {
                    *noted = RunDocument { started: true, started_revision, ..noted.clone() };
                }
                done
            }
            Next::Do { effect: Effect::Seal { regions, from }, .. } => {
                let of = index(&from);
                let promise = facts.ownership.ranges_of(&plan.run).map(|entry| Seal {
                    region: from.clone(),
                    range: entry.range,
                    epoch: Epoch(entry.epoch.0.saturating_sub(1)),
                    held: Vec::new(),
                });
                let promise: Vec<_> = promise.collect();
                let mut any = false;
                for peer in regions.iter().map(index) {
                    let Some(held) = self.seal(world, peer, of, &promise) else { continue };
                    any = true;
                    let sealed = &mut world.region(by).sealed[run];
                    sealed.retain(|(other, _)| *other != peer);
                    sealed.push((peer, held));
                    sealed.sort();
                }
                any.then_some(())
            }
        }
    }

    fn is_region(&self, index: usize) -> bool {
        self.members.contains(&index)
    }

    fn is_witness(&self, index: usize) -> bool {
        self.witnesses.contains(&index)
    }

    fn facts(&self, world: &World, by: usize, run: usize, belief: &Belief) -> Option<Facts> {
        let (region, plan) = (&world.regions[by], &self.runs[run]);
        let known = region.read.as_ref()?;
        let from = match &plan.intent {
            Intent::Failover { from, .. } => Some(index(from)),
            Intent::Switchover { .. }
            | Intent::Evacuation { .. }
            | Intent::Addition { .. }
            | Intent::ForcedDrill { .. } => None,
        };
        let seen = |other: usize| {
            let there = &world.regions[other];
            let logs = || (0..3).map(|of| (origin(of), &there.logs[of]));
            let applied = |(of, log): (_, &Log)| match self.breaks(Fault::GrantEarly) {
                true => (of, Lsn(u64::MAX)),
                false => (of, log.applied),
            };
            let is_target = id(other) == *plan.intent.to();
            let lost = belief.target_lost && is_target;
            let gone = lost || Some(other) == from && !belief.well;
            let outage = if gone { Outage::Confirmed { by: vec![id(by)] } } else { Outage::None };
            let lease_over_at = match region.seen[other] {
                _ if lost => world.now,
                Some(_) if self.breaks(Fault::CutEarly) => world.now,
                Some(seen) if Some(other) == from => seen.over_at(&TERMS),
                _ => world.now + Millis(1),
            };
            RegionFacts {
                reachable: belief.answers == Some(other)
                    || from == Some(other)
                    || is_target && from.is_none() && !lost,
                lease_over_at: Some(lease_over_at),
                outage: Some(outage),
                flushed: logs().map(|(of, log)| (of, log.end)).collect::<Frontier>(),
                applied: logs().map(applied).collect::<Frontier>(),
                ownership_seen: there.guard.revision,
                ..RegionFacts::default()
            }
        };
        let witness = |other: usize| WitnessFacts {
            reachable: belief.answers == Some(other),
            flushed: (0..3).map(|of| (origin(of), world.regions[other].logs[of].end)).collect(),
        };
        let overlooked = self.witnesses.iter().filter(|_| self.breaks(Fault::OverlookWitness));
        let overlooked = overlooked.map(|witness| (id(*witness), Vec::new()));
        let seals = region.sealed[run].iter().map(|(peer, held)| (id(*peer), held.clone()));
        let owner = world.regions[index(plan.intent.to())].guard.open;
        Some(Facts {
            now: world.now,
            rpo: self.rpo,
            ownership: known.ownership.clone(),
            ownership_revision: known.ownership_revision,
            regions: (0..3)
                .filter(|other| !self.is_witness(*other))
                .map(|other| (id(other), seen(other)))
                .collect(),
            witnesses: self.witnesses.iter().map(|other| (id(*other), witness(*other))).collect(),
            seals: overlooked.chain(seals).collect(),
            promises_over_at: None,
            canary_written: owner.is_some(),
            late_write_kept_out: false,
            seed_given_up: false,
            safety: Safety::default(),
            overridden: None,
            approvals: Vec::new(),
            run_known_for: Millis(0),
            successor: Successor::NotBegun,
            // Nobody has sessions here.
            answers: (0..plan.steps.len()).map(|number| (number, Answer::Passed)).collect(),
            parts: BTreeMap::new(),
        })
    }
}

/// How a run's document says that it ended.
pub fn noted(world: &World, run: usize, outcome: &Outcome) -> bool {
    world.directory.runs[run].outcome.as_ref() == Some(outcome)
}

fn index(region: &RegionId) -> usize {
    NAMES.iter().position(|name| *name == region.as_str()).expect("these are all regions")
}

/// The epoch of the partition now.
pub fn epoch(world: &World) -> Epoch {
    world.truth().entry(PARTITION).map_or(Epoch(0), |entry| entry.epoch)
}
