//! How is pgbench run, to make a backlog quickly or to go on steadily, so that it ends with us?

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use domicile::lab::cluster::PgBin;
use tokio::process::Command;

pub const CLIENTS: u32 = 8;

/// A number of transactions to be made at one server.
pub struct Pgbench<'a> {
    pub postgres: &'a str,
    pub transactions: u32,
    pub seed: u32,
}

impl Pgbench<'_> {
    /// The transaction that pgbench has of its own.
    pub async fn tpcb(&self) -> anyhow::Result<()> {
        self.run(&["--builtin", "tpcb-like"]).await
    }

    pub async fn script(&self, text: &str) -> anyhow::Result<()> {
        let script = script(text)?;
        self.run(&["--file", &path(script.path())]).await
    }

    async fn run(&self, what: &[&str]) -> anyhow::Result<()> {
        let each = (self.transactions / CLIENTS).to_string();
        let mut arguments = vec!["--no-vacuum", "--protocol", "prepared", "--transactions", &each];
        let (clients, seed) = (CLIENTS.to_string(), self.seed.to_string());
        arguments.extend(["--client", &clients, "--random-seed", &seed]);
        arguments.extend(what);
        pgbench(self.postgres, "off", &arguments).await.map(drop)
    }
}

/// Clients that go on for a while; their commits are durable.
pub struct Steady<'a> {
    pub postgres: &'a str,
    pub seconds: u32,
    /// Transactions a second; as many as they can without one.
    pub rate: Option<u32>,
    pub seed: u32,
}

/// What steady clients were given.
pub struct Served {
    /// Transactions a second.
    pub tps: f64,
    /// Of each transaction, from when it was due.
    pub latencies_ms: Vec<f64>,
}

impl Steady<'_> {
    pub async fn script(&self, text: &str) -> anyhow::Result<Served> {
        let script = script(text)?;
        let logs = tempfile::tempdir().context("make a folder for pgbench")?;
        let (clients, seconds) = (CLIENTS.to_string(), self.seconds.to_string());
        let (seed, file) = (self.seed.to_string(), path(script.path()));
        let log = path(&logs.path().join("log"));
        let mut arguments = vec!["--no-vacuum", "--protocol", "prepared", "--time", &seconds];
        arguments.extend(["--client", &clients, "--random-seed", &seed, "--file", &file]);
        arguments.extend(["--log", "--log-prefix", &log]);
        let rate = self.rate.map(|rate| rate.to_string());
        if let Some(rate) = &rate {
            arguments.extend(["--rate", rate]);
        }
        let said = pgbench(self.postgres, "on", &arguments).await?;
        let tps = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let tps = tps.and_then(|rest| rest.split_whitespace().next());
        let tps = tps.context("pgbench names no throughput")?.parse()?;
        Ok(Served { tps, latencies_ms: latencies_ms(logs.path())? })
    }
}

/// Reads `client transaction microseconds ...`, a line for each transaction.
fn latencies_ms(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        for line in std::fs::read_to_string(entry?.path())?.lines() {
            let field = line.split_whitespace().nth(2).context("a line of pgbench's log")?;
            let microseconds: f64 = field.parse().context("a transaction's time")?;
            latencies.push(microseconds / 1000.0);
        }
    }
    Ok(latencies)
}

/// Makes pgbench's tables with their rows.
pub async fn initialize(postgres: &str, scale: u32) -> anyhow::Result<()> {
    let arguments = ["--initialize", "--quiet", "--scale", &scale.to_string()];
    pgbench(postgres, "off", &arguments).await.map(drop)
}

/// Returns what it printed.
async fn pgbench(
    postgres: &str,
    synchronous_commit: &str,
    arguments: &[&str],
) -> anyhow::Result<String> {
    let output = Command::new(PgBin::find(None)?.program("pgbench"))
        .args(arguments)
        .arg(postgres)
        .env("PGOPTIONS", format!("-c synchronous_commit={synchronous_commit}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("run pgbench")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench failed: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn script(text: &str) -> anyhow::Result<tempfile::NamedTempFile> {
    let script = tempfile::NamedTempFile::new().context("make a script")?;
    std::fs::write(script.path(), text).context("write a script")?;
    Ok(script)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
