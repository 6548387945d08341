//! How is pgbench run so that it makes a backlog quickly, and ends with us?

use std::process::Stdio;

use anyhow::{Context, ensure};
use domicile::lab::cluster::PgBin;
use tokio::process::Command;

const CLIENTS: u32 = 8;

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
        let script = tempfile::NamedTempFile::new().context("make a script")?;
        std::fs::write(script.path(), text).context("write a script")?;
        self.run(&["--file", &script.path().display().to_string()]).await
    }

    async fn run(&self, what: &[&str]) -> anyhow::Result<()> {
        let each = (self.transactions / CLIENTS).to_string();
        let mut arguments = vec!["--no-vacuum", "--protocol", "prepared", "--transactions", &each];
        let (clients, seed) = (CLIENTS.to_string(), self.seed.to_string());
        arguments.extend(["--client", &clients, "--random-seed", &seed]);
        arguments.extend(what);
        pgbench(self.postgres, &arguments).await
    }
}

/// Makes pgbench's tables with their rows.
pub async fn initialize(postgres: &str, scale: u32) -> anyhow::Result<()> {
    pgbench(postgres, &["--initialize", "--quiet", "--scale", &scale.to_string()]).await
}

async fn pgbench(postgres: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(PgBin::find(None)?.program("pgbench"))
        .args(arguments)
        .arg(postgres)
        .env("PGOPTIONS", "-c synchronous_commit=off")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("run pgbench")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench failed: {said}");
    Ok(())
}
