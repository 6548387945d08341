//! How does this region come to own partitions, keep the right to write, and give it up?
//!
//! One loop holds the lease in the directory and the guard in PostgreSQL together, always in this
//! order: read the database's clock, renew the lease, read who owns what, make the guard go by
//! it, and only then extend the guard's deadline, counted from that first reading. So a renewal
//! that is late grants nothing, and the guard never outlives a fence that it has not seen.
//!
//! A directory that does not answer is waited for as long as there is still time to ask the peers: they
//! may promise the lease in its stead ([`domicile_core::promise`]), for what the guard goes by already.
//!
//! **Invariant:** the deadline is extended only after the guard's map is as new as the ownership
//! that was read after the renewal.
//!
//! What is ours is not open for that: see [`domicile_core::opening`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use domicile_core::config::{Config, Sequences};
use domicile_core::continuity::Verdict;
use domicile_core::id::{Origin, PartitionRange, RegionId, RunId};
use domicile_core::lease::{self, Held, HolderTerms, LeaseTerms};
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::opening::{self, Open, Rows};
use domicile_core::ownership::{Ownership, OwnershipChange};
use domicile_core::promise::{Ask, Needed};
use domicile_core::sequence::Place;
use domicile_core::time::{Millis, Time};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::complain::Complaint;
use crate::continuity::{Continuity, Halted};
use crate::directory::change::change_ownership;
use crate::directory::documents::{
    LeaseDocument, OWNERSHIP_KEY, json, lease_key, lift_ownership, lower_ownership, lower_terms,
};
use crate::directory::places;
use crate::directory::safety::Grounds;
use crate::directory::view::OwnershipView;
use crate::directory::{Client as Directory, DirectoryError, Written};
use crate::log::Log;
use crate::positions::Positions;
use crate::postgres::drain::{Door, Stragglers, drain};
use crate::postgres::pulse::Silence;
use crate::postgres::sequences::{self, Look};
use crate::postgres::{guard, session, setup};
use crate::{peer, promises};

const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How often something is looked at that a person has to mend.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long looking at sequences may take before anything can be written.
const KEEP_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long moving sequences may hold this loop up: no value is drawn twice without that, only a
/// smaller one later.
const ADVANCE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Whoever draws from a sequence waits meanwhile: so not at once.
const ADVANCE_AGAIN_AFTER: Millis = Millis(10_000);
/// Attempts at a compare-and-set before the facts are gathered anew.
const CAS_ATTEMPTS: usize = 8;

const REGRESSED: &str =
    "the directory is older than what was seen before: nothing of it is believed";

/// What the loop has reached, for everyone else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TenureState {
    pub postgres_reachable: bool,
    /// Why it is not.
    pub postgres_fault: Option<String>,
    pub postgres_version: u32,
    /// Until when the guard admits writes, by this agent's clock.
    pub lease_until: Option<Time>,
    /// Who has promised that, where the directory did not grant it.
    pub promised_by: BTreeSet<RegionId>,
    /// The revision of ownership that the guard goes by.
    pub guard_revision: u64,
    /// The schema, the guard and the publication are there.
    pub set_up: bool,
    /// Where PostgreSQL's WAL ended when this agent first reached it.
    pub wal_at_start: Option<Lsn>,
    /// Where the WAL ended when the guard was closed for something last: behind all that an older map
    /// let in.
    pub written_to: Option<Lsn>,
    /// What is this region's and not opened yet.
    pub closed: Vec<PartitionRange>,
    /// This region's place in the steps of sequences, unless they are left alone.
    pub place: Option<Place>,
    /// A named state that stops everything, and why.
    pub halted: Option<(String, String)>,
}

