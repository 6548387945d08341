//! Puts this region's status together, again and again.

use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::id::{Origin, PartitionId, RegionId};
use domicile_core::lease::HolderTerms;
use domicile_core::lsn::Lsn;
use domicile_core::opening::{NOT_OPENED, Rows, UNSETTLED};
use domicile_core::ownership::Ownership;
use domicile_core::progress::{Pace, Rpo};
use domicile_core::rate::Rate;
use domicile_core::runbook::caution::little_headroom;
use domicile_core::runbook::drill::{self, DRILL_OVERDUE, PastDrill};
use domicile_core::runbook::readiness::{Found, NOT_FAILOVER_READY, Unready, Watch};
use domicile_core::runbook::safety::Freeze;
use domicile_core::time::{Millis, PgTime, Time, Wall};
use tokio::sync::watch;
use tokio::try_join;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::apply::Blocked;
use crate::clock::{self, Clock};
use crate::directory::view::OwnershipView;
use crate::directory::{self, MoveState, View};
use crate::drills::Drills;
use crate::log::Logs;
use crate::notices::Notices;
use crate::observe::Observer;
use crate::positions::Positions;
use crate::postgres::drain::open_writers;
use crate::postgres::session;
use crate::status::{
    Condition, DirectoryMoveStatus, DrillsStatus, FreezeStatus, JournalCount, OpenWriterStatus,
    OwnedRange, PeerStatus, ReadinessStatus, RegionStatus, SeedingStatus, log_ends, probe_word,
};
use crate::tenure::TenureState;

/// Commits that have waited for their copies so long are told of.
const COMMITS_WAIT_TOLD: Millis = Millis(1000);
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Counting journal rows is a scan: not at every report.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// People wait for a region to be settled, so that they may go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Transactions that write for less time hold up no hand-over that anybody would notice.
const OPEN_LONG: Duration = Duration::from_secs(1);
/// For so long a region is on its way to be settled after each hand-over, and that is no news.
const SETTLES_WITHIN: Millis = Millis(1000);
/// Microseconds from 1970 to 2000, where PostgreSQL's timestamps begin.
const PG_EPOCH_US: i64 = 946_684_800_000_000;

pub struct Reporter {
    pub config: Arc<Config>,
    pub region: RegionId,
    pub origin: Origin,
    pub postgres: String,
    pub clock: Clock,
    pub logs: Logs,
    pub positions: Positions,
    pub directory: directory::Client,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub runs: watch::Receiver<Arc<View>>,
    pub observer: Observer,
    pub notices: Notices,
    pub tenure: watch::Receiver<TenureState>,
    /// The ownership that our logs were held against.
    pub examined: watch::Receiver<Option<Arc<Ownership>>>,
    /// Of a region that is no member yet.
    pub seeding: Option<watch::Receiver<SeedingStatus>>,
    pub status: watch::Sender<Arc<RegionStatus>>,
}

/// What only PostgreSQL can tell.
#[derive(Clone, Default)]
struct Counted {
    /// The database's clock, and ours at that moment.
    clock: Option<(PgTime, Time)>,
    journal: Vec<JournalCount>,
    /// Everything that has to be repaired was known before it was counted.
    settled: bool,
    repairs_pending: u64,
    migration: i64,
    open_writers: Vec<OpenWriterStatus>,
    pace: Pace,
    little_headroom: Option<String>,
}

