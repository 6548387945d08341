//! How far is everything, as this agent knows it?
//!
//! Capture, peers and apply each know one number; this is where they meet. Holds positions and
//! no logic: what they allow is answered by `core::progress`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::{Cut, Frontier, Lsn};
use domicile_core::progress::{CommitTimes, Exposure, OriginProgress, Progress, Rpo, Sifted};
use domicile_core::record::{self, RecordError};
use domicile_core::time::{Millis, PgTime, Time};
use domicile_core::visible::{Hidden, Running};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::log::{Log, Record};

/// Commits whose times are remembered, to tell how old what a peer lacks is.
const COMMIT_TIMES_MAX: usize = 8192;
/// Of the log, at a time.
const READ_BYTES: usize = 1 << 20;

/// All positions of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Positions {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Bumped on every change: those who wait look again.
    changed: watch::Sender<u64>,
}

struct State {
    own: OriginProgress,
    own_flushed: Lsn,
    /// When each peer last told how far it is.
    heard: BTreeMap<RegionId, Instant>,
    times: CommitTimes,
    /// What our tables certainly show.
    applied: Frontier,
    /// What our tables would show after a crash of PostgreSQL, once that is known.
    durable: Option<Frontier>,
    /// What our tables may show: claimed before the commit that makes it visible.
    claimed: Frontier,
    /// Our own commits that our tables may not show yet.
    hidden: Hidden,
    captured_transactions: u64,
    applied_transactions: u64,
    confirmed: Lsn,
    /// Up to where no commit of ours waits for a copy; `None` where none does.
    released: Option<Cut>,
}

