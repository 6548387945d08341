//! Keeps our copy of one region's log complete, from wherever it can be had.
//!
//! The log's home comes first. While it does not answer, any other region that holds the log is
//! asked; the home is tried again every second. When nobody has what comes next any more, our copy
//! begins anew behind it, if our tables show it; else this region has to be seeded again, and
//! says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::BytesMut;
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::Lsn;
use domicile_core::retention::{Gap, LeftBehind, over_gap};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::intake::{Intake, Outcome};
use super::{Client, SILENCE_MAX};
use crate::complain::Complaint;
use crate::copies::Copies;
use crate::directory;
use crate::directory::documents::{lower_left_behind, reseed_key};
use crate::log::{Log, Standing};
use crate::notices::Notices;
use crate::positions::Positions;
use crate::proto::subscribe_request::{Kind, Open, Progress};
use crate::proto::{Records, SubscribeRequest};

const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long another region than the home is followed before the home is tried again.
const AWAY_FROM_HOME_MAX: Duration = Duration::from_secs(1);
/// What nobody waits to hear is told so much later, with what comes meanwhile.
const REPORT_AFTER: Duration = Duration::from_millis(5);
/// How long a sealed epoch's records are left alone until the cut may be known.
const SEALED_RETRY_AFTER: Duration = Duration::from_millis(50);

/// Follows one origin.
pub struct Follower {
    pub cluster: String,
    /// Who we are.
    pub region: RegionId,
    pub origin: Origin,
    pub log: Log,
    /// The origin's home first, then the others.
    pub sources: Vec<(RegionId, Client)>,
    pub intake: Arc<Intake>,
    pub copies: Copies,
    pub positions: Positions,
    pub directory: directory::Client,
    pub notices: Notices,
    /// Nothing is applied here yet: our copy begins wherever it can.
    pub begins_anywhere: bool,
    /// Commits at the origin wait to hear that they are durable here.
    pub is_waited_for: bool,
}

/// The one asked no longer has what comes after our end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("its log begins after {trimmed}")]
pub struct Trimmed {
    pub trimmed: Lsn,
}

