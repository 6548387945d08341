//! Where do programs from outside find two regions, to try them?
//!
//! Starts `eu`, which owns everything, and `us`, and prints one line of JSON when both are ready: the port of each
//! region's PostgreSQL and of its gateway. Everything ends with its standard input.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig};
use serde_json::json;
use tokio::sync::oneshot;

const REGIONS: [&str; 2] = ["eu", "us"];
/// Only agents and whoever looks after the world are let in without a password.
const LOGINS: &str = "local all all trust
host all postgres all trust
host replication postgres all trust
host all all all scram-sha-256
";
/// Drivers keep transactions prepared and many sessions open.
const POSTGRES: [(&str, &str); 3] =
    [("max_prepared_transactions", "20"), ("max_connections", "200"), ("fsync", "off")];

/// Starts two regions and prints where they are, as JSON; ends with its standard input
#[derive(Parser)]
struct Arguments {
    /// How rows are divided, as in domicile.toml
    #[arg(long, default_value = "whole")]
    partition: String,
    /// How many partitions that makes
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// What the `[gateway]` part of the configuration says
    #[arg(long, default_value = "")]
    gateway: String,
    /// SQL that both databases begin with
    #[arg(long)]
    seed: PathBuf,
    /// The `[[table]]` part of the configuration
    #[arg(long)]
    tables: PathBuf,
    /// The program `domicile`
    #[arg(long)]
    binary: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let regions = start(&arguments).await?;
    let places = REGIONS.map(|name| (name.to_owned(), place(&regions, name)));
    println!("{}", serde_json::Value::Object(places.into_iter().collect()));
    tokio::select! {
        _ = standard_input_ended() => {}
        // What was started ends with the regions.
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    Ok(())
}

/// In a thread that is not waited for: nothing else ends a read.
async fn standard_input_ended() {
    let (ended, seen) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        // An error is an end as well.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(ended);
    });
    let _ = seen.await;
}

async fn start(arguments: &Arguments) -> anyhow::Result<Regions> {
    let bin = PgBin::find(None)?;
    let three = RegionsConfig::three(arguments.binary.clone(), bin, "unused", arguments.partitions);
    let mut regions = Regions::create(RegionsConfig {
        names: REGIONS.map(str::to_owned).to_vec(),
        partition: arguments.partition.clone(),
        round_trip: Duration::ZERO,
        links: false,
        // A machine that is busy with compilers must not lose its owner.
        lease: Duration::from_secs(20),
        automatic_failover: false,
        postgres: POSTGRES.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        seed_sql: read(&arguments.seed)?,
        tables: read(&arguments.tables)?,
        gateway: arguments.gateway.clone(),
        ..three
    })
    .await?;
    for region in REGIONS {
        let logins = regions.folder().join(region).join("postgres/data/pg_hba.conf");
        fs::write(&logins, LOGINS).context("write pg_hba.conf")?;
        regions.connect(region).await?.batch_execute("SELECT pg_reload_conf()").await?;
    }
    regions.start_all().await?;
    Ok(regions)
}

fn place(regions: &Regions, name: &str) -> serde_json::Value {
    let postgres = regions.postgres(name);
    let port = postgres.split_whitespace().find_map(|part| part.strip_prefix("port="));
    let port: Option<u16> = port.and_then(|port| port.parse().ok());
    json!({ "postgres": port, "gateway": regions.gateway(name).port() })
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}
