//! Does a region that catches up, several batches at a time, end with the same rows as the others?
//!
//! The rows make it hard: some are changed in every batch, values of a unique index move between
//! rows, rows go and come again, keys change.

use std::time::Duration;

use domicile::lab::regions::Regions;

mod regions;
use regions::{assert_alike, config, eventually, start};

const SEED_SQL: &str = "
    CREATE TABLE item (
        id bigint PRIMARY KEY,
        slot integer UNIQUE,
        count integer NOT NULL DEFAULT 0,
        filling text NOT NULL);
    INSERT INTO item SELECT id, id, 0, '' FROM generate_series(1, 2000) id;
    CREATE TABLE entry (item bigint NOT NULL, note text);
    CREATE TABLE mark (id integer PRIMARY KEY)";
const TABLES: &str = "
[[table]]
name = \"item\"

[[table]]
name = \"entry\"

[[table]]
name = \"mark\"
";

/// Every 20th change is one of ten rows, and every change adds an entry.
const UPDATES: &str = "DO $$
    DECLARE row_ bigint;
    BEGIN
        FOR i IN 1 .. 8000 LOOP
            row_ := CASE WHEN i % 20 = 0 THEN i / 20 % 10 + 1 ELSE 1 + floor(random() * 2000) END;
            UPDATE item SET count = count + 1, filling = repeat(md5(i::text), 20) WHERE id = row_;
            INSERT INTO entry VALUES (row_, 'change ' || i);
            COMMIT;
        END LOOP;
    END $$";

/// Five unique values go from one row to the next, each of which goes soon; others change rows in
/// one transaction; now and then a key changes.
const CHURN: &str = "DO $$
    DECLARE one bigint; other bigint; taken integer;
    BEGIN
        FOR i IN 1 .. 1500 LOOP
            DELETE FROM item WHERE slot = -(i % 5);
            COMMIT;
            INSERT INTO item VALUES (10000 + i, -(i % 5), i, repeat(md5(i::text), 20));
            COMMIT;
            one := 1 + floor(random() * 1000);
            other := 1001 + floor(random() * 1000);
            UPDATE item SET slot = NULL WHERE id = one RETURNING (SELECT slot FROM item WHERE id = one) INTO taken;
            UPDATE item SET slot = NULL, filling = 'took ' || i WHERE slot = i % 2000;
            UPDATE item SET slot = i % 2000 WHERE id = other;
            COMMIT;
            IF i % 500 = 0 THEN
                UPDATE item SET id = 100000 + i WHERE id = one;
                COMMIT;
            END IF;
        END LOOP;
    END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_catches_up_ends_with_the_same_rows() {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.rpo = "none".to_owned();
    // The owner goes on alone.
    config.lease = Duration::from_secs(600);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;

    catch_up(&mut regions, 1, UPDATES).await;
    let us = regions.connect("us").await.unwrap();
    let sql = "SELECT count(*) FROM pg_replication_origin WHERE roname = 'domicile_eu-1/2'";
    let seconds: i64 = us.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(seconds, 1, "no batches overlapped");

    catch_up(&mut regions, 2, CHURN).await;
    let sql = "SELECT coalesce(string_agg(to_jsonb(j)::text, ' '), '') FROM domicile.journal j";
    let journal: String = us.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(journal, "", "nothing was in anybody's way");
}

/// Lets one region write a backlog while the other is down, and the other apply it.
async fn catch_up(regions: &mut Regions, mark: i32, backlog: &str) {
    regions.kill_agent("us");
    let eu = regions.connect("eu").await.unwrap();
    eu.batch_execute("SET synchronous_commit = off").await.unwrap();
    eu.batch_execute(backlog).await.unwrap();
    eu.execute("INSERT INTO mark VALUES ($1)", &[&mark]).await.unwrap();
    regions.start_agent("us").unwrap();

    let us = regions.connect("us").await.unwrap();
    eventually("the backlog is applied", async || {
        let row = us.query_opt("SELECT FROM mark WHERE id = $1", &[&mark]).await;
        row.map_err(|e| e.to_string())?.map(drop).ok_or_else(|| "no mark".to_owned())
    })
    .await;
    assert_alike(regions, &["item", "entry", "mark"]).await;
}
