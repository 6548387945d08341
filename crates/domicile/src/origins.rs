//! Which logs are followed and applied here?
//!
//! Those of every other region, in all of its incarnations: the newest is told by the directory. And
//! our own of earlier incarnations, for whatever our tables do not show of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::Lsn;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apply::{Applier, ApplierConfig};
use crate::continuity::{Continuity, older};
use crate::directory::View;
use crate::directory::documents::{IncarnationDocument, incarnation_key};
use crate::directory::view::OwnershipView;
use crate::log::{Log, LogError, Logs};
use crate::notices::Notices;
use crate::peer::client::Follower;
use crate::positions::Positions;
use crate::tenure::TenureState;

/// Makes what follows the log of an origin.
pub type MakeFollower = Box<dyn Fn(&Origin, Log) -> Follower + Send + Sync>;

/// How often it is looked whether the logs leave room for what is captured.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub struct Origins {
    pub config: Arc<Config>,
    pub postgres: String,
    /// What this region writes now.
    pub origin: Origin,
    pub logs: Logs,
    pub positions: Positions,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub tenure: watch::Receiver<TenureState>,
    pub continuity: Continuity,
    pub notices: Notices,
    pub gate: Arc<RwLock<()>>,
    /// Tells of repairs.
    pub repairs: watch::Sender<u64>,
    pub incarnations: watch::Receiver<Arc<View>>,
    pub follower: MakeFollower,
}

/// Returns the incarnation that the directory names for a region; 1 when it names none.
pub fn incarnation(view: &View, region: &RegionId) -> u32 {
    let document = view.documents.get(&incarnation_key(region));
    let lift = |value: &[u8]| serde_json::from_slice::<IncarnationDocument>(value).ok();
    document.and_then(|(value, _)| lift(value)).map_or(1, |document| document.incarnation)
}

/// Returns the newest incarnation of a region of which there is a log here; 1 when there is none.
pub fn incarnation_held(logs: &Logs, region: &RegionId) -> u32 {
    let held = logs.all().into_iter().filter(|(origin, _)| origin.region == *region);
    held.map(|(origin, _)| origin.incarnation).max().unwrap_or(1)
}

/// Returns the logs that are followed in region `own`: those of every other one.
pub fn due(config: &Config, logs: &Logs, incarnations: &View, own: &RegionId) -> Vec<Origin> {
    let others = config.regions.iter().filter(|r| r.id != *own);
    others
        .flat_map(|region| {
            let held = incarnation_held(logs, &region.id);
            let newest = held.max(incarnation(incarnations, &region.id));
            (1..=newest).map(|number| Origin::new(region.id.clone(), number))
        })
        .collect()
}

impl Origins {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut started = BTreeSet::new();
        let mut tasks = JoinSet::new();
        for (origin, log) in older(&self.logs, &self.origin).into_iter().chain(self.departed()) {
            tasks.spawn(self.apply(&origin, log, &shutdown));
        }
        loop {
            let view = self.incarnations.borrow_and_update().clone();
            let due = due(&self.config, &self.logs, &view, &self.origin.region);
            for origin in due.into_iter().filter(|origin| started.insert(origin.clone())) {
                if let Err(error) = self.start(&origin, &mut tasks, &shutdown) {
                    tracing::error!(%origin, "is not followed: {error:#}");
                    return;
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                // One that is gone leaves this region without somebody's changes.
                Some(_) = tasks.join_next() => return,
                changed = self.incarnations.changed() => if changed.is_err() { return },
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Those of regions that were removed: others may name their last records as causes.
    fn departed(&self) -> Vec<(Origin, Log)> {
        let here = |origin: &Origin| self.config.regions.iter().any(|r| r.id == origin.region);
        self.logs.all().into_iter().filter(|(origin, _)| !here(origin)).collect()
    }

    fn start(
        &self,
        origin: &Origin,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<(), LogError> {
        let log = self.logs.get_or_create(origin)?;
        tasks.spawn((self.follower)(origin, log.clone()).run(shutdown.clone()));
        tasks.spawn(self.apply(origin, log, shutdown));
        Ok(())
    }

    fn apply(
        &self,
        origin: &Origin,
        log: Log,
        shutdown: &CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let applier = Applier {
            config: ApplierConfig {
                postgres: self.postgres.clone(),
                region: self.origin.region.clone(),
                origin: origin.clone(),
                cluster: self.config.clone(),
                continuity: self.continuity.clone(),
            },
            log,
            logs: self.logs.clone(),
            positions: self.positions.clone(),
            ownership: self.ownership.clone(),
            gate: self.gate.clone(),
            repairs: self.repairs.subscribe(),
            slowly: None,
            one_by_one_to: Lsn::ZERO,
            notices: self.notices.clone(),
            waits: false,
            failures: 0,
            opened: false,
        };
        let (mut tenure, positions) = (self.tenure.clone(), self.positions.clone());
        let (continuity, shutdown) = (self.continuity.clone(), shutdown.clone());
        let own = self.logs.get(&self.origin);
        async move {
            let ready = async {
                let set_up = tenure.wait_for(|state| state.set_up).await;
                let start = set_up.map(|state| state.wal_at_start.unwrap_or_default());
                let Ok(start) = start else { return std::future::pending().await };
                // What was left unshipped by the last run of this region is judged first: else its
                // rows would meet the others' changes as conflicts.
                tokio::select! {
                    _ = positions.wait_for_capture(start) => {}
                    // It will not be captured: it meets them all the same.
                    () = continuity.broken() => {}
                    // Capture waits for room, which is made only by applying.
                    () = no_room(own.as_ref()) => {}
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = ready => {}
            }
            applier.run(shutdown).await;
        }
    }
}

/// Returns once the logs are as large as they may be.
async fn no_room(own: Option<&Log>) {
    let Some(own) = own else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Err(LogError::NoRoom { .. }) = own.ready().await {
            return;
        }
    }
}
