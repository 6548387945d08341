//! Is the publication put back whatever somebody does to it, and is nothing that it passed over lost
//! in silence?

use std::process::Command;
use std::time::Duration;

use domicile::lab::regions::Regions;
use domicile::status::RegionStatus;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, eventually, settle, start};

const SEED_SQL: &str = "CREATE TABLE kept (id int PRIMARY KEY, note text);
                        CREATE TABLE other (id int PRIMARY KEY, note text);
                        CREATE TABLE counted (id int PRIMARY KEY, note text)";
const TABLES: &str = "[[table]]\nname = \"kept\"\n[[table]]\nname = \"other\"\n\
                      [[table]]\nname = \"counted\"\nkind = \"shared\"\n";
const STATE: &str = "changes_passed_over";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publication_passed_over_is_told_until_every_region_has_it() {
    let mut config = config(&["eu", "us"], "hash(id, 2)", 2);
    config.rpo = "none".to_owned();
    config.lease = Duration::from_secs(5);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let eu = regions.connect("eu").await.unwrap();
    write(&eu, "kept", "first").await;
    write(&eu, "other", "first").await;
    settle(&regions, "first").await;

    dropped_and_added_again_between_two_looks(&regions, &eu).await;
    operations_left_out(&regions, &eu).await;
    rows_and_columns_left_out(&regions, &eu).await;
    what_open_transactions_write(&regions, &eu).await;
    touched_and_nothing_written(&regions, &eu).await;
    more_than_is_configured(&regions, &eu).await;
    rows_that_several_regions_write(&regions, &eu).await;
    while_no_agent_looks(&mut regions, &eu).await;
    another_table_of_the_same_name(&regions, &eu).await;
}

/// Nothing of it can be seen any more when it is looked at.
async fn dropped_and_added_again_between_two_looks(regions: &Regions, eu: &Client) {
    eu.batch_execute("ALTER PUBLICATION domicile DROP TABLE kept").await.unwrap();
    write(eu, "kept", "dropped").await;
    eu.batch_execute("ALTER PUBLICATION domicile ADD TABLE kept").await.unwrap();
    write(eu, "other", "dropped").await;
    is_told_and_repaired(regions, "public.kept", &["public.other"]).await;
}

async fn operations_left_out(regions: &Regions, eu: &Client) {
    eu.batch_execute("ALTER PUBLICATION domicile SET (publish = 'insert')").await.unwrap();
    eu.batch_execute("DELETE FROM kept").await.unwrap();
    is_told_and_repaired(regions, "public.kept", &[]).await;
    write(eu, "kept", "inserted").await;
    eu.batch_execute("DELETE FROM kept").await.unwrap();
    write(eu, "kept", "captured again").await;
    settle(regions, "captured again").await;
    assert_alike(regions, &["kept", "other"]).await;
}

async fn rows_and_columns_left_out(regions: &Regions, eu: &Client) {
    if major(eu).await < 15 {
        return;
    }
    let sql = "ALTER PUBLICATION domicile SET TABLE kept WHERE (id < 0), other (id)";
    eu.batch_execute(sql).await.unwrap();
    write(eu, "kept", "filtered").await;
    write(eu, "other", "columns").await;
    for table in ["public.kept", "public.other"] {
        is_told(regions, table).await;
    }
    repair(regions);
    is_over(regions).await;
    assert_alike(regions, &["kept", "other"]).await;
    let sql = "ALTER PUBLICATION domicile ADD TABLES IN SCHEMA public";
    eu.batch_execute(sql).await.unwrap();
    carries_the_configured_tables(eu).await;
}

/// It began before the publication was put back, and is passed over whenever it ends.
async fn what_open_transactions_write(regions: &Regions, eu: &Client) {
    let open = regions.connect("eu").await.unwrap();
    eu.batch_execute("ALTER PUBLICATION domicile DROP TABLE kept").await.unwrap();
    open.batch_execute("BEGIN").await.unwrap();
    write(&open, "kept", "open").await;
    carries_the_configured_tables(eu).await;
    eventually("open transactions are waited for", async || {
        let told = told(regions).await;
        if told.contains("still open") { Ok(()) } else { Err(told) }
    })
    .await;
    write(eu, "other", "after").await;
    settle(regions, "compared too early").await;
    open.batch_execute("COMMIT").await.unwrap();
    is_told_and_repaired(regions, "public.kept", &["public.other"]).await;
}

async fn touched_and_nothing_written(regions: &Regions, eu: &Client) {
    let (before, sql) = (looks(eu).await, "ALTER PUBLICATION domicile SET (publish = 'insert')");
    eu.batch_execute(sql).await.unwrap();
    carries_the_configured_tables(eu).await;
    assert_ne!(looks(eu).await, before);
    is_over(regions).await;
}

