//! Does the protocol of fences, seals, cuts and grants hold whatever happens, in whatever order?
//!
//! A model of three regions, or two and a witness, one partition and core's real decisions: every order of
//! events is tried, as far as the bounds reach. `world.rs` is what there is and what each part does, `step.rs` who may do
//! what next, `rules.rs` what must hold. Where a part has a choice, it has every choice:
//!
//! - A link that is cut is an action that is not taken, and nothing is ever due: any agent may be behind
//!   the directory by any number of versions, for any time.
//! - Several executors take a run further by what each of them has read, and believe of leases and of
//!   who answers what they like. What they decide is applied to the newest ownership, as
//!   `directory/change.rs` does it.
//! - Time passes only where acknowledgements may run ahead of copies. There a tick is half of a lease's
//!   time to live: a holder stops after one, an observer waits for two after it saw the renewal. What
//!   drifting clocks ask for is in `core::lease` and tried by the worlds of this crate.
//! - Reading, judging, appending and flushing are one step where nothing but the region itself could tell
//!   the difference. Applying is eager: nobody shows anything wrong by showing less.
//! - A position may lie behind a record that was left out, as if a record of history followed there.
//! - A folder is lost where nothing was written: whoever has written is halted without it.
//! - A crash of PostgreSQL is left out: it only ends sessions and closes the guard.

mod rules;
mod step;
mod world;

use std::time::Instant;

use domicile_core::id::{PartitionRange, RunId};
use domicile_core::progress::Rpo;
use domicile_core::runbook::{Intent, Plan};
use domicile_core::time::Millis;
use stateright::{Checker, HasDiscoveries, Model, Property};

use step::Action;
use world::{AP, EU, US, World, id};

/// A rule broken on purpose, to show that the properties can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Peers answer a seal and forget it.
    SkipSeal,
    /// Seals are not on disk.
    ForgetSeals,
    /// A copy is sealed that may be shorter than it was.
    SealShort,
    /// Seals are lost with a folder, and what they forbid is acknowledged.
    ForgetSilently,
    /// The copies of a region count that is not a member.
    CountStrangers,
    /// A cut does not wait for the seal of a witness, whose copies count.
    OverlookWitness,
    /// A peer's position counts before our log was held against the cuts that it knows.
    CountEarly,
    /// A copy goes on from another one whose keeper knows a newer ownership.
    RelayBlindly,
    /// The client of a commit that is no history is not cut off.
    ConfirmDiverted,
    /// A region is made the owner before it shows everything up to the cut.
    GrantEarly,
    /// Who hands over goes on writing.
    WriteOn,
    /// A cut does not wait for the end of the lease.
    CutEarly,
    /// The guard never looks at its deadline.
    GuardOutlivesLease,
    /// A lease is renewed without reading the ownership after that.
    RenewBlindly,
}

/// How far the model goes.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub writes: usize,
    pub restarts: usize,
    /// How many agents start again with another folder.
    pub folders: usize,
    pub epochs: u64,
    pub ticks: u64,
    pub revisions: u64,
}

