//! Is a log trimmed once every region shows it, kept for whoever lacks it, and is a region that
//! stays away for too long told so, instead of meeting a gap?

use std::fs;

use domicile::lab::regions::Regions;
use domicile::status::RegionStatus;
use domicile_core::lsn::Lsn;

mod regions;
use regions::{assert_alike, config, eventually, start};

const SEED_SQL: &str = "
    CREATE TABLE event (id bigint PRIMARY KEY, filling text NOT NULL)";
const TABLES: &str = "[[table]]\nname = \"event\"\n";
/// The smallest there is for three regions with the smallest segments.
const LOG: &str =
    "[log]\nkeep = \"0s\"\nsegment = \"64KiB\"\nsize_max = \"1MiB\"\ndrop_after = \"3s\"\n";
/// Each log may pass the limit by one batch.
const LOG_BYTES_MAX: u64 = 3 << 19;
const ORIGIN: &str = "eu-1";

/// Writes `rows` rows of about a kilobyte, one commit each, and returns how many there are.
async fn write(regions: &Regions, rows: i64) -> i64 {
    let client = regions.connect("eu").await.unwrap();
    let count: i64 = client.query_one("SELECT count(*) FROM event", &[]).await.unwrap().get(0);
    for id in count + 1..=count + rows {
        let sql =
            "INSERT INTO event SELECT $1::bigint, string_agg(md5(($1::bigint * 100 + i)::text), '')
                   FROM generate_series(1, 32) i";
        client.execute(sql, &[&id]).await.unwrap();
    }
    count + rows
}

async fn shows(regions: &Regions, region: &str, rows: i64) {
    let client = regions.connect(region).await.unwrap();
    eventually(&format!("{region} shows {rows} rows"), async || {
        let row = client.query_one("SELECT count(*) FROM event", &[]).await;
        let count: i64 = row.map_err(|e| e.to_string())?.get(0);
        if count == rows {
            return Ok(());
        }
        let status = regions.status(region).await;
        Err(format!("{count}: {status:?}"))
    })
    .await;
}

