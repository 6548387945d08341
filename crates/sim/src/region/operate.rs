//! How does a run go on, whoever carries it out?
//!
//! Any live agent may: the target, or the first live region when the target is gone. It asks core
//! what comes next, does that one thing, and looks again. Two agents that both believe it is
//! their turn are harmless, because every effect is a compare-and-set or absolute.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use domicile_core::history::Seal;
use domicile_core::id::{Epoch, PartitionId, RegionId, RunId};
use domicile_core::lsn::Cut;
use domicile_core::ownership::{Ownership, OwnershipChange, State};
use domicile_core::promise;
use domicile_core::runbook::file::Call;
use domicile_core::runbook::plan::check;
use domicile_core::runbook::{Answer, Effect, Intent, Next, Plan, executor, failover, next};
use domicile_core::time::{Millis, Time};

use super::{Agent, Context, Host, Output, send};
use crate::clock::Micros;
use crate::directory::RunDocument;
use crate::message::Message;
use crate::postgres::EntryKind;
use crate::setup::{Sabotage, Setup};

const OPERATE_EVERY: Millis = Millis(100);
/// How long the answer to an effect is awaited before the facts are looked at again.
const EFFECT_PATIENCE: Millis = Millis(400);

/// What an executor keeps in memory about a run; the next one starts without it.
#[derive(Default)]
pub struct Execution {
    pub seals: BTreeMap<RegionId, Vec<Cut>>,
    pub promises_over_at: Option<Time>,
    pub canary_written: bool,
    pub late_written: bool,
    pub answers: BTreeMap<usize, Answer>,
    act_again_at: Time,
}

impl Execution {
    pub fn may_act(&self, now: Time) -> bool {
        now >= self.act_again_at
    }

    pub fn acted(&mut self, now: Time) {
        self.act_again_at = now + EFFECT_PATIENCE;
    }

    pub fn look_again(&mut self) {
        self.act_again_at = Time(0);
    }
}

impl Agent {
    pub(super) fn operate(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let now = host.clock.monotonic(cx.now);
        let Some(state) = self.state.clone() else { return };
        if now < self.due.operate {
            return;
        }
        self.due.operate = now + OPERATE_EVERY;
        let open: BTreeSet<&RunId> = state.open_runs().map(|run| &run.plan.run).collect();
        let known = |run: &RunId| open.contains(run) || !state.runs.contains_key(run);
        self.executions.retain(|run, _| known(run));
        self.known_runs.retain(|run, _| known(run));
        for run in &open {
            self.known_runs.entry((*run).clone()).or_insert(now);
        }
        for document in state.open_runs() {
            self.go_on(host, cx, document, now);
        }
        self.fail_over(host, cx);
    }

    fn go_on(&mut self, host: &mut Host, cx: &mut Context<'_>, run: &Rc<RunDocument>, now: Time) {
        let id = &run.plan.run;
        let execution = self.executions.entry(id.clone()).or_default();
        if !execution.may_act(now) {
            return;
        }
        let Some(mut facts) = self.facts(host, cx.setup, cx.now, Some(id)) else { return };
        facts.run_known_for = self.known_runs.get(id).map_or(Millis(0), |since| now.since(*since));
        facts.approvals.clone_from(&run.approvals);
        if let Some(state) = &self.state {
            (facts.parts, facts.successor) = (state.parts_of(id), state.successor_of(id));
        }
        if executor(&run.plan, &facts).as_ref() != Some(&host.id) {
            return;
        }
        if !run.started && facts.ownership.ranges_of(id).next().is_some() {
            let started_revision = facts.ownership_revision;
            let run =
                RunDocument { started: true, started_revision, outcome: None, ..(**run).clone() };
            self.put_run(host, cx, &run);
            return self.acted(id, now);
        }
        match next(&run.plan, &run.recorded(&facts.ownership), &facts) {
            Next::Wait { .. } => {}
            Next::Do { step, effect } => {
                let name = run.plan.steps[step].name();
                cx.trace.line(cx.now, format_args!("{} does {name} of {id}", host.id));
                self.acted(id, now);
                if !self.dies_here(cx) {
                    self.perform(host, cx, id, effect);
                    self.dies_here(cx);
                }
            }
            Next::Finished(outcome) => {
                let run = RunDocument { outcome: Some(outcome), ..(**run).clone() };
                self.put_run(host, cx, &run);
                self.acted(id, now);
            }
        }
    }

    fn acted(&mut self, run: &RunId, now: Time) {
        self.executions.entry(run.clone()).or_default().acted(now);
    }

    /// A fault that was waiting for this agent to act.
    fn dies_here(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(left) = self.die_at_effect else { return false };
        self.die_at_effect = left.checked_sub(1);
        if left == 0 {
            cx.out.push(Output::Die);
        }
        left == 0
    }