#[derive(Clone, Debug)]
pub struct Protocol {
    pub rpo: Rpo,
    pub members: Vec<usize>,
    /// They hold logs and own nothing.
    pub witnesses: Vec<usize>,
    pub joins: bool,
    pub runs: Vec<Plan>,
    pub executors: Vec<usize>,
    pub bounds: Bounds,
    pub fault: Option<Fault>,
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.beginning()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken.is_none() {
            self.actions_in(world, actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.perform(&mut next, &action)?;
        next.settle(world);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        rules::properties(self)
    }

    fn within_boundary(&self, world: &World) -> bool {
        step::epoch(world).0 <= self.bounds.epochs
    }
}

const ZERO: Rpo = Rpo::Zero { copies: 1 };

fn failover(run: &str, attested: bool) -> Plan {
    let intent = Intent::Failover { from: id(EU), to: id(US), attested };
    Plan::ready(&RunId(run.into()), &intent)
}

fn switchover(run: &str, to: usize) -> Plan {
    let intent = Intent::Switchover { range: PartitionRange::new(0, 0), to: id(to) };
    Plan::ready(&RunId(run.into()), &intent)
}

/// The region eu owns the partition; ap and us carry out the runs.
fn protocol(rpo: Rpo, runs: Vec<Plan>) -> Protocol {
    let bounds = Bounds { writes: 1, restarts: 0, folders: 0, epochs: 2, ticks: 3, revisions: 6 };
    let (members, executors) = (vec![AP, EU, US], vec![AP, US]);
    let witnesses = Vec::new();
    Protocol { rpo, members, witnesses, joins: false, runs, executors, bounds, fault: None }
}

fn with_crashes() -> Protocol {
    Protocol { executors: vec![US], ..protocol(ZERO, vec![failover("1", true)]) }
}

fn with_a_lost_folder() -> Protocol {
    let mut protocol = with_crashes();
    protocol.bounds.folders = 1;
    protocol
}

/// Two regions, and ap without tables.
fn with_witness() -> Protocol {
    let protocol = protocol(ZERO, vec![failover("1", true)]);
    Protocol { members: vec![EU, US], witnesses: vec![AP], executors: vec![US], ..protocol }
}

fn with_newcomer() -> Protocol {
    let protocol = protocol(ZERO, vec![failover("1", true)]);
    Protocol { members: vec![EU, US], joins: true, executors: vec![US], ..protocol }
}

/// The lease is between its holder and the one that waits for its end: the third region stays away.
fn with_leases(rpo: Rpo) -> Protocol {
    Protocol {
        members: vec![EU, US],
        executors: vec![US],
        ..protocol(rpo, vec![failover("1", true)])
    }
}

fn bounded(protocol: Protocol, writes: usize, restarts: usize, epochs: u64) -> Protocol {
    let bounds = Bounds { writes, restarts, epochs, ..protocol.bounds };
    Protocol { bounds, ..protocol }
}

/// Tries everything, and more of it when `MODEL_WRITES` or `MODEL_RESTARTS` ask for that.
fn holds(name: &str, mut protocol: Protocol, sometimes: &[&'static str]) {
    let asked = |name| std::env::var(name).ok().map(|n| n.parse().expect("it is a number"));
    let bounds = &mut protocol.bounds;
    bounds.writes = asked("MODEL_WRITES").unwrap_or(bounds.writes);
    bounds.restarts = asked("MODEL_RESTARTS").unwrap_or(bounds.restarts);
    let limits = format!("{} writes, {} restarts", bounds.writes, bounds.restarts);
    let begin = Instant::now();
    let checker = check(protocol);
    println!(
        "{name} ({limits}): {} states, {} steps deep, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begin.elapsed().as_secs_f64()
    );
    if let Some(example) = counterexample(&checker) {
        panic!("{name}: {example}");
    }
    for rule in sometimes {
        assert!(checker.discovery(rule).is_some(), "{name}: it never happens that {rule}");
    }
}

/// Breaks a rule on purpose: some property must notice.
fn is_noticed(fault: Fault, protocol: Protocol) {
    let checker = check(Protocol { fault: Some(fault), ..protocol });
    let example = counterexample(&checker).unwrap_or_else(|| panic!("{fault:?} is not noticed"));
    println!("{fault:?}: {example}");
}

fn check(protocol: Protocol) -> impl Checker<Protocol> {
    let enough = HasDiscoveries::AnyFailures;
    protocol.checker().threads(2).finish_when(enough).spawn_bfs().join()
}

/// What was done until a rule was broken.
fn counterexample(checker: &impl Checker<Protocol>) -> Option<String> {
    let mut found = checker.discoveries().into_iter();
    let (rule, path) = found.find(|(name, _)| rules::is_always(name))?;
    let last = path.last_state();
    let mut lines = vec![format!("broken: {rule}")];
    lines.push(format!("  {:?}\n  {:?}", last.truth(), last.writes));
    let steps = path.into_vec().into_iter().filter_map(|(_, action)| action);
    lines.extend(steps.map(|action| format!("  {action:?}")));
    Some(lines.join("\n"))
}

#[test]
fn a_failover() {
    holds("failover", protocol(ZERO, vec![failover("1", true)]), &[rules::SUCCEEDS]);
}

#[test]
fn a_failover_under_crashes() {
    let protocol = bounded(with_crashes(), 1, 1, 2);
    holds("failover under crashes", protocol, &[rules::SUCCEEDS]);
}

#[test]
fn a_failover_after_a_folder_was_lost() {
    holds("failover and a lost folder", with_a_lost_folder(), &[rules::SUCCEEDS]);
}

#[test]
fn a_failover_of_a_region_that_may_be_well() {
    let protocol = protocol(ZERO, vec![failover("1", false)]);
    holds("failover in doubt", protocol, &[rules::SUCCEEDS, rules::CALLED_OFF]);
}

#[test]
fn a_failover_with_two_copies() {
    let protocol = protocol(Rpo::Zero { copies: 2 }, vec![failover("1", true)]);
    holds("failover with two copies", protocol, &[rules::SUCCEEDS]);
}

#[test]
fn a_failover_with_a_witness() {
    holds("failover with a witness", bounded(with_witness(), 2, 1, 2), &[rules::SUCCEEDS]);
    let mut protocol = with_witness();
    protocol.bounds.folders = 1;
    holds("failover and a witness with a lost folder", protocol, &[rules::SUCCEEDS]);
    let rpo = Rpo::Within { copies: 1, age: Millis(1) };
    let mut protocol = Protocol { witnesses: vec![AP], ..with_leases(rpo) };
    // A third who reads everything at any time is many states.
    protocol.bounds.revisions = 4;
    holds("failover with a witness at a bounded rpo", protocol, &[rules::SUCCEEDS]);
}

#[test]
fn a_failover_while_a_region_joins() {
    holds("failover and a newcomer", with_newcomer(), &[rules::SUCCEEDS]);
}

#[test]
fn a_switchover() {
    let protocol = bounded(protocol(ZERO, vec![switchover("1", US)]), 2, 0, 2);
    holds("switchover", protocol, &[rules::SUCCEEDS, rules::CALLED_OFF]);
}

#[test]
fn a_failover_overrules_a_switchover() {
    let protocol = protocol(ZERO, vec![failover("1", true), switchover("2", AP)]);
    let protocol = Protocol { executors: vec![US], ..protocol };
    holds("failover over a switchover", protocol, &[rules::SUCCEEDS, rules::OVERRULED]);
}

#[test]
fn a_failover_and_back() {
    let protocol = protocol(ZERO, vec![failover("1", true), switchover("2", EU)]);
    // Three epochs are many states: the third region stays away.
    let protocol = Protocol { members: vec![EU, US], executors: vec![US], ..protocol };
    let protocol = bounded(protocol, 1, 0, 3);
    holds("failover and back", protocol, &[rules::SUCCEEDS]);
}

#[test]
fn a_failover_without_copies_waits_for_the_lease() {
    holds("failover at rpo none", with_leases(Rpo::None), &[rules::SUCCEEDS]);
}

#[test]
fn a_failover_with_a_bounded_loss_waits_for_the_lease() {
    let rpo = Rpo::Within { copies: 1, age: Millis(1) };
    holds("failover at a bounded rpo", with_leases(rpo), &[rules::SUCCEEDS]);
}

#[test]
fn peers_that_forget_their_seals_are_noticed() {
    is_noticed(Fault::SkipSeal, protocol(ZERO, vec![failover("1", true)]));
    is_noticed(Fault::ForgetSeals, bounded(with_crashes(), 1, 1, 2));
    for fault in [Fault::SealShort, Fault::ForgetSilently] {
        is_noticed(fault, with_a_lost_folder());
    }
}

#[test]
fn counting_what_is_no_copy_is_noticed() {
    is_noticed(Fault::CountStrangers, with_newcomer());
    is_noticed(Fault::OverlookWitness, with_witness());
    for fault in [Fault::CountEarly, Fault::RelayBlindly, Fault::ConfirmDiverted] {
        is_noticed(fault, protocol(ZERO, vec![failover("1", true)]));
    }
}

#[test]
fn an_owner_that_comes_too_early_is_noticed() {
    is_noticed(Fault::GrantEarly, protocol(ZERO, vec![failover("1", true)]));
    is_noticed(Fault::CutEarly, with_leases(Rpo::None));
}

#[test]
fn an_owner_that_does_not_stop_is_noticed() {
    is_noticed(Fault::WriteOn, protocol(ZERO, vec![switchover("1", US)]));
    is_noticed(Fault::GuardOutlivesLease, with_leases(Rpo::None));
    is_noticed(Fault::RenewBlindly, with_leases(Rpo::None));
}