/// Waits until a region says of itself what `is` asks for, and returns it.
async fn says(
    regions: &Regions,
    region: &str,
    what: &str,
    is: impl Fn(&RegionStatus) -> bool,
) -> RegionStatus {
    eventually(&format!("{region} says: {what}"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        if is(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

fn lsn(positions: &std::collections::BTreeMap<String, String>) -> Lsn {
    positions.get(ORIGIN).map_or(Lsn::ZERO, |lsn| lsn.parse().unwrap())
}

fn has(status: &RegionStatus, condition: &str) -> bool {
    status.conditions.iter().any(|c| c.name == condition)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_kept_for_as_long_as_a_region_needs_it_and_no_longer() {
    let mut config = config(&["eu", "us", "ap"], "whole", 1);
    config.rpo = "none".to_owned();
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    config.more = LOG.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;

    trimmed_everywhere(&regions).await;
    kept_for_the_one_that_is_away(&mut regions).await;
    relayed_by_a_survivor(&mut regions).await;
    left_behind_and_seeded_again(&mut regions).await;
    blocked(&mut regions).await;
    assert_alike(&regions, &["event"]).await;
}

async fn trimmed_everywhere(regions: &Regions) {
    let rows = write(regions, 200).await;
    for region in ["eu", "us", "ap"] {
        shows(regions, region, rows).await;
        // Not before it has grown.
        let small = |s: &RegionStatus| lsn(&s.trimmed) > Lsn::ZERO && s.log_bytes < 128 << 10;
        let status = says(regions, region, "trimmed", small).await;
        let (trimmed, durable) = (lsn(&status.trimmed), lsn(&status.durable));
        assert!(region == "eu" || trimmed <= durable, "{status:?}");
    }
}

async fn kept_for_the_one_that_is_away(regions: &mut Regions) {
    regions.kill_agent("ap");
    let away = lsn(&regions.status("us").await.unwrap().flushed);
    let rows = write(regions, 300).await;
    shows(regions, "us", rows).await;
    let status = says(regions, "us", "all durable", |s| lsn(&s.durable) == lsn(&s.flushed)).await;
    assert!(status.log_bytes > 256 << 10, "{status:?}");
    assert!(lsn(&status.trimmed) <= away, "{status:?}");
    regions.start_agent("ap").unwrap();
    shows(regions, "ap", rows).await;
    says(regions, "us", "trimmed again", |s| s.log_bytes < 128 << 10).await;
}

/// The home of a log is gone, and one survivor has more of it than the other.
async fn relayed_by_a_survivor(regions: &mut Regions) {
    regions.links().cut("eu", "ap");
    let rows = write(regions, 300).await;
    shows(regions, "us", rows).await;
    says(regions, "us", "all durable", |s| lsn(&s.durable) == lsn(&s.flushed)).await;
    regions.kill_region("eu");
    shows(regions, "ap", rows).await;
    let ap = regions.connect("ap").await.unwrap();
    let twice = ap.query("SELECT FROM domicile.journal", &[]).await.unwrap();
    assert!(twice.is_empty(), "a row was applied twice");
    regions.links().heal("eu", "ap");
    regions.start_region("eu").await.unwrap();
    regions.wait_until_ready().await.unwrap();
}

async fn left_behind_and_seeded_again(regions: &mut Regions) {
    let before = write(regions, 1).await;
    shows(regions, "ap", before).await;
    regions.kill_agent("ap");
    // Twice what all logs may take together.
    let rows = write(regions, 2000).await;
    shows(regions, "us", rows).await;
    let told = |s: &RegionStatus| s.peers.iter().any(|p| p.region == "ap" && p.reseed_needed);
    let status = says(regions, "eu", "ap is left behind", told).await;
    assert!(status.log_bytes < LOG_BYTES_MAX, "{status:?}");

    regions.start_agent("ap").unwrap();
    says(regions, "ap", "seed me again", |s| has(s, "reseed_needed")).await;
    let ap = regions.connect("ap").await.unwrap();
    let shown = "SELECT count(*), coalesce(max(id), 0) FROM event";
    let row = ap.query_one(shown, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1), "there is a gap");

    seed_again(regions, rows).await;
    says(regions, "ap", "whole again", |s| !has(s, "reseed_needed")).await;
    let rows = write(regions, 10).await;
    shows(regions, "ap", rows).await;
    says(regions, "eu", "ap is back", |s| !told(s)).await;
    regions.wait_until_ready().await.unwrap();
}

/// What the operator does, as docs/operating/recover.md says.
async fn seed_again(regions: &mut Regions, rows: i64) {
    regions.kill_agent("ap");
    let end = regions.status("eu").await.unwrap().log_end;
    let (eu, ap) = (regions.connect("eu").await.unwrap(), regions.connect("ap").await.unwrap());
    ap.batch_execute(
        "SET session_replication_role = replica; SET synchronous_commit = local;
         SELECT pg_replication_origin_session_setup('domicile_eu-1');
         TRUNCATE event",
    )
    .await
    .unwrap();
    for row in eu.query("SELECT id, filling FROM event", &[]).await.unwrap() {
        let (id, filling): (i64, String) = (row.get(0), row.get(1));
        ap.execute("INSERT INTO event VALUES ($1, $2)", &[&id, &filling]).await.unwrap();
    }
    let sql = "UPDATE domicile.progress SET applied = $1::text::pg_lsn WHERE origin = $2";
    assert_eq!(ap.execute(sql, &[&end, &ORIGIN]).await.unwrap(), 1);
    assert_eq!(rows, ap.query("SELECT FROM event", &[]).await.unwrap().len() as i64);
    regions.start_agent("ap").unwrap();
}

/// With `on_full = "block"` the slot holds back what the log has no room for.
async fn blocked(regions: &mut Regions) {
    for region in ["eu", "us", "ap"] {
        let file = regions.config_file(region).to_owned();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("[log]\n", "[log]\non_full = \"block\"\n")).unwrap();
        regions.kill_agent(region);
    }
    regions.start_agent("eu").unwrap();
    regions.start_agent("us").unwrap();
    let client = regions.connect("eu").await.unwrap();
    eventually("eu writes again", async || {
        let sql = "DELETE FROM event WHERE id < 0";
        client.batch_execute(sql).await.map_err(|e| e.to_string())
    })
    .await;
    let rows = write(regions, 2000).await;
    let full = says(regions, "eu", "full", |s| has(s, "log_full")).await;
    assert!(full.log_bytes < LOG_BYTES_MAX, "{full:?}");
    assert!(lsn(&full.trimmed) <= lsn(&full.flushed));

    regions.start_agent("ap").unwrap();
    for region in ["us", "ap"] {
        shows(regions, region, rows).await;
    }
    says(regions, "eu", "not full", |s| !has(s, "log_full")).await;
}
