//! Does `domicile verify` find every row that truly differs, and no other, while writes go on; and
//! does `--repair` make each one what its owner has?
//!
//! Three regions 40 ms apart, so that a change is always on its way somewhere. One world for all
//! sections. `VERIFY_ROWS=5000000` takes longer and prints how long.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use domicile::lab::regions::Regions;
use serde_json::Value as Json;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, settle, start};

const ROWS: u64 = 200_000;

const SEED: &str = "
    CREATE TABLE account (
        id bigint PRIMARY KEY, branch int NOT NULL, note text, extra jsonb, amount numeric,
        raw bytea, at timestamptz, double_id bigint GENERATED ALWAYS AS (id * 2) STORED);
    INSERT INTO account
    SELECT i, i % 60, 'note ' || i, jsonb_build_object('n', i), i / 7.0, decode(md5(i::text), 'hex'),
           timestamptz '2026-01-01' + i * interval '1 second'
    FROM generate_series(1, {rows}) i;
    CREATE TABLE tag (account bigint, name text, PRIMARY KEY (account, name));
    INSERT INTO tag SELECT i, 'tag ' || i % 3 FROM generate_series(1, 5000) i;
    CREATE TABLE event (branch int, day int, note text, PRIMARY KEY (branch, day))
        PARTITION BY LIST (day);
    CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
    CREATE TABLE event_rest PARTITION OF event DEFAULT;
    INSERT INTO event SELECT b, d, 'seed' FROM generate_series(0, 59) b, generate_series(1, 30) d;
    CREATE TABLE history (branch int NOT NULL, what text);
    INSERT INTO history SELECT i % 60, 'did ' || i % 500 FROM generate_series(1, 3000) i;
    CREATE TABLE currency (code text PRIMARY KEY, rate numeric);
    INSERT INTO currency VALUES ('EUR', 1), ('USD', 1.1), ('JPY', 160);";

/// The same columns of the same table, in another order and over a dropped one.
const OTHER_LAYOUT: &str = "
    CREATE TABLE other (gone int, at timestamptz, raw bytea, amount numeric, extra jsonb, note text,
        branch int NOT NULL, id bigint PRIMARY KEY,
        double_id bigint GENERATED ALWAYS AS (id * 2) STORED);
    ALTER TABLE other DROP COLUMN gone;
    INSERT INTO other (id, branch, note, extra, amount, raw, at)
    SELECT id, branch, note, extra, amount, raw, at FROM account;
    DROP TABLE account;
    ALTER TABLE other RENAME TO account;
    ALTER INDEX other_pkey RENAME TO account_pkey;";

const TABLES: &str = "
[[table]]
name = \"account\"

[[table]]
name = \"tag\"
parent = { table = \"account\", columns = [\"account\"], references = [\"id\"] }

[[table]]
name = \"event\"

[[table]]
name = \"history\"

[[table]]
name = \"currency\"
kind = \"reference\"
";

#[tokio::test(flavor = "multi_thread")]
async fn every_true_difference_is_found_among_changes_on_their_way_and_repaired_from_its_owner() {
    let rows = std::env::var("VERIFY_ROWS").map_or(ROWS, |rows| rows.parse().unwrap());
    let mut config = config(&["eu", "us", "ap"], "hash(branch, 12)", 13);
    config.seed_sql = SEED.replace("{rows}", &rows.to_string());
    config.tables = TABLES.to_owned();
    config.round_trip = Duration::from_millis(40);
    // Writers give up at the first error: a machine that is busy for seconds must not end a lease.
    config.lease = Duration::from_secs(20);
    let mut regions = Regions::create(config).await.unwrap();
    let us = regions.connect("us").await.unwrap();
    us.batch_execute(&format!("SET synchronous_commit = local; {OTHER_LAYOUT}")).await.unwrap();
    start(&mut regions).await;
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        client.batch_execute("SET synchronous_commit = local; ANALYZE").await.unwrap();
    }

    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = regions
        .names()
        .iter()
        .map(|region| tokio::spawn(write(regions.postgres(region), region.clone(), stop.clone())))
        .collect();

    nothing_is_found_where_nothing_differs(&regions).await;
    let wrong = break_rows(&regions).await;
    exactly_these_are_found(&regions, &wrong).await;
    each_becomes_what_its_owner_has(&regions, &wrong).await;

    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 100, "a writer hardly wrote");
    }
    settle(&regions, "writers have stopped").await;
    assert_alike(&regions, &["tag", "event", "currency"]).await;
    let (report, code) = verify(&regions, &["--table", "history"]);
    assert_eq!(code, 3, "a row without a key is not repaired: {report:#}");
    wrong_use_is_told(&regions);
}

