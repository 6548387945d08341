//! Do regions that draw from "one" sequence ever draw the same value, whatever happens to the
//! sequence, the agents and the owners?
//!
//! Three regions, one world for all sections. `SEQUENCE_DRAWS=100000` takes longer.

use std::collections::BTreeSet;
use std::process::Command;

use domicile::lab::regions::Regions;
use futures_util::future::join_all;

mod regions;
use regions::{assert_alike, config, eventually, settle, start};

const DRAWS: i64 = 3000;

const SEED: &str = "
    CREATE TABLE orders (id bigserial PRIMARY KEY, branch int NOT NULL);
    CREATE TABLE item (branch int, id int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (branch, id));
    CREATE SEQUENCE tickets CACHE 100;
    CREATE TABLE ticket (id bigint DEFAULT nextval('tickets') PRIMARY KEY, branch int NOT NULL);
    CREATE TABLE code (id serial PRIMARY KEY, name text);
    CREATE SEQUENCE down INCREMENT BY -1;
    CREATE TABLE countdown (id bigint DEFAULT nextval('down') PRIMARY KEY, branch int NOT NULL);
    CREATE TABLE part (id bigserial, branch int, PRIMARY KEY (id, branch)) PARTITION BY HASH (id);
    CREATE TABLE part_0 PARTITION OF part FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE SEQUENCE rounds CYCLE MAXVALUE 1000;
    CREATE TABLE round (id bigint DEFAULT nextval('rounds') PRIMARY KEY, branch int NOT NULL);
    CREATE TABLE untouched (id serial);
    -- As a dump restores them: rows, and a sequence that was never set behind them.
    INSERT INTO orders SELECT i, i % 60 FROM generate_series(1, 1000) i;
    INSERT INTO item OVERRIDING SYSTEM VALUE SELECT i % 60, i FROM generate_series(1, 500) i;";

const TABLES: &str = "
[[table]]
name = \"orders\"
[[table]]
name = \"item\"
[[table]]
name = \"ticket\"
[[table]]
name = \"countdown\"
[[table]]
name = \"part\"
[[table]]
name = \"round\"
[[table]]
name = \"code\"
kind = \"reference\"
";

const SEQUENCES: [&str; 6] =
    ["orders_id_seq", "item_id_seq", "tickets", "code_id_seq", "down", "part_id_seq"];

#[tokio::test(flavor = "multi_thread")]
async fn no_two_regions_ever_draw_the_same_value() {
    let mut config = config(&["eu", "us", "ap"], "hash(branch, 12)", 13);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;

    values_lie_behind_those_in_use(&regions).await;
    everybody_draws_other_values(&regions).await;
    a_restarted_agent_changes_nothing(&mut regions).await;
    a_sequence_that_was_set_finds_back_to_its_place(&regions).await;
    a_restart_begins_at_the_regions_own_place(&regions).await;
    a_sequence_that_cycles_is_refused(&regions).await;
    a_new_owner_goes_on_behind_the_old_one(&mut regions).await;
    a_sequence_that_is_held_is_moved_later(&regions).await;
}

