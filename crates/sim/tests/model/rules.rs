//! What must hold always, and what must be possible?

use domicile_core::change::Stamp;
use domicile_core::history::accept;
use domicile_core::id::Epoch;
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::ownership::Verdict;
use domicile_core::runbook::Outcome;
use stateright::Property;

use crate::Protocol;
use crate::step::noted;
use crate::world::{Fate, PARTITION, World, id, origin, rule};

pub const ONE_WRITER: &str = "one region at most can acknowledge writes";
pub const KEPT: &str = "every acknowledged write is history";
pub const CUT_COVERS: &str = "a cut covers every acknowledged write of its epoch";
pub const NOTHING_BEYOND: &str = "an owner shows nothing of others beyond a cut";
pub const ALL_SHOWN: &str = "an owner shows all history of the epochs before";
pub const SAME_END: &str = "a run has ended as its document says";

pub const SUCCEEDS: &str = "a run succeeds";
pub const CALLED_OFF: &str = "a run is called off";
pub const OVERRULED: &str = "a run is overruled";

const POSSIBLE: [&str; 3] = [SUCCEEDS, CALLED_OFF, OVERRULED];

pub fn is_always(name: &str) -> bool {
    !POSSIBLE.contains(&name)
}

pub fn properties(protocol: &Protocol) -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::always(rule::EPOCHS, |_, world: &World| world.broken != Some(rule::EPOCHS)),
        Property::always(rule::GIVES_ONCE, |_, world: &World| {
            world.broken != Some(rule::GIVES_ONCE)
        }),
        Property::always(ONE_WRITER, one_writer),
        Property::always(NOTHING_BEYOND, nothing_beyond),
        Property::always(ALL_SHOWN, all_shown),
        Property::always(SAME_END, same_end),
        Property::sometimes(SUCCEEDS, |protocol: &Protocol, world: &World| {
            (0..protocol.runs.len()).any(|run| noted(world, run, &Outcome::Succeeded))
        }),
        Property::sometimes(OVERRULED, |protocol: &Protocol, world: &World| {
            (0..protocol.runs.len()).any(|run| noted(world, run, &Outcome::Overruled))
        }),
        Property::sometimes(CALLED_OFF, |_, world: &World| {
            let runs = &world.directory.runs;
            runs.iter().any(|run| matches!(run.outcome, Some(Outcome::CalledOff { .. })))
        }),
    ];
    if protocol.has_leases() {
        properties.push(Property::always(rule::ADMITTED, |_, world: &World| {
            world.broken != Some(rule::ADMITTED)
        }));
    } else {
        properties.push(Property::always(KEPT, kept));
        properties.push(Property::always(CUT_COVERS, cut_covers));
    }
    properties.push(Property::always(rule::ACKNOWLEDGED, |_, world: &World| {
        world.broken != Some(rule::ACKNOWLEDGED)
    }));
    properties
}

fn acknowledged(world: &World) -> impl Iterator<Item = &crate::world::Write> {
    world.writes.iter().filter(|write| write.fate == Fate::Acknowledged)
}

fn kept(_: &Protocol, world: &World) -> bool {
    acknowledged(world).all(|write| {
        let verdict = world.truth().verdict(&origin(write.region), write.lsn, write.stamp);
        matches!(verdict, Verdict::InHistory | Verdict::Undecided)
    })
}

/// The ends of epochs, as the latest ownership has them.
fn endings(world: &World) -> Vec<(Epoch, &Cut)> {
    let Some(entry) = world.truth().entry(PARTITION) else { return Vec::new() };
    let closed = entry.closed.iter().map(|closed| (closed.epoch, &closed.cut));
    let fenced = matches!(entry.state, domicile_core::ownership::State::Fenced { .. });
    let last = Epoch(entry.epoch.0 - u64::from(fenced));
    closed.chain(entry.state.cut().map(|cut| (last, cut))).collect()
}

fn cut_covers(_: &Protocol, world: &World) -> bool {
    endings(world).iter().all(|(epoch, cut)| {
        let mut of_epoch = acknowledged(world).filter(|write| write.stamp.epoch == *epoch);
        of_epoch.all(|w| origin(w.region) == cut.origin && w.lsn <= cut.lsn)
    })
}

/// Who could acknowledge one more write, if nothing changed?
fn one_writer(protocol: &Protocol, world: &World) -> bool {
    let could = |index: usize| {
        let region = &world.regions[index];
        let Some(epoch) = region.guard.open else { return false };
        if protocol.has_leases() {
            return world.now < region.guard.deadline;
        }
        let Some(read) = &region.read else { return false };
        let lsn = Lsn(region.wal.len() as u64 + 1);
        let stamps = [Stamp { partition: PARTITION, epoch }];
        let takes = |peer: &usize| {
            let there = &world.regions[*peer];
            read.ownership.holders().any(|holder| *holder == id(*peer))
                && !there.copies.silent_to.contains(&id(index))
                && there.read.as_ref().is_some_and(|read| {
                    let seals = &there.seals;
                    accept(seals, &read.ownership, &origin(index), lsn, &stamps).is_ok()
                })
        };
        let others = (0..3).filter(|peer| *peer != index);
        others.filter(takes).count() >= protocol.rpo.copies()
    };
    (0..3).filter(|index| could(*index)).count() <= 1
}

/// The region that owns the partition and lets writers in.
fn owner(world: &World) -> Option<(usize, Epoch)> {
    let entry = world.truth().entry(PARTITION)?;
    let open = |index: &usize| {
        let region = &world.regions[*index];
        entry.owner() == Some(&id(*index)) && region.guard.open == Some(entry.epoch)
    };
    (0..3).find(open).map(|index| (index, entry.epoch))
}

/// A region that comes back and owns again shows its own tail until its capture has met it.
fn nothing_beyond(_: &Protocol, world: &World) -> bool {
    let Some((index, _)) = owner(world) else { return true };
    let endings = endings(world);
    let mut of_others = world.shown(index).filter(|write| write.region != index);
    of_others.all(|write| {
        let ending = endings.iter().find(|(epoch, _)| *epoch == write.stamp.epoch);
        ending.is_none_or(|(_, cut)| origin(write.region) == cut.origin && write.lsn <= cut.lsn)
    })
}

fn all_shown(_: &Protocol, world: &World) -> bool {
    let Some((index, epoch)) = owner(world) else { return true };
    let history = world.writes.iter().filter(|write| {
        let verdict = world.truth().verdict(&origin(write.region), write.lsn, write.stamp);
        write.stamp.epoch < epoch && verdict == Verdict::InHistory
    });
    let shown: Vec<_> = world.shown(index).collect();
    let mut history = history.into_iter();
    history.all(|write| shown.contains(&write))
}

fn same_end(protocol: &Protocol, world: &World) -> bool {
    protocol.runs.iter().enumerate().all(|(run, plan)| {
        let given = world.directory.given[run].as_ref();
        match &world.directory.runs[run].outcome {
            Some(Outcome::Succeeded) => given.is_none_or(|given| given == plan.intent.to()),
            Some(Outcome::CalledOff { back_to }) => given.is_none_or(|given| given == back_to),
            Some(Outcome::Overruled | Outcome::Aborted | Outcome::Unapproved) | None => true,
            Some(Outcome::Failed | Outcome::Escalated) => true,
        }
    })
}
