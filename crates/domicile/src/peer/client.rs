//! Keeps our copy of one region's log complete, from wherever it can be had.
//!
//! The log's home comes first. While it does not answer, any other region that holds the log is
//! asked; the home is tried again every second.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::Lsn;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::arrival::Arrival;
use super::intake::{Intake, Outcome};
use super::{Client, SILENCE_MAX};
use crate::log::Log;
use crate::positions::Positions;
use crate::proto::subscribe_request::{Kind, Open, Progress};
use crate::proto::{Records, SubscribeRequest};

const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long another region than the home is followed before the home is tried again.
const AWAY_FROM_HOME_MAX: Duration = Duration::from_secs(1);
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
    pub positions: Positions,
}

impl Follower {
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            for (source, client) in &self.sources {
                let home = *source == self.origin.region;
                let follow = self.follow(client.clone(), home);
                let ended = tokio::select! {
                    () = shutdown.cancelled() => return,
                    ended = follow => ended,
                };
                if let Err(error) = ended {
                    tracing::info!(%source, origin = %self.origin, "not followed: {error:#}");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }

    /// Fetches what a source holds beyond our log right now, and stops there. Returns our end.
    pub async fn fetch_missing(&self, client: Client) -> anyhow::Result<Lsn> {
        let mut stream = self.subscribe(client).await?;
        loop {
            let records = stream.next().await?;
            self.take(&records, &mut stream).await?;
            if self.log.end() >= Lsn(records.end_lsn) || records.frames.is_empty() {
                return Ok(self.log.end());
            }
        }
    }

    async fn follow(&self, client: Client, home: bool) -> anyhow::Result<()> {
        let mut stream = self.subscribe(client).await?;
        let started = Instant::now();
        let mut changed = self.positions.subscribe();
        if home {
            tracing::info!(origin = %self.origin, "following");
        }
        loop {
            tokio::select! {
                records = stream.next() => {
                    let records = records?;
                    self.take(&records, &mut stream).await?;
                    let caught_up = records.frames.is_empty();
                    if !home && caught_up && started.elapsed() > AWAY_FROM_HOME_MAX {
                        return Ok(());
                    }
                }
                _ = changed.changed() => self.report(&mut stream),
            }
        }
    }

    async fn take(&self, records: &Records, stream: &mut Subscription) -> anyhow::Result<()> {
        if records.frames.is_empty() {
            // A heartbeat is answered in any case: the source wants to know that we are here.
            stream.send(self.progress());
            return Ok(());
        }
        let taken = self.intake.append(&self.origin, &mut stream.arrival, &records.frames);
        match taken.await? {
            Outcome::Taken => {
                self.report(stream);
                Ok(())
            }
            Outcome::Sealed => {
                tokio::time::sleep(SEALED_RETRY_AFTER).await;
                anyhow::bail!("the rest of the log is sealed here")
            }
        }
    }

    /// How far we are: what our log holds, and nothing that was left out of it, or the origin
    /// would acknowledge what is not history.
    fn progress(&self) -> Progress {
        let flushed = self.log.end();
        let applied = self.positions.frontier().get(&self.origin);
        Progress { received: flushed.0, flushed: flushed.0, applied: applied.0 }
    }

    /// Tells the source how far we are if it does not know: a report moves positions there, which
    /// must not come back as a reason to report.
    fn report(&self, stream: &mut Subscription) {
        let progress = self.progress();
        if stream.told != Some(progress) {
            stream.send(progress);
        }
    }

    async fn subscribe(&self, mut client: Client) -> anyhow::Result<Subscription> {
        let (requests, receiver) = mpsc::channel(64);
        let open = Open {
            cluster: self.cluster.clone(),
            region: self.region.to_string(),
            origin: self.origin.to_string(),
            after_lsn: self.log.end().0,
        };
        requests.send(SubscribeRequest { kind: Some(Kind::Open(open)) }).await?;
        let opened = client.subscribe(ReceiverStream::new(receiver));
        let records = timeout(SILENCE_MAX, opened).await.context("subscribe")??.into_inner();
        Ok(Subscription { requests, records, told: None, arrival: Arrival::default() })
    }
}

struct Subscription {
    requests: mpsc::Sender<SubscribeRequest>,
    records: tonic::Streaming<Records>,
    told: Option<Progress>,
    arrival: Arrival,
}

impl Subscription {
    /// A report that finds the queue full is left out: the next heartbeat brings a newer one.
    fn send(&mut self, progress: Progress) {
        let request = SubscribeRequest { kind: Some(Kind::Progress(progress)) };
        if self.requests.try_send(request).is_ok() {
            self.told = Some(progress);
        }
    }

    async fn next(&mut self) -> anyhow::Result<Records> {
        let message = timeout(SILENCE_MAX, self.records.message()).await;
        message.context("the peer is silent")??.context("the peer ended the stream")
    }
}
