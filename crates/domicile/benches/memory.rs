//! How much memory do agents take, at most, when much of something comes at once?
//!
//! A region is added to two others whose table has many rows, while one of them is written; and one
//! transaction brings as many bytes as is wanted. What counts is the peak of each agent's resident
//! memory, as Linux tells it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig};
use domicile::status::RegionStatus;
use serde_json::{Value as Json, json};

const PATIENCE: Duration = Duration::from_secs(1800);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Bytes of the value in a row of the large transaction.
const ROW_BYTES: u64 = 256;

/// Measures the agents' peak memory: a region that is added, and one large transaction
#[derive(Parser)]
struct Arguments {
    /// Rows of the table that is copied to the new region
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// Values that one transaction inserts, in MiB
    #[arg(long, default_value_t = 1024)]
    transaction_mib: u64,
    /// Where the figures go, for a machine
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench/memory.json"))]
    json: PathBuf,
    /// The `domicile` to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_domicile"))]
    binary: PathBuf,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let added = add_region(&arguments).await.context("add a region")?;
    let transaction = large_transaction(&arguments).await.context("apply a large transaction")?;
    let all = json!({ "region_add": added, "transaction": transaction });
    if let Some(folder) = arguments.json.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.json, format!("{all:#}\n"))?;
    Ok(())
}

async fn add_region(arguments: &Arguments) -> anyhow::Result<Json> {
    let rows = arguments.rows;
    let mut config = config(arguments, &["eu", "us", "ap"])?;
    config.seed_sql = format!(
        "CREATE TABLE account (id int PRIMARY KEY, balance bigint, filler text);
         INSERT INTO account SELECT id, 0, repeat('x', 84) FROM generate_series(1, {rows}) id;
         ANALYZE account"
    );
    config.tables = "[[table]]\nname = \"account\"\n".to_owned();
    let mut regions = Regions::create(config).await?;
    let members = ["eu", "us"];
    let files = members.map(|region| regions.config_file(region).to_owned());
    let with_all = files.each_ref().map(std::fs::read_to_string);
    regions.start_directory()?;
    for ((region, file), text) in members.iter().zip(&files).zip(&with_all) {
        std::fs::write(file, without(text.as_ref().ok().context("read a file")?, "ap")?)?;
        regions.start_agent(region)?;
    }
    for region in members {
        wait(&regions, region, |status| status.lease_live).await?;
    }
    for ((region, file), text) in members.iter().zip(&files).zip(with_all) {
        std::fs::write(file, text?)?;
        regions.kill_agent(region);
        regions.start_agent(region)?;
    }
    for region in members {
        wait(&regions, region, |status| status.lease_live).await?;
    }
    regions.start_agent("ap")?;
    wait(&regions, "ap", |status| status.seeding.is_some()).await?;
    let eu = regions.connect("eu").await?;
    let writing = tokio::spawn(async move {
        let sql = "UPDATE account SET balance = balance + 1 WHERE id = (
                       SELECT id FROM account
                       WHERE id < 1000
                         AND (domicile.entry(domicile.partition_of(id::text))).owner = 'eu'
                       LIMIT 1)";
        loop {
            if let Err(error) = eu.execute(sql, &[]).await {
                return error;
            }
        }
    });
    let started = Instant::now();
    let mut add = Command::new(regions.binary());
    add.args(["region", "add", "ap", "--replace", "--config"]).arg(&files[0]);
    let added = tokio::task::spawn_blocking(move || add.output()).await??;
    ensure!(added.status.success(), "region add: {added:?}");
    let seconds = started.elapsed().as_secs_f64();
    ensure!(!writing.is_finished(), "the writer ended: {:?}", writing.await);
    writing.abort();
    let (source, new) = (peak(&regions, "eu")?, peak(&regions, "ap")?);
    println!(
        "{rows} rows came to a new region in {seconds:.0} s; peak memory of its agent {new} MiB, of \
         the other's {source} MiB"
    );
    Ok(json!({ "rows": rows, "seconds": seconds, "new_mib": new, "source_mib": source }))
}

async fn large_transaction(arguments: &Arguments) -> anyhow::Result<Json> {
    let mut config = config(arguments, &["eu", "us"])?;
    config.seed_sql = "CREATE TABLE large (id int PRIMARY KEY, text text)".to_owned();
    config.tables = "[[table]]\nname = \"large\"\nkind = \"reference\"\n".to_owned();
    let regions = Regions::start(config).await?;
    let (eu, us) = (regions.connect("eu").await?, regions.connect("us").await?);
    let (mib, rows) = (arguments.transaction_mib, (arguments.transaction_mib << 20) / ROW_BYTES);
    let started = Instant::now();
    let sql = format!(
        "INSERT INTO large SELECT id, repeat(md5(id::text), {}) FROM generate_series(1, {rows}) id",
        ROW_BYTES / 32
    );
    eu.execute(&sql, &[]).await.context("insert")?;
    let committed = started.elapsed().as_secs_f64();
    while us.query_opt("SELECT FROM large LIMIT 1", &[]).await?.is_none() {
        ensure!(started.elapsed() < PATIENCE, "the transaction does not arrive");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (source, target) = (peak(&regions, "eu")?, peak(&regions, "us")?);
    println!(
        "a transaction of {mib} MiB was made in {committed:.0} s and shown elsewhere after {seconds:.0} s; \
         peak memory of its agent {source} MiB, of the other's {target} MiB"
    );
    Ok(json!({
        "mib": mib, "committed_s": committed, "shown_s": seconds,
        "source_mib": source, "target_mib": target,
    }))
}

fn config(arguments: &Arguments, names: &[&str]) -> anyhow::Result<RegionsConfig> {
    let mut config = RegionsConfig::three(arguments.binary.clone(), PgBin::find(None)?, "", 6);
    config.names = names.iter().map(|name| (*name).to_owned()).collect();
    config.partition = "hash(id, 6)".to_owned();
    config.rpo = "none".to_owned();
    config.round_trip = Duration::ZERO;
    config.automatic_failover = false;
    let settings = [("max_wal_size", "8GB"), ("shared_buffers", "256MB")];
    config.postgres = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    Ok(config)
}

/// A configuration without one of its regions, which is not the last thing in it.
fn without(text: &str, region: &str) -> anyhow::Result<String> {
    let begin = text.find(&format!("[[region]]\nname = \"{region}\"")).context("no such region")?;
    let after = begin + "[[".len();
    let end = text[after..].find("[[").context("nothing comes after it")?;
    Ok(format!("{}{}", &text[..begin], &text[after + end..]))
}

async fn wait(
    regions: &Regions,
    region: &str,
    enough: impl Fn(&RegionStatus) -> bool,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let status = regions.status(region).await;
        if status.as_ref().is_ok_and(&enough) {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!("region {region} is not ready: {status:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The most resident memory that a region's agent has had, in MiB.
fn peak(regions: &Regions, region: &str) -> anyhow::Result<u64> {
    let pid = regions.agent_pid(region).context("no agent")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib.div_ceil(1024))
}