impl Follower {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut complaints: BTreeMap<RegionId, Complaint> = BTreeMap::new();
        loop {
            let (end, mut gaps) = (self.log.end(), Vec::new());
            for (source, client) in &self.sources {
                let home = *source == self.origin.region;
                let started = Instant::now();
                let follow = self.follow(client.clone(), home);
                let ended = tokio::select! {
                    () = shutdown.cancelled() => return,
                    ended = follow => ended,
                };
                let complaint = complaints.entry(source.clone()).or_default();
                if started.elapsed() > SILENCE_MAX {
                    complaint.settled();
                }
                if let Err(error) = ended {
                    let what = format!("the log of {} is not had from {source}", self.origin);
                    complaint.info(&what, &error);
                    gaps.extend(error.downcast_ref::<Trimmed>().copied());
                }
            }
            // Nobody had what comes next, and somebody said so.
            if self.log.end() == end
                && let Some(gap) = gaps.into_iter().min_by_key(|gap| gap.trimmed)
            {
                let durable = self.positions.durable();
                let shown = match self.begins_anywhere {
                    true => Some(Lsn(u64::MAX)),
                    false => durable.map(|durable| durable.get(&self.origin)),
                };
                if let Some(shown) = shown
                    && let Err(error) = self.meet_gap(gap, shown).await
                {
                    tracing::warn!(origin = %self.origin, "gap not dealt with yet: {error:#}");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }

    /// Begins our copy anew behind a gap that our tables show, or has this region seeded again.
    pub async fn meet_gap(&self, gap: Trimmed, shown: Lsn) -> anyhow::Result<()> {
        let (origin, end) = (&self.origin, self.log.end());
        match over_gap(shown, gap.trimmed) {
            Gap::Skip => {
                tracing::info!(%origin, %end, trimmed = %gap.trimmed, "our copy begins anew");
                self.log.skip_to(gap.trimmed).await?;
            }
            Gap::Reseed => {
                let detail = format!(
                    "the log of {origin} begins after {} wherever it is to be had, and this region \
                     shows it up to {shown}: seed it again",
                    gap.trimmed
                );
                self.notices.post(&self.name(), "reseed_needed", detail);
                let (region, origin) = (self.region.clone(), origin.clone());
                let key = reseed_key(&region, &origin);
                let left = LeftBehind { region, origin, upto: gap.trimmed };
                let document = lower_left_behind(&left, &self.region);
                // There may be one already: it says the same.
                self.directory.write(&key, 0, Some(document)).await?;
            }
        }
        Ok(())
    }

    /// Under which this follower's notices stand.
    fn name(&self) -> String {
        format!("follow {}", self.origin)
    }

    /// Fetches what a source holds beyond our log right now, and stops there. Returns our end.
    pub async fn fetch_missing(&self, client: Client) -> anyhow::Result<Lsn> {
        let mut stream = self.subscribe(client).await?;
        loop {
            let records = stream.next().await?;
            self.take(&records, &mut stream).await?;
            stream.heard = Instant::now();
            if caught_up(self.log.end(), &records) {
                return Ok(self.log.end());
            }
        }
    }

    async fn follow(&self, client: Client, home: bool) -> anyhow::Result<()> {
        // What cannot be kept need not be sent.
        self.log.ready().await?;
        let mut stream = self.subscribe(client).await?;
        let started = Instant::now();
        let mut changed = self.positions.subscribe();
        let mut report_at = None;
        if home {
            tracing::info!(origin = %self.origin, "following");
        }
        loop {
            tokio::select! {
                records = stream.next() => {
                    let records = records?;
                    self.take(&records, &mut stream).await?;
                    stream.heard = Instant::now();
                    if self.is_waited_for {
                        self.report(&mut stream);
                    } else {
                        report_at = report_at.or_else(|| Some(Instant::now() + REPORT_AFTER));
                    }
                    let caught_up = caught_up(self.log.end(), &records);
                    if home && caught_up {
                        self.note_whole(&records, &stream.arrival)?;
                    }
                    if !home && caught_up && started.elapsed() > AWAY_FROM_HOME_MAX {
                        return Ok(());
                    }
                }
                _ = changed.changed(), if report_at.is_none() => {
                    report_at = Some(Instant::now() + REPORT_AFTER);
                }
                () = sleep_until(report_at.unwrap_or(started)), if report_at.is_some() => {
                    report_at = None;
                    self.report(&mut stream);
                }
            }
        }
    }

    async fn take(&self, records: &Records, stream: &mut Subscription) -> anyhow::Result<()> {
        if let Some(trimmed) = records.trimmed_lsn {
            return Err(Trimmed { trimmed: Lsn(trimmed) }.into());
        }
        self.notices.clear(&self.name());
        anyhow::ensure!(!self.was_cut(&stream.arrival), "what it sends does not follow on our end");
        if records.frames.is_empty() {
            // A heartbeat is answered in any case: the source wants to know that we are here.
            if let Some(progress) = self.progress() {
                stream.send(progress);
            }
            return Ok(());
        }
        let theirs = records.ownership_revision;
        let aware = timeout(SILENCE_MAX, self.intake.catch_up_with(theirs)).await;
        aware.context("the source goes by an ownership that is not known here")??;
        let taken = self.intake.append(&self.origin, &mut stream.arrival, &records.frames);
        match taken.await? {
            Outcome::Taken => Ok(()),
            Outcome::Sealed => {
                tokio::time::sleep(SEALED_RETRY_AFTER).await;
                anyhow::bail!("the rest of the log is sealed here")
            }
        }
    }

    /// The home has nothing more for our copy.
    fn note_whole(&self, records: &Records, arrival: &Arrival) -> anyhow::Result<()> {
        let ends = (Lsn(records.end_lsn), self.positions.frontier().get(&self.origin));
        let sound = || self.log.standing() == Standing::Sound && !self.was_cut(arrival);
        self.copies.caught_up(&self.origin, ends, sound)
    }

    /// Were records taken back here since the source was asked for what follows on them?
    fn was_cut(&self, arrival: &Arrival) -> bool {
        arrival.since != Some(self.log.end_and_rewrites().1)
    }

    /// How far we are, and by which ownership: what it does not count to the history was left out.
    /// Nothing before an ownership is known, and nothing that would count while a seal may be forgotten here.
    fn progress(&self) -> Option<Progress> {
        if self.copies.is_silent_to(&self.origin.region) {
            return None;
        }
        let flushed = self.log.end();
        let applied = self.positions.frontier().get(&self.origin);
        // Read last: what was left out on the way to `flushed` was left out by this one or before.
        let ownership_revision = self.intake.revision()?;
        let (received, flushed, applied) = (flushed.0, flushed.0, applied.0);
        Some(Progress { received, flushed, applied, ownership_revision })
    }

    /// Tells the source how far we are if it does not know: a report moves positions there, which
    /// must not come back as a reason to report.
    fn report(&self, stream: &mut Subscription) {
        if let Some(progress) = self.progress()
            && stream.told != Some(progress)
        {
            stream.send(progress);
        }
    }

    async fn subscribe(&self, mut client: Client) -> anyhow::Result<Subscription> {
        let (requests, receiver) = mpsc::channel(64);
        let (end, rewrites) = self.log.end_and_rewrites();
        let open = Open {
            cluster: self.cluster.clone(),
            region: self.region.to_string(),
            origin: self.origin.to_string(),
            after_lsn: end.0,
            pieces: true,
        };
        requests.send(SubscribeRequest { kind: Some(Kind::Open(open)) }).await?;
        let opened = client.subscribe(ReceiverStream::new(receiver));
        let records = timeout(SILENCE_MAX, opened).await.context("subscribe")??.into_inner();
        let arrival = Arrival::since(rewrites);
        let (begun, heard) = (BytesMut::new(), Instant::now());
        Ok(Subscription { requests, records, told: None, arrival, begun, heard })
    }
}

/// Does a log that ends at `end` hold all that its source had when it sent these records?
fn caught_up(end: Lsn, records: &Records) -> bool {
    records.frames.is_empty() || end >= Lsn(records.end_lsn)
}

struct Subscription {
    requests: mpsc::Sender<SubscribeRequest>,
    records: tonic::Streaming<Records>,
    told: Option<Progress>,
    arrival: Arrival,
    /// Frames of which the rest is on its way.
    begun: BytesMut,
    /// When the source sent something, or we were ready for more.
    heard: Instant,
}

impl Subscription {
    /// A report that finds the queue full is left out: the next heartbeat brings a newer one.
    fn send(&mut self, progress: Progress) {
        let request = SubscribeRequest { kind: Some(Kind::Progress(progress)) };
        if self.requests.try_send(request).is_ok() {
            self.told = Some(progress);
        }
    }

    /// Nothing is lost when it is given up and called again.
    async fn next(&mut self) -> anyhow::Result<Records> {
        loop {
            let message = timeout_at(self.heard + SILENCE_MAX, self.records.message()).await;
            let message = message.context("the peer is silent")??;
            let mut records = message.context("the peer ended the stream")?;
            self.heard = Instant::now();
            if records.more {
                self.begun.extend_from_slice(&records.frames);
                continue;
            }
            if !self.begun.is_empty() {
                self.begun.extend_from_slice(&records.frames);
                records.frames = std::mem::take(&mut self.begun).freeze();
            }
            return Ok(records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_never_falls_silent_is_caught_up_with() {
        let busy = Records { frames: "records".into(), end_lsn: 20, ..Records::default() };
        assert!(!caught_up(Lsn(10), &busy));
        assert!(caught_up(Lsn(20), &busy), "or the home would not be tried again under load");
        assert!(caught_up(Lsn(10), &Records { end_lsn: 20, ..Records::default() }));
    }
}
