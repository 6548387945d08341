//! Keeps known how old what this region shows is, for whoever reads here.
//!
//! Asks the owners while somebody wants to know, and not otherwise. What an answer means is said in
//! [`domicile_core::freshness`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use domicile_core::freshness::{Answer, AsOf, Seen, read_index, seen};
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::{Cut, Frontier, Lsn};
use domicile_core::ownership::Ownership;
use domicile_core::time::{Millis, Time};
use domicile_core::visible::Running;
use futures_util::future::join_all;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::complain::Complaint;
use crate::peer::mark::Marker;
use crate::peer::{self, lift_epochs};
use crate::postgres::session;
use crate::proto::{MakeDurableRequest, MarkRequest, MarkResponse};
use crate::tokens::Tokens;

/// How often the owners are asked while somebody reads with a bound.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long after the last such read.
const LINGER: Millis = Millis(10_000);
/// How often who waits says so again.
const STILL_WANTED: Duration = Duration::from_secs(1);
/// An owner that does not answer for so long is asked again.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// An owner that may be none any more is asked again.
const OWNER_AGAIN: Duration = Duration::from_millis(50);
/// Of the clock: what begins in this millisecond asks for the next.
const CLOCK_STEP: Duration = Duration::from_millis(1);
/// Questions that are on their way at once.
const ASKED_MAX: usize = 8;
/// A commit that waits for a copy goes on as soon as one is there: one way, at least.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How old what this region shows is. Cheap to clone.
#[derive(Clone)]
pub struct Staleness {
    shared: Arc<Shared>,
}

struct Shared {
    tokens: Tokens,
    marker: Marker,
    peers: BTreeMap<RegionId, peer::Client>,
    clock: Clock,
    /// The newest moment that somebody waits for.
    wanted: watch::Sender<Time>,
    /// Looks at what this region's own PostgreSQL shows.
    looks: Mutex<Option<Client>>,
    /// When somebody wanted to know last.
    used: AtomicU64,
    /// Everything that was committed anywhere before is shown here.
    as_of: watch::Sender<Option<Time>>,
}

impl std::fmt::Debug for Staleness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staleness").field("age", &self.age()).finish_non_exhaustive()
    }
}