impl Reporter {
    pub async fn run(self, shutdown: CancellationToken) {
        let counted = watch::Sender::new(Counted::default());
        let count = self.count(&counted);
        let report = async {
            let mut tick = tokio::time::interval(REPORT_EVERY);
            let (mut settled_at, mut readiness) = (None, Watch::default());
            let (mut drills, since) = (Drills::new(self.runs.clone()), clock::unix());
            loop {
                tick.tick().await;
                let seen = counted.borrow().clone();
                let now = self.clock.now();
                self.watch(&mut readiness, now);
                if seen.settled && self.is_settled() {
                    settled_at = Some(now);
                }
                let settled = settled_at.is_some_and(|at| now.since(at) <= SETTLES_WITHIN);
                let mut status = self.status(seen, settled, &readiness);
                self.tell_of_drills(drills.past(), since, &mut status);
                self.status.send_replace(Arc::new(status));
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = count => {}
            () = report => {}
        }
    }

    /// Asks PostgreSQL, as often as it answers.
    async fn count(&self, counted: &watch::Sender<Counted>) {
        let mut client: Option<Client> = None;
        let mut blocked = Blocked::new(self.notices.clone());
        let (mut commits, mut bytes) = (Rate::default(), Rate::default());
        let mut pace = || {
            let (now, own) = (self.clock.now(), self.positions.counts());
            Pace {
                commits_per_s: commits.note(now, own.captured_transactions),
                bytes_per_s: bytes.note(now, own.log_end.0),
            }
        };
        // What is committed before the first answer counts, too.
        pace();
        let mut tick = tokio::time::interval(COUNT_EVERY);
        // As soon as it tells something it is counted, and not at the next time.
        let mut too_early = true;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.settles(), if too_early => {}
            }
            if !self.tenure.borrow().set_up {
                continue;
            }
            let open = match client.take() {
                Some(open) if !open.is_closed() => Ok(open),
                _ => session::connect(&self.postgres, "domicile status").await,
            };
            let Ok(open) = open else { continue };
            let settled = self.is_settled();
            let before = self.clock.now();
            let pace = pace();
            let asked = try_join!(
                open.query_one(
                    "SELECT domicile.now_us(), (SELECT count(*) FROM domicile.repair),
                            (SELECT coalesce(max(number), 0) FROM domicile.migration)",
                    &[],
                ),
                open.query(
                    "SELECT conflict, status, count(*) FROM domicile.journal
                     GROUP BY conflict, status ORDER BY conflict, status",
                    &[],
                ),
                open_writers(&open, OPEN_LONG),
            );
            if let Ok((row, journal, writers)) = asked {
                too_early = !settled;
                let number = |count: i64| u64::try_from(count).unwrap_or(0);
                let alike = journal.iter().map(|row| JournalCount {
                    conflict: row.get(0),
                    status: row.get(1),
                    entries: number(row.get(2)),
                });
                counted.send_replace(Counted {
                    clock: Some((PgTime(row.get::<_, i64>(0) - PG_EPOCH_US), before)),
                    journal: alike.collect(),
                    settled,
                    repairs_pending: number(row.get(1)),
                    migration: row.get(2),
                    open_writers: writers,
                    pace,
                    little_headroom: self.little_headroom(),
                });
                if blocked.look(&open).await.is_ok() {
                    client = Some(open);
                }
            }
        }
    }

    fn little_headroom(&self) -> Option<String> {
        let facts = self.observer.facts()?;
        let short = little_headroom(&self.region, &facts)?;
        Some(format!(
            "{short}: give it more, or another region that takes over (region[].capacity)"
        ))
    }

    /// Waits until it is settled, and a moment in any case: PostgreSQL may not answer then.
    async fn settles(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.is_settled() {
                return;
            }
        }
    }

    /// Is everything found that was written here and is no history? Before a guard is set nobody knows; of a newcomer
    /// nobody asks.
    fn is_settled(&self) -> bool {
        let captured_to = self.positions.captured_to();
        let judged = self.tenure.borrow().written_to.is_some_and(|end| captured_to >= end);
        let examined = self.examined.borrow().clone();
        let rows = Rows { judged, examined: examined.as_deref() };
        let view = self.ownership.borrow().clone();
        let settled = |known| rows.are_settled(known, &self.region);
        self.seeding.is_some() || view.ownership.as_ref().is_none_or(settled)
    }

    /// Asks whether each member could be lost, when it is time to.
    fn watch(&self, readiness: &mut Watch, now: Time) {
        if self.seeding.is_none()
            && readiness.is_due(now)
            && let Some(facts) = self.observer.facts()
        {
            readiness.ask(&self.config.failover, &facts);
        }
    }

    fn status(&self, counted: Counted, settled: bool, readiness: &Watch) -> RegionStatus {
        let now = self.clock.now();
        let tenure = self.tenure.borrow().clone();
        // Before the ownership by which they came about: see `RegionStatus::ownership_read`.
        let durable = self.positions.durable().unwrap_or_default();
        let view = self.ownership.borrow().clone();
        let counts = self.positions.counts();
        let database_now = counted.clock.map_or(PgTime(0), |(then, at)| {
            PgTime(then.0 + i64::try_from(now.since(at).0).unwrap_or(0) * 1000)
        });
        let known = view.ownership.as_ref();
        let canary = known.and_then(|known| known.entry(PartitionId::CANARY));
        let owns_canary = canary.is_some_and(|entry| entry.owner() == Some(&self.region));
        let owns = known
            .into_iter()
            .flat_map(|o| o.writable_by(&self.region))
            .filter(|entry| !entry.is_canary())
            .map(|entry| OwnedRange { partitions: entry.range.to_string(), epoch: entry.epoch.0 });
        let logs = self.logs.all();
        let text = |(o, lsn): (&Origin, Lsn)| (o.to_string(), lsn.to_string());
        let trimmed = logs.iter().map(|(o, log)| (o.to_string(), log.trimmed().to_string()));
        let frontier = self.positions.frontier();
        let mut conditions = self.conditions(&tenure, &view, settled);
        conditions.extend(
            counted
                .little_headroom
                .map(|detail| Condition { name: "little_headroom".into(), detail }),
        );
        conditions.extend(readiness.lasting(now).map(not_ready));
        let terms = self.observer.other_terms().into_iter();
        conditions.extend(terms.map(|(region, told)| terms_differ(&region, &told)));
        let peers = self.peers(database_now, now);
        let writes = known.is_some_and(|known| known.writable_by(&self.region).next().is_some());
        if writes && counts.confirmed < counts.log_end {
            let counted = |peer: &&PeerStatus| {
                known.is_some_and(|known| known.holders().any(|h| h.as_str() == peer.region))
            };
            let ages = peers.iter().filter(counted).map(|peer| Millis(peer.exposure_ms));
            conditions.extend(commits_wait(self.config.rpo, ages.collect()));
        }
        let waits = |alike: &&JournalCount| matches!(alike.status.as_str(), "open" | "parked");
        let waiting = counted.journal.iter().filter(waits);
        RegionStatus {
            region: self.region.to_string(),
            witness: self.is_witness(),
            origin: self.origin.to_string(),
            postgres_reachable: tenure.postgres_reachable,
            postgres_version: tenure.postgres_version,
            lease_live: tenure.lease_until.is_some_and(|until| now < until),
            promised_by: tenure.promised_by.iter().map(ToString::to_string).collect(),
            owns: owns.collect(),
            owns_canary: Some(owns_canary),
            not_opened: tenure.closed.iter().map(ToString::to_string).collect(),
            ownership_seen: view.revision.min(tenure.guard_revision),
            ownership_read: view.revision,
            directory_connected: view.connected,
            directory_move: self.directory.move_state().map(lower_move),
            log_end: counts.log_end.to_string(),
            confirmed: counts.confirmed.to_string(),
            flushed: log_ends(&self.logs),
            applied: frontier.iter().map(text).collect(),
            durable: durable.iter().map(text).collect(),
            trimmed: trimmed.collect(),
            log_bytes: self.logs.room().used(),
            peers,
            captured_transactions_total: counts.captured_transactions,
            commits_per_s: counted.pace.commits_per_s,
            wal_bytes_per_s: counted.pace.bytes_per_s,
            open_writers: counted.open_writers,
            applied_transactions_total: counts.applied_transactions,
            journal_entries: counted.journal.iter().map(|alike| alike.entries).sum(),
            journal_open: waiting.map(|alike| alike.entries).sum(),
            journal: counted.journal,
            repairs_pending: counted.repairs_pending,
            migration: counted.migration,
            readiness: readiness.found().iter().map(lower_found).collect(),
            drills: DrillsStatus::default(),
            conditions,
            freeze: self.observer.safety().policy.freeze.map(told_freeze),
            seeding: self.seeding.as_ref().map(|seeding| seeding.borrow().clone()),
        }
    }

    /// Says when there was one and when one is wanted. `since`: as long as this agent runs.
    fn tell_of_drills(&self, past: &[PastDrill], since: Wall, status: &mut RegionStatus) {
        let (now, last) = (clock::unix(), drill::last_success(past));
        let terms = self.config.drills.as_ref().filter(|_| self.seeding.is_none());
        status.drills = DrillsStatus {
            last_success_at_ms: last.map(|at| at.0),
            next_at_ms: terms.map(|terms| terms.next(now, past).0),
        };
        if terms.is_some_and(|terms| terms.overdue(now, past, since)) {
            let last = last.map_or("yet".to_owned(), |at| format!("since {at}"));
            let detail = format!(
                "no drill has succeeded {last} (drills.every): \"domicile runbook history\" tells what became \
                 of those that were started, and none starts while a region could not be lost (\"domicile \
                 status\" says why) or no other could have the canary (\"domicile runbook plan drill\" says why)"
            );
            status.conditions.push(Condition { name: DRILL_OVERDUE.into(), detail });
        }
    }

    fn peers(&self, database_now: PgTime, now: Time) -> Vec<PeerStatus> {
        let others = self.config.holders().map(|(holder, _)| holder);
        others
            .filter(|other| **other != self.region)
            .map(|other| {
                let witness = self.config.witness(other).is_some();
                let mut seen = self.positions.peer_view(other, database_now);
                if witness {
                    seen.progress.applied = seen.progress.flushed;
                    (seen.lag_bytes, seen.staleness) = (seen.exposure.bytes, seen.exposure.age);
                }
                let silent = self.observer.silent_for(other, now);
                let losses = self.observer.losses_of(other);
                PeerStatus {
                    region: other.to_string(),
                    witness,
                    connected: seen.heard.is_some_and(|at| at.elapsed() < crate::peer::SILENCE_MAX),
                    flushed: seen.progress.flushed.to_string(),
                    applied: seen.progress.applied.to_string(),
                    lag_bytes: seen.lag_bytes,
                    exposure_ms: seen.exposure.age.0,
                    exposure_commits: seen.exposure.commits,
                    exposure_bytes: seen.exposure.bytes,
                    staleness_ms: seen.staleness.0,
                    // Never seen is not silent: the region may not have started yet.
                    lease_silent_ms: if silent.0 == u64::MAX { 0 } else { silent.0 },
                    probe: probe_word(self.observer.probe_of(other)),
                    probation_ms: self.observer.probation_of(other, now).0,
                    losses: losses.all,
                    brief_losses: losses.brief,
                    reseed_needed: self.observer.is_left_behind(other),
                    last_heard: self.observer.last_heard(other, now),
                }
            })
            .collect()
    }

    fn is_witness(&self) -> bool {
        self.config.witness(&self.region).is_some()
    }

    fn conditions(
        &self,
        tenure: &TenureState,
        view: &OwnershipView,
        settled: bool,
    ) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut add = |name: &str, detail: &str| {
            conditions.push(Condition { name: name.into(), detail: detail.into() });
        };
        // Before it is asked to come in, a newcomer does not try.
        let tries = self.seeding.as_ref().is_none_or(|seeding| !seeding.borrow().seed.is_empty());
        if !tenure.postgres_reachable && tries && !self.is_witness() {
            let why = tenure.postgres_fault.as_ref().map(|why| format!(": {why}"));
            let what = "the agent cannot reach this region's PostgreSQL";
            add("postgres_unreachable", &format!("{what}{}", why.unwrap_or_default()));
        }
        if !view.connected {
            let detail = "no owner changes; writes stop when the lease runs out, unless enough of the other \
                          regions renew it instead";
            add("directory_unreachable", detail);
        }
        if self.directory.move_state() == Some(MoveState::Gone) {
            let detail = "the directory has moved to etcd: take address and data out of [directory] here, and stop \
                          \"domicile directory\" once every region's agent says so";
            add("directory_moved", detail);
        }
        if !tenure.promised_by.is_empty() {
            let by: Vec<&str> = tenure.promised_by.iter().map(RegionId::as_str).collect();
            let detail = format!(
                "the directory does not renew this region's lease, {} does: it writes on, and whoever wants \
                 its partitions waits for that; get the directory back before a region is lost, too",
                by.join(" with ")
            );
            add("on_promises", &detail);
        }
        if view.regressed {
            let detail = "the directory is older than what was seen before, nothing of it is believed: give \
                          it a newer copy, see docs/operating/etcd.md";
            add("directory_regressed", detail);
        }
        for member in view.ownership.iter().flat_map(|known| known.members()) {
            if self.config.region(member).is_none() {
                let detail = format!(
                    "region {member} is a member of the cluster and has no [[region]] here: its changes \
                     are not followed. Put it back under this name, which cannot change; \
                     \"domicile region remove {member}\" takes it out"
                );
                add("member_not_configured", &detail);
            }
        }
        for witness in view.ownership.iter().flat_map(|known| known.witnesses()) {
            if self.config.witness(witness).is_none() {
                let detail = format!(
                    "{witness} is a witness of the cluster and has no [[witness]] here: it gets no log of \
                     this region's, and its seal is not asked for. Put it back; \
                     \"domicile region remove {witness}\" takes it out"
                );
                add("member_not_configured", &detail);
            }
        }
        if let Some((name, detail)) = &tenure.halted {
            add(name, detail);
        }
        if !settled && tenure.postgres_reachable && !view.regressed {
            let detail = "what was written here before others took over is not all read and held against \
                          the history yet: rows may show what is no history";
            add(UNSETTLED, detail);
        }
        if !tenure.closed.is_empty() {
            let closed: Vec<String> = tenure.closed.iter().map(ToString::to_string).collect();
            let detail = format!(
                "partitions {} are this region's, and nobody may write them here before what it alone had \
                 is journaled and their rows are repaired (domicile.repair); another region may have them: \
                 domicile switchover",
                closed.join(", ")
            );
            add(NOT_OPENED, &detail);
        }
        conditions.extend(self.notices.all());
        conditions
    }
}

