//! Does `domicile migrate` change every region's schema at one position of the log, under writes, and
//! refuse what would leave the regions unlike each other?
//!
//! Two regions, one world for all sections, which follow each other in the order of the file.

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domicile::lab::regions::Regions;
use serde_json::Value as Json;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE item (id int PRIMARY KEY, n int, note text);
    INSERT INTO item SELECT i, 0, 'seed' FROM generate_series(1, 40) i;
    CREATE TABLE event (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
    CREATE TABLE kind (code text PRIMARY KEY, gone int);
    INSERT INTO kind VALUES ('a', 1);
    CREATE TABLE tally (id int PRIMARY KEY, n int);";
const TABLES: &str = "
[[table]]
name = \"item\"
[[table]]
name = \"event\"
[[table]]
name = \"kind\"
kind = \"reference\"
[[table]]
name = \"tally\"
kind = \"shared\"
";

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_one_place_in_every_regions_history_or_is_refused() {
    let mut config = config(&["eu", "us"], "hash(id, 4)", 5);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;

    what_would_diverge_is_refused_and_nothing_changes(&regions).await;
    columns_are_added_under_writes(&regions).await;
    what_one_region_alone_writes_may_narrow(&regions).await;
    a_new_table_partition_is_guarded_at_once(&regions).await;
    a_new_table_is_listed_later(&mut regions).await;
    where_it_fails_a_region_waits_and_says_so(&regions).await;
}

async fn what_would_diverge_is_refused_and_nothing_changes(regions: &Regions) {
    let before = columns(regions, "eu").await;
    let (report, code) = migrate(
        regions,
        "UPDATE item SET n = random();
         CREATE INDEX CONCURRENTLY i ON item (n);
         VACUUM item;
         CREATE DATABASE other;
         ALTER TABLE item ADD fine int",
        &[],
    );
    assert_eq!(code, 3, "{report:#}");
    assert_eq!(report["refused"].as_array().unwrap().len(), 4, "{report:#}");

    // Only PostgreSQL's catalogue tells what these do.
    let (report, code) = migrate(
        regions,
        "CREATE DOMAIN token AS uuid DEFAULT gen_random_uuid();
         ALTER TABLE item
             ADD by_domain token, ADD by_now timestamptz DEFAULT now(), ADD by_clock timestamptz DEFAULT current_timestamp,
             ADD by_chance float DEFAULT random(), ADD by_uuid uuid DEFAULT gen_random_uuid(),
             ADD by_serial serial, ADD by_identity int GENERATED ALWAYS AS IDENTITY,
             ADD by_text timestamptz DEFAULT 'now', ADD fine int DEFAULT 1 + 1,
             DROP note, ALTER n SET NOT NULL, ADD CONSTRAINT small CHECK (n < 1000);
         CREATE UNIQUE INDEX only_one ON tally (n);
         ALTER TABLE tally ADD required int NOT NULL;
         ALTER TABLE event RENAME TO occurrence;
         DROP TABLE kind",
        &[],
    );
    assert_eq!(code, 3, "{report:#}");
    let refused: Vec<&str> =
        report["refused"].as_array().unwrap().iter().map(|r| r["what"].as_str().unwrap()).collect();
    for what in [
        "item column by_now",
        "item column by_clock",
        "item column by_chance",
        "item column by_uuid",
        "item column by_domain",
        "item column by_serial",
        "item column by_identity",
        "item column by_text",
        "item column note goes",
        "item column n is required",
        "item gets constraint small",
        "tally gets constraint only_one",
        "tally column required is required",
        "event gets another name",
        "kind is dropped",
    ] {
        assert!(refused.iter().any(|r| r.contains(what)), "{what}: {report:#}");
    }
    assert!(!refused.iter().any(|r| r.contains("fine")), "{report:#}");

    // Each statement by itself may look harmless at the end.
    let alone = regions.connect("eu").await.unwrap();
    let sql = "CREATE TABLE filled (LIKE event INCLUDING ALL); INSERT INTO filled VALUES (0, 99);
               CREATE TYPE mood AS ENUM ('ok', 'sad')";
    alone.batch_execute(&format!("SET synchronous_commit = local; {sql}")).await.unwrap();
    let (report, code) = migrate(
        regions,
        "ALTER TABLE item ADD by_turns float DEFAULT random();
         ALTER TABLE item ALTER by_turns SET DEFAULT 0;
         ALTER TABLE item ADD in_turn timestamptz;
         ALTER TABLE item ALTER in_turn SET DEFAULT now();
         ALTER TABLE event ATTACH PARTITION filled FOR VALUES IN (99);
         ALTER TABLE item ALTER COLUMN id TYPE bigint;
         ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
        &[],
    );
    assert_eq!(code, 3, "{report:#}");
    let refused: Vec<&str> =
        report["refused"].as_array().unwrap().iter().map(|r| r["what"].as_str().unwrap()).collect();
    let expected = [
        "item column by_turns",
        "filled is attached",
        "item column id goes",
        "ALTER TYPE mood RENAME VALUE",
    ];
    assert_eq!(refused.len(), expected.len(), "{report:#}");
    for (what, refused) in expected.iter().zip(&refused) {
        assert!(refused.contains(what), "{report:#}");
    }
    let sql = "DROP TABLE filled; DROP TYPE mood";
    alone.batch_execute(&format!("SET synchronous_commit = local; {sql}")).await.unwrap();

    let (report, code) = migrate(regions, "ALTER TABLE nowhere ADD c int", &[]);
    assert_eq!(code, 3, "{report:#}");
    assert!(report["refused"][0]["reason"].as_str().unwrap().contains("nowhere"), "{report:#}");
    let (report, code) = migrate(regions, "ALTER TABLE item ADD tried int", &["--dry-run"]);
    assert_eq!((code, &report["dry_run"]), (0, &Json::Bool(true)), "{report:#}");
    assert_eq!(columns(regions, "eu").await, before);
    assert_eq!(columns(regions, "us").await, before);
}

async fn columns_are_added_under_writes(regions: &Regions) {
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = regions
        .names()
        .iter()
        .map(|region| tokio::spawn(write(regions.postgres(region), region.clone(), stop.clone())))
        .collect();
    for (from, sql) in [
        ("eu", "ALTER TABLE item ADD extra int NOT NULL DEFAULT 7; CREATE INDEX ON item (extra)"),
        ("us", "ALTER TABLE item ADD late timestamptz, ADD word text DEFAULT 'said; done'"),
        // After the rows have their value, new ones get another.
        ("eu", "ALTER TABLE item ALTER late SET DEFAULT now(), ALTER extra SET DEFAULT 8"),
        ("us", "ALTER TABLE tally ADD extra int DEFAULT 3"),
    ] {
        let (report, code) = migrate(regions, sql, &["--region", from]);
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(report["regions"]["us"]["state"], "applied", "{report:#}");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 10, "a writer hardly wrote");
    }
    alike(regions, "columns were added").await;
    let eu = regions.connect("eu").await.unwrap();
    let sql = "SELECT count(*) FROM item WHERE extra = 7 AND word = 'said; done'";
    assert!(count(&eu, sql).await >= 40);
}