async fn draw(regions: &Regions, region: &str, sequence: &str, count: i64) -> Vec<i64> {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT nextval($1::text::regclass) FROM generate_series(1, $2::bigint)";
    let rows = client.query(sql, &[&sequence, &count]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn values_lie_behind_those_in_use(regions: &Regions) {
    for region in regions.names() {
        assert!(draw(regions, region, "orders_id_seq", 1).await[0] > 1000);
        // Its key does not begin with the id, so the table was read once.
        assert!(draw(regions, region, "item_id_seq", 1).await[0] > 500);
        assert_eq!(draw(regions, region, "untouched_id_seq", 2).await, [1, 2], "not replicated");
    }
}

/// In several sessions of each region at once: sessions keep values of their own too.
async fn everybody_draws_other_values(regions: &Regions) {
    let count = std::env::var("SEQUENCE_DRAWS").map_or(DRAWS, |n| n.parse().unwrap());
    for sequence in SEQUENCES {
        let sessions = regions.names().iter().flat_map(|region| [region, region, region]);
        let drawn = sessions.map(|region| draw(regions, region, sequence, count / 3));
        let drawn: Vec<i64> = join_all(drawn).await.into_iter().flatten().collect();
        let different: BTreeSet<i64> = drawn.iter().copied().collect();
        assert_eq!(different.len(), drawn.len(), "{sequence}: some were drawn twice");
        assert_eq!(drawn.len() as i64, count / 3 * 9);
    }
}

async fn a_restarted_agent_changes_nothing(regions: &mut Regions) {
    let before = draw(regions, "us", "orders_id_seq", 1).await[0];
    regions.kill_agent("us");
    regions.start_agent("us").unwrap();
    regions.wait_until_ready().await.unwrap();
    assert_eq!(draw(regions, "us", "orders_id_seq", 1).await[0], before + 16);
}

async fn a_sequence_that_was_set_finds_back_to_its_place(regions: &Regions) {
    let place = draw(regions, "ap", "part_id_seq", 1).await[0].rem_euclid(16);
    let client = regions.connect("ap").await.unwrap();
    let away = (place + 5) % 16 + 64_000;
    client.query_one("SELECT setval('part_id_seq', $1)", &[&away]).await.unwrap();
    eventually("the sequence is at its place again", async || {
        let sql = "SELECT last_value FROM part_id_seq";
        let last: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        if last.rem_euclid(16) == place { Ok(()) } else { Err(format!("{last}")) }
    })
    .await;
    let next = draw(regions, "ap", "part_id_seq", 1).await[0];
    assert!(next > away && next <= away + 16, "{next} is not the first behind {away}");
}

async fn a_restart_begins_at_the_regions_own_place(regions: &Regions) {
    let client = regions.connect("eu").await.unwrap();
    client.batch_execute("TRUNCATE code RESTART IDENTITY").await.unwrap();
    client.batch_execute("INSERT INTO code (name) VALUES ('a'), ('b')").await.unwrap();
    settle(regions, "restarted").await;
    let mut first = BTreeSet::new();
    for region in ["us", "ap"] {
        let drawn = draw(regions, region, "code_id_seq", 1).await[0];
        assert!((1..=16).contains(&drawn), "{region} restarted at {drawn}");
        first.insert(drawn);
    }
    let ids = client.query("SELECT id::bigint FROM code ORDER BY id", &[]).await.unwrap();
    let ids: Vec<i64> = ids.iter().map(|row| row.get(0)).collect();
    assert!(ids[0] <= 16 && ids[1] == ids[0] + 16, "{ids:?}");
    assert!(first.insert(ids[0]) && first.len() == 3, "{first:?}");
}

async fn a_sequence_that_cycles_is_refused(regions: &Regions) {
    let output = Command::new(regions.binary())
        .args(["check", "--json", "--config"])
        .arg(regions.config_file("eu"))
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let named = |name: &str| {
        let findings = report["findings"].as_array().unwrap().iter();
        findings.filter(|finding| finding["name"] == name).cloned().collect::<Vec<_>>()
    };
    let cycles = named("sequence_cycles");
    assert_eq!(cycles.len(), 1, "{report:#}");
    assert_eq!(cycles[0]["object"], "table \"public.round\"");
    assert_eq!(cycles[0]["level"], "blocker");
    assert!(named("sequence_not_disjoint").is_empty(), "{report:#}");
}

/// The new owner's values lie behind every value that it has seen, though it has drawn few itself.
async fn a_new_owner_goes_on_behind_the_old_one(regions: &mut Regions) {
    let eu = regions.connect("eu").await.unwrap();
    let sql = "SELECT b FROM generate_series(0, 59) b
               WHERE (domicile.entry(domicile.partition_of(b::text))).owner = 'eu' LIMIT 1";
    let branch: i32 = eu.query_one(sql, &[]).await.unwrap().get(0);
    for _ in 0..10 {
        let sql = "INSERT INTO orders (branch) SELECT $1 FROM generate_series(1, 100)";
        eu.execute(sql, &[&branch]).await.unwrap();
    }
    let highest = "SELECT max(id) FROM orders";
    let highest: i64 = eu.query_one(highest, &[]).await.unwrap().get(0);
    settle(regions, "before the outage").await;
    drop(eu);
    regions.kill_region("eu");
    let output = Command::new(regions.binary())
        .args(["failover", "--from", "eu", "--to", "us", "--attest", "--config"])
        .arg(regions.config_file("us"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");

    let us = regions.connect("us").await.unwrap();
    let insert = "INSERT INTO orders (branch) VALUES ($1) RETURNING id";
    let first: i64 = us.query_one(insert, &[&branch]).await.unwrap().get(0);
    assert!(first > highest, "{first} lies before {highest}");
    regions.start_region("eu").await.unwrap();
    eventually("the old owner follows", async || {
        let eu = regions.connect("eu").await.map_err(|e| e.to_string())?;
        let sql = "SELECT count(*) FROM orders WHERE id = $1";
        let seen: i64 = eu.query_one(sql, &[&first]).await.map_err(|e| e.to_string())?.get(0);
        if seen == 1 { Ok(()) } else { Err("the row is not there".to_owned()) }
    })
    .await;
    assert_alike(regions, &["orders", "item", "code"]).await;
    let journaled = "SELECT count(*) FROM domicile.journal";
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let entries: i64 = client.query_one(journaled, &[]).await.unwrap().get(0);
        assert_eq!(entries, 0, "{region} has conflicts");
    }
}

/// Whoever has drawn keeps a sequence from being moved until its transaction is over.
async fn a_sequence_that_is_held_is_moved_later(regions: &Regions) {
    let (us, eu) = (regions.connect("us").await.unwrap(), regions.connect("eu").await.unwrap());
    let sql = "SELECT b, domicile.partition_of(b::text)::text FROM generate_series(0, 59) b
               WHERE (domicile.entry(domicile.partition_of(b::text))).owner = 'us' LIMIT 1";
    let row = us.query_one(sql, &[]).await.unwrap();
    let (branch, partition): (i32, String) = (row.get(0), row.get(1));
    let sql = "INSERT INTO orders (branch) SELECT $1 FROM generate_series(1, 1000)";
    us.execute(sql, &[&branch]).await.unwrap();
    let newest = "SELECT max(id) FROM orders";
    let highest: i64 = us.query_one(newest, &[]).await.unwrap().get(0);
    eventually("eu shows what us has written", async || {
        let newest: i64 = eu.query_one(newest, &[]).await.map_err(|e| e.to_string())?.get(0);
        if newest == highest { Ok(()) } else { Err(format!("only up to {newest}")) }
    })
    .await;

    let holder = regions.connect("eu").await.unwrap();
    holder.batch_execute("BEGIN; SELECT nextval('orders_id_seq')").await.unwrap();
    let output = Command::new(regions.binary())
        .args(["switchover", "--partitions", &partition, "--to", "eu", "--config"])
        .arg(regions.config_file("eu"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let last = "SELECT last_value FROM orders_id_seq";
    let held: i64 = eu.query_one(last, &[]).await.unwrap().get(0);
    assert!(held < highest, "{held} lies behind {highest} already");
    holder.batch_execute("COMMIT").await.unwrap();
    eventually("the sequence is moved behind what others have written", async || {
        let last: i64 = eu.query_one(last, &[]).await.map_err(|e| e.to_string())?.get(0);
        if last >= highest { Ok(()) } else { Err(format!("{last} lies before {highest}")) }
    })
    .await;
}
