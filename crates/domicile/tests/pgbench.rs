//! Do three regions end with the same bank when pgbench runs in all of them at once?
//!
//! Each region's TPC-B goes to branches that it owns. `PGBENCH_SECONDS=60` takes longer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::Regions;

mod regions;
use regions::{assert_alike, config, settle, start};

const SCALE: i32 = 10;
const SECONDS: u32 = 15;
/// As `domicile init` lists them for such a database; the history has no key and is only added to.
const TABLES: &str = "
[[table]]
name = \"pgbench_branches\"

[[table]]
name = \"pgbench_tellers\"

[[table]]
name = \"pgbench_accounts\"

[[table]]
name = \"pgbench_history\"
";
const BANK: [&str; 4] =
    ["pgbench_branches", "pgbench_tellers", "pgbench_accounts", "pgbench_history"];

#[tokio::test(flavor = "multi_thread")]
async fn three_banks_under_pgbench_at_once_end_alike() {
    let mut config = config(&["eu", "us", "ap"], "hash(bid, 12)", 12);
    config.tables = TABLES.to_owned();
    // pgbench gives up at the first error: a disk that stalls for seconds must not end a lease.
    config.lease = Duration::from_secs(20);
    let mut regions = Regions::create(config).await.unwrap();
    for region in regions.names() {
        fill(&regions, region);
    }
    start(&mut regions).await;

    let seconds = std::env::var("PGBENCH_SECONDS").unwrap_or_else(|_| SECONDS.to_string());
    let mut running = Vec::new();
    for region in regions.names() {
        let script = regions.folder().join(region).join("tpcb.sql");
        std::fs::write(&script, tpcb(&owned(&regions, region).await)).unwrap();
        running.push(pgbench(&regions, region, &seconds, &script).spawn().unwrap());
    }
    for child in running {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        let tps = said.lines().find(|line| line.starts_with("tps")).unwrap_or_default();
        let failed = said.lines().any(|line| line.starts_with("number of failed transactions: 0 "));
        assert!(failed, "{said}");
        println!("{tps}");
    }

    settle(&regions, "pgbench has ended").await;
    assert_alike(&regions, &BANK).await;
    for region in regions.names() {
        books_balance(&regions, region).await;
    }
}

/// Before there is an agent: nobody could confirm a commit.
fn fill(regions: &Regions, region: &str) {
    let output = Command::new(PgBin::find(None).unwrap().program("pgbench"))
        .args(["--initialize", "--quiet", "--scale", &SCALE.to_string()])
        .arg(regions.postgres(region))
        .env("PGOPTIONS", "-c synchronous_commit=local")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn pgbench(regions: &Regions, region: &str, seconds: &str, script: &Path) -> Command {
    let mut command = Command::new(PgBin::find(None).unwrap().program("pgbench"));
    command
        .args(["--no-vacuum", "--client", "4", "--protocol", "prepared", "--time", seconds])
        .arg("--file")
        .arg(script)
        .arg(regions.postgres(region))
        .stdout(std::process::Stdio::piped());
    command
}

/// The branches that this region owns.
async fn owned(regions: &Regions, region: &str) -> Vec<i32> {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT bid FROM pgbench_branches
               WHERE (domicile.entry(domicile.partition_of(bid::text))).owner = $1 ORDER BY bid";
    let rows = client.query(sql, &[&region]).await.unwrap();
    let owned: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert!(!owned.is_empty() && owned.len() < SCALE as usize, "{region} owns {owned:?}");
    owned
}

/// pgbench's own TPC-B-like transaction, with the branch drawn from a list.
fn tpcb(branches: &[i32]) -> String {
    let cases: String =
        branches.iter().enumerate().map(|(i, bid)| format!(" WHEN :i = {i} THEN {bid}")).collect();
    format!(
        "\\set i random(0, {last})
\\set bid CASE{cases} END
\\set aid (:bid - 1) * 100000 + random(1, 100000)
\\set tid (:bid - 1) * 10 + random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
",
        last = branches.len() - 1
    )
}

/// All four tables tell the same sum, and nothing was in anybody's way.
async fn books_balance(regions: &Regions, region: &str) {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT (SELECT sum(bbalance) FROM pgbench_branches)::text,
                      (SELECT sum(tbalance) FROM pgbench_tellers)::text,
                      (SELECT sum(abalance) FROM pgbench_accounts)::text,
                      (SELECT sum(delta) FROM pgbench_history)::text,
                      (SELECT coalesce(string_agg(to_jsonb(j)::text, ' '), '') FROM domicile.journal j)";
    let row = client.query_one(sql, &[]).await.unwrap();
    let told: Vec<String> = (0..5).map(|i| row.get(i)).collect();
    assert!(told[..4].iter().all(|sum| *sum == told[0]), "{region}: {told:?}");
    assert_eq!(told[4], "", "{region} has conflicts");
}