/// Writes rows that this region owns, and shared ones, until it is told to stop.
async fn write(postgres: String, region: String, stop: Arc<AtomicBool>) -> u64 {
    let client = domicile::postgres::session::connect(&postgres, "test").await.unwrap();
    client.batch_execute("SET synchronous_commit = on; SET search_path = public").await.unwrap();
    let sql = "SELECT id FROM generate_series(1, 100000) id
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1";
    let owned: Vec<i32> =
        client.query(sql, &[&region]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let mut commits = 0;
    while !stop.load(Ordering::Relaxed) {
        let (old, new) = (owned[commits % 10], owned[40 + commits]);
        let some = format!(
            "UPDATE item SET n = n + 1 WHERE id = {old};
             INSERT INTO item (id, n) VALUES ({new}, 1);
             INSERT INTO tally (id, n) VALUES ({}, {commits})
             ON CONFLICT (id) DO UPDATE SET n = excluded.n",
            commits % 5
        );
        client.batch_execute(&some).await.unwrap_or_else(|e| panic!("{region}: {e:?}"));
        commits += 1;
    }
    commits as u64
}

async fn what_one_region_alone_writes_may_narrow(regions: &Regions) {
    let sql = "ALTER TABLE kind DROP gone, ADD CHECK (code <> '')";
    let (report, code) = migrate(regions, sql, &["--region", "us"]);
    assert_eq!(code, 3, "eu owns it: {report:#}");
    let (report, code) = migrate(regions, sql, &["--region", "eu"]);
    assert_eq!(code, 0, "{report:#}");
    let eu = regions.connect("eu").await.unwrap();
    eu.batch_execute("INSERT INTO kind VALUES ('b')").await.unwrap();
    alike(regions, "a column is gone").await;
}

async fn a_new_table_partition_is_guarded_at_once(regions: &Regions) {
    let sql = "CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2)";
    let (report, code) = migrate(regions, sql, &[]);
    assert_eq!(code, 0, "{report:#}");
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let sql = "SELECT count(*) FROM pg_trigger
                   WHERE tgrelid = 'event_2'::regclass AND tgname LIKE 'domicile_guard_%'";
        assert_eq!(count(&client, sql).await, 4, "{region}");
    }
}

