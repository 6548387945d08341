//! What happens when? One queue of events in virtual time, and nothing else moves.
//!
//! A run has three parts: faults and work together, then everything healed while work goes on,
//! then rest. What is not at rest when its time is up never will be: that is a violation too.

use std::collections::BTreeMap;
use std::rc::Rc;

use domicile_core::ownership::{OWNERSHIP_BYTES_MAX, OwnershipChange};

use crate::clock::{Clock, MS, Micros, SECOND};
use crate::directory::Directory;
use crate::disk::Disk;
use crate::faults::{End, Fault, Weather};
use crate::invariants::{Kind, Oracle, Violation};
use crate::message::Message;
use crate::network::Network;
use crate::postgres::Postgres;
use crate::region::{Agent, Context, Host, Output, Region, Wake};
use crate::rng::Rng;
use crate::setup::{DRIFT_PPM_MAX, Sabotage, Setup};
use crate::trace::Trace;
use crate::workload::Workload;

mod client;
mod operator;
mod rest;
mod scale;
mod stage;

pub use scale::{Cost, Deal, Failover, Shape, fail_over};
pub use stage::Stage;

use operator::Operator;
use scale::Tally;

/// After healing, everything must have come to rest within this time.
const REST_WITHIN: Micros = 60 * SECOND;
/// How long clients go on after healing.
const WORK_AFTER_HEALING: Micros = 2 * SECOND;

pub struct World {
    setup: Setup,
    now: Micros,
    queue: BTreeMap<(Micros, u64), Event>,
    sequence: u64,
    rng: Rng,
    network: Network,
    directory: Directory,
    regions: Vec<Region>,
    /// What waits for a paused process, by region: the agent's, and PostgreSQL's.
    held_agent: Vec<Vec<Event>>,
    held_postgres: Vec<Vec<Event>>,
    oracle: Oracle,
    trace: Trace,
    weather: Weather,
    workload: Workload,
    operator: Operator,
    heal_at: Micros,
    healed: bool,
    last_session: u64,
    done: bool,
    tally: Tally,
}

#[derive(Debug)]
enum Event {
    Arrive {
        to: usize,
        life: u64,
        from: usize,
        message: Message,
    },
    Wake {
        region: usize,
        life: u64,
        wake: Wake,
    },
    /// A client of this region begins a transaction.
    Begin {
        region: usize,
    },
    /// A transaction's last check by the guard, then its commit.
    Check {
        region: usize,
        start: u64,
        session: u64,
    },
    Commit {
        region: usize,
        start: u64,
        session: u64,
    },
    Order,
    /// The operator looks at what is under way.
    Meddle,
    /// The last region becomes a member, as soon as it may.
    Join,
    Strike,
    End(End),
    Heal,
    Rest,
}

/// How a run ended.
pub struct Report {
    pub violation: Option<Violation>,
    pub steps: u64,
    pub commits: usize,
    pub acknowledged: usize,
    pub runs: usize,
    pub setup: String,
    pub trace: Trace,
}

impl World {
    pub fn new(seed: u64, sabotage: Option<Sabotage>, keep_trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let setup = Setup::choose(seed, &mut rng, sabotage);
        let mut world = Self::calm(seed, setup, rng, keep_trace);
        world.at(2 * SECOND, Event::Strike);
        world.at(SECOND, Event::Order);
        world.at(SECOND, Event::Meddle);
        world.at(world.heal_at, Event::Heal);
        if let Some(joins_at) = world.setup.joins_at {
            world.at(joins_at, Event::Join);
        }
        world
    }

