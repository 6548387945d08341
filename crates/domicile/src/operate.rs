//! Performs runs: asks core what is next, does exactly that, and writes it down before and after.
//!
//! Every agent looks at every run in the directory; the one that core names as executor performs
//! it. When that one dies, another is named and goes on from the facts. Nothing that matters is
//! remembered here: seals are on the survivors' disks and asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_core::config::Config;
use domicile_core::id::{Epoch, PartitionId, PartitionRange, RegionId, RunId};
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::ownership::{Ownership, OwnershipChange};
use domicile_core::promise;
use domicile_core::runbook::drill::PastDrill;
use domicile_core::runbook::file::{Call, CallError, Runbook};
use domicile_core::runbook::plan::{self, check};
use domicile_core::runbook::safety::Undertaking;
use domicile_core::runbook::{
    Answer, Blocker, Effect, Facts, Intent, Next, Outcome, Plan, PlanId, Recorded, Step, Successor,
    canary, drill, ended, executor, failover, forced_of, next, range_of_part, safety,
    waits_for_people,
};
use domicile_core::time::{Millis, Time};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::complain::Complaint;
use crate::directory::change::change_ownership;
use crate::directory::documents::{
    LinkDocument, RUN_PREFIX, RunDocument, RunEntry, RunState, RunbookDocument, json, last_end,
    lift_answers, lift_approvals, lift_outcome, lift_override, lift_plan, lift_wish, lower_answer,
    lower_override, run_key,
};
use crate::directory::safety::Grounds;
use crate::directory::view::OwnershipView;
use crate::directory::{Client as Directory, View, Written};
use crate::drills::{self, Drills};
use crate::gateway::WarmUps;
use crate::kill_at::{KillAt, Moment};
use crate::observe::Observer;
use crate::peer;
use crate::peer::intake::{Intake, Sealed};
use crate::positions::Positions;
use crate::postgres::canary::Canary;
use crate::proto::{ProbeRequest, SealRequest, SealResponse, WriteLateRequest, seal_response};
use crate::seed::{self, ask::Wanted};

mod forget;
mod outside;
use forget::{Stored, forgotten};
use outside::{Gateways, Outside};

/// How often the facts are looked at when nothing tells of a change.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A wait that lasts this long is written into the run's journal.
const WAIT_WORTH_TELLING: Duration = Duration::from_millis(250);
/// How often it is looked for runs that ended long ago.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// After so long a wait is written down anew at the earliest, with the numbers of then.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// So many reasons for one step tell enough.
const REASONS_MAX: usize = 20;
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Enough that no two plans that a person compares have the same name.
const PLAN_ID_BYTES: usize = 6;
/// Pause after an effect that failed, so that a broken one is not hammered.
const RETRY_AFTER: Duration = Duration::from_millis(100);

pub struct Operator {
    pub config: Arc<Config>,
    pub region: RegionId,
    pub directory: Directory,
    pub runs: watch::Receiver<Arc<View>>,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub positions: Positions,
    pub observer: Observer,
    pub intake: Arc<Intake>,
    pub canary: Arc<Canary>,
    pub warm_ups: WarmUps,
    pub peers: BTreeMap<RegionId, peer::Client>,
    pub kill_at: KillAt,
}

/// A run as this agent performs it.
struct Performing {
    document: RunDocument,
    revision: u64,
    plan: Plan,
    /// When this agent has first seen it.
    known_since: Time,
    seals: BTreeMap<RegionId, Vec<Cut>>,
    /// When what those had promised is over.
    promises_over_at: Option<Time>,
    canary_written: bool,
    late_write_kept_out: bool,
    seed_given_up: bool,
    /// What goes on outside for a step.
    outside: Option<Outside>,
    /// What that came to, once it ended here.
    answers: BTreeMap<usize, Answer>,
    /// The last thing journaled, so that a wait is written down once.
    last: Option<(usize, String)>,
    /// Why what is next could not be done: each reason is written down once, however often it is tried.
    held_up: BTreeSet<String>,
    complaint: Complaint,
    /// What it waits for, and since when.
    waiting: Option<(Wait, tokio::time::Instant)>,
    /// The waits that were written down since the last effect.
    waits: BTreeMap<Wait, Told>,
}

/// The step, and what it waits for without the numbers in it: those are others at every look.
type Wait = (usize, String);

/// When something was written down.
struct Told {
    first: tokio::time::Instant,
    last: tokio::time::Instant,
}