async fn a_new_table_is_listed_later(regions: &mut Regions) {
    let sql = "CREATE TABLE added (id int PRIMARY KEY, at timestamptz DEFAULT now())";
    let (report, code) = migrate(regions, sql, &[]);
    assert_eq!(code, 0, "{report:#}");
    for region in regions.names().to_vec() {
        let file = regions.config_file(&region).to_owned();
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(b"\n[[table]]\nname = \"added\"\n").unwrap();
        regions.kill_agent(&region);
    }
    for region in regions.names().to_vec() {
        regions.start_agent(&region).unwrap();
    }
    regions.wait_until_ready().await.unwrap();
    let us = regions.connect("us").await.unwrap();
    let sql = "INSERT INTO added SELECT id FROM generate_series(1, 100) id
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'us'";
    eventually("us writes the new table", async || {
        us.batch_execute(sql).await.map_err(|error| error.to_string())
    })
    .await;
    // Other rows: those of before may have arrived, and a key that is there is an error of its own.
    let sql = sql.replace("(1, 100)", "(101, 200)");
    let refused = regions.connect("eu").await.unwrap().batch_execute(&sql).await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("25006"));
    alike(regions, "a table was added").await;
    assert_alike(regions, &["added"]).await;
}

async fn where_it_fails_a_region_waits_and_says_so(regions: &Regions) {
    let us = regions.connect("us").await.unwrap();
    us.batch_execute("ALTER TABLE item ADD by_hand int").await.unwrap();
    let (report, code) = migrate(regions, "ALTER TABLE item ADD by_hand int", &["--region", "eu"]);
    assert_eq!((code, &report["regions"]["eu"]["state"]), (1, &"applied".into()), "{report:#}");
    assert_eq!(report["regions"]["us"]["state"], "failed", "{report:#}");
    let because = report["regions"]["us"]["because"].as_str().unwrap();
    assert!(because.contains("by_hand") && because.contains("--pass"), "{because}");
    let number = report["number"].to_string();
    // Nothing passes it.
    let owned = "SELECT min(id) FROM item
                 WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu'";
    let eu = regions.connect("eu").await.unwrap();
    let id: i32 = eu.query_one(owned, &[]).await.unwrap().get(0);
    eu.execute("UPDATE item SET by_hand = 1 WHERE id = $1", &[&id]).await.unwrap();
    let (refused, code) = migrate(regions, "CREATE TABLE other (id int)", &["--wait", "1"]);
    assert_eq!(code, 3, "{refused:#}");

    let ahead = run(regions, &["--pass", "999", "--region", "us"]);
    assert_eq!(ahead.status.code(), Some(2), "there is none yet: {ahead:?}");
    let output = run(regions, &["--pass", &number, "--region", "us"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    eventually("us goes on", async || {
        let status = regions.status("us").await.map_err(|e| e.to_string())?;
        match status.conditions.iter().find(|c| c.name == "migration_failed") {
            None => Ok(()),
            Some(failed) => Err(failed.detail.clone()),
        }
    })
    .await;
    alike(regions, "us has gone on").await;
    assert_eq!(count(&us, "SELECT count(*) FROM item WHERE by_hand = 1").await, 1);
}

/// Waits until both regions show everything; then they are alike, and nothing was lost.
async fn alike(regions: &Regions, run: &str) {
    settle(regions, run).await;
    assert_alike(regions, &["item", "event", "kind"]).await;
    assert_eq!(columns(regions, "eu").await, columns(regions, "us").await);
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let sql = "SELECT count(*) FROM domicile.journal WHERE relation <> 'public.tally'";
        assert_eq!(count(&client, sql).await, 0, "{region}");
    }
}

async fn columns(regions: &Regions, region: &str) -> Vec<String> {
    let client = regions.connect(region).await.unwrap();
    let sql =
        "SELECT concat_ws(' ', table_name, column_name, data_type, column_default, is_nullable)
               FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}

fn migrate(regions: &Regions, sql: &str, arguments: &[&str]) -> (Json, i32) {
    let file = regions.folder().join("migration.sql");
    std::fs::write(&file, sql).unwrap();
    let file = file.to_str().unwrap();
    let output = run(regions, &[&[file, "--json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (report, output.status.code().unwrap())
}

fn run(regions: &Regions, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(regions.binary());
    command.arg("migrate").arg("--config").arg(regions.config_file("eu"));
    command.args(arguments).output().unwrap()
}
