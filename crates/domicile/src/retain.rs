//! Lets go of what no region needs any more of our logs, and says who it is that still does.
//!
//! Asks `core::retention` and does what it says: first the regions that are left behind are made
//! known in the directory, and only what is read back from there counts. So nothing that a region
//! lacks is trimmed before that region can know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::id::{Origin, RegionId};
use domicile_core::ownership::Ownership;
use domicile_core::retention::{
    self, Ages, HeldBy, KeptLog, KeptSegment, LeftBehind, NoRoom, Stalls, applied, judged, shipped,
};
use domicile_core::runbook::Facts;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::complain::Complaint;
use crate::copies::Copies;
use crate::directory;
use crate::directory::documents::{lower_left_behind, reseed_key};
use crate::log::{Log, Logs, Standing};
use crate::notices::Notices;
use crate::observe::Observer;
use crate::positions::Positions;

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub struct Retainer {
    pub config: Arc<Config>,
    pub region: RegionId,
    pub clock: Clock,
    pub logs: Logs,
    pub copies: Copies,
    pub positions: Positions,
    pub observer: Observer,
    pub directory: directory::Client,
    /// The ownership whose cuts every log was held against.
    pub examined: watch::Receiver<Option<Arc<Ownership>>>,
    pub notices: Notices,
}

/// What has to be watched for a while to be known.
#[derive(Default)]
struct Noted {
    ages: BTreeMap<Origin, Ages>,
    stalls: Stalls,
}

impl Retainer {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut noted = Noted::default();
        let mut complaint = Complaint::default();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.tell_standing();
            // What is trimmed makes the room that mending may need.
            let trimmed = match self.observer.facts() {
                Some(facts) => self.look(&facts, &mut noted).await,
                None => Ok(()),
            };
            let mended = self.mend_copies().await;
            match trimmed.and(mended) {
                Ok(()) => complaint.settled(),
                Err(error) => complaint.warn("the logs are not trimmed or mended", &error),
            }
        }
    }

    async fn look(&self, facts: &Facts, noted: &mut Noted) -> anyhow::Result<()> {
        let known = self.observer.left_behind();
        self.tell_left_behind(&known).await?;
        let left: BTreeSet<(RegionId, Origin)> =
            known.iter().map(|left| (left.region.clone(), left.origin.clone())).collect();
        let logs = self.logs.all();
        let kept: Vec<KeptLog> =
            logs.iter().map(|(origin, log)| self.kept(origin, log, facts, &left, noted)).collect();
        let decided = retention::retain(&self.config.log, &self.region, &kept, &left);
        for behind in &decided.leave {
            let key = reseed_key(&behind.region, &behind.origin);
            tracing::error!(
                region = %behind.region, origin = %behind.origin, upto = %behind.upto,
                "reseed_needed: the logs are full, this region is left behind"
            );
            let document = lower_left_behind(behind, &self.region);
            self.directory.write(&key, 0, Some(document)).await?;
        }
        let mut failed = anyhow::Ok(());
        for (origin, log) in &logs {
            if let Some(upto) = decided.trim.get(origin) {
                // One that cannot be trimmed keeps no other from it.
                match log.trim_before(*upto).await {
                    Ok(segments) => tracing::info!(%origin, %upto, segments, "trimmed"),
                    Err(error) => {
                        failed = Err(anyhow::Error::from(error).context(format!("trim {origin}")))
                    }
                }
            }
        }
        match &decided.no_room {
            Some(no_room) => self.notices.post("room", "log_full", self.explain(no_room)),
            None => self.notices.clear("room"),
        }
        failed
    }

    fn kept(
        &self,
        origin: &Origin,
        log: &Log,
        facts: &Facts,
        left: &BTreeSet<(RegionId, Origin)>,
        noted: &mut Noted,
    ) -> KeptLog {
        let segments = log.segments().into_iter().map(|(last, bytes)| KeptSegment { last, bytes });
        let ages = noted.ages.entry(origin.clone()).or_default();
        let (terms, now, applied) = (&self.config.log, self.clock.now(), applied(facts, origin));
        let examined = self.examined.borrow().clone();
        KeptLog {
            origin: origin.clone(),
            segments: segments.collect(),
            aged: ages.note(log.end(), terms.keep, now),
            judged: judged(Some(&facts.ownership), origin, examined.as_deref()),
            shipped: shipped(facts, &self.region, origin),
            stalled: noted.stalls.note(origin, &applied, left, terms.drop_after, now),
            applied,
        }
    }

    /// Says that this region has to be seeded again, until its tables show what it lacked.
    async fn tell_left_behind(&self, known: &[LeftBehind]) -> anyhow::Result<()> {
        let Some(durable) = self.positions.durable() else { return Ok(()) };
        let mut lacks = None;
        for left in known.iter().filter(|left| left.region == self.region) {
            let shown = durable.get(&left.origin);
            if shown >= left.upto {
                let key = reseed_key(&left.region, &left.origin);
                if let Some(document) = self.directory.get(&key).await? {
                    self.directory.write(&key, document.revision, None).await?;
                    tracing::info!(origin = %left.origin, %shown, "nothing is lacking any more");
                }
            } else {
                lacks = Some((left, shown));
            }
        }
        match lacks {
            Some((left, shown)) => {
                let detail = format!(
                    "records of {} after {shown} may be gone up to {}: seed this region again",
                    left.origin, left.upto
                );
                self.notices.post("left behind", "reseed_needed", detail);
            }
            None => self.notices.clear("left behind"),
        }
        Ok(())
    }

    /// A copy whose records went bad on the disk is cut off there; its follower fetches the rest.
    async fn mend_copies(&self) -> anyhow::Result<()> {
        let mut failed = anyhow::Ok(());
        for (origin, log) in self.logs.all() {
            if origin.region != self.region && matches!(log.standing(), Standing::Corrupt(_)) {
                let mended = async {
                    self.copies.damaged(&origin)?;
                    anyhow::Ok(log.set_aside_corrupt().await?)
                };
                match mended.await {
                    Ok(end) => {
                        tracing::error!(%origin, %end, "log_corrupt: what follows is fetched again");
                    }
                    Err(error) => failed = Err(error.context(format!("mend {origin}"))),
                }
            }
        }
        failed
    }

    fn tell_standing(&self) {
        for (origin, log) in self.logs.all() {
            let part = format!("log {origin}");
            let (name, why) = match log.standing() {
                Standing::Sound => {
                    self.notices.clear(&part);
                    continue;
                }
                Standing::Full(why) => ("log_full", why),
                Standing::Failed(why) => ("log_failed", why),
                Standing::Corrupt(why) => ("log_corrupt", why),
            };
            self.notices.post(&part, name, format!("log of {origin}: {why}"));
        }
    }

    fn explain(&self, no_room: &NoRoom) -> String {
        let origin = &no_room.origin;
        let why = match &no_room.held_by {
            HeldBy::Region(region) if *region == self.region => {
                "this region's own tables do not show its records yet".to_owned()
            }
            HeldBy::Region(region) => format!("region {region} does not show its records yet"),
            HeldBy::Unshipped => "no other region holds its records".to_owned(),
            HeldBy::Cut => "a failover decides which of its records are history".to_owned(),
            HeldBy::OpenSegment => "its last segment is never trimmed".to_owned(),
        };
        format!("no room for another segment of the log of {origin}: {why}")
    }
}
