//! A cluster that others follow: how is each system set up, stopped and started?
//!
//! One file per system, with the same functions in each.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::Arguments;
use crate::processor;
use crate::workload::Workload;

mod native;
mod ours;
mod pglogical;

use native::Native;
use ours::Ours;
use pglogical::Pglogical;

/// What every cluster of every group says in `postgresql.conf`, beyond the lab's own settings.
pub const SETTINGS: [(&str, &str); 8] = [
    ("shared_buffers", "256MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    // It would come at another moment in each run.
    ("autovacuum", "off"),
    ("synchronous_commit", "on"),
    ("wal_sender_timeout", "60s"),
    // How long a subscription that was enabled may wait for its worker (5 s by default).
    ("wal_retrieve_retry_interval", "100ms"),
    ("max_worker_processes", "16"),
];

/// A whole run takes less; whoever waits longer waits in vain.
pub const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Who replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    Ours,
    Native,
    Pglogical,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Native => "native",
            Self::Pglogical => "pglogical",
        }
    }
}

/// What was down while the backlog was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Backlog {
    /// The other regions; the source's agent was up. For the other systems: the subscription
    PeerDown,
    /// All agents. For the other systems: the subscription
    AgentDown,
}

impl Backlog {
    pub fn words(self) -> &'static str {
        match self {
            Self::PeerDown => "peer down",
            Self::AgentDown => "agent down",
        }
    }
}

/// A source and the targets that follow it.
pub enum Group {
    Ours(Box<Ours>),
    Native(Native),
    Pglogical(Pglogical),
}

impl Group {
    /// Makes and fills all clusters and lets the targets follow; nothing when the system is not
    /// installed here.
    pub async fn create(
        system: System,
        workload: Workload,
        targets: usize,
        binary: &Path,
    ) -> anyhow::Result<Option<Self>> {
        Ok(match system {
            System::Ours => {
                Some(Self::Ours(Box::new(Ours::create(workload, targets, binary).await?)))
            }
            System::Native => Some(Self::Native(Native::create(workload, targets).await?)),
            System::Pglogical => Pglogical::create(workload, targets).await?.map(Self::Pglogical),
        })
    }

    /// Makes one for each of the systems that are installed.
    pub async fn of_each(
        arguments: &Arguments,
        workload: Workload,
        targets: usize,
    ) -> anyhow::Result<Vec<(System, Self)>> {
        let made = arguments.systems().into_iter().map(async |system| {
            let group = Self::create(system, workload, targets, &arguments.binary).await;
            let group = group.with_context(|| format!("set up {}", system.name()))?;
            if group.is_none() {
                eprintln!("{} is not installed", system.name());
            }
            anyhow::Ok(group.map(|group| (system, group)))
        });
        Ok(try_join_all(made).await?.into_iter().flatten().collect())
    }

    /// How to reach a server.
    pub fn postgres(&self, end: End) -> String {
        match self {
            Self::Ours(group) => group.postgres(end),
            Self::Native(group) => group.postgres(end),
            Self::Pglogical(group) => group.postgres(end),
        }
    }

    pub fn targets(&self) -> impl Iterator<Item = End> + use<> {
        let targets = match self {
            Self::Ours(group) => group.targets(),
            Self::Native(group) => group.targets().len(),
            Self::Pglogical(group) => group.targets().len(),
        };
        (0..targets).map(End::Target)
    }

    /// Seconds of a processor that a server, and an agent beside it, have used so far.
    pub async fn used_s(&self, end: End) -> anyhow::Result<f64> {
        let server = server_s(&self.postgres(end)).await?;
        let agent = match self {
            Self::Ours(group) => group.agent_pid(end).map(processor::process_s).transpose()?,
            Self::Native(_) | Self::Pglogical(_) => None,
        };
        Ok(server + agent.unwrap_or_default())
    }

    /// Bytes on the source's disk of a log that is not PostgreSQL's, if it has one.
    pub async fn log_bytes(&self) -> anyhow::Result<Option<u64>> {
        match self {
            Self::Ours(group) => Ok(Some(group.log_bytes().await?)),
            Self::Native(_) | Self::Pglogical(_) => Ok(None),
        }
    }

    /// Takes down what is to be down while a backlog is built, and returns when it is.
    pub async fn stop(&mut self, backlog: Backlog) -> anyhow::Result<()> {
        match self {
            Self::Ours(group) => group.stop(backlog).await,
            Self::Native(group) => group.stop().await,
            Self::Pglogical(group) => group.stop().await,
        }
    }

    /// Waits until what was not stopped has done its part for everything before `lsn`.
    pub async fn rest(&mut self, backlog: Backlog, lsn: u64) -> anyhow::Result<()> {
        match (self, backlog) {
            (Self::Ours(group), Backlog::PeerDown) => group.wait_until_logged(lsn).await,
            (Self::Ours(_), Backlog::AgentDown) | (Self::Native(_) | Self::Pglogical(_), _) => {
                Ok(())
            }
        }
    }

    /// Says that it may go on; returns at once.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Ours(group) => group.start(),
            Self::Native(group) => group.start().await,
            Self::Pglogical(group) => group.start().await,
        }
    }
}

/// One of the clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    /// The targets are numbered from 0.
    Target(usize),
}

impl End {
    /// The only target of most groups.
    pub const TARGET: Self = Self::Target(0);

    pub fn name(self) -> String {
        match self {
            Self::Source => "source".to_owned(),
            Self::Target(number) => format!("target-{number}"),
        }
    }
}

/// Opens a session; it ends when the client is dropped.
pub async fn connect(postgres: &str) -> anyhow::Result<Client> {
    let (client, driver) = tokio_postgres::connect(postgres, tokio_postgres::NoTls).await?;
    tokio::spawn(driver);
    Ok(client)
}

/// Seconds of a processor that a server has used so far.
pub async fn server_s(postgres: &str) -> anyhow::Result<f64> {
    let sql = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::bigint";
    let postmaster: i64 = connect(postgres).await?.query_one(sql, &[]).await?.get(0);
    processor::server_s(u32::try_from(postmaster)?)
}

/// Asks the server until the first column of the answer is true.
async fn wait_for(client: &Client, what: &str, sql: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !client.query_one(sql, &[]).await.context(what.to_owned())?.get::<_, bool>(0) {
        if Instant::now() >= deadline {
            bail!("waited in vain until {what}");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Waits until nobody reads changes from this server.
async fn wait_until_alone(source: &Client) -> anyhow::Result<()> {
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE active)";
    wait_for(source, "no slot is in use", sql).await
}

pub fn settings() -> Vec<(&'static str, &'static str)> {
    SETTINGS.to_vec()
}