    fn perform(&mut self, host: &mut Host, cx: &mut Context<'_>, run: &RunId, effect: Effect) {
        match effect {
            Effect::Change(change) => self.swap(host, cx, &change),
            Effect::Seal { regions, from } => {
                let Some(ownership) = self.ownership() else { return };
                let seals = seals_of(ownership, run, &from);
                for region in regions {
                    let to = cx.setup.index(&region).expect("regions never change here");
                    let message = Message::SealThese { run: run.clone(), seals: seals.clone() };
                    self.deliver(host, cx, to, message);
                }
            }
            Effect::Begin { run, intent } => {
                if self.state.as_ref().is_some_and(|state| !state.runs.contains_key(&run)) {
                    self.put_new_run(host, cx, Plan::ready(&run, &intent));
                }
            }
            Effect::Exec { .. } | Effect::Send { .. } => {
                unreachable!("no runbook here acts outside")
            }
            // There are no sessions here.
            Effect::WarmUp { number, .. } => {
                let execution = self.executions.entry(run.clone()).or_default();
                execution.answers.insert(number, Answer::Passed);
            }
            Effect::Seed { .. } | Effect::GiveUpSeed { .. } => {
                unreachable!("regions join by themselves here")
            }
            Effect::WriteCanary { region, .. } => {
                let to = cx.setup.index(&region).expect("regions never change here");
                self.deliver(host, cx, to, Message::WriteCanary(run.clone()));
            }
            Effect::WriteLate { region } => {
                let to = cx.setup.index(&region).expect("regions never change here");
                self.deliver(host, cx, to, Message::WriteLate(run.clone()));
            }
        }
    }

    /// Sends to a peer, or does it here when that is ourselves.
    fn deliver(&mut self, host: &mut Host, cx: &mut Context<'_>, to: usize, message: Message) {
        match message {
            Message::SealThese { run, seals } if to == host.index => {
                self.seal(host, cx, to, run, seals);
            }
            Message::WriteCanary(run) if to == host.index => self.write_canary(host, cx, to, run),
            Message::WriteLate(run) if to == host.index => self.write_late(host, cx, to, run),
            message => send(cx, to, message),
        }
    }

    /// Changes the directory's ownership, as far as we know it, by compare-and-set.
    pub(super) fn swap(&self, host: &Host, cx: &mut Context<'_>, change: &OwnershipChange) {
        let Some(state) = &self.state else { return };
        match state.ownership.apply(change) {
            Ok(value) => {
                let (expected, value) = (state.ownership_revision, Rc::new(value));
                send(cx, cx.setup.directory(), Message::SwapOwnership { expected, value });
                self.ask_directory(cx);
            }
            Err(why) => cx.trace.line(cx.now, format_args!("{} cannot: {why}", host.id)),
        }
    }

    fn put_new_run(&self, host: &Host, cx: &mut Context<'_>, plan: Plan) {
        let Some(ownership) = self.ownership() else { return };
        let document = RunDocument {
            revision: 0,
            decided: plan.decided(ownership).into(),
            plan: Rc::new(plan),
            started: false,
            started_revision: 0,
            wish: None,
            approvals: Vec::new(),
            outcome: None,
        };
        self.put_run(host, cx, &document);
    }

    fn put_run(&self, host: &Host, cx: &mut Context<'_>, run: &RunDocument) {
        let (id, started, outcome) = (&run.plan.run, run.started, &run.outcome);
        cx.trace.line(
            cx.now,
            format_args!("{} notes {id} started {started} outcome {outcome:?}", host.id),
        );
        send(cx, cx.setup.directory(), Message::PutRun(Rc::new(run.clone())));
        self.ask_directory(cx);
    }

    pub(super) fn sealed(
        &mut self,
        host: &Host,
        cx: &Context<'_>,
        from: usize,
        run: RunId,
        (held, promised): (Vec<Cut>, Millis),
    ) {
        let now = host.clock.monotonic(cx.now);
        let execution = self.executions.entry(run).or_default();
        execution.seals.insert(cx.setup.regions[from].clone(), held);
        if !cx.setup.breaks(Sabotage::CutUnderPromises) {
            let over_at = promise::over_at(promised, now, &cx.setup.terms);
            execution.promises_over_at = execution.promises_over_at.max(Some(over_at));
        }
        execution.look_again();
    }

    pub(super) fn canary_written(&mut self, run: &RunId) {
        let execution = self.executions.entry(run.clone()).or_default();
        execution.canary_written = true;
        execution.look_again();
    }

    pub(super) fn late_written(&mut self, run: &RunId) {
        let execution = self.executions.entry(run.clone()).or_default();
        execution.late_written = true;
        execution.look_again();
    }