impl Staleness {
    pub fn new(tokens: Tokens, marker: Marker, peers: BTreeMap<RegionId, peer::Client>) -> Self {
        let shared = Shared {
            tokens,
            clock: marker.clock,
            marker,
            peers,
            wanted: watch::Sender::new(Time::default()),
            looks: Mutex::default(),
            used: AtomicU64::new(0),
            as_of: watch::Sender::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// By which sessions tell each other what they have seen.
    pub fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    pub fn now(&self) -> Time {
        self.shared.clock.now()
    }

    /// Waits until everything is shown here that was committed before `as_of`.
    pub async fn reached(&self, as_of: Time) {
        let mut reached = self.shared.as_of.subscribe();
        self.shared.used.store(self.now().0, Ordering::Relaxed);
        if *reached.borrow_and_update() >= Some(as_of) {
            return;
        }
        self.shared.wanted.send_if_modified(|wanted| {
            let is_newer = *wanted < as_of;
            *wanted = as_of.max(*wanted);
            is_newer
        });
        // Whoever still waits still wants to know.
        while timeout(STILL_WANTED, reached.wait_for(|r| *r >= Some(as_of))).await.is_err() {
            self.shared.used.store(self.now().0, Ordering::Relaxed);
        }
    }

    /// Is what `region` shows, which owns everything as far as is known, as new as can be? Not where it may have lost that
    /// without our knowing: by a directory that is heard it has not, nor by its own lease.
    pub fn is_current(&self, region: &RegionId) -> bool {
        let marker = &self.shared.marker;
        if *region == marker.region {
            marker.owns_all()
        } else {
            marker.ownership.borrow().connected
        }
    }

    /// Waits until it is, asking the region itself where nothing else tells.
    pub async fn becomes_current(&self, region: &RegionId) {
        while !self.is_current(region) {
            if let Some(peer) = self.shared.peers.get(region)
                && let Ok(answer) = ask(peer.clone()).await
            {
                let view = self.shared.marker.ownership.borrow().clone();
                let total = view.ownership.as_ref().map(Ownership::total);
                if total.is_some_and(|total| read_index(total, vec![answer]).is_some()) {
                    return;
                }
            }
            tokio::time::sleep(OWNER_AGAIN).await;
        }
    }

    /// How old the oldest commit of any owner may be that is not shown here; `None` while that is not
    /// known.
    pub fn age(&self) -> Option<Millis> {
        self.shared.as_of.borrow().map(|as_of| self.now().since(as_of))
    }

    /// Waits until all of `needed` is shown here. Fails where a part of it never will be.
    pub async fn seen(&self, needed: &Frontier) -> Result<(), Cut> {
        let Marker { positions, ownership, region, .. } = &self.shared.marker;
        let (mut moved, mut ownership) = (positions.subscribe(), ownership.clone());
        loop {
            let view = ownership.borrow_and_update().clone();
            let (shown, released) = (positions.frontier(), positions.released_to());
            match seen(needed, &shown, region, released.as_ref(), view.ownership.as_ref()) {
                Seen::Yes => break,
                Seen::Lost(place) => return Err(place),
                Seen::NotYet => {}
            }
            tokio::select! {
                _ = moved.changed() => {}
                changed = ownership.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
        let end = needed.get(&self.shared.marker.origin);
        while let Err(error) = self.shows_own(end).await {
            tracing::debug!("a session waits for what waits for a copy: {error:#}");
            tokio::time::sleep(OWNER_AGAIN).await;
        }
        Ok(())
    }

    /// Waits until this region's own PostgreSQL shows all of its log up to `end`: what waits for a copy others may
    /// show before.
    async fn shows_own(&self, end: Lsn) -> anyhow::Result<()> {
        let positions = &self.shared.marker.positions;
        let mut shown = positions.shows_own(end, None);
        while !shown {
            shown = positions.shows_own(end, Some(&self.look().await?));
            if !shown {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// What a snapshot does not show that is taken now.
    async fn look(&self) -> anyhow::Result<Running> {
        let mut session = self.shared.looks.lock().await;
        // Taken out: a session in which something went wrong is not used again.
        let client = match session.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => session::connect(&self.shared.marker.postgres, "domicile look").await?,
        };
        let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await?;
        *session = Some(client);
        Ok(Running::read(row.get(0))?)
    }

    /// Asks `region` for everything that can be seen there now.
    pub async fn everything_at(&self, region: &RegionId) -> anyhow::Result<Frontier> {
        let answer = match self.shared.peers.get(region) {
            None => self.shared.marker.answer().await?,
            Some(peer) => ask(peer.clone()).await?,
        };
        Ok(answer.everything())
    }

    /// Has made durable in `region` what was written there so far, committed or not. Returns the origin of that.
    pub async fn make_durable_at(&self, region: &RegionId) -> anyhow::Result<Origin> {
        let Shared { marker, peers, tokens, .. } = self.shared.as_ref();
        let making = async {
            let Some(peer) = peers.get(region) else { return marker.make_durable().await };
            let request = MakeDurableRequest { cluster: tokens.cluster().to_owned() };
            Ok(peer.clone().make_durable(request).await?.into_inner().origin.parse()?)
        };
        let made = timeout(ANSWER_WAIT_MAX, making).await;
        made.with_context(|| format!("region {region} is silent"))?
    }

    pub async fn run(self, shutdown: CancellationToken) {
        let Marker { positions, ownership, region, .. } = &self.shared.marker;
        let mut wanted = self.shared.wanted.subscribe();
        let (mut moved, mut known) = (positions.subscribe(), AsOf::default());
        let (mut asked, mut asked_last) = (JoinSet::new(), Time::default());
        let mut complaint = Complaint::default();
        let mut tick = tokio::time::interval(ASK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut due = false;
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {
                    let used = Time(self.shared.used.load(Ordering::Relaxed));
                    due = used > Time::default() && self.now().since(used) < LINGER;
                }
                Ok(()) = wanted.changed() => {}
                _ = moved.changed(), if known.is_waiting() => {}
                Some(Ok((at, answered))) = asked.join_next() => match answered {
                    Ok(needed) => {
                        complaint.settled();
                        known.answered(at, needed);
                    }
                    Err(error) => complaint.info("how far the owners are is not known", &error),
                },
            }
            let wanted = *wanted.borrow_and_update();
            due |= asked_last < wanted;
            if due && asked.len() < ASKED_MAX {
                asked_last = wanted.max(self.now());
                asked.spawn(self.clone().ask_owners_at(wanted));
            }
            let view = ownership.borrow().clone();
            let reached = known.shown(&positions.frontier(), region, view.ownership.as_ref());
            self.shared.as_of.send_if_modified(|as_of| {
                let moves = *as_of != reached;
                *as_of = reached;
                moves
            });
        }
    }

    /// Asks at `wanted` or, where that is over, now; and returns when that was.
    async fn ask_owners_at(self, wanted: Time) -> (Time, anyhow::Result<Frontier>) {
        while self.now() < wanted {
            tokio::time::sleep(CLOCK_STEP).await;
        }
        let at = self.now();
        (at, self.ask_owners().await)
    }

    /// What has to be shown so that nothing is missing that was committed before now.
    async fn ask_owners(&self) -> anyhow::Result<Frontier> {
        let Shared { marker, peers, .. } = self.shared.as_ref();
        let view = marker.ownership.borrow().clone();
        let ownership = view.ownership.as_ref().context("nobody is known to own anything yet")?;
        let owners = ownership.data().iter().filter_map(|entry| entry.state.admits());
        let owners: BTreeSet<&RegionId> = owners.collect();
        let others = owners.iter().filter_map(|owner| peers.get(owner));
        let own = timeout(ANSWER_WAIT_MAX, self.shows_own(marker.positions.own_end()));
        let others = join_all(others.map(|peer| ask(peer.clone())));
        let (own, answered) = tokio::join!(own, others);
        own.context("this region's own commits wait for copies")??;
        let mut first_error = None;
        let mut answers: Vec<Answer> = Vec::new();
        for answer in answered {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        // What was committed here is shown here by now.
        answers.push(Answer {
            owns: marker.owned().into_iter().map(|(range, _)| range).collect(),
            end: Cut { origin: marker.origin.clone(), lsn: Lsn::ZERO },
            shown: Frontier::default(),
        });
        let needed = read_index(ownership.total(), answers);
        needed.ok_or_else(|| {
            first_error.unwrap_or_else(|| anyhow::anyhow!("nobody owns some of the partitions now"))
        })
    }
}

async fn ask(mut peer: peer::Client) -> anyhow::Result<Answer> {
    let answer = timeout(ANSWER_WAIT_MAX, peer.mark(MarkRequest {})).await;
    let MarkResponse { log_end, owns, shown, .. } =
        answer.context("an owner is silent")??.into_inner();
    let end = log_end.context("an owner names no place")?;
    let shown = shown.iter().map(|place| Ok((place.origin.parse()?, Lsn(place.lsn))));
    Ok(Answer {
        owns: lift_epochs(&owns).into_iter().map(|(range, _)| range).collect(),
        end: Cut { origin: end.origin.parse()?, lsn: Lsn(end.lsn) },
        shown: shown.collect::<anyhow::Result<Frontier>>()?,
    })
}
