//! Who is measured, and how is it set up?

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

mod ours;
mod patroni;

use crate::clients::connect;
use ours::{Ours, Profile};
use patroni::Patroni;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS public.entry (id bigint PRIMARY KEY)";
/// Between the ids of one event and of the next.
const IDS_OF_AN_EVENT: i64 = 1_000_000_000;
/// Partitions of a region that has many.
const MANY: u32 = 10_000;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Name {
    /// rpo "none", everything else as it is when nothing is said
    OursDefault,
    /// As ours_default, but with 10,000 partitions in place of one
    OursMany,
    /// As ours_default, but clients share the gateways' servers: gateway.sharing "transaction"
    OursShared,
    /// rpo "none", lease.ttl "1500ms", failover.suspect_after "1s"
    OursFast,
    /// rpo "0", failover.suspect_after "1s"
    OursSealed,
    /// As it is when nothing is said: ttl 30, loop_wait 10, retry_timeout 10
    PatroniDefault,
    /// The shortest that it takes: ttl 7, loop_wait 2, retry_timeout 2
    PatroniFastest,
}

impl Name {
    pub fn words(self) -> &'static str {
        match self {
            Self::OursDefault => "ours, default",
            Self::OursMany => "ours, 10,000 partitions",
            Self::OursShared => "ours, shared servers",
            Self::OursFast => "ours, fast",
            Self::OursSealed => "ours, sealed",
            Self::PatroniDefault => "Patroni, default",
            Self::PatroniFastest => "Patroni, fastest",
        }
    }
}

/// Three servers, of which one takes writes.
pub struct Contender {
    kind: Kind,
    events: i64,
}

enum Kind {
    Ours(Box<Ours>),
    Patroni(Box<Patroni>),
}

impl Contender {
    /// Nothing when it is not installed here.
    pub async fn start(
        name: Name,
        round_trip: Duration,
        binary: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let gateway = if name == Name::OursShared { "sharing = \"transaction\"\n" } else { "" };
        let ours = async |partitions, rpo, lease_ms, suspect_ms| {
            let lease = Duration::from_millis(lease_ms);
            let suspect_after = Duration::from_millis(suspect_ms);
            let profile = Profile { partitions, rpo, lease, suspect_after, gateway };
            let made = Ours::start(profile, round_trip, binary).await?;
            anyhow::Ok(Some(Kind::Ours(Box::new(made))))
        };
        let patroni = async |seconds| {
            let made = Patroni::start(seconds, round_trip).await?;
            anyhow::Ok(made.map(|made| Kind::Patroni(Box::new(made))))
        };
        let kind = match name {
            Name::OursDefault | Name::OursShared => ours(1, "none", 3000, 2000).await?,
            Name::OursMany => ours(MANY, "none", 3000, 2000).await?,
            Name::OursFast => ours(1, "none", 1500, 1000).await?,
            Name::OursSealed => ours(1, "0", 3000, 1000).await?,
            Name::PatroniDefault => patroni(patroni::DEFAULT).await?,
            Name::PatroniFastest => patroni(patroni::FASTEST).await?,
        };
        Ok(kind.map(|kind| Self { kind, events: 0 }))
    }

    /// Where the ids of the next event begin.
    pub fn first_id(&mut self) -> i64 {
        self.events += 1;
        self.events * IDS_OF_AN_EVENT
    }

    /// Who takes writes.
    pub async fn leader(&self) -> anyhow::Result<String> {
        match &self.kind {
            Kind::Ours(ours) => ours.leader().await,
            Kind::Patroni(patroni) => patroni.leader().await,
        }
    }

    /// Where clients connect, which is not gone with `leader`.
    pub fn entry(&self, leader: &str) -> String {
        match &self.kind {
            Kind::Ours(ours) => ours.entry(leader),
            Kind::Patroni(patroni) => patroni.entry(),
        }
    }

    /// Kills a server with everything of it, as a power failure would.
    pub fn kill(&mut self, node: &str) -> anyhow::Result<()> {
        match &mut self.kind {
            Kind::Ours(ours) => {
                ours.kill(node);
                Ok(())
            }
            Kind::Patroni(patroni) => patroni.kill(node),
        }
    }

    /// Has another one take over, while everything is well. Returns what it tells of its steps.
    pub async fn hand_over(&self, leader: &str) -> anyhow::Result<Option<String>> {
        match &self.kind {
            Kind::Ours(ours) => Ok(Some(ours.hand_over(leader).await?)),
            Kind::Patroni(patroni) => patroni.hand_over(leader).await.map(|()| None),
        }
    }

    pub async fn wait_for_another_leader(
        &self,
        than: &str,
        at_most: Duration,
    ) -> anyhow::Result<()> {
        wait_until("another one takes writes", at_most, async || {
            let leader = self.leader().await.map_err(|error| format!("{error:#}"))?;
            if leader == than { Err(format!("{than} still does")) } else { Ok(()) }
        })
        .await
    }

    /// Starts what was killed and waits until all three follow one another again.
    pub async fn heal(&mut self, at_most: Duration) -> anyhow::Result<()> {
        match &mut self.kind {
            Kind::Ours(ours) => ours.heal().await,
            Kind::Patroni(patroni) => patroni.heal(at_most).await,
        }
    }

    /// Returns which of these ids are there, where writes are taken now.
    pub async fn shown(&self, first: i64, last: i64) -> anyhow::Result<BTreeSet<i64>> {
        let leader = self.leader().await?;
        let postgres = match &self.kind {
            Kind::Ours(ours) => ours.postgres(&leader),
            Kind::Patroni(patroni) => patroni.postgres(&leader),
        };
        let sql = "SELECT id FROM public.entry WHERE id BETWEEN $1 AND $2";
        let rows = connect(&postgres).await?.query(sql, &[&first, &last]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// Asks again and again, until it is so or the time is over.
async fn wait_until(
    what: &str,
    at_most: Duration,
    mut is_so: impl AsyncFnMut() -> Result<(), String>,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + at_most;
    loop {
        let Err(why_not) = is_so().await else { return Ok(()) };
        if tokio::time::Instant::now() >= deadline {
            anyhow::bail!("waited {} s in vain until {what}: {why_not}", at_most.as_secs());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