fn told_freeze(freeze: Freeze) -> FreezeStatus {
    let Freeze { of, by, reason } = freeze;
    FreezeStatus { of: of.to_string(), by, reason }
}

fn lower_found((lost, found): (&RegionId, &Found)) -> ReadinessStatus {
    ReadinessStatus {
        lost: lost.to_string(),
        ready: found.against.is_empty(),
        against: found.against.iter().map(ToString::to_string).collect(),
    }
}

fn lower_move(state: MoveState) -> DirectoryMoveStatus {
    match state {
        MoveState::Gone => DirectoryMoveStatus { moved: true, unreachable: None },
        MoveState::Here { other } => DirectoryMoveStatus { moved: false, unreachable: other.err() },
    }
}

fn terms_differ(region: &RegionId, told: &HolderTerms) -> Condition {
    let copies = match told.rpo.copies() {
        0 => String::new(),
        copies => format!(" with {copies} copies"),
    };
    let HolderTerms { ttl, rpo } = told;
    let detail = format!(
        "the agent of region {region} goes by rpo = \"{rpo}\"{copies} and a lease of {} ms, and not by what is \
         configured here: failovers reckon with the weaker of both; give all agents the same domicile.toml",
        ttl.0
    );
    Condition { name: "terms_differ".into(), detail }
}