/// Changes rows that this region owns until it is told to stop: updates, deletes, and the same
/// keys again. Returns how often it committed.
async fn write(postgres: String, region: String, stop: Arc<AtomicBool>) -> u64 {
    let client = domicile::postgres::session::connect(&postgres, "test").await.unwrap();
    client.batch_execute("SET synchronous_commit = on; SET search_path = public").await.unwrap();
    let sql = "SELECT b FROM generate_series(0, 59) b
               WHERE (domicile.entry(domicile.partition_of(b::text))).owner = $1";
    let owned: Vec<i32> =
        client.query(sql, &[&region]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let mut commits = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let branch = owned[commits as usize % owned.len()];
        let id = i64::from(branch) + 60 * (1 + commits as i64 % 40);
        let some = format!(
            "UPDATE account SET note = 'note {commits}', amount = amount + 1 WHERE id = {id};
             DELETE FROM account WHERE id = {gone} AND branch = {branch};
             INSERT INTO history VALUES ({branch}, 'did {commits}');
             DELETE FROM event WHERE branch = {branch} AND day = 3;
             INSERT INTO account (id, branch, note) VALUES ({new}, {branch}, 'new');
             INSERT INTO event VALUES ({branch}, 3, 'again {commits}');
             UPDATE event SET day = 99 - day WHERE branch = {branch} AND day IN (1, 98)",
            gone = 10_000_000 + i64::from(branch) + 60 * (commits as i64 - 50),
            new = 10_000_000 + i64::from(branch) + 60 * commits as i64,
        );
        client.batch_execute(&some).await.unwrap_or_else(|e| panic!("{region}: {e:?}"));
        commits += 1;
    }
    commits
}

async fn nothing_is_found_where_nothing_differs(regions: &Regions) {
    let began = Instant::now();
    let (report, code) = verify(regions, &[]);
    println!("{} rows, compared in {:?}", report["tables"][0]["rows"], began.elapsed());
    assert_eq!((code, &report["alike"]), (0, &Json::Bool(true)), "{report:#}");
}

/// A row that is not what it should be, where, and whose it is.
struct Wrong {
    table: &'static str,
    key: Json,
    region: &'static str,
    owner: String,
}

/// Breaks rows as no applier and no client could: past the guard and past the capture.
async fn break_rows(regions: &Regions) -> Vec<Wrong> {
    let (us, ap) = (Tamper::open(regions, "us").await, Tamper::open(regions, "ap").await);
    let eu = Tamper::open(regions, "eu").await;
    let mut wrong = Vec::new();
    let mut note = |table, key: Json, region, owner: &str| {
        wrong.push(Wrong { table, key, region, owner: owner.to_owned() });
    };
    // Rows that nobody writes, by whose they are.
    let (ours, theirs) = (us.quiet_id("us").await, us.quiet_id("eu").await);
    us.run(&format!(
        "UPDATE account SET raw = set_byte(raw, 3, get_byte(raw, 3) # 1) WHERE id = {theirs}"
    ))
    .await;
    note("public.account", serde_json::json!({"id": theirs.to_string()}), "us", "eu");
    // The owner's own row: its word counts all the same.
    us.run(&format!("UPDATE account SET note = 'damaged at home' WHERE id = {ours}")).await;
    note("public.account", serde_json::json!({"id": ours.to_string()}), "us", "us");
    let gone = ap.quiet_id("us").await + 60;
    ap.run(&format!("DELETE FROM account WHERE id = {gone}")).await;
    note("public.account", serde_json::json!({"id": gone.to_string()}), "ap", "us");
    let branch = gone % 60;
    ap.run(&format!(
        "INSERT INTO account (id, branch, note) VALUES (-7, {branch}, 'nobody knows')"
    ))
    .await;
    note("public.account", serde_json::json!({"id": "-7"}), "ap", "us");
    // A damaged partition key: the row says of itself that it is another's.
    let moved = theirs + 120;
    ap.run(&format!("UPDATE account SET branch = {branch} WHERE id = {moved}")).await;
    note("public.account", serde_json::json!({"id": moved.to_string()}), "ap", "eu");
    ap.run(&format!("UPDATE tag SET name = 'damaged' WHERE account = {theirs}")).await;
    let name = format!("tag {}", theirs % 3);
    note(
        "public.tag",
        serde_json::json!({"account": theirs.to_string(), "name": name}),
        "ap",
        "eu",
    );
    let damaged = serde_json::json!({"account": theirs.to_string(), "name": "damaged"});
    note("public.tag", damaged, "ap", "eu");
    let branch = theirs % 60;
    us.run(&format!("UPDATE event SET note = '' WHERE branch = {branch} AND day = 7")).await;
    note("public.event", serde_json::json!({"branch": branch.to_string(), "day": "7"}), "us", "eu");
    us.run("UPDATE currency SET rate = 1.10 WHERE code = 'USD'").await;
    note("public.currency", serde_json::json!({"code": "USD"}), "us", "eu");
    // Once more than elsewhere: without a key, rows are counted.
    eu.run(&format!("INSERT INTO history VALUES ({branch}, 'did 3')")).await;
    wrong
}

