//! What do tests of whole regions share: starting them, waiting for facts, and comparing regions.
//!
//! Every wait is for a fact and has a deadline; what was missing is in the panic.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig, partitions_of};
use domicile::postgres::guard;
use tokio::time::Instant;

/// Longer than anything takes here; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Regions without distance between them that never fail over by themselves.
pub fn config(names: &[&str], partition: &str, partitions: u32) -> RegionsConfig {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_domicile"));
    let bin = PgBin::find(None).unwrap();
    let mut config = RegionsConfig::three(binary, bin, "unused", partitions);
    config.names = names.iter().map(|name| (*name).to_owned()).collect();
    config.partition = partition.to_owned();
    config.round_trip = Duration::ZERO;
    config.automatic_failover = false;
    // KEEP=FOLDER keeps files and logs, to be looked at.
    config.keep = std::env::var_os("KEEP").map(PathBuf::from);
    config
}

/// Starts the directory and all agents. Only processes are killed here, never the machine, so
/// PostgreSQL need not wait for the disk.
pub async fn start(regions: &mut Regions) {
    for region in regions.names().to_vec() {
        let client = regions.connect(&region).await.unwrap();
        client.batch_execute("ALTER SYSTEM SET fsync = off").await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }
    regions.start_directory().unwrap();
    for holder in [regions.names(), regions.witnesses()].concat() {
        regions.start_agent(&holder).unwrap();
    }
    regions.wait_until_ready().await.unwrap();
}

/// Asks until the answer is a fact, and returns it.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let missing = match ask().await {
            Ok(fact) => return fact,
            Err(missing) => missing,
        };
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {missing}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Says something in the console of a region's gateway, which admins may come to ([`CONSOLE`]).
#[allow(dead_code, reason = "not for tests without an operator")]
pub async fn tell_console(regions: &Regions, region: &str, command: &str) {
    let address = regions.gateway(region);
    let console =
        format!("host={} port={} user=postgres dbname=domicile", address.ip(), address.port());
    let (client, driver) = tokio_postgres::connect(&console, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(driver);
    client.batch_execute(command).await.unwrap();
}

/// What has the console let the lab's user in.
#[allow(dead_code, reason = "not for tests without an operator")]
pub const CONSOLE: &str = "admins = \"postgres\"\n";

/// Waits until every region shows everything that was committed anywhere before this call: each
/// region commits a canary, and logs are applied in order.
#[allow(dead_code, reason = "not for tests in which a region owns nothing")]
pub async fn settle(regions: &Regions, run: &str) {
    let expected = regions.names().len() as i64;
    for region in regions.names() {
        let owned = eventually("a region owns a partition", async || {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            partitions_of(&status).next().ok_or_else(|| format!("{region} owns nothing"))
        });
        let owned = owned.await;
        let client = regions.connect(region).await.unwrap();
        eventually("a canary is written", async || {
            guard::write_canary(&client, owned, run).await.map_err(|e| format!("{e:#}"))
        })
        .await;
    }
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        eventually(&format!("{region} shows every region's canary"), async || {
            let sql = "SELECT count(*) FROM domicile.canary WHERE run = $1";
            let row = client.query_one(sql, &[&run]).await.map_err(|e| e.to_string())?;
            let seen: i64 = row.get(0);
            if seen == expected { Ok(()) } else { Err(format!("{seen} of {expected}")) }
        })
        .await;
    }
}

/// Waits until every region shows what every other has in its log now, and has repaired what it must.
#[allow(dead_code, reason = "only where regions come and go")]
pub async fn converge(regions: &Regions) {
    let mut ends: BTreeMap<String, String> = BTreeMap::new();
    for region in regions.names() {
        let status = regions.status(region).await.unwrap();
        // As of now; `log_end` is as of the last report.
        let end = status.flushed[&status.origin].clone();
        ends.insert(status.origin, end);
    }
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let (origins, lsns): (Vec<String>, Vec<String>) = ends.clone().into_iter().unzip();
        eventually(&format!("{region} shows what the others wrote"), async || {
            let sql = "SELECT origin || ' is not applied up to ' || lsn
                       FROM unnest($1::text[], $2::text[]) log (origin, lsn)
                       LEFT JOIN domicile.progress USING (origin)
                       WHERE origin <> $3 || '-1' AND coalesce(applied, '0/0') < lsn::pg_lsn
                       UNION ALL SELECT 'repairs are pending' FROM domicile.repair";
            let rows = client.query(sql, &[&origins, &lsns, &region]).await;
            match rows.map_err(|e| e.to_string())?.first() {
                None => Ok(()),
                Some(row) => Err(row.get(0)),
            }
        })
        .await;
    }
}

/// Compares the rows of tables by a checksum.
pub async fn assert_alike(regions: &Regions, tables: &[&str]) {
    for table in tables {
        let sql = format!(
            "SELECT count(*)::text || ' rows, ' ||
                    coalesce(sum(hashtextextended(row_::text, 0)::numeric), 0)::text
             FROM {table} row_"
        );
        let mut sums = Vec::new();
        for region in regions.names() {
            let client = regions.connect(region).await.unwrap();
            sums.push(client.query_one(&sql, &[]).await.unwrap().get::<_, String>(0));
        }
        let alike = sums.iter().all(|sum| *sum == sums[0]);
        assert!(alike, "{table} differs between {:?}: {sums:#?}", regions.names());
    }
}
