//! What do peers hold of our own log that we do not?
//!
//! A damaged segment was set aside, or a disk forgot what it had promised: what a peer has taken
//! is history all the same. Asked once, before anything new is captured.

use std::time::Duration;

use domicile_core::continuity::LOG_LOST;
use domicile_core::lsn::Lsn;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::peer::client::{Follower, Trimmed};

/// How long peers that do not answer are waited for, when nothing is known to be missing.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// Under which the notice stands.
const PART: &str = "recovery";

pub struct Recovery {
    /// Of our own origin.
    pub follower: Follower,
    /// Our log was known to reach this far: until it does again, nothing is captured.
    pub must_reach: Lsn,
    /// A region that has never captured anything has nothing to ask for.
    pub captured_before: bool,
}

impl Recovery {
    pub async fn run(self, shutdown: &CancellationToken) {
        let log = &self.follower.log;
        let before = log.end();
        if self.captured_before {
            self.fetch(shutdown).await;
        }
        if log.end() > before {
            self.follower.positions.inherit(log).await;
        }
        self.follower.positions.recovered(self.follower.log.end());
    }

    async fn fetch(&self, shutdown: &CancellationToken) {
        let (started, mut complaint) = (Instant::now(), Complaint::default());
        loop {
            let (answered, gap) = self.ask_all().await;
            let log = &self.follower.log;
            let whole = log.end() >= self.must_reach;
            let enough = answered == self.follower.sources.len() || started.elapsed() > PATIENCE;
            if whole && enough {
                self.follower.notices.clear(PART);
                return;
            }
            if let Some(gap) = gap.filter(|_| !whole && enough) {
                // Our tables show what we wrote ourselves.
                match self.follower.meet_gap(gap, Lsn(u64::MAX)).await {
                    Ok(_) => continue,
                    Err(error) => complaint.warn("our log does not begin anew yet", &error),
                }
            } else if !whole {
                let (name, lacks) = self.lacks(answered);
                complaint.warn(name, &anyhow::anyhow!("{lacks}"));
                self.follower.notices.post(PART, name, lacks);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }

    /// What is missing, by its name.
    fn lacks(&self, answered: usize) -> (&'static str, String) {
        let (end, must_reach, of) =
            (self.follower.log.end(), self.must_reach, self.follower.sources.len());
        let lacks = format!(
            "our own log ends at {end} and had reached {must_reach}: nothing is captured before it does again"
        );
        match of - answered {
            0 => {
                (LOG_LOST, format!("{lacks}; no other region holds the rest: \"domicile reseed\""))
            }
            silent => (
                "log_corrupt",
                format!("{lacks}; {silent} of {of} that may hold the rest do not answer"),
            ),
        }
    }

    /// Returns how many peers answered, and the smallest gap that one of them told of when nobody
    /// had anything for us.
    async fn ask_all(&self) -> (usize, Option<Trimmed>) {
        let (end, mut answered, mut gap) = (self.follower.log.end(), 0, None::<Trimmed>);
        for (region, client) in &self.follower.sources {
            match self.follower.fetch_missing(client.clone()).await {
                Ok(_) => answered += 1,
                Err(error) => {
                    tracing::debug!(%region, "tells nothing of our log: {error:#}");
                    if let Some(told) = error.downcast_ref::<Trimmed>() {
                        answered += 1;
                        let smaller = gap.is_none_or(|gap| told.trimmed < gap.trimmed);
                        gap = if smaller { Some(*told) } else { gap };
                    }
                }
            }
        }
        (answered, gap.filter(|_| self.follower.log.end() == end))
    }
}
