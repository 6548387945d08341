//! What does one region's agent do when something happens?
//!
//! The glue mirrors the real agent thinly: an event comes, core decides, the agent performs. One
//! file per part, as in the real agent: `tenure` (lease, guard, drain), `capture` (slot to log),
//! `ship` (log to log), `apply` (log to tables), `divert` (what is no history), `observe` and
//! `operate` (runs).

use std::collections::BTreeMap;
use std::rc::Rc;

use domicile_core::id::{RegionId, RunId};
use domicile_core::lease::{Held, Seen};
use domicile_core::lsn::Lsn;
use domicile_core::outage::Probe;
use domicile_core::ownership::Ownership;
use domicile_core::progress::OriginProgress;
use domicile_core::promise::Promises;
use domicile_core::time::{PgTime, Time};

use crate::clock::{Clock, MS, Micros};
use crate::directory::Snapshot;
use crate::disk::Disk;
use crate::invariants::Oracle;
use crate::message::{Message, Report};
use crate::postgres::Postgres;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::trace::Trace;

mod apply;
mod capture;
mod divert;
mod observe;
mod operate;
mod ship;
mod tenure;

/// How often an agent looks around when nothing wakes it.
const TICK: Micros = 25 * MS;

/// What an agent may touch besides its own region.
pub struct Context<'a> {
    pub now: Micros,
    pub rng: &'a mut Rng,
    pub setup: &'a Setup,
    pub oracle: &'a mut Oracle,
    pub trace: &'a mut Trace,
    pub out: &'a mut Vec<Output>,
}

/// What an agent asks of the world.
#[derive(Debug)]
pub enum Output {
    Send {
        to: usize,
        message: Message,
    },
    /// Call the agent again.
    Wake {
        after: Micros,
        wake: Wake,
    },
    /// A fault strikes this agent here.
    Die,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    Tick,
    /// The disk has written what was appended.
    Flushed,
    /// The slot has something to send.
    Poked,
}

/// The part of a region that outlives its agent.
pub struct Host {
    pub index: usize,
    pub id: RegionId,
    pub clock: Clock,
    pub disk: Disk,
    pub postgres: Postgres,
}

pub struct Region {
    pub host: Host,
    /// `None` while its process is down.
    pub agent: Option<Agent>,
    pub agent_paused: bool,
    /// Counts the agent's starts: what was sent to an earlier one is lost.
    pub life: u64,
}

/// Everything that an agent forgets in a crash.
pub struct Agent {
    /// The latest state of the directory that this agent has read.
    state: Option<Rc<Snapshot>>,
    /// By region: the lease's revision as this agent timed it.
    leases: Vec<Option<Seen>>,
    /// When it was read last.
    heard_directory: Option<Time>,
    renewal: Renewal,
    /// The newest renewal by the directory.
    renewed_at: Time,
    held: Option<Held>,
    /// The guard's deadline is one that peers have promised.
    on_promises: bool,
    /// What the peers are asked for now.
    asking: Option<tenure::Asking>,
    /// What this agent has promised to others.
    promises: Promises,
    /// The ownership revision that the guard goes by.
    guard_revision: u64,
    /// Runs for which the guard is closed, with the barrier once it is written.
    draining: BTreeMap<RunId, Option<Lsn>>,
    progress: OriginProgress,
    /// The next WAL entry to capture, once the stream has started.
    cursor: Option<usize>,
    /// The postmaster that the stream and the guard belong to.
    postmaster: u64,
    flush_asked: bool,
    /// The ownership whose cuts have been looked up in every log.
    diverted: Option<Rc<Ownership>>,
    repair: Option<divert::Repair>,
    repair_misses: u32,
    fetches: Vec<ship::Fetching>,
    askers: Vec<ship::Asker>,
    heard: Vec<Option<(Time, Rc<Report>)>>,
    probes: Vec<Option<(Time, Probe)>>,
    executions: BTreeMap<RunId, operate::Execution>,
    /// Since when each run that is under way is known here.
    known_runs: BTreeMap<RunId, Time>,
    /// Counts down the effects until a fault kills this agent at one.
    pub die_at_effect: Option<u64>,
    due: Due,
}

/// Where a lease renewal is. Each answer must belong to the question before it.
enum Renewal {
    Idle,
    Sent {
        at: Time,
        wall: PgTime,
        start: u64,
    },
    /// Renewed; waits for an ownership that was read after that.
    Reading {
        revision: u64,
        wall: PgTime,
        start: u64,
    },
}

/// When each regular thing is next due, by the agent's monotonic clock.
#[derive(Default)]
struct Due {
    renew: Time,
    read: Time,
    report: Time,
    observe: Time,
    operate: Time,
    flush: Time,
    repair: Time,
}

