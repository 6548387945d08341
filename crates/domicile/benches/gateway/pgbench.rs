//! How fast is what pgbench does, and how long does each transaction take?

use std::fmt;
use std::fs;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use domicile::lab::cluster::{Cluster, PgBin};

use crate::program;
use crate::statistics::percentile;

const SCALE: &str = "10";
/// pgbench's own share of the processors stays the same.
const THREADS_MAX: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Script {
    /// One SELECT by key (`pgbench -S`)
    Select,
    /// A transaction of four statements (`pgbench -N`)
    SimpleUpdate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Simple,
    Extended,
    Prepared,
}

/// What pgbench does.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub script: Script,
    pub protocol: Protocol,
    pub clients: u32,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let script = match self.script {
            Script::Select => "select",
            Script::SimpleUpdate => "simple-update",
        };
        let s = if self.clients == 1 { "" } else { "s" };
        write!(f, "{script}, {}, {} client{s}", self.protocol.word(), self.clients)
    }
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// What came of one run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub tps: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

pub async fn fill(cluster: &Cluster) -> anyhow::Result<()> {
    let mut pgbench = program(cluster.bin(), "pgbench");
    pgbench.args(["-i", "-q", "-s", SCALE, "-h", "127.0.0.1", "-U", "postgres", "-p"]);
    let filled = pgbench.args([&cluster.port().to_string(), "postgres"]).output().await?;
    ensure!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    Ok(())
}

pub async fn run(bin: &PgBin, port: u16, load: &Load, seconds: u32) -> anyhow::Result<Sample> {
    let logs = tempfile::tempdir()?;
    let mut pgbench = program(bin, "pgbench");
    pgbench.current_dir(logs.path()).args(["-n", "-h", "127.0.0.1", "-U", "postgres"]);
    let clients = load.clients.to_string();
    let threads = load.clients.min(THREADS_MAX).to_string();
    pgbench.args(["-c", &clients, "-j", &threads, "-M", load.protocol.word(), "-l"]);
    pgbench.args(["-p", &port.to_string(), "-T", &seconds.to_string()]);
    pgbench.arg(match load.script {
        Script::Select => "-S",
        Script::SimpleUpdate => "-N",
    });
    let output = pgbench.arg("postgres").output().await?;
    let (said, wrong) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    ensure!(output.status.success(), "{wrong}");
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps =
        tps.and_then(|rest| rest.split_whitespace().next()).context("pgbench tells no rate")?;
    let mut latencies = Vec::new();
    for file in fs::read_dir(logs.path())? {
        for line in fs::read_to_string(file?.path())?.lines() {
            // client, transaction, microseconds, ...
            let latency = line.split(' ').nth(2).context("a line of pgbench's log is short")?;
            latencies.push(latency.parse::<f64>()?);
        }
    }
    let at = |per_cent| percentile(&latencies, per_cent).context("nothing was done");
    Ok(Sample { tps: tps.parse()?, p50_us: at(50)?, p99_us: at(99)? })
}