impl Told {
    /// The longer it lasts, the rarer it is told again: a journal has room for days of waiting.
    fn is_due(&self, now: tokio::time::Instant) -> bool {
        let lasted = self.last.duration_since(self.first);
        now.duration_since(self.last) >= lasted.max(TELL_AGAIN)
    }
}

fn without_numbers(text: &str) -> String {
    let words = text.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

impl Performing {
    /// Keeps what was in memory of an earlier revision of the run's document.
    fn after(self, kept: Option<Self>) -> Self {
        let Some(kept) = kept else { return self };
        let Self { document, revision, plan, .. } = self;
        Self { document, revision, plan, waiting: None, ..kept }
    }

    /// What the journal says that the facts do not.
    fn recorded(&self, facts: &Facts) -> anyhow::Result<Recorded> {
        let called = self.document.runbook.as_ref();
        Ok(Recorded {
            started: self.document.started,
            started_revision: self.document.started_revision,
            wish: self.document.wish.as_ref().map(lift_wish).transpose()?,
            planned: called.map(|called| PlanId(called.plan.clone())),
            would_do: plan_id(&self.plan, facts),
        })
    }

    fn note_answers(&mut self) {
        let answers = self.answers.iter().map(|(number, answer)| (*number, lower_answer(*answer)));
        self.document.answers.extend(answers);
    }

    /// Notes that the run has partitions in its hands. Returns whether that is news.
    fn note_start(&mut self, ownership: &Ownership, revision: u64) -> bool {
        let news = !self.document.started && ownership.ranges_of(&self.plan.run).next().is_some();
        if news {
            self.document.started = true;
            self.document.started_revision = revision;
        }
        news
    }
}

impl Operator {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut performing: BTreeMap<String, Performing> = BTreeMap::new();
        let mut positions = self.positions.subscribe();
        let (mut complaint, mut of_canary) = (Complaint::default(), Complaint::default());
        let (mut drills, mut of_drills) = (Drills::new(self.runs.clone()), Complaint::default());
        let mut over = BTreeMap::new();
        let (mut forget_at, mut of_old) = (tokio::time::Instant::now(), Complaint::default());
        loop {
            if let Some(facts) = self.observer.facts() {
                if let Err(error) = self.start_automatic(&facts).await {
                    complaint.warn("no failover was started", &error);
                }
                if let Err(error) = self.add_canary(&facts).await {
                    of_canary.warn("no canary partition was added", &error);
                }
                if let Err(error) = self.start_drill(drills.past(), &facts).await {
                    of_drills.warn("no drill was started", &error);
                }
                if forget_at <= tokio::time::Instant::now() {
                    forget_at += FORGET_EVERY;
                    if let Err(error) = self.forget_old(&facts).await {
                        of_old.warn("runs that ended long ago stay in the directory", &error);
                    }
                }
                self.look(facts, &mut performing, &mut over).await;
            }
            let busy = !performing.is_empty();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = self.ownership.changed() => {}
                _ = self.runs.changed() => {}
                _ = positions.changed(), if busy => {}
            }
        }
    }

    /// Starts the failovers that nobody has to ask for, of what this region is to take over.
    async fn start_automatic(&self, facts: &Facts) -> anyhow::Result<()> {
        for intent in failover::started_by(&self.region, &self.config.failover, facts) {
            if self.is_running(&intent) {
                continue;
            }
            if let Some(run) = self.start(&Call::ready(&intent), facts).await? {
                tracing::warn!(%run, "{intent} starts: the outage is confirmed");
            }
        }
        Ok(())
    }

    /// Starts a run that nobody has asked for, unless something is against it.
    async fn start(&self, call: &Call, facts: &Facts) -> anyhow::Result<Option<RunId>> {
        let by = format!("the agent of {}", self.region);
        match Prepared::new(call, facts, &by) {
            Ok(prepared) => {
                let run = prepared.start(&self.directory).await?;
                // Or the next look would start it again.
                self.sees(&run_key(&run)).await?;
                Ok(Some(run))
            }
            Err(Start::Refused(reasons)) => {
                tracing::debug!("not started: {reasons:?}");
                Ok(None)
            }
            Err(Start::Failed(error)) => Err(error),
        }
    }

    /// Starts the drill that is due, if the canary is here.
    async fn start_drill(&self, known: &[PastDrill], facts: &Facts) -> anyhow::Result<()> {
        let Some(terms) = &self.config.drills else { return Ok(()) };
        let due = |past: &[PastDrill]| {
            let policy = &self.config.failover;
            drill::due(&self.region, terms, policy, past, clock::unix(), facts)
        };
        if due(known).is_none() {
            return Ok(());
        }
        // What is known here may be older than the last one.
        let runs = self.directory.read(RUN_PREFIX).await?.documents;
        let past = drills::among(runs.iter().map(|run| run.value.as_ref()));
        let Some(to) = due(&past) else { return Ok(()) };
        if let Some(run) = self.start(&Call::drill(&to), facts).await? {
            tracing::info!(%run, "a drill to {to} starts: it is due");
        }
        Ok(())
    }

    /// Ownership of an older cluster has no canary partition.
    async fn add_canary(&self, facts: &Facts) -> anyhow::Result<()> {
        let Some(change) = canary::due(&self.region, facts) else { return Ok(()) };
        let known = (&facts.ownership, facts.ownership_revision);
        let (cluster, grounds) = (&self.config.cluster, Grounds::default());
        change_ownership(&self.directory, cluster, &change, known, &grounds).await?;
        Ok(())
    }

    /// Is the same failover under way already? One that waits for people is not.
    fn is_running(&self, intent: &Intent) -> bool {
        let Intent::Failover { from: lost, .. } = intent else { return false };
        let view = self.runs.borrow();
        let documents = view.documents.values().filter_map(|(value, _)| lift_run(value));
        let mut running = documents.filter(|run| run.state == RunState::Running);
        running.any(|run| {
            let Ok(plan) = lift_plan(&run) else { return false };
            let approvals = lift_approvals(&run.approvals);
            matches!(&plan.intent, Intent::Failover { from, .. } if from == lost)
                && !waits_for_people(&plan, run.started, &approvals)
        })
    }

    /// Takes out what has ended long ago and is more than is kept. One agent does.
    async fn forget_old(&self, facts: &Facts) -> anyhow::Result<()> {
        let alive = |region: &&RegionId| facts.is_reachable(region) && !facts.lease_over(region);
        if facts.regions.keys().find(alive) != Some(&self.region) {
            return Ok(());
        }
        let view = self.runs.borrow().clone();
        let stored = view.documents.iter().filter_map(|(key, (value, revision))| {
            let document = lift_run(value)?;
            Some(Stored { key, revision: *revision, bytes: value.len(), document })
        });
        let old = forgotten(stored.collect(), &in_hands(&facts.ownership), clock::unix_ms());
        for (key, revision) in &old {
            self.directory.write(key, *revision, None).await?;
        }
        if !old.is_empty() {
            tracing::info!("{} runs that ended long ago are taken out of the directory", old.len());
        }
        Ok(())
    }

    /// Takes every running run a step further, as far as it is ours. Those that are `over`, as of a revision,
    /// are not read again.
    async fn look(
        &self,
        mut facts: Facts,
        performing: &mut BTreeMap<String, Performing>,
        over: &mut BTreeMap<String, u64>,
    ) {
        let view = self.runs.borrow().clone();
        over.retain(|key, _| view.documents.contains_key(key));
        let held: BTreeSet<String> = in_hands(&facts.ownership).into_iter().map(run_key).collect();
        for (key, (value, revision)) in &view.documents {
            if over.get(key) == Some(revision) && !held.contains(key) {
                continue;
            }
            let Some(document) = lift_run(value) else { continue };
            let id = RunId(document.run.clone());
            if ended(&id, lift_outcome(&document).as_ref(), &facts.ownership) {
                performing.remove(key);
                over.insert(key.clone(), *revision);
                continue;
            }
            let known = performing.get(key).is_some_and(|p| p.revision >= *revision);
            if !known {
                let plan = match lift_plan(&document) {
                    Ok(plan) => plan,
                    Err(error) => {
                        tracing::error!("no step is taken: {error:#}");
                        continue;
                    }
                };
                let kept = performing.remove(key);
                let fresh = Performing {
                    document,
                    revision: *revision,
                    plan,
                    known_since: facts.now,
                    seals: BTreeMap::new(),
                    promises_over_at: None,
                    canary_written: false,
                    late_write_kept_out: false,
                    seed_given_up: false,
                    outside: None,
                    answers: BTreeMap::new(),
                    last: None,
                    held_up: BTreeSet::new(),
                    complaint: Complaint::default(),
                    waiting: None,
                    waits: BTreeMap::new(),
                };
                performing.insert(key.clone(), fresh.after(kept));
            }
            let Some(run) = performing.get_mut(key) else { continue };
            if executor(&run.plan, &facts).as_ref() != Some(&self.region) {
                continue;
            }
            match self.advance(run, &mut facts).await {
                Ok(()) => run.complaint.settled(),
                Err(error) => {
                    run.complaint.warn(&format!("run {} is held up", run.plan.run), &error);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Does what is next, again and again while there is something to do at once, and leaves in `facts` what is
    /// true then.
    async fn advance(&self, run: &mut Performing, facts: &mut Facts) -> anyhow::Result<()> {
        self.hear_outside(run).await?;
        loop {
            facts.seals.clone_from(&run.seals);
            facts.promises_over_at = run.promises_over_at;
            facts.seed_given_up = run.seed_given_up;
            facts.canary_written = run.canary_written;
            facts.late_write_kept_out = run.late_write_kept_out;
            facts.overridden = run.document.safety_override.as_ref().map(lift_override);
            facts.approvals = lift_approvals(&run.document.approvals);
            facts.run_known_for = facts.now.since(run.known_since);
            facts.answers = lift_answers(&run.document.answers);
            facts.answers.extend(&run.answers);
            facts.parts = self.parts_of(&run.plan, &facts.ownership);
            facts.successor = self.successor_of(&run.plan.run, &facts.ownership);
            if run.note_start(&facts.ownership, facts.ownership_revision) {
                // Whoever saw it end did not know of this.
                run.document.state = RunState::Running;
                self.save(run).await?;
            }
            let (step, effect) = match next(&run.plan, &run.recorded(facts)?, facts) {
                Next::Wait { step, blocker } => return self.wait(run, step, &blocker).await,
                Next::Finished(outcome) => return self.finish(run, &outcome).await,
                Next::Do { step, effect } => (step, effect),
            };
            let name = name_of(&run.plan, step);
            self.kill_at.reached(name, Moment::Before);
            let performed = self.perform(run, step, &effect, facts).await;
            let (ownership, revision) = match performed {
                Ok(performed) => performed,
                Err(error) => {
                    self.note_held_up(run, step, &error).await;
                    return Err(error);
                }
            };
            run.held_up.clear();
            run.waits.clear();
            self.kill_at.reached(name, Moment::After);
            let unchanged = revision == facts.ownership_revision;
            match effect {
                // It was refused, and would be again: something else has to change first.
                Effect::Change(_) if unchanged => return Ok(()),
                // Other runs do not wait for it.
                Effect::Exec { .. } | Effect::Send { .. } | Effect::WarmUp { .. } => return Ok(()),
                // What comes of it is told by that region's agent.
                Effect::Seed { .. } => return Ok(()),
                _ => {}
            }
            // Look again at once.
            *facts = self.observer.facts_at(ownership, revision);
        }
    }

    /// Writes down what has ended that went on outside.
    async fn hear_outside(&self, run: &mut Performing) -> anyhow::Result<()> {
        let ended = run.outside.take_if(|outside| outside.task.is_finished());
        let Some(Outside { number, task }) = ended else { return Ok(()) };
        let (answer, said) = task.await.context("wait for what goes on outside")?;
        run.answers.insert(number, answer);
        self.journal(run, number, said).await
    }

    /// Writes a wait down once it has lasted: most are over before a line could be written.
    async fn wait(
        &self,
        run: &mut Performing,
        step: usize,
        blocker: &Blocker,
    ) -> anyhow::Result<()> {
        self.kill_at.reached(name_of(&run.plan, step), Moment::Waits);
        let what = format!("waits: {blocker}");
        let kind = (step, without_numbers(&what));
        let now = tokio::time::Instant::now();
        let since = match run.waiting.take() {
            Some((of, since)) if of == kind => since,
            _ => now,
        };
        run.waiting = Some((kind.clone(), since));
        let lasting = now.duration_since(since) >= WAIT_WORTH_TELLING;
        let due = run.waits.get(&kind).is_none_or(|told| told.is_due(now));
        if !lasting || !due {
            return Ok(());
        }
        self.journal(run, step, what).await?;
        run.waits.entry(kind).or_insert(Told { first: now, last: now }).last = now;
        Ok(())
    }

    /// Writes down for whoever follows the run why what is next could not be done. It is tried again.
    async fn note_held_up(&self, run: &mut Performing, step: usize, error: &anyhow::Error) {
        // What PostgreSQL adds in further lines, of the row that it refused, say, is another text at every try.
        let why = format!("{error:#}");
        let what = format!("is held up: {}", why.lines().next().unwrap_or_default());
        if run.held_up.len() >= REASONS_MAX || !run.held_up.insert(what.clone()) {
            return;
        }
        // That it is tried again is no news either.
        let last = run.last.clone();
        if let Err(unwritten) = self.journal(run, step, what).await {
            tracing::debug!(run = %run.plan.run, "not written down: {unwritten:#}");
        }
        run.last = last;
    }

    /// Performs one effect, with its line in the journal. Returns ownership as it stands then.
    async fn perform(
        &self,
        run: &mut Performing,
        step: usize,
        effect: &Effect,
        facts: &Facts,
    ) -> anyhow::Result<(Ownership, u64)> {
        let what = RunEntry::does(&describe(effect));
        let name = name_of(&run.plan, step);
        let between = || self.kill_at.reached(name, Moment::Between);
        let known = (&facts.ownership, facts.ownership_revision);
        match effect {
            Effect::Change(change) => {
                let cluster = &self.config.cluster;
                // First, because clients may be waiting: a compare-and-set is safe whether its line
                // was written before it or not.
                let grounds = grounds(change, facts);
                let changed =
                    change_ownership(&self.directory, cluster, change, known, &grounds).await?;
                between();
                run.note_start(&changed.0, changed.1);
                self.journal(run, step, what).await?;
                return Ok(changed);
            }
            Effect::Seal { regions, from } => {
                self.journal(run, step, what).await?;
                between();
                let epochs = fenced_epochs(&facts.ownership, &run.plan.run);
                let asked = regions.iter().map(|region| {
                    let sealed = self.seal(region, from, &epochs, &run.plan.run);
                    async move { (region.clone(), sealed.await) }
                });
                let mut refused = Vec::new();
                for (region, sealed) in futures_util::future::join_all(asked).await {
                    match sealed {
                        Ok(sealed) => {
                            let (now, terms) = (self.observer.now(), &self.config.lease);
                            let over_at = promise::over_at(sealed.promised, now, terms);
                            run.promises_over_at = run.promises_over_at.max(Some(over_at));
                            run.seals.insert(region, sealed.held);
                        }
                        Err(error) => refused.push(format!("{region} did not seal: {error:#}")),
                    }
                }
                if !refused.is_empty() {
                    let said = refused.join("; ");
                    // Asked again at once, all would say the same.
                    anyhow::ensure!(refused.len() < regions.len(), "{said}");
                    self.journal(run, step, said).await?;
                }
            }
            Effect::Begin { run: other, intent } => {
                let by = format!("run {}", run.plan.run);
                let prepared = Prepared::named(other, &Call::ready(intent), facts, &by)?;
                // One that is there already was begun by another agent, or by this one before.
                prepared.write(&self.directory).await?;
                between();
                self.journal(run, step, what).await?;
                self.sees(&run_key(other)).await?;
            }
            Effect::Exec { .. } | Effect::Send { .. } | Effect::WarmUp { .. }
                if run.outside.is_some() => {}
            Effect::Exec { number, program, within } => {
                self.journal(run, step, what).await?;
                between();
                let config = &self.config;
                run.outside = Some(Outside::program(config, run, *number, program, *within));
            }
            Effect::Send { number, webhook, within } => {
                self.journal(run, step, what).await?;
                between();
                let config = &self.config;
                run.outside = Some(Outside::message(config, run, *number, webhook, *within));
            }
            Effect::WarmUp { number, to, within } => {
                self.journal(run, step, what).await?;
                between();
                run.outside = Some(self.warm_up(run, *number, to, *within, facts));
            }
            Effect::Seed { region, from, replace } => {
                let (region, from) = (region.clone(), from.clone());
                let run_id = Some(run.plan.run.clone());
                let (replace, overridden) = (*replace, facts.overridden.clone());
                let wanted =
                    Wanted { region, from, exactly: false, replace, run: run_id, overridden };
                seed::ask::ask(&self.directory, &wanted, facts).await?;
                between();
                self.journal(run, step, what).await?;
            }
            Effect::GiveUpSeed { region } => {
                seed::ask::give_up_of(&self.directory, region, &run.plan.run).await?;
                run.seed_given_up = true;
                between();
                self.journal(run, step, what).await?;
            }
            Effect::WriteCanary { region, partition } => {
                self.journal(run, step, what).await?;
                between();
                self.write_canary(region, *partition, &run.plan.run).await?;
                run.canary_written = true;
            }
            Effect::WriteLate { region } => {
                self.journal(run, step, what).await?;
                between();
                self.write_late(region, known.0, &run.plan.run).await?;
                run.late_write_kept_out = true;
            }
        }
        Ok((known.0.clone(), known.1))
    }

    /// The runs that this one has begun, and how they ended, as far as is known here.
    fn parts_of(
        &self,
        plan: &Plan,
        ownership: &Ownership,
    ) -> BTreeMap<PartitionRange, Option<Outcome>> {
        if !plan.begins_others() {
            return BTreeMap::new();
        }
        let view = self.runs.borrow().clone();
        let documents = view.documents.values().filter_map(|(value, _)| lift_run(value));
        let parts = documents.filter_map(|document| {
            let id = RunId(document.run.clone());
            let noted = lift_outcome(&document).filter(|noted| ended(&id, Some(noted), ownership));
            Some((range_of_part(&plan.run, &id)?, noted))
        });
        parts.collect()
    }

    /// What became of the forced run that this one was turned into, as far as is known here.
    fn successor_of(&self, run: &RunId, ownership: &Ownership) -> Successor {
        let forced = forced_of(run);
        let view = self.runs.borrow();
        let found = view.documents.get(&run_key(&forced));
        match found.and_then(|(value, _)| lift_run(value)) {
            None => Successor::NotBegun,
            Some(run) if ended(&forced, lift_outcome(&run).as_ref(), ownership) => Successor::Ended,
            Some(_) => Successor::UnderWay,
        }
    }

    /// Waits until a document that was written is seen here, too.
    async fn sees(&self, key: &str) -> anyhow::Result<()> {
        let mut runs = self.runs.clone();
        let seen = runs.wait_for(|view| view.documents.contains_key(key));
        timeout(CALL_TIMEOUT, seen).await.context("see what was written")??;
        Ok(())
    }

    async fn seal(
        &self,
        region: &RegionId,
        from: &RegionId,
        epochs: &[(PartitionRange, Epoch)],
        run: &RunId,
    ) -> anyhow::Result<Sealed> {
        if *region == self.region {
            return self.intake.seal(from, epochs).await;
        }
        let mut peer = self.peers.get(region).context("there is no such peer")?.clone();
        let request = SealRequest {
            cluster: self.config.cluster.clone(),
            run: run.to_string(),
            origin_region: from.to_string(),
            epochs: peer::lower_epochs(epochs),
        };
        let answer =
            timeout(CALL_TIMEOUT, peer.seal(request)).await.context("ask for a seal")??;
        let SealResponse { held, promised_ms } = answer.into_inner();
        let cut = |h: seal_response::Held| Ok(Cut { origin: h.origin.parse()?, lsn: Lsn(h.lsn) });
        let held = held.into_iter().map(cut).collect::<anyhow::Result<_>>()?;
        Ok(Sealed { held, promised: Millis(promised_ms) })
    }

    fn warm_up(
        &self,
        run: &Performing,
        number: usize,
        to: &RegionId,
        within: Millis,
        facts: &Facts,
    ) -> Outside {
        let answers = |peer: &RegionId| facts.regions.get(peer).is_some_and(|seen| seen.reachable);
        let peers = self.peers.iter().filter(|(peer, _)| answers(peer));
        let gateways = Gateways {
            cluster: self.config.cluster.clone(),
            here: self.warm_ups.clone(),
            peers: peers.map(|(peer, client)| (peer.clone(), client.clone())).collect(),
        };
        Outside::warm_up(gateways, run.plan.run.clone(), number, to.clone(), within)
    }

    async fn write_canary(
        &self,
        region: &RegionId,
        partition: PartitionId,
        run: &RunId,
    ) -> anyhow::Result<()> {
        if *region == self.region {
            return self.canary.write(partition, &run.0).await;
        }
        let mut peer = self.peers.get(region).context("there is no such peer")?.clone();
        let request = ProbeRequest { partition: Some(partition.0) };
        let answer = timeout(CALL_TIMEOUT, peer.probe(request)).await;
        let answer = answer.context("ask for a canary write")??.into_inner();
        anyhow::ensure!(answer.writable, "{}", answer.reason);
        Ok(())
    }

    async fn write_late(
        &self,
        region: &RegionId,
        ownership: &Ownership,
        run: &RunId,
    ) -> anyhow::Result<()> {
        if *region == self.region {
            let epoch = ownership.canary_cut_by(run, region).context("the canary is not cut")?;
            return self.canary.write_late(epoch, &run.0).await;
        }
        let mut peer = self.peers.get(region).context("there is no such peer")?.clone();
        let cluster = self.config.cluster.clone();
        let request = WriteLateRequest { cluster, run: run.to_string() };
        let answer = timeout(CALL_TIMEOUT, peer.write_late(request)).await;
        answer.context("ask for a late write")??;
        Ok(())
    }

    async fn journal(&self, run: &mut Performing, step: usize, what: String) -> anyhow::Result<()> {
        if run.last.as_ref().is_some_and(|(at, said)| *at == step && *said == what) {
            return Ok(());
        }
        let name = name_of(&run.plan, step);
        run.document.note(clock::unix_ms(), self.region.as_str(), name, what.clone());
        run.document.executor = Some(self.region.to_string());
        self.save(run).await?;
        tracing::info!(run = %run.plan.run, step = name, "{what}");
        run.last = Some((step, what));
        Ok(())
    }

    async fn finish(&self, run: &mut Performing, outcome: &Outcome) -> anyhow::Result<()> {
        let (state, what) = match outcome {
            Outcome::Succeeded => (RunState::Succeeded, "succeeded".to_owned()),
            Outcome::CalledOff { back_to } => {
                (RunState::CalledOff, format!("called off: region {back_to} stays the owner"))
            }
            Outcome::Overruled => {
                (RunState::Overruled, "overruled: another has taken over".to_owned())
            }
            Outcome::Aborted => (RunState::Aborted, "aborted".to_owned()),
            Outcome::Escalated => (
                RunState::Escalated,
                format!("escalated: run {} has taken over by force", forced_of(&run.plan.run)),
            ),
            Outcome::Failed => (RunState::Failed, "failed: see what the step says".to_owned()),
            Outcome::Unapproved => (
                RunState::Unapproved,
                "nobody has approved it in time: nothing was done".to_owned(),
            ),
        };
        run.document.state = state;
        let last = run.plan.steps.len();
        let name = name_of(&run.plan, last);
        self.kill_at.reached(name, Moment::Before);
        run.note_answers();
        run.document.executor = Some(self.region.to_string());
        let after = self.ended_last(&run.document.run);
        run.document.close(clock::unix_ms(), self.region.as_str(), what.clone(), after);
        self.save(run).await?;
        tracing::info!(run = %run.plan.run, "{what}");
        self.kill_at.reached(name, Moment::After);
        Ok(())
    }

    /// Which other run has ended last, as far as is known here?
    fn ended_last(&self, run: &str) -> Option<LinkDocument> {
        let view = self.runs.borrow().clone();
        let documents = view.documents.values().filter_map(|(value, _)| lift_run(value));
        let others: Vec<RunDocument> = documents.filter(|other| other.run != run).collect();
        last_end(others.iter())
    }

    /// Writes the run's document; whoever has written it meanwhile is performing it now.
    async fn save(&self, run: &mut Performing) -> anyhow::Result<()> {
        let key = run_key(&run.plan.run);
        run.note_answers();
        let written = self.directory.write(&key, run.revision, Some(json(&run.document))).await?;
        match written {
            Written::At(revision) => {
                run.revision = revision;
                Ok(())
            }
            Written::Conflict(_) => {
                // The next look takes the newer document over.
                run.revision = 0;
                anyhow::bail!("another agent has written to run {}", run.plan.run)
            }
        }
    }
}

/// Why a run was not started.
#[derive(Debug, thiserror::Error)]
pub enum Start {
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<plan::Refusal>),
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// A run that may be started, as things stand.
pub struct Prepared {
    run: RunId,
    plan: PlanId,
    document: RunDocument,
}

impl Prepared {
    pub fn new(call: &Call, facts: &Facts, by: &str) -> Result<Self, Start> {
        Self::named(&RunId(uuid::Uuid::now_v7().to_string()), call, facts, by)
    }

    fn named(run: &RunId, call: &Call, facts: &Facts, by: &str) -> Result<Self, Start> {
        let failed = |error: CallError| Start::Failed(error.into());
        let runbook =
            Runbook::parse(&call.text).map_err(|error| failed(CallError::Runbook(error)))?;
        let plan = check(call.plan(run).map_err(failed)?, facts).map_err(Start::Refused)?;
        let id = plan_id(&plan, facts);
        let Call { text, arguments } = call.clone();
        let runbook = RunbookDocument { name: runbook.name, text, arguments, plan: id.0.clone() };
        let mut document = RunDocument::new(&plan, &facts.ownership, runbook, by);
        if let Some(overridden) = &facts.overridden {
            let undertaking = Undertaking::of_plan(&plan, facts);
            let against = safety::against(&undertaking, &facts.safety);
            let against = against.iter().map(ToString::to_string).collect();
            document.note_override(lower_override(overridden, against));
        }
        Ok(Self { run: run.clone(), plan: id, document })
    }

    /// What it would do: what a person has approved has the same name, or is something else.
    pub fn plan(&self) -> &PlanId {
        &self.plan
    }

    /// Writes the run into the directory, where an agent takes it up.
    pub async fn start(&self, directory: &Directory) -> anyhow::Result<RunId> {
        match self.write(directory).await? {
            Written::At(_) => Ok(self.run.clone()),
            Written::Conflict(_) => anyhow::bail!("run {} exists", self.run),
        }
    }

    async fn write(&self, directory: &Directory) -> anyhow::Result<Written> {
        Ok(directory.write(&run_key(&self.run), 0, Some(json(&self.document))).await?)
    }
}

/// Returns the name of what a plan decides, as things stand: the same while it would do the same.
pub fn plan_id(plan: &Plan, facts: &Facts) -> PlanId {
    let digest = Sha256::digest(plan.decided(&facts.ownership));
    PlanId(digest.iter().take(PLAN_ID_BYTES).map(|byte| format!("{byte:02x}")).collect())
}

fn lift_run(value: &[u8]) -> Option<RunDocument> {
    serde_json::from_slice(value)
        .inspect_err(|error| tracing::error!("a run under {RUN_PREFIX} is unreadable: {error}"))
        .ok()
}

/// The epochs that a run has fenced: the ones before those it will grant.
fn fenced_epochs(ownership: &Ownership, run: &RunId) -> Vec<(PartitionRange, Epoch)> {
    ownership
        .ranges_of(run)
        .map(|entry| (entry.range, Epoch(entry.epoch.0.saturating_sub(1))))
        .collect()
}

/// What the rules of safety have to know of a change.
fn grounds(change: &OwnershipChange, facts: &Facts) -> Grounds {
    let loss = match change {
        OwnershipChange::Fence { from, .. } => safety::loss_at_most(from, facts),
        _ => None,
    };
    Grounds { loss, overridden: facts.overridden.clone() }
}

/// The runs that have partitions in their hands.
fn in_hands(ownership: &Ownership) -> BTreeSet<&RunId> {
    ownership.entries().iter().filter_map(|entry| entry.state.run()).collect()
}

/// As journals name a step; what comes after the last one is of the run itself.
fn name_of(plan: &Plan, step: usize) -> &'static str {
    plan.steps.get(step).map_or("run", Step::name)
}

fn describe(effect: &Effect) -> String {
    match effect {
        Effect::Change(change) => changes(change),
        Effect::Seal { regions, from } => format!("asks {regions:?} to seal the log of {from}"),
        Effect::Begin { intent, .. } => format!("begins a {intent}"),
        Effect::Exec { program, .. } => format!("runs the program {program}"),
        Effect::Send { webhook, .. } => format!("calls the webhook {webhook}"),
        Effect::WarmUp { to, .. } => format!("has gateways open sessions in region {to}"),
        Effect::Seed { region, from, .. } => {
            format!("asks region {region} to copy what {from} shows")
        }
        Effect::GiveUpSeed { region } => format!("asks region {region} for nothing any more"),
        Effect::WriteCanary { region, .. } => format!("writes a canary in region {region}"),
        Effect::WriteLate { region } => format!("has region {region} write a canary too late"),
    }
}

fn changes(change: &OwnershipChange) -> String {
    match change {
        OwnershipChange::HandOver { range, to, .. } => {
            format!("has partition {range} handed over to {to}")
        }
        OwnershipChange::Barrier { barrier, .. } => format!("ends the epochs at {barrier}"),
        OwnershipChange::Fence { from, .. } => format!("fences {from}"),
        OwnershipChange::FenceCanary { from, .. } => format!("fences the canary of {from}"),
        OwnershipChange::Cut { cut, .. } => format!("ends the fenced epochs at {cut}"),
        OwnershipChange::Grant { to, .. } => format!("grants them to {to}"),
        OwnershipChange::HandBack { .. } => "gives them back".to_owned(),
        OwnershipChange::Join { region } => format!("makes {region} a member"),
        OwnershipChange::Leave { region } => format!("takes {region} out"),
        OwnershipChange::Witness { witness } => format!("takes {witness} in as a witness"),
        OwnershipChange::AddCanary { by } => format!("adds the canary partition to {by}"),
    }
}