/// Tells where commits wait because too few are left to hold what is committed here. `ages`: of what each of the
/// others lacks.
fn commits_wait(rpo: Rpo, mut ages: Vec<Millis>) -> Option<Condition> {
    let (copies, may_lack) = match rpo {
        Rpo::None => return None,
        Rpo::Zero { copies } => (copies, Millis::default()),
        Rpo::Within { copies, age } => (copies, age),
    };
    ages.sort_unstable();
    let told = match ages.get(copies.saturating_sub(1)) {
        Some(age) if *age < may_lack + COMMITS_WAIT_TOLD => return None,
        Some(age) => format!("what was committed here {age} ago is not held by"),
        None => "there are not".to_owned(),
    };
    let detail = format!(
        "{told} as many other regions and witnesses as the RPO asks for ({copies}): commits \
         wait. Start those that are down; with a witness one may be lost (docs/operating/witness.md)"
    );
    Some(Condition { name: "commits_wait".into(), detail })
}

fn not_ready((lost, against): (&RegionId, &[Unready])) -> Condition {
    let against: Vec<String> = against.iter().map(ToString::to_string).collect();
    let detail =
        format!("if region {lost} were lost now, nobody could take over: {}", against.join("; "));
    Condition { name: NOT_FAILOVER_READY.into(), detail }
}