/// Of what is the agent's alone nothing is captured, whatever is published.
async fn more_than_is_configured(regions: &Regions, eu: &Client) {
    let sql = "CREATE TABLE stranger (id int PRIMARY KEY);
               ALTER PUBLICATION domicile ADD TABLE stranger, domicile.journal";
    eu.batch_execute(sql).await.unwrap();
    carries_the_configured_tables(eu).await;
    let sql =
        "BEGIN; DROP PUBLICATION domicile; CREATE PUBLICATION domicile FOR ALL TABLES; COMMIT";
    eu.batch_execute(sql).await.unwrap();
    let past_the_guard = "BEGIN; ALTER TABLE kept DISABLE TRIGGER domicile_guard_insert;
                          INSERT INTO kept VALUES (-1, 'journaled');
                          ALTER TABLE kept ENABLE ALWAYS TRIGGER domicile_guard_insert; COMMIT";
    eu.batch_execute(past_the_guard).await.unwrap();
    write(eu, "kept", "published").await;
    carries_the_configured_tables(eu).await;
    is_over(regions).await;
    settle(regions, "published").await;
    eventually("what was written past the guard is repaired", async || {
        let sql = "SELECT FROM kept WHERE id = -1";
        let there = eu.query(sql, &[]).await.map_err(|e| e.to_string())?;
        if there.is_empty() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let sql = "SELECT count(*) FROM domicile.journal WHERE relation LIKE 'domicile.%'";
    for region in ["eu", "us"] {
        let client = regions.connect(region).await.unwrap();
        let strange: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(strange, 0, "{region} journals its own journal");
    }
    assert_alike(regions, &["kept", "other"]).await;
}

async fn rows_that_several_regions_write(regions: &Regions, eu: &Client) {
    eu.batch_execute("ALTER PUBLICATION domicile DROP TABLE counted, domicile.version")
        .await
        .unwrap();
    let sql = "INSERT INTO counted SELECT id, 'shared' FROM generate_series(1, 3) id";
    eu.batch_execute(sql).await.unwrap();
    is_told_and_repaired(regions, "public.counted", &["public.kept", "public.other"]).await;
    assert_alike(regions, &["counted"]).await;
}

/// The next one that starts finds it.
async fn while_no_agent_looks(regions: &mut Regions, eu: &Client) {
    regions.kill_agent("eu");
    eu.batch_execute("ALTER PUBLICATION domicile DROP TABLE other").await.unwrap();
    write(eu, "other", "alone").await;
    eu.batch_execute("ALTER PUBLICATION domicile ADD TABLE other").await.unwrap();
    regions.start_agent("eu").unwrap();
    is_told_and_repaired(regions, "public.other", &["public.kept"]).await;
}

/// What it is made of is in no log; the other region has what its rows were before.
async fn another_table_of_the_same_name(regions: &Regions, eu: &Client) {
    let sql = "BEGIN; ALTER TABLE kept RENAME TO before;
               CREATE TABLE kept (id int PRIMARY KEY, note text); COMMIT";
    eu.batch_execute(sql).await.unwrap();
    write(eu, "kept", "anew").await;
    is_told_and_repaired(regions, "public.kept", &["public.other"]).await;
    write(eu, "kept", "goes on").await;
    settle(regions, "goes on").await;
    assert_alike(regions, &["kept", "other"]).await;
}

/// The state names the table, and no other; the way out that it names ends it.
async fn is_told_and_repaired(regions: &Regions, table: &str, untouched: &[&str]) {
    let told = is_told(regions, table).await;
    assert!(told.contains("domicile verify --repair"), "{told}");
    assert!(untouched.iter().all(|other| !told.contains(other)), "{told}");
    repair(regions);
    is_over(regions).await;
    assert_alike(regions, &["kept", "other"]).await;
}

/// Waits until the state says that rows of this table, and no other, differ.
async fn is_told(regions: &Regions, table: &str) -> String {
    eventually(&format!("rows of {table} differ"), async || {
        let told = told(regions).await;
        let named = told.split("; ").find(|part| part.contains(table));
        let differ = named.is_some_and(|part| part.contains("): 3 rows differ"));
        if differ { Ok(told) } else { Err(told) }
    })
    .await
}

async fn is_over(regions: &Regions) {
    let eu = regions.connect("eu").await.unwrap();
    eventually("the state ends", async || {
        let sql = "SELECT count(*) FROM domicile.passed_over";
        let row = eu.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        let found: (i64, String) = (row.get(0), told(regions).await);
        if found == (0, String::new()) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// What the state says in eu; empty while it does not hold.
async fn told(regions: &Regions) -> String {
    let status: RegionStatus = regions.status("eu").await.unwrap_or_default();
    let told = status.conditions.into_iter().find(|condition| condition.name == STATE);
    told.map(|condition| condition.detail).unwrap_or_default()
}

async fn carries_the_configured_tables(eu: &Client) {
    let expected = "counted, domicile.canary, domicile.horizon, domicile.migration, \
                    domicile.progress, domicile.version, kept, other";
    eventually("the publication is put back", async || {
        let sql = "SELECT string_agg(r.prrelid::regclass::text, ', '
                                     ORDER BY r.prrelid::regclass::text COLLATE \"C\")
                   FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
                   WHERE p.pubname = 'domicile' AND NOT puballtables AND pubviaroot
                     AND pubinsert AND pubupdate AND pubdelete AND pubtruncate";
        let row = eu.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        let found: Option<String> = row.get(0);
        if found.as_deref() == Some(expected) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

async fn looks(eu: &Client) -> String {
    let sql = "SELECT marks::text FROM domicile.publication";
    eu.query_one(sql, &[]).await.unwrap().get(0)
}

async fn major(client: &Client) -> i32 {
    let sql = "SELECT current_setting('server_version_num')::int / 10000";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn repair(regions: &Regions) {
    let output = Command::new(regions.binary())
        .args(["verify", "--repair", "--config"])
        .arg(regions.config_file("eu"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Writes three rows that eu owns.
async fn write(eu: &Client, table: &str, note: &str) {
    let sql = format!(
        "INSERT INTO {table} SELECT id, $1 FROM generate_series(1, 100) id
         WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu' LIMIT 3
         ON CONFLICT (id) DO UPDATE SET note = excluded.note"
    );
    assert_eq!(eu.execute(&sql, &[&note]).await.unwrap(), 3);
}