pub struct Tenure {
    pub config: Arc<Config>,
    pub region: RegionId,
    pub postgres: String,
    /// This process, as the lease names its holder.
    pub agent: String,
    pub clock: Clock,
    pub directory: Directory,
    pub peers: BTreeMap<RegionId, peer::Client>,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    /// Barriers that stand in our log.
    pub barriers: watch::Receiver<Vec<(RunId, Cut)>>,
    pub continuity: Continuity,
    /// Our logs of earlier incarnations: this region goes on where they end.
    pub older: Vec<(Origin, Log)>,
    pub positions: Positions,
    /// The ownership that every log here was held against.
    pub examined: watch::Receiver<Option<Arc<Ownership>>>,
    /// Counts repairs.
    pub repairs: watch::Receiver<u64>,
    pub silence: watch::Receiver<Silence>,
    pub state: watch::Sender<TenureState>,
}

/// What one session with PostgreSQL knows of the guard it has installed.
struct Guard {
    client: Client,
    door: Door,
    map: Option<(Ownership, u64)>,
    /// What the map lets be written here.
    open: Vec<Open>,
    /// What is ours and not open.
    closed: Vec<PartitionRange>,
    /// Where the WAL ended when something was closed last.
    written_to: Option<Lsn>,
    /// All of that was read and judged when it was last asked what may be opened.
    judged: bool,
    /// The newest renewal.
    held: Option<Held>,
    /// It was promised by peers, for what the map said then.
    promised: bool,
    /// When sequences are to be moved behind what others have written, after they could not be.
    advance_at: Option<Time>,
}

/// When a renewal was begun, by our clock and by the database's.
#[derive(Clone, Copy)]
struct Begun {
    held: Held,
    database: i64,
}