impl Agent {
    pub fn start(host: &mut Host, cx: &mut Context<'_>) -> Self {
        let count = cx.setup.count();
        let end = host.disk.logs[host.index].flushed;
        let now = host.clock.monotonic(cx.now);
        cx.out.push(Output::Wake { after: cx.rng.below(TICK), wake: Wake::Tick });
        Self {
            state: None,
            leases: vec![None; count],
            heard_directory: None,
            renewal: Renewal::Idle,
            renewed_at: now,
            held: None,
            on_promises: false,
            asking: None,
            promises: Promises::new(now),
            guard_revision: 0,
            draining: BTreeMap::new(),
            progress: OriginProgress::resume(end),
            cursor: None,
            postmaster: 0,
            flush_asked: false,
            diverted: None,
            repair: None,
            repair_misses: 0,
            fetches: vec![ship::Fetching::default(); count],
            askers: Vec::new(),
            heard: vec![None; count],
            probes: vec![None; count],
            executions: BTreeMap::new(),
            known_runs: BTreeMap::new(),
            die_at_effect: None,
            due: Due::default(),
        }
    }

    pub fn wake(&mut self, host: &mut Host, cx: &mut Context<'_>, wake: Wake) {
        match wake {
            Wake::Tick => {
                cx.out.push(Output::Wake { after: TICK, wake: Wake::Tick });
                self.tick(host, cx);
            }
            Wake::Flushed => self.flushed(host, cx),
            Wake::Poked => {}
        }
        self.work(host, cx);
    }

    fn tick(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let now = host.clock.monotonic(cx.now);
        if now >= self.due.read {
            self.due.read = now + domicile_core::time::Millis(200);
            self.ask_directory(cx);
        }
        if now >= self.due.flush && host.postgres.answers() {
            self.due.flush = now + domicile_core::time::Millis(cx.rng.between(50, 200));
            host.postgres.flush();
        }
        self.renew(host, cx);
        self.fetch(host, cx);
        self.observe(host, cx);
        self.report(host, cx);
        self.operate(host, cx);
    }

    /// Everything that may be done whenever something has changed.
    fn work(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        if !host.postgres.answers() || self.state.is_none() {
            return;
        }
        self.reconnect(host);
        self.divert_tails(host, cx);
        self.set_guard(host, cx);
        self.capture(host, cx);
        self.drain(host, cx);
        self.apply(host, cx);
        self.repair_rows(host, cx);
        self.confirm(host, cx);
    }

    /// A new postmaster: the stream starts again from the slot, the guard is not set.
    fn reconnect(&mut self, host: &mut Host) {
        if self.postmaster == host.postgres.start {
            return;
        }
        self.postmaster = host.postgres.start;
        self.draining.clear();
        self.repair = None;
        let from = host.postgres.confirmed.max(host.disk.logs[host.index].received);
        self.cursor = Some(host.postgres.entry_after(from));
    }

    pub fn receive(&mut self, host: &mut Host, cx: &mut Context<'_>, from: usize, m: Message) {
        match m {
            Message::Renewed { token, revision } => self.renewed(cx, token, revision),
            Message::State(snapshot) => self.learn(host, cx, snapshot),
            Message::Changed => self.ask_directory(cx),
            Message::Fetch { origin, after, progress, revision } => {
                self.serve(host, cx, from, origin, after, (progress, revision));
            }
            Message::Records { revision, origin, after, upto, records } => {
                let batch = ship::Batch { revision, origin, after, upto, records };
                self.take_records(host, cx, from, batch);
            }
            Message::Report(report) => self.hear(host, cx, from, report),
            Message::SealThese { run, seals } => self.seal(host, cx, from, run, seals),
            Message::Sealed { run, held, promised } => {
                self.sealed(host, cx, from, run, (held, promised));
            }
            Message::AskPromise { token, ask } => self.answer_ask(host, cx, from, token, &ask),
            Message::Promised { token } => self.promised(host, cx, from, token),
            Message::WriteCanary(run) => self.write_canary(host, cx, from, run),
            Message::CanaryWritten(run) => self.canary_written(&run),
            Message::WriteLate(run) => self.write_late(host, cx, from, run),
            Message::LateWritten(run) => self.late_written(&run),
            Message::ProbeGuard => self.answer_probe(host, cx, from),
            Message::Probed(probe) => self.probed(host, cx, from, probe),
            Message::AskRows(keys) => self.serve_rows(host, cx, from, &keys),
            Message::Rows(rows) => self.take_rows(from, rows),
            Message::Renew { .. }
            | Message::Read
            | Message::SwapOwnership { .. }
            | Message::PutRun(_) => {
                unreachable!("only the directory is asked this")
            }
        }
        self.work(host, cx);
    }

    fn ask_directory(&self, cx: &mut Context<'_>) {
        send(cx, cx.setup.directory(), Message::Read);
    }

    fn ownership(&self) -> Option<&Rc<Ownership>> {
        self.state.as_ref().map(|s| &s.ownership)
    }

    fn ownership_revision(&self) -> u64 {
        self.state.as_ref().map_or(0, |s| s.ownership_revision)
    }

    /// Has every known cut been looked up in the logs?
    fn settled(&self) -> bool {
        match (&self.diverted, self.ownership()) {
            (Some(done), Some(known)) => Rc::ptr_eq(done, known) || done == known,
            _ => false,
        }
    }

    /// Does this agent know of no unfinished business?
    pub fn idle(&self, host: &Host) -> bool {
        self.settled() && self.repair.is_none() && self.draining.is_empty() && self.caught_up(host)
    }
}

fn send(cx: &mut Context<'_>, to: usize, message: Message) {
    cx.out.push(Output::Send { to, message });
}