async fn exactly_these_are_found(regions: &Regions, wrong: &[Wrong]) {
    let (report, code) = verify(regions, &[]);
    assert_eq!((code, &report["alike"]), (3, &Json::Bool(false)), "{report:#}");
    let mut found = rows_of(&report);
    let history = found.iter().position(|(table, _)| table == "public.history");
    let (_, lost) = found.remove(history.unwrap_or_else(|| panic!("{report:#}")));
    assert_ne!(lost["regions"]["eu"], lost["regions"]["us"], "{lost:#}");
    assert_eq!(lost["regions"]["ap"], lost["regions"]["us"], "{lost:#}");
    for Wrong { table, key, region, owner } in wrong {
        let place = found.iter().position(|(t, row)| t == table && row["key"] == *key);
        let (_, row) = found.remove(place.unwrap_or_else(|| panic!("{table} {key}: {report:#}")));
        assert_eq!(row["owner"], Json::from(owner.as_str()), "{row:#}");
        for other in regions.names().iter().filter(|name| name != region) {
            assert_ne!(row["regions"][region], row["regions"][other], "{row:#}");
        }
    }
    assert!(found.is_empty(), "nothing else differs: {found:#?}");
}

async fn each_becomes_what_its_owner_has(regions: &Regions, wrong: &[Wrong]) {
    let (report, code) = verify(regions, &["--repair"]);
    assert_eq!(code, 3, "the history has no key: {report:#}");
    let (report, _) = verify(regions, &[]);
    let left: Vec<String> = rows_of(&report).into_iter().map(|(table, _)| table).collect();
    assert_eq!(left, ["public.history"], "{report:#}");
    for Wrong { table, key, region, owner } in wrong {
        // Damaged at its owner: then the others were made alike.
        let repaired = if region == owner { vec!["eu", "ap"] } else { vec![*region] };
        for region in repaired {
            let client = regions.connect(region).await.unwrap();
            let sql = "SELECT conflict, local::text, new::text, origin FROM domicile.journal
                       WHERE relation = $1 AND key = $2";
            let rows = client.query(sql, &[table, key]).await.unwrap();
            let [entry] = rows.as_slice() else { panic!("{region} {table} {key}: {rows:?}") };
            assert_eq!(entry.get::<_, &str>(0), "differed");
            let (local, new) = (entry.get::<_, Option<&str>>(1), entry.get::<_, Option<&str>>(2));
            assert_ne!(local, new);
            assert_eq!(entry.get::<_, &str>(3), format!("{owner}-1"));
        }
    }
    let client = regions.connect("eu").await.unwrap();
    let sql = "SELECT count(*) FROM account WHERE note = 'damaged at home'";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1);
}

fn wrong_use_is_told(regions: &Regions) {
    for arguments in [["--region", "eu"], ["--table", "nowhere"], ["--region", "mars"]] {
        let output = run(regions, &arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

fn rows_of(report: &Json) -> Vec<(String, Json)> {
    let tables = report["tables"].as_array().unwrap().iter();
    tables
        .flat_map(|table| {
            let rows = table["differing"].as_array().cloned().unwrap_or_default();
            let name = table["table"].as_str().unwrap().to_owned();
            rows.into_iter().map(move |row| (name.clone(), row))
        })
        .collect()
}

fn verify(regions: &Regions, arguments: &[&str]) -> (Json, i32) {
    let output = run(regions, arguments);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (report, output.status.code().unwrap())
}

fn run(regions: &Regions, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(regions.binary());
    command.arg("verify").arg("--config").arg(regions.config_file("eu")).arg("--json");
    command.args(arguments).output().unwrap()
}

/// A session that PostgreSQL takes for an applier of ours.
struct Tamper(Client);

impl Tamper {
    async fn open(regions: &Regions, region: &str) -> Self {
        let client = regions.connect(region).await.unwrap();
        let sql = "SET session_replication_role = replica; SET synchronous_commit = local;
                   SELECT pg_replication_origin_create('domicile_tamper');
                   SELECT pg_replication_origin_session_setup('domicile_tamper')";
        client.batch_execute(sql).await.unwrap();
        Self(client)
    }

    async fn run(&self, sql: &str) {
        assert_eq!(self.0.execute(sql, &[]).await.unwrap(), 1, "{sql}");
    }

    /// An account that this region owns and that no writer touches.
    async fn quiet_id(&self, owner: &str) -> i64 {
        let sql = "SELECT min(id) FROM account
                   WHERE id > 3000 AND (domicile.entry(domicile.partition_of(branch::text))).owner = $1";
        self.0.query_one(sql, &[&owner]).await.unwrap().get(0)
    }
}