impl Tenure {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut complaint = Complaint::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.session() => {
                    if let Err(error) = ended {
                        complaint.warn("cannot act as owner for now", &error);
                    }
                }
            }
            self.state.send_modify(|state| {
                state.lease_until = None;
                state.promised_by.clear();
            });
            let is_halted =
                self.continuity.check().is_err() || self.state.borrow().halted.is_some();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(if is_halted { LOOK_EVERY } else { RETRY_AFTER }) => {}
            }
        }
    }

    async fn session(&mut self) -> anyhow::Result<()> {
        let mut guard = match self.open().await {
            Ok(guard) => guard,
            Err(error) => {
                let reached = error.is::<Halted>();
                self.state.send_modify(|state| {
                    state.postgres_reachable = reached;
                    state.postgres_fault = Some(format!("{error:#}")).filter(|_| !reached);
                });
                return Err(error);
            }
        };
        self.found_cluster().await?;
        self.keep_sequences(&mut guard).await?;
        let mut renew =
            tokio::time::interval(Duration::from_millis(self.config.lease.renew_every.0));
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut complaint = Complaint::default();
        loop {
            tokio::select! {
                biased;
                changed = self.ownership.changed() => {
                    changed.context("the directory is closed")?;
                    let view = self.ownership.borrow_and_update().clone();
                    // What the guard's deadline rests on is not known before the first renewal.
                    if let (Some(ownership), Some(_)) = (&view.ownership, &guard.map) {
                        self.follow(&mut guard, ownership, view.revision).await?;
                    }
                    self.announce_barriers(&guard).await?;
                }
                changed = self.barriers.changed() => {
                    changed.context("capture is closed")?;
                    self.announce_barriers(&guard).await?;
                }
                _ = renew.tick() => {
                    if !self.may_pass_over(&guard) {
                        self.renew(&mut guard, &mut complaint).await?;
                        self.announce_barriers(&guard).await?;
                    }
                    if guard.advance_at.is_some_and(|at| at <= self.clock.now()) {
                        self.advance_sequences(&mut guard).await;
                    }
                }
                () = is_over(guard.held, self.clock, &self.config.lease) => {
                    // By our own clock: the database's may have stepped back.
                    self.let_go(&mut guard).await?;
                }
                settles = settles(
                    &mut self.examined,
                    &mut self.repairs,
                    &self.positions,
                    guard.written_to.filter(|_| !guard.judged),
                ), if !guard.closed.is_empty() => {
                    settles?;
                    self.open_what_is_ready(&mut guard).await?;
                }
            }
        }
    }

    async fn open(&self) -> anyhow::Result<Guard> {
        let mut client = session::connect(&self.postgres, "domicile agent").await?;
        let version: i32 = client
            .query_one("SELECT current_setting('server_version_num')::integer", &[])
            .await?
            .get(0);
        let wal_end: String =
            client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
        let wal_end: Lsn = wal_end.parse()?;
        guard::be_alone(&client).await?;
        let verdict = self.continuity.examine(&client).await?;
        if matches!(&verdict, Verdict::Broken(why) if !why.may_apply()) {
            self.continuity.check()?;
        }
        guard::install(&client, &self.config, &self.region).await?;
        setup::publish(&mut client, &self.config).await?;
        if verdict == Verdict::New {
            self.state.send_modify(|state| state.postgres_reachable = true);
            // A slot begins once all transactions have ended that were open, and those end with a slot.
            tokio::select! {
                begun = self.continuity.begin(&client) => begun?,
                () = self.end_waiting(), if self.config.rpo.waits_for_capture() => {}
            }
        }
        self.continuity.note(&client).await?;
        self.state.send_modify(|state| {
            (state.postgres_reachable, state.postgres_fault) = (true, None);
            state.postgres_version = u32::try_from(version).unwrap_or(0);
            state.set_up = true;
            state.wal_at_start = state.wal_at_start.or(Some(wal_end));
        });
        let door = Door::open(&self.postgres).await?;
        let open = guard::read_open(&client, &self.region).await?;
        Ok(Guard {
            client,
            door,
            map: None,
            open,
            closed: Vec::new(),
            written_to: None,
            judged: false,
            held: None,
            promised: false,
            advance_at: None,
        })
    }

    /// Does so until it is dropped, whatever comes of it.
    async fn end_waiting(&self) {
        let mut complaint = Complaint::default();
        loop {
            let ended = async {
                let client = session::connect(&self.postgres, "domicile agent").await?;
                guard::end_waiting(&client).await
            };
            if let Err(error) = ended.await {
                complaint.warn("sessions that wait for the slot are not ended", &error);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Writes the first ownership when this is a new cluster.
    async fn found_cluster(&self) -> anyhow::Result<()> {
        let seen = self.ownership.borrow().clone();
        if seen.ownership.is_some() {
            return Ok(());
        }
        if self.directory.get(OWNERSHIP_KEY).await?.is_none() {
            if seen.contradicts(None) {
                bail!("{REGRESSED}");
            }
            let initial = self.config.initial_ownership();
            let value = lower_ownership(&self.config.cluster, &initial);
            self.directory.write(OWNERSHIP_KEY, 0, Some(value)).await?;
        }
        Ok(())
    }

    /// Clients wait for the end of a hand-over; a renewal in its way would be a part of the pause.
    fn may_pass_over(&self, guard: &Guard) -> bool {
        let handing_over = match &self.ownership.borrow().ownership {
            Some(ownership) => ownership.is_handing_over(&self.region),
            None => false,
        };
        let now = self.clock.now();
        handing_over && guard.held.is_some_and(|held| held.may_pass_over(now, &self.config.lease))
    }

    /// Before anything can be written here: no other region draws what this one draws.
    async fn keep_sequences(&self, guard: &mut Guard) -> anyhow::Result<()> {
        if self.config.sequences == Sequences::Leave {
            return Ok(());
        }
        let known = self.state.borrow().place;
        let place = match known {
            Some(place) => place,
            None => places::place_of(&self.directory, &self.region).await?,
        };
        let kept = sequences::keep(&mut guard.client, &self.config, place, Look::Columns);
        timeout(KEEP_WAIT_MAX, kept).await.context("sequences are looked at for too long")??;
        self.state.send_modify(|state| state.place = Some(place));
        Ok(())
    }

    /// What others have written to partitions that are now ours: sequences go on behind it.
    async fn advance_sequences(&self, guard: &mut Guard) {
        let Some(place) = self.state.borrow().place else { return };
        // In a session of its own: one that waits for somebody's lock could not renew the lease meanwhile.
        let deadline = Instant::now() + ADVANCE_WAIT_MAX;
        let advanced = async {
            let opening = session::connect(&self.postgres, "domicile sequences");
            let mut client = timeout_at(deadline, opening).await??;
            let advance = sequences::keep(&mut client, &self.config, place, Look::Columns);
            match timeout_at(deadline, advance).await {
                Ok(left) => left,
                Err(late) => {
                    let postgres = self.postgres.clone();
                    tokio::spawn(async move { session::cancel(&postgres, &client).await });
                    Err(late.into())
                }
            }
        };
        let left = match advanced.await {
            Ok(left) => left > 0,
            Err(error) => {
                tracing::warn!(
                    "sequences are not moved behind what others have written: {error:#}"
                );
                true
            }
        };
        guard.advance_at = left.then(|| self.clock.now() + ADVANCE_AGAIN_AFTER);
    }

    async fn renew(&self, guard: &mut Guard, complaint: &mut Complaint) -> anyhow::Result<()> {
        if let Err(halted) = self.continuity.check() {
            // What is committed from here on would not be captured.
            guard::revoke_lease(&guard.client).await?;
            if self.config.rpo.waits_for_capture() {
                // Their locks would hold up what comes from other regions.
                if let Err(error) = guard::end_waiting(&guard.client).await {
                    complaint.warn("sessions that wait for the slot are not ended", &error);
                }
            }
            return Err(halted.into());
        }
        if self.silence.borrow().connecting {
            return self.give_up(guard).await;
        }
        self.check_older()?;
        self.check_ack_fence(guard).await?;
        let begun = self.begin(guard).await?;
        let patience = self.patience(guard);
        match timeout(patience, self.grant()).await {
            Ok(Ok((ownership, revision))) => {
                complaint.settled();
                guard.promised = false;
                self.follow(guard, &ownership, revision).await?;
                self.extend(guard, begun, BTreeSet::new()).await
            }
            Ok(Err(error)) if !is_silence(&error) => Err(error),
            Ok(Err(error)) => self.live_on(guard, complaint, error).await,
            Err(_) => {
                let error = anyhow!("the directory does not answer within {patience:?}");
                self.live_on(guard, complaint, error).await
            }
        }
    }

    /// What a renewal counts from: read before anybody is asked for it.
    async fn begin(&self, guard: &Guard) -> anyhow::Result<Begun> {
        let held = Held { sent_at: self.clock.now() };
        Ok(Begun { held, database: guard::read_clock(&guard.client).await? })
    }

    /// By the directory.
    async fn grant(&self) -> anyhow::Result<(Ownership, u64)> {
        self.renew_lease().await?;
        self.read_ownership().await
    }

    async fn extend(
        &self,
        guard: &mut Guard,
        begun: Begun,
        promised_by: BTreeSet<RegionId>,
    ) -> anyhow::Result<()> {
        let terms = &self.config.lease;
        let lasts = i64::try_from((terms.ttl - terms.margin).0).unwrap_or(i64::MAX) * 1000;
        guard::set_lease(&guard.client, begun.database, begun.database + lasts).await?;
        guard.held = Some(begun.held);
        let until = begun.held.deadline(terms);
        self.state.send_modify(|state| {
            state.lease_until = Some(until);
            state.promised_by = promised_by;
        });
        Ok(())
    }

    /// Has the peers renew what the directory, which is silent, does not. Where too few do, the next turn
    /// tries again as long as this session lives.
    async fn live_on(
        &self,
        guard: &mut Guard,
        complaint: &mut Complaint,
        silence: anyhow::Error,
    ) -> anyhow::Result<()> {
        let view = self.ownership.borrow().clone();
        if view.regressed {
            bail!("{REGRESSED}");
        }
        let Some(known) = &view.ownership else { return Err(silence) };
        if guard.map.is_none() {
            self.let_go(guard).await?;
        }
        self.follow(guard, known, view.revision).await?;
        let begun = self.begin(guard).await?;
        let holders: Vec<RegionId> = self.config.holders().map(|(id, _)| id.clone()).collect();
        let needed = Needed::new(self.config.rpo, known, &self.region, &holders);
        let ask = Ask::new(&self.region, known, view.revision, &self.config.lease);
        let within = self.patience(guard);
        match promises::ask(&self.peers, &self.config.cluster, &needed, &ask, within).await {
            Ok(given) => {
                complaint.info("peers renew this region's lease", &silence);
                guard.promised = true;
                self.extend(guard, begun, given).await
            }
            Err(error) => {
                let error = silence.context(error);
                complaint.warn("neither the directory nor peers renew this region's lease", &error);
                Ok(())
            }
        }
    }

    fn patience(&self, guard: &Guard) -> Duration {
        let patience = lease::patience(guard.held, self.clock.now(), &self.config.lease);
        Duration::from_millis(patience.0)
    }

    /// Where nobody new is served another region may have to: first the guard is closed, then the lease
    /// in the directory is left to end. This session stays, so that the guard learns who owns what.
    async fn give_up(&self, guard: &mut Guard) -> anyhow::Result<()> {
        self.let_go(guard).await?;
        let way_out = "PostgreSQL answers nobody who connects, so this region writes nothing and its lease \
                       ends: look whether its postmaster hangs";
        let halted = Some(("postgres_takes_no_connections".to_owned(), way_out.to_owned()));
        self.state.send_if_modified(|state| {
            let changed = state.lease_until.is_some() || state.halted != halted;
            (state.lease_until, state.halted) = (None, halted);
            changed
        });
        Ok(())
    }

    /// Closes the guard for everything, until the next renewal.
    async fn let_go(&self, guard: &mut Guard) -> anyhow::Result<()> {
        guard::revoke_lease(&guard.client).await?;
        (guard.held, guard.promised) = (None, false);
        self.state.send_modify(|state| {
            state.lease_until = None;
            state.promised_by.clear();
        });
        Ok(())
    }

    async fn read_ownership(&self) -> anyhow::Result<(Ownership, u64)> {
        // Before it is read: then it must be as new as this.
        let seen = self.ownership.borrow().clone();
        let document = self.directory.get(OWNERSHIP_KEY).await?.context("there is no ownership")?;
        let ownership = lift_ownership(&self.config.cluster, &document.value)?;
        let older = document.revision < seen.revision || seen.contradicts(Some(&ownership));
        if older || self.ownership.borrow().regressed {
            bail!("{REGRESSED}");
        }
        Ok((ownership, document.revision))
    }

    /// What our tables lost of our own history is applied before anything rests on them.
    fn check_older(&self) -> anyhow::Result<()> {
        let shown = self.positions.frontier();
        match self.older.iter().find(|(origin, log)| shown.get(origin) < log.end()) {
            None => Ok(()),
            Some((origin, log)) => bail!("{origin} is not applied here up to {} yet", log.end()),
        }
    }

    /// With an RPO a region whose PostgreSQL would acknowledge commits by itself does not write at
    /// all: a promise that is not kept is worse than a refusal.
    async fn check_ack_fence(&self, guard: &Guard) -> anyhow::Result<()> {
        let wanted = match self.config.rpo.waits_for_capture() {
            true => guard::does_not_wait(&guard.client).await?,
            false => None,
        };
        let halted = wanted.map(|wanted| {
            let way_out = format!(
                "set synchronous_standby_names = '{wanted}' and reload: at rpo = \"{}\" nothing is \
                 written while commits do not all wait for the agent",
                self.config.rpo
            );
            ("ack_fence_off".to_owned(), way_out)
        });
        self.state.send_if_modified(|state| {
            let changed = state.halted != halted;
            state.halted.clone_from(&halted);
            changed
        });
        match halted {
            None => Ok(()),
            Some((name, way_out)) => bail!("{name}: {way_out}"),
        }
    }

    async fn renew_lease(&self) -> anyhow::Result<()> {
        let key = lease_key(&self.region);
        for _ in 0..CAS_ATTEMPTS {
            let seen = self.directory.get(&key).await?;
            let renewals = seen
                .as_ref()
                .and_then(|d| serde_json::from_slice::<LeaseDocument>(&d.value).ok())
                .map_or(0, |lease| lease.renewals);
            let terms = HolderTerms { ttl: self.config.lease.ttl, rpo: self.config.rpo };
            let lease = LeaseDocument {
                agent: self.agent.clone(),
                renewals: renewals + 1,
                terms: Some(lower_terms(&terms)),
            };
            let expected = seen.map_or(0, |d| d.revision);
            if let Written::At(_) = self.directory.write(&key, expected, Some(json(&lease))).await?
            {
                return Ok(());
            }
        }
        bail!("somebody else keeps writing this region's lease")
    }

    /// Makes the guard go by `ownership`, draining first what it takes away.
    async fn follow(
        &self,
        guard: &mut Guard,
        ownership: &Ownership,
        revision: u64,
    ) -> anyhow::Result<()> {
        if guard.map.as_ref().is_some_and(|(_, known)| *known >= revision) {
            // Somebody may have mended by hand what held it up.
            return self.open_what_is_ready(guard).await;
        }
        let before = guard.map.as_ref().map(|(map, _)| map);
        let more = before.is_some_and(|before| ownership.gives(before, &self.region));
        if more && guard.promised {
            // What it lives on was not promised for this.
            self.let_go(guard).await?;
        }
        let before = guard.map.as_ref().map(|(map, _)| map);
        let gained = before.is_some_and(|before| ownership.gives_data(before, &self.region));
        // Unknown means that something is: a drain too many costs milliseconds.
        let lost = before.is_none_or(|before| before.gives(ownership, &self.region));
        let stragglers = match before.is_none_or(|b| b.gives_data(ownership, &self.region)) {
            true => Stragglers::Terminate,
            false => Stragglers::LeaveAlone,
        };
        let like_before = before.is_some_and(|before| before.admits_like(ownership));
        if lost {
            // What the old map lets in is not over before the drain is.
            guard.written_to = None;
        }
        let closed = self.still_closed(guard, ownership).await?;
        if lost {
            let due = guard::barriers_due(ownership, &self.region);
            let addresses = self.addresses();
            let map = guard::Map { ownership, closed: &closed, addresses: &addresses };
            let drained = drain(&guard.client, &guard.door, map, &due, stragglers).await?;
            guard.written_to = Some(drained);
        } else if !like_before || closed != guard.closed {
            self.set_map(guard, ownership, &closed).await?;
        }
        guard.map = Some((ownership.clone(), revision));
        self.opened(guard, closed);
        if gained {
            // Only now, when writers are let in: regions draw different values in any case.
            self.advance_sequences(guard).await;
        }
        // Only the drain has told up to where something may have been written.
        if lost { self.open_what_is_ready(guard).await } else { Ok(()) }
    }

    /// Opens what was kept closed, as far as nothing is against it any more.
    async fn open_what_is_ready(&self, guard: &mut Guard) -> anyhow::Result<()> {
        if guard.closed.is_empty() {
            return Ok(());
        }
        let Some((ownership, revision)) = guard.map.take() else { return Ok(()) };
        let closed = self.still_closed(guard, &ownership).await?;
        let opens = closed != guard.closed;
        if opens {
            self.set_map(guard, &ownership, &closed).await?;
        }
        guard.map = Some((ownership, revision));
        if opens {
            self.opened(guard, closed);
            self.advance_sequences(guard).await;
        }
        Ok(())
    }

    /// What of this region's partitions must not be open yet by `ownership`.
    async fn still_closed(
        &self,
        guard: &mut Guard,
        ownership: &Ownership,
    ) -> anyhow::Result<Vec<PartitionRange>> {
        let fresh = opening::fresh(ownership, &self.region, &guard.open);
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        guard.judged = guard.written_to.is_some_and(|end| self.positions.captured_to() >= end);
        let examined = self.examined.borrow().clone();
        // Only then: what was found by those is marked by now.
        let repairs = guard::read_repairs(&guard.client).await?;
        let rows = Rows { judged: guard.judged, examined: examined.as_deref() };
        Ok(opening::closed(&fresh, &self.region, rows, &repairs))
    }

    async fn set_map(
        &self,
        guard: &Guard,
        ownership: &Ownership,
        closed: &[PartitionRange],
    ) -> anyhow::Result<()> {
        let addresses = self.addresses();
        guard::set_map(&guard.client, guard::Map { ownership, closed, addresses: &addresses }).await
    }

    /// Takes note that the guard goes by its map and keeps `closed`.
    fn opened(&self, guard: &mut Guard, closed: Vec<PartitionRange>) {
        let Some((ownership, revision)) = &guard.map else { return };
        guard.open = opening::open(ownership, &self.region, &closed);
        if !closed.is_empty() && closed != guard.closed {
            let ranges: Vec<String> = closed.iter().map(ToString::to_string).collect();
            tracing::info!("partitions {} are ours and not opened yet", ranges.join(", "));
        }
        guard.closed = closed;
        self.state.send_modify(|state| {
            state.guard_revision = *revision;
            state.written_to = guard.written_to;
            state.closed.clone_from(&guard.closed);
        });
    }

    fn addresses(&self) -> BTreeMap<RegionId, String> {
        self.config.regions.iter().map(|r| (r.id.clone(), r.gateway.clone())).collect()
    }

    /// Tells the directory where our drained epochs end, once those barriers are in our log. One that is
    /// silent is told after the next renewal.
    async fn announce_barriers(&self, guard: &Guard) -> anyhow::Result<()> {
        match timeout(self.patience(guard), self.tell_barriers()).await {
            Ok(Err(error)) if !is_silence(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn tell_barriers(&self) -> anyhow::Result<()> {
        let view = self.ownership.borrow().clone();
        let Some(ownership) = &view.ownership else { return Ok(()) };
        let known = self.barriers.borrow().clone();
        for run in guard::barriers_due(ownership, &self.region) {
            // The newest: a drain that was repeated after a restart left a later one.
            if let Some((_, barrier)) = known.iter().rev().find(|(of, _)| *of == run) {
                let change = OwnershipChange::Barrier { run, barrier: barrier.clone() };
                let (known, cluster) = ((ownership, view.revision), &self.config.cluster);
                let grounds = Grounds::default();
                change_ownership(&self.directory, cluster, &change, known, &grounds).await?;
            }
        }
        Ok(())
    }
}

/// Did the directory say nothing? Anything that it says has to be heeded, but that everything is on its way to
/// another one: no owner changes meanwhile.
fn is_silence(error: &anyhow::Error) -> bool {
    let says_nothing = |error: &DirectoryError| {
        matches!(error, DirectoryError::Unreachable { .. } | DirectoryError::Closed { .. })
    };
    error.chain().any(|cause| cause.downcast_ref().is_some_and(says_nothing))
}

/// Returns when what is held is over by our own clock.
async fn is_over(held: Option<Held>, clock: Clock, terms: &LeaseTerms) {
    let Some(held) = held else { return std::future::pending().await };
    loop {
        let now = clock.now();
        if !held.live(now, terms) {
            return;
        }
        let left = held.deadline(terms).since(now);
        tokio::time::sleep(Duration::from_millis(left.0)).await;
    }
}

/// Returns when something of that has changed for which a partition is kept closed.
async fn settles(
    examined: &mut watch::Receiver<Option<Arc<Ownership>>>,
    repairs: &mut watch::Receiver<u64>,
    positions: &Positions,
    unread: Option<Lsn>,
) -> anyhow::Result<()> {
    tokio::select! {
        changed = examined.changed() => changed.context("nobody examines the logs"),
        changed = repairs.changed() => changed.context("nobody repairs rows"),
        _ = positions.wait_for_capture(unread.unwrap_or_default()), if unread.is_some() => Ok(()),
    }
}