    /// Commits past the guard a canary row of the epoch that `run` has cut here. That it is diverted is for the
    /// oracle to see.
    pub(super) fn write_late(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        asker: usize,
        run: RunId,
    ) {
        let epoch = self.ownership().and_then(|known| known.canary_cut_by(&run, &host.id));
        let (Some(epoch), true) = (epoch, host.postgres.answers()) else { return };
        let postgres = &mut host.postgres;
        let stamps = vec![domicile_core::change::Stamp { partition: PartitionId::CANARY, epoch }];
        let (id, keys) = (cx.oracle.next_id(), Vec::new());
        let kind =
            EntryKind::Local { id, keys: keys.clone(), stamps: stamps.clone(), barrier: None };
        let lsn = postgres.write_through(kind);
        cx.oracle.committed(host.index, id, lsn, &keys, &stamps, &postgres.tables.applied);
        if asker == host.index {
            self.late_written(&run);
        } else {
            send(cx, asker, Message::LateWritten(run));
        }
    }

    /// Writes through our own guard, into whatever this region owns.
    pub(super) fn write_canary(
        &mut self,
        host: &mut Host,
        cx: &mut Context<'_>,
        asker: usize,
        run: RunId,
    ) {
        let wall = host.clock.wall(cx.now);
        let postgres = &mut host.postgres;
        let open = postgres.guard.iter().flat_map(|guard| &guard.open).next();
        let (Some(open), true) = (open, postgres.answers()) else { return };
        let partition = PartitionId(open.range.first);
        let Some(epoch) = postgres.admits(partition, wall, false) else { return };
        let stamps = vec![domicile_core::change::Stamp { partition, epoch }];
        // The canary's own row is of no interest to anybody.
        let (id, keys) = (cx.oracle.next_id(), Vec::new());
        cx.oracle.admitted(host.index, &stamps);
        let kind =
            EntryKind::Local { id, keys: keys.clone(), stamps: stamps.clone(), barrier: None };
        let lsn = postgres.write_through(kind);
        cx.oracle.committed(host.index, id, lsn, &keys, &stamps, &postgres.tables.applied);
        if asker == host.index {
            self.canary_written(&run);
        } else {
            send(cx, asker, Message::CanaryWritten(run));
        }
    }

    /// Starts the failover that nobody has to ask for.
    fn fail_over(&mut self, host: &mut Host, cx: &mut Context<'_>) {
        let Some(facts) = self.facts(host, cx.setup, cx.now, None) else { return };
        let policy = &cx.setup.policy;
        let due = match cx.setup.anyone_begins {
            true => failover::automatic(policy, &facts),
            false => failover::started_by(&host.id, policy, &facts),
        };
        let known = |intent: &Intent| {
            let runs = self.state.iter().flat_map(|state| state.open_runs());
            runs.map(|run| &run.plan.intent).any(|known| same_outage(known, intent))
        };
        let Some(intent) = due.into_iter().find(|intent| !known(intent)) else { return };
        // Of those of whom anyone may begin not all do so at once.
        if !cx.setup.anyone_begins || cx.rng.chance(500) {
            self.begin(host, cx, &intent, &Call::ready(&intent));
        }
    }

    /// Plans and starts a run; says in the trace why not when it must not be.
    pub fn begin(&mut self, host: &mut Host, cx: &mut Context<'_>, intent: &Intent, call: &Call) {
        let Some(facts) = self.facts(host, cx.setup, cx.now, None) else { return };
        let id = cx.oracle.next_run();
        let plan = call.plan(&id).expect("the operator writes sound runbooks");
        match check(plan, &facts) {
            Ok(plan) => {
                cx.trace.line(cx.now, format_args!("{} starts {id}: {intent}", host.id));
                self.put_new_run(host, cx, plan);
            }
            Err(why) => {
                let why = why[0].to_string();
                cx.trace.line(cx.now, format_args!("{} refuses {intent}: {why}", host.id));
            }
        }
    }
}

impl Agent {
    /// Where a run stands, as far as this agent can see; for the report of a run that never ends.
    pub fn stands_at(
        &self,
        host: &Host,
        setup: &Setup,
        at: Micros,
        run: &RunDocument,
    ) -> Option<String> {
        let facts = self.facts(host, setup, at, Some(&run.plan.run))?;
        Some(match next(&run.plan, &run.recorded(&facts.ownership), &facts) {
            Next::Wait { step, blocker } => format!("{}: {blocker}", run.plan.steps[step].name()),
            Next::Do { step, .. } => format!("does {}", run.plan.steps[step].name()),
            Next::Finished(outcome) => format!("{outcome:?}"),
        })
    }
}

fn same_outage(one: &Intent, other: &Intent) -> bool {
    match (one, other) {
        (Intent::Failover { from: a, .. }, Intent::Failover { from: b, .. }) => a == b,
        _ => false,
    }
}

/// The promises that `run` needs: for each of its ranges, the epoch that the fence has ended.
fn seals_of(ownership: &Ownership, run: &RunId, from: &RegionId) -> Vec<Seal> {
    let fenced = ownership.ranges_of(run).filter(|e| matches!(e.state, State::Fenced { .. }));
    let seal = |entry: &domicile_core::ownership::Entry| Seal {
        region: from.clone(),
        range: entry.range,
        epoch: Epoch(entry.epoch.0.saturating_sub(1)),
        held: Vec::new(),
    };
    fenced.map(seal).collect()
}