impl Positions {
    /// Starts from a log that ends at `log_end`.
    pub fn new(log_end: Lsn) -> Self {
        let state = State {
            own: OriginProgress::resume(log_end),
            own_flushed: log_end,
            heard: BTreeMap::new(),
            times: CommitTimes::new(COMMIT_TIMES_MAX),
            applied: Frontier::default(),
            durable: None,
            claimed: Frontier::default(),
            hidden: Hidden::default(),
            captured_transactions: 0,
            applied_transactions: 0,
            confirmed: Lsn::ZERO,
            released: None,
        };
        let changed = watch::Sender::new(0);
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed }) }
    }

    /// Nothing is captured yet: learns when what `log` holds was committed.
    pub async fn inherit(&self, log: &Log) {
        let mut times = CommitTimes::new(COMMIT_TIMES_MAX);
        if let Err(error) = read_times(log, &mut times).await {
            // A log that cannot be read says so itself.
            tracing::warn!("how old our log is, is known in part: {error:#}");
        }
        self.change(|state| state.times = times);
    }

    /// Our log was made whole again from peers, up to `end`.
    pub fn recovered(&self, end: Lsn) {
        self.change(|state| {
            state.own.recovered(end);
            state.own_flushed = state.own_flushed.max(end);
        });
    }

    /// Records of our log that are not history were found.
    pub fn withdrawn(&self, found: Sifted) {
        self.change(|state| {
            state.own.withdrawn(found);
            let history = state.own.history();
            state.times.forget_behind(history);
        });
    }

    /// Tells of every change after this call.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Transaction `xid` was read from the slot at `now` and goes into the log.
    pub fn captured(&self, lsn: Lsn, xid: u32, committed_at: PgTime, now: Time) {
        self.change(|state| {
            state.own.captured(lsn, now);
            state.hidden.captured(lsn, xid);
            state.times.note(lsn, committed_at);
            state.captured_transactions += 1;
        });
    }

    /// Transaction `xid` was read once more, and the log has it: it may still wait.
    pub fn captured_again(&self, lsn: Lsn, xid: u32) {
        self.change(|state| {
            state.own.seen(lsn);
            state.hidden.captured(lsn, xid);
        });
    }

    /// Capture begins anew behind what our log holds.
    pub fn restarted(&self) {
        self.change(|state| state.own.restarted());
    }

    pub fn seen(&self, position: Lsn) {
        self.change(|state| state.own.seen(position));
    }

    pub fn flushed(&self, end: Lsn) {
        self.change(|state| {
            state.own.flushed(end);
            state.own_flushed = state.own_flushed.max(end);
        });
    }

    pub fn confirmed(&self, lsn: Lsn) {
        self.lock().confirmed = lsn;
    }

    /// Commits of ours up to `released` wait for no copy any more; `None` when nobody tells them so.
    pub fn released(&self, released: Option<Cut>) {
        if self.lock().released != released {
            self.change(|state| state.released = released);
        }
    }

    /// Where our log ends with what was captured, be it on disk or not.
    pub fn own_end(&self) -> Lsn {
        self.lock().own.end()
    }

    /// Does our own PostgreSQL certainly show all of our log up to `end`? A snapshot of it that was taken now tells,
    /// by what it does not show.
    pub fn shows_own(&self, end: Lsn, running: Option<&Running>) -> bool {
        let mut state = self.lock();
        if let Some(running) = running {
            state.hidden.looked(running);
        }
        state.hidden.shows(end)
    }

    pub fn released_to(&self) -> Option<Cut> {
        self.lock().released.clone()
    }

    /// Our log was held against the ownership at `revision`, which has these `holders`.
    pub fn examined(&self, revision: u64, holders: &BTreeSet<RegionId>) {
        self.change(|state| state.own.examined(revision, holders));
    }

    /// A peer told how far it is with our own log, by the ownership at `revision`.
    pub fn peer(&self, region: &RegionId, report: Progress, revision: u64) {
        let moved = {
            let mut state = self.lock();
            state.heard.insert(region.clone(), Instant::now());
            let before = state.own.of_peer(region);
            state.own.peer(region, report, revision);
            state.own.of_peer(region) != before
        };
        if moved {
            self.shared.changed.send_modify(|count| *count += 1);
        }
    }

    /// What the slot may be told.
    pub fn confirmable(&self, rpo: Rpo, now: Time, lease_until: Option<Time>) -> Lsn {
        self.lock().own.confirmable(rpo, now, lease_until)
    }

    /// Our tables are about to show `origin` up to `lsn`: whatever is captured from now on may
    /// depend on it.
    pub fn claim(&self, origin: &Origin, lsn: Lsn) {
        self.lock().claimed.advance(origin, lsn);
    }

    pub fn applied(&self, origin: &Origin, lsn: Lsn, transactions: u64) {
        self.change(|state| {
            state.claimed.advance(origin, lsn);
            state.applied.advance(origin, lsn);
            state.applied_transactions += transactions;
        });
    }

    /// What a transaction that is captured now needs to have been applied before it.
    pub fn needs(&self) -> Frontier {
        self.lock().claimed.clone()
    }

    pub fn frontier(&self) -> Frontier {
        self.lock().applied.clone()
    }

    /// What our tables would show after a crash: what others may rely on. `None` until PostgreSQL
    /// was asked.
    pub fn durable(&self) -> Option<Frontier> {
        self.lock().durable.clone()
    }

    pub fn durable_up_to(&self, checkpoints: &Frontier) {
        let mut state = self.lock();
        let durable = state.durable.get_or_insert_default();
        for (origin, lsn) in checkpoints.iter() {
            durable.advance(origin, lsn);
        }
    }

    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            captured_transactions: state.captured_transactions,
            applied_transactions: state.applied_transactions,
            confirmed: state.confirmed,
            log_end: state.own_flushed,
        }
    }

    /// How far `region` is with our log, and how old what it lacks is, by our database's clock.
    pub fn peer_view(&self, region: &RegionId, now: PgTime) -> PeerView {
        let state = self.lock();
        let progress = state.own.of_peer(region);
        let end = state.own_flushed.min(state.own.history());
        PeerView {
            progress,
            heard: state.heard.get(region).copied(),
            lag_bytes: end.bytes_since(progress.applied),
            exposure: Exposure {
                age: state.times.age_beyond(progress.flushed, now),
                commits: state.times.count_beyond(progress.flushed),
                bytes: end.bytes_since(progress.flushed),
            },
            staleness: state.times.age_beyond(progress.applied, now),
        }
    }

    /// Up to where capture has read and judged everything.
    pub fn captured_to(&self) -> Lsn {
        self.lock().own.position()
    }

    /// Waits until capture has read and judged everything up to `position`. Returns where our log
    /// ends with all of it.
    pub async fn wait_for_capture(&self, position: Lsn) -> Lsn {
        let mut changed = self.subscribe();
        loop {
            {
                let state = self.lock();
                if state.own.position() >= position {
                    return state.own.end();
                }
            }
            if changed.changed().await.is_err() {
                return self.lock().own.end();
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.shared.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, so a panic elsewhere spoils nothing.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of each segment the first commit, and of the last one all: peers that are not far behind are somewhere
/// in that.
async fn read_times(log: &Log, times: &mut CommitTimes) -> anyhow::Result<()> {
    let committed_at =
        |record: &Record| Ok::<_, RecordError>(record::decode_head(&record.payload)?.committed_at);
    let runs = log.runs();
    let Some(((newest, _), older)) = runs.split_last() else { return Ok(()) };
    for (after, count) in older {
        if let Some(first) = log.read(*after).next_batch(1).await?.iter().flatten().next() {
            times.note_first(first.lsn, committed_at(first)?, *count);
        }
    }
    let mut reader = log.read(*newest);
    while let Some(records) = reader.next_batch(READ_BYTES).await? {
        for record in &records {
            times.note(record.lsn, committed_at(record)?);
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub captured_transactions: u64,
    pub applied_transactions: u64,
    pub confirmed: Lsn,
    pub log_end: Lsn,
}

#[derive(Clone, Copy, Debug)]
pub struct PeerView {
    pub progress: Progress,
    /// When the peer last told.
    pub heard: Option<Instant>,
    pub lag_bytes: u64,
    pub exposure: Exposure,
    pub staleness: Millis,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use domicile_core::change::Transaction;

    use super::*;
    use crate::log::LogConfig;

    #[tokio::test]
    async fn what_a_log_holds_at_our_start_is_as_old_as_it_was_before() {
        let folder = tempfile::tempdir().unwrap();
        let config = LogConfig { segment_bytes: 512, ..LogConfig::new(folder.path()) };
        let (log, _) = Log::open(config).unwrap();
        let commit = |second: u64| {
            let committed_at = PgTime(second as i64 * 1_000_000);
            let head =
                Transaction { lsn: Lsn(second * 100), committed_at, ..Transaction::default() };
            (head.lsn, Bytes::from(record::encode(&head)))
        };
        let mut last = 0;
        while log.runs().len() < 9 || log.runs().last().is_none_or(|(_, count)| *count < 3) {
            last += 1;
            log.append(vec![commit(last)]).await.unwrap();
        }
        let positions = Positions::new(log.end());
        positions.inherit(&log).await;
        let (us, now) = ("us".parse().unwrap(), PgTime((last as i64 + 10) * 1_000_000));
        let lacks = |second: u64| {
            let at = Lsn(second * 100);
            let told = Progress { received: at, flushed: at, ..Progress::default() };
            positions.peer(&us, told, 0);
            let exposure = positions.peer_view(&us, now).exposure;
            (exposure.age.0 / 1000, exposure.commits)
        };
        assert_eq!(lacks(0), (last + 9, last));
        // No younger than the first that is missing, and no older than its segment.
        let (age, commits) = lacks(last / 2);
        let (missing, segment) = (last - last / 2, last / 8);
        assert!((missing + 9..missing + 9 + segment).contains(&age), "{age} s for {missing}");
        assert!((missing..missing + segment).contains(&commits), "{commits} for {missing}");
        // Peers that are not far behind are where every commit is known.
        assert_eq!(lacks(last - 1), (10, 1));
        assert_eq!(lacks(last), (0, 0));

        // The last three are no history: nobody lacks them, and nobody ever will be where they are.
        let mut found = Sifted::behind(Lsn((last - 3) * 100));
        found.divert(Lsn(last * 100));
        positions.withdrawn(found);
        assert_eq!(lacks(last - 3), (0, 0));
        let view = positions.peer_view(&us, now);
        assert_eq!(view.exposure, Exposure::default());
    }
}