    /// A world in which clients write, and nothing else happens.
    fn calm(seed: u64, setup: Setup, mut rng: Rng, keep_trace: bool) -> Self {
        let count = setup.count();
        let regions = (0..count).map(|index| region(index, &setup, &mut rng)).collect();
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            network: Network::new(count + 1, &mut rng),
            directory: Directory::new(count, setup.first_owners()),
            regions,
            held_agent: (0..count).map(|_| Vec::new()).collect(),
            held_postgres: (0..count).map(|_| Vec::new()).collect(),
            oracle: Oracle::new(&setup),
            trace: Trace::new(keep_trace),
            weather: Weather::choose(&mut rng),
            workload: Workload::choose(&mut rng),
            operator: Operator::choose(seed),
            heal_at: rng.between(10, 25) * SECOND,
            healed: false,
            last_session: 0,
            done: false,
            tally: Tally::default(),
            setup,
            rng,
        };
        for region in 0..count {
            world.start_agent(region);
            world.at(region as u64 * MS, Event::Begin { region });
        }
        world
    }

    /// Runs to the end, or for `steps` events.
    pub fn run(mut self, steps: Option<u64>) -> Report {
        let mut step = 0;
        while !self.done && self.oracle.violation.is_none() && steps.is_none_or(|max| step < max) {
            let Some(((now, _), event)) = self.queue.pop_first() else { break };
            self.now = now;
            self.handle(event);
            step += 1;
        }
        let (commits, acknowledged) = self.oracle.counts();
        Report {
            violation: self.oracle.violation,
            steps: step,
            commits,
            acknowledged,
            runs: self.directory.read().runs.len(),
            setup: format!(
                "{} regions{}, {} partitions, {:?}",
                self.setup.count(),
                self.setup.joins_at.map_or("", |_| ", one of them new"),
                self.setup.layout.total(),
                self.setup.rpo
            ),
            trace: self.trace,
        }
    }

    fn at(&mut self, time: Micros, event: Event) {
        self.sequence += 1;
        self.queue.insert((time, self.sequence), event);
    }

    fn after(&mut self, delay: Micros, event: Event) {
        self.at(self.now + delay, event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { to, from, message, .. } if to == self.setup.directory() => {
                self.ask_directory(from, message);
            }
            Event::Arrive { to, life, from, message } => {
                if self.regions[to].agent_paused {
                    self.held_agent[to].push(Event::Arrive { to, life, from, message });
                } else if self.regions[to].life == life {
                    self.with_agent(to, |agent, host, cx| agent.receive(host, cx, from, message));
                }
            }
            Event::Wake { region, life, wake } => {
                if self.regions[region].agent_paused {
                    self.held_agent[region].push(Event::Wake { region, life, wake });
                } else if self.regions[region].life == life {
                    self.with_agent(region, |agent, host, cx| agent.wake(host, cx, wake));
                }
            }
            Event::Begin { region } => self.begin(region),
            Event::Check { region, .. } | Event::Commit { region, .. }
                if self.regions[region].host.postgres.paused =>
            {
                self.held_postgres[region].push(event);
            }
            Event::Check { region, start, session } => self.check(region, start, session),
            Event::Commit { region, start, session } => self.commit(region, start, session),
            Event::Order => self.order(),
            Event::Meddle => self.meddle(),
            Event::Join => self.join(),
            Event::Strike => self.strike(),
            Event::End(end) => self.end(end),
            Event::Heal => self.heal(),
            Event::Rest => self.rest(),
        }
    }

    /// Lets an agent act, and carries out what it asks for.
    fn with_agent(
        &mut self,
        region: usize,
        act: impl FnOnce(&mut Agent, &mut Host, &mut Context<'_>),
    ) {
        let mut out = Vec::new();
        let place = &mut self.regions[region];
        let Some(agent) = &mut place.agent else { return };
        let mut cx = Context {
            now: self.now,
            rng: &mut self.rng,
            setup: &self.setup,
            oracle: &mut self.oracle,
            trace: &mut self.trace,
            out: &mut out,
        };
        act(agent, &mut place.host, &mut cx);
        self.carry_out(region, out);
    }

    fn carry_out(&mut self, region: usize, out: Vec<Output>) {
        let life = self.regions[region].life;
        let mut dies = false;
        for output in out {
            match output {
                Output::Send { to, message } => self.send(region, to, message),
                Output::Wake { after, wake } => {
                    self.after(after, Event::Wake { region, life, wake })
                }
                Output::Die => dies = true,
            }
        }
        if dies {
            self.trace.line(self.now, format_args!("{} dies", self.setup.regions[region]));
            self.stop_agent(region);
            let back = self.rng.between(50, 5000) * MS;
            self.after(back, Event::End(End::StartAgent(region)));
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let Some(delay) = self.network.delay(from, to, &mut self.rng) else { return };
        self.tally.sent(&message);
        let life = self.regions.get(to).map_or(0, |region| region.life);
        self.after(delay, Event::Arrive { to, life, from, message });
    }

    fn ask_directory(&mut self, from: usize, message: Message) {
        let directory = self.setup.directory();
        match message {
            Message::Renew { token } => {
                self.directory.renew(from);
                let revision = self.directory.read().revision;
                self.send(directory, from, Message::Renewed { token, revision });
            }
            Message::Read => {
                let state = Rc::new(self.directory.read().clone());
                self.send(directory, from, Message::State(state));
            }
            Message::SwapOwnership { value, .. } if value.bytes() > OWNERSHIP_BYTES_MAX => {
                self.trace.line(self.now, format_args!("directory: {} bytes", value.bytes()));
            }
            Message::SwapOwnership { expected, value } => {
                if self.directory.swap_ownership(expected, value.clone()) {
                    let states: Vec<String> = value
                        .entries()
                        .iter()
                        .map(|e| format!("{}:{} {}", e.range, e.epoch, e.state))
                        .collect();
                    self.trace.line(self.now, format_args!("directory: {}", states.join(", ")));
                    self.tally.written(&value);
                    self.oracle.owned(value);
                    self.tell_watchers();
                }
            }
            Message::PutRun(document) => {
                if self.directory.put_run(&document) {
                    self.tell_watchers();
                }
            }
            other => unreachable!("the directory is not asked for {other:?}"),
        }
    }

    fn tell_watchers(&mut self) {
        for region in 0..self.setup.count() {
            self.send(self.setup.directory(), region, Message::Changed);
        }
    }

    fn join(&mut self) {
        let state = self.directory.read();
        let Some(region) = self.setup.regions.last().cloned() else { return };
        match state.ownership.apply(&OwnershipChange::Join { region }) {
            Ok(joined) => {
                self.directory.swap_ownership(state.ownership_revision, Rc::new(joined));
                self.trace.line(self.now, format_args!("the newcomer is a member"));
                self.tell_watchers();
            }
            Err(_) => self.after(SECOND / 2, Event::Join),
        }
    }

    fn strike(&mut self) {
        if self.healed {
            return;
        }
        if let Some((fault, lasts)) = self.weather.strike(&mut self.rng, &self.setup) {
            self.trace.line(self.now, format_args!("fault: {fault:?} for {}ms", lasts / MS));
            self.after(lasts, Event::End(fault.end()));
            self.suffer(fault);
        }
        let next = self.weather.next_after(&mut self.rng);
        self.after(next, Event::Strike);
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::KillAgent(region) => self.stop_agent(region),
            Fault::KillPostgres(region) => self.stop_postgres(region),
            Fault::KillRegion(region) => {
                self.stop_agent(region);
                self.stop_postgres(region);
            }
            Fault::PauseAgent(region) => self.regions[region].agent_paused = true,
            Fault::PausePostgres(region) => self.regions[region].host.postgres.paused = true,
            Fault::Cut(pairs) => pairs.iter().for_each(|(a, b)| self.network.cut(*a, *b)),
            Fault::Slow { from, to, by } => self.network.slow_down(from, to, by),
            Fault::StepClock { region, by } => self.regions[region].host.clock.wall_step += by,
            Fault::KillAtEffect { region, after } => {
                if let Some(agent) = &mut self.regions[region].agent {
                    agent.die_at_effect = Some(after);
                }
            }
        }
    }

    fn end(&mut self, end: End) {
        match end {
            End::StartAgent(region) => self.start_agent(region),
            End::StartPostgres(region) => self.start_postgres(region),
            End::StartRegion(region) => {
                self.start_postgres(region);
                self.start_agent(region);
            }
            End::ResumeAgent(region) => {
                self.regions[region].agent_paused = false;
                let held = std::mem::take(&mut self.held_agent[region]);
                held.into_iter().for_each(|event| self.after(0, event));
            }
            End::ResumePostgres(region) => {
                self.regions[region].host.postgres.paused = false;
                let held = std::mem::take(&mut self.held_postgres[region]);
                held.into_iter().for_each(|event| self.after(0, event));
            }
            End::Mend(pairs) => pairs.iter().for_each(|(a, b)| self.network.mend(*a, *b)),
            End::Hurry { from, to } => self.network.slow_down(from, to, 0),
            End::Nothing => {}
        }
    }

    fn start_agent(&mut self, region: usize) {
        let place = &mut self.regions[region];
        if place.agent.is_some() {
            return;
        }
        let mut out = Vec::new();
        let mut cx = Context {
            now: self.now,
            rng: &mut self.rng,
            setup: &self.setup,
            oracle: &mut self.oracle,
            trace: &mut self.trace,
            out: &mut out,
        };
        place.agent = Some(Agent::start(&mut place.host, &mut cx));
        self.trace.line(self.now, format_args!("{} agent starts", self.setup.regions[region]));
        self.carry_out(region, out);
    }

    fn stop_agent(&mut self, region: usize) {
        let place = &mut self.regions[region];
        place.agent = None;
        place.agent_paused = false;
        place.life += 1;
        place.host.disk.crash();
        self.held_agent[region].clear();
    }

    fn stop_postgres(&mut self, region: usize) {
        self.regions[region].host.postgres.crash();
        self.held_postgres[region].clear();
        self.oracle.forgot(region);
    }

    fn start_postgres(&mut self, region: usize) {
        let postgres = &mut self.regions[region].host.postgres;
        if !postgres.up {
            postgres.restart();
        }
    }

    fn heal(&mut self) {
        self.trace.line(self.now, format_args!("everything heals"));
        self.healed = true;
        self.network.heal();
        for region in 0..self.setup.count() {
            self.end(End::ResumePostgres(region));
            self.end(End::ResumeAgent(region));
            self.end(End::StartRegion(region));
            if let Some(agent) = &mut self.regions[region].agent {
                agent.die_at_effect = None;
            }
        }
        self.after(WORK_AFTER_HEALING + SECOND, Event::Rest);
    }

    fn working(&self) -> bool {
        !self.healed || self.now < self.heal_at + WORK_AFTER_HEALING
    }

    fn fail(&mut self, kind: Kind, rule: &'static str, detail: String) {
        self.oracle.violation.get_or_insert(Violation { kind, rule, detail });
    }
}

fn region(index: usize, setup: &Setup, rng: &mut Rng) -> Region {
    let drift = rng.between(0, 2 * DRIFT_PPM_MAX) as i64 - DRIFT_PPM_MAX as i64;
    let start = rng.between(1, 1_000_000) * SECOND;
    let count = setup.count();
    Region {
        host: Host {
            index,
            id: setup.regions[index].clone(),
            clock: Clock { drift_ppm: drift, start, wall_step: 0 },
            disk: Disk::new(count),
            postgres: Postgres::new(setup.partitions.len(), count),
        },
        agent: None,
        agent_paused: false,
        life: 1,
    }
}
