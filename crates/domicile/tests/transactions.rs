//! Does every kind of transaction reach the other region as a whole, or not at all?
//!
//! Two regions, one owner, RPO 0. One world for all sections: they follow each other in the order
//! of the file. A row takes 8 kB, so that a few hundred make a large transaction: one that
//! PostgreSQL streams while it runs.

use std::path::{Path, PathBuf};

use domicile::lab::regions::Regions;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, eventually, start};

const SEED: &str = "
    CREATE TABLE item (id int PRIMARY KEY, note text, extra int);
    ALTER TABLE item ALTER note SET STORAGE EXTERNAL;
    CREATE TABLE mark (id int PRIMARY KEY);
    CREATE FUNCTION filler(id int) RETURNS text LANGUAGE sql IMMUTABLE AS
        $$ SELECT repeat(md5(id::text), 256) $$;
    CREATE FUNCTION fill(first int, last int) RETURNS void LANGUAGE sql AS
        $$ INSERT INTO item SELECT i, filler(i) FROM generate_series(first, last) i $$;
    CREATE FUNCTION try_and_fail(first int, last int) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM fill(first, last);
        RAISE 'on purpose';
    EXCEPTION WHEN raise_exception THEN NULL;
    END $$;
    DO $$ BEGIN
        FOR i IN 1..100 LOOP
            EXECUTE format('CREATE TABLE one_%s (id int PRIMARY KEY, v int)', i);
        END LOOP;
    END $$;";

/// Tables of which a transaction may touch every one.
const MANY_TABLES: i32 = 100;

/// So many rows are certainly streamed.
const MANY: i32 = 800;

struct World {
    regions: Regions,
    eu: Client,
    us: Client,
    marks: i32,
}

impl World {
    async fn start() -> Self {
        let mut config = config(&["eu", "us"], "whole", 1);
        config.seed_sql = SEED.to_owned();
        let small = (1..=MANY_TABLES).map(|i| format!("one_{i}"));
        let tables = ["item", "mark"].map(str::to_owned).into_iter().chain(small);
        config.tables = tables.map(|name| format!("[[table]]\nname = \"{name}\"\n")).collect();
        let mut regions = Regions::create(config).await.unwrap();
        start(&mut regions).await;
        let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
        Self { regions, eu, us, marks: 0 }
    }

    async fn execute(&self, sql: &str) {
        self.eu.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// Waits until us shows all that eu has committed, and compares.
    async fn settle(&mut self) {
        self.marks += 1;
        let mark = self.marks;
        self.execute(&format!("INSERT INTO mark VALUES ({mark})")).await;
        eventually("us shows the mark", async || {
            let sql = "SELECT count(*) FROM mark WHERE id = $1";
            let seen: i64 = self.us.query_one(sql, &[&mark]).await.unwrap().get(0);
            if seen == 1 { Ok(()) } else { Err(format!("mark {mark} is not there")) }
        })
        .await;
        assert_alike(&self.regions, &["item", "mark"]).await;
    }

    async fn one(&self, client: &Client, sql: &str) -> i64 {
        client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
    }

    async fn items(&self) -> i64 {
        self.one(&self.us, "SELECT count(*) FROM item").await
    }

    async fn journaled(&self, region: &Client) -> i64 {
        self.one(region, "SELECT count(*) FROM domicile.journal").await
    }

    fn log_of_eu(&self, at: &str) -> PathBuf {
        self.regions.folder().join(at).join("agent/log/eu-1")
    }

    fn large_records(&self, at: &str) -> usize {
        files(&self.log_of_eu(at), ".parts")
    }

    /// Waits until so many open transactions have begun to be written to the disk.
    async fn spooled(&self, wanted: std::ops::RangeInclusive<usize>) {
        let folder = self.log_of_eu("eu").join("spool");
        eventually("open transactions are spooled", async || match files(&folder, "") {
            found if wanted.contains(&found) => Ok(()),
            found => Err(format!("{found} of {wanted:?}")),
        })
        .await;
    }
}

fn files(folder: &Path, ending: &str) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().ends_with(ending)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_arrives_whole_or_not_at_all() {
    let mut world = World::start().await;
    a_large_one_shows_at_once(&mut world).await;
    what_is_rolled_back_within_one_stays_away(&mut world).await;
    a_large_one_that_is_rolled_back_leaves_nothing(&mut world).await;
    several_at_a_time_are_kept_apart(&mut world).await;
    a_stream_that_breaks_in_the_middle_begins_again(&mut world).await;
    an_agent_that_dies_in_the_middle_begins_again(&mut world).await;
    a_surprise_in_a_large_one_is_settled_row_by_row(&mut world).await;
    odd_ones_hold_nobody_up(&mut world).await;
    a_large_one_past_the_guard_is_journaled_and_repaired(&mut world).await;
}

async fn a_large_one_shows_at_once(world: &mut World) {
    world.execute(&format!("SELECT fill(1, {MANY})")).await;
    eventually("us shows the rows", async || match world.items().await {
        0 => Err("none yet".to_owned()),
        all => {
            assert_eq!(all, i64::from(MANY), "all at once");
            Ok(())
        }
    })
    .await;
    world.settle().await;
    assert_eq!((world.large_records("eu"), world.large_records("us")), (1, 1));
    world.spooled(0..=0).await;
}

/// Nothing to ship, nothing but DDL, a hundred tables, thousands of subtransactions, and messages
/// of the application's own, some of which look like ours.
async fn odd_ones_hold_nobody_up(world: &mut World) {
    let before = world.journaled(&world.eu).await;
    world
        .execute(
            "BEGIN; COMMIT;
             BEGIN; SELECT count(*) FROM item; COMMIT;
             BEGIN; CREATE TABLE stays_here (id int); INSERT INTO stays_here VALUES (1); COMMIT;
             BEGIN; CREATE INDEX ON stays_here (id); DROP TABLE stays_here; COMMIT;
             BEGIN; CREATE TABLE stays_nowhere (id int); COMMIT;
             BEGIN; UPDATE item SET extra = 9; ROLLBACK;",
        )
        .await;
    let each = (1..=MANY_TABLES).map(|i| format!("INSERT INTO one_{i} VALUES ({i}, {i});"));
    world.execute(&format!("BEGIN; {} COMMIT;", each.collect::<String>())).await;
    world
        .execute(
            "DO $$ BEGIN
                 FOR i IN 1..3000 LOOP
                     BEGIN
                         INSERT INTO one_1 VALUES (1000 + i, i);
                         IF i % 3 = 0 THEN RAISE 'on purpose'; END IF;
                     EXCEPTION WHEN raise_exception THEN NULL;
                     END;
                 END LOOP;
             END $$",
        )
        .await;
    world
        .execute(
            "SELECT pg_logical_emit_message(true, 'theirs', 'some text'),
                    pg_logical_emit_message(false, 'theirs', repeat('x', 100000)),
                    pg_logical_emit_message(false, 'domicile.barrier', 'nobodys');
             BEGIN;
             SELECT pg_logical_emit_message(true, 'theirs', '\\xff00'::bytea),
                    pg_logical_emit_message(true, 'domicile.barrier', 'nobodys'),
                    pg_logical_emit_message(true, 'domicile.stamp', '\\xff00'::bytea),
                    pg_logical_emit_message(true, 'domicile.stamp', 'no stamp'),
                    pg_logical_emit_message(true, 'domicile.stamp', '0:999999'),
                    pg_logical_emit_message(true, 'domicile.stamp', '0:0'),
                    pg_logical_emit_message(true, 'domicile.stamp', '9:1:1');
             INSERT INTO one_2 VALUES (1000, 1);
             COMMIT;
             BEGIN;
             SELECT pg_logical_emit_message(true, 'domicile.stamp', '0:999999');
             INSERT INTO stays_nowhere VALUES (1);
             COMMIT;",
        )
        .await;
    world.settle().await;
    let small: Vec<String> = (1..=MANY_TABLES).map(|i| format!("one_{i}")).collect();
    let small: Vec<&str> = small.iter().map(String::as_str).collect();
    assert_alike(&world.regions, &small).await;
    assert_eq!(world.one(&world.us, "SELECT count(*) FROM one_1").await, 2001);
    assert_eq!(world.one(&world.us, "SELECT count(*) FROM one_2").await, 2);
    assert_eq!(world.journaled(&world.eu).await, before);
}

/// The guard's stamps go with the part that is rolled back, and come again with what is kept.
async fn what_is_rolled_back_within_one_stays_away(world: &mut World) {
    world
        .execute(
            "TRUNCATE item;
             BEGIN;
             SAVEPOINT a; SELECT fill(1, 700); ROLLBACK TO a;
             SELECT fill(1001, 1700);
             SAVEPOINT b; UPDATE item SET extra = 1; SAVEPOINT c; SELECT fill(2001, 2700); RELEASE c;
             ROLLBACK TO b;
             SELECT try_and_fail(3001, 3300);
             SAVEPOINT d; ALTER TABLE item ADD COLUMN late int; SELECT fill(4001, 4100);
             UPDATE item SET late = 1 WHERE id = 4001; ROLLBACK TO d;
             UPDATE item SET extra = 2 WHERE id < 1010;
             SAVEPOINT e; SELECT fill(5001, 5010); RELEASE e;
             COMMIT;",
        )
        .await;
    world.settle().await;
    assert_eq!(world.items().await, 710);
    assert_eq!(world.one(&world.us, "SELECT count(*) FROM item WHERE extra = 2").await, 9);
    assert_eq!((world.journaled(&world.eu).await, world.journaled(&world.us).await), (0, 0));
}

async fn a_large_one_that_is_rolled_back_leaves_nothing(world: &mut World) {
    let before = (world.items().await, world.large_records("us"));
    world.execute("BEGIN; SELECT fill(10001, 11000)").await;
    world.spooled(1..=1).await;
    world.execute("ROLLBACK").await;
    world.settle().await;
    assert_eq!((world.items().await, world.large_records("us")), before);
    world.spooled(0..=0).await;
}

async fn several_at_a_time_are_kept_apart(world: &mut World) {
    let before = world.items().await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(world.regions.connect("eu").await.unwrap());
    }
    for other in &others {
        other.batch_execute("BEGIN").await.unwrap();
    }
    for round in 0..7 {
        for (other, base) in others.iter().zip([20_000, 30_000, 40_000]) {
            let first = base + round * 100 + 1;
            other.batch_execute(&format!("SELECT fill({first}, {})", first + 99)).await.unwrap();
        }
        world.execute(&format!("SELECT fill({}, {})", 50_001 + round, 50_001 + round)).await;
    }
    world.spooled(2..=3).await;
    for (other, end) in others.iter().zip(["COMMIT", "ROLLBACK", "COMMIT"]) {
        other.batch_execute(end).await.unwrap();
    }
    world.settle().await;
    assert_eq!(world.items().await, before + 1400 + 7);
    world.execute("DELETE FROM item WHERE id > 10000").await;
    world.settle().await;
}

async fn a_stream_that_breaks_in_the_middle_begins_again(world: &mut World) {
    let before = world.items().await;
    let other = world.regions.connect("eu").await.unwrap();
    other.batch_execute("BEGIN; SELECT fill(10001, 11100)").await.unwrap();
    world.spooled(1..=1).await;
    let sql = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots";
    assert_eq!(world.one(&world.eu, sql).await, 1);
    world.spooled(0..=0).await;
    other.batch_execute("SELECT fill(11101, 11200); COMMIT").await.unwrap();
    world.settle().await;
    assert_eq!(world.items().await, before + 1200);
}

async fn an_agent_that_dies_in_the_middle_begins_again(world: &mut World) {
    let (before, large) = (world.items().await, world.large_records("eu"));
    let other = world.regions.connect("eu").await.unwrap();
    other.batch_execute("BEGIN; SELECT fill(20001, 21100)").await.unwrap();
    world.spooled(1..=1).await;
    world.regions.kill_agent("us");
    let commit =
        tokio::spawn(async move { other.batch_execute("SELECT fill(21101, 21200); COMMIT").await });
    eventually("it is in the log of eu", async || match world.large_records("eu") {
        count if count > large => Ok(()),
        count => Err(format!("{count} large records")),
    })
    .await;
    world.regions.kill_agent("eu");
    world.regions.start_agent("eu").unwrap();
    world.regions.start_agent("us").unwrap();
    world.regions.wait_until_ready().await.unwrap();
    // It may have been cut off while it waited, but it has committed.
    let _ = commit.await.unwrap();
    world.settle().await;
    assert_eq!(world.items().await, before + 1200);
    assert_eq!(world.large_records("eu"), large + 1);
    assert_eq!((world.journaled(&world.eu).await, world.journaled(&world.us).await), (0, 0));
}

/// One row is missing in us: the rest of the transaction is applied all the same, in one piece.
async fn a_surprise_in_a_large_one_is_settled_row_by_row(world: &mut World) {
    for statement in [
        "SELECT pg_replication_origin_create('domicile_test')",
        "SELECT pg_replication_origin_session_setup('domicile_test')",
        "DELETE FROM item WHERE id = 20500",
        "SELECT pg_replication_origin_session_reset()",
    ] {
        world.us.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
    world.execute("UPDATE item SET extra = 7, note = filler(id + 1) WHERE id > 20000").await;
    world.settle().await;
    let sql = "SELECT count(*) FROM domicile.journal
               WHERE conflict = 'update_missing' AND key = '{\"id\": \"20500\"}'";
    assert_eq!(world.one(&world.us, sql).await, 1);
    assert_eq!(world.journaled(&world.us).await, 1);
}

/// A superuser can write past the guard; what comes of it is in the journal, row by row.
async fn a_large_one_past_the_guard_is_journaled_and_repaired(world: &mut World) {
    let before = world.items().await;
    let other = world.regions.connect("eu").await.unwrap();
    let written = other
        .batch_execute(
            "BEGIN; ALTER TABLE item DISABLE TRIGGER ALL; SELECT fill(30001, 30600);
             ALTER TABLE item ENABLE TRIGGER ALL; COMMIT",
        )
        .await;
    assert!(written.is_err(), "it is not told that this is safe");
    eventually("the rows are journaled", async || match world.journaled(&world.eu).await {
        600 => Ok(()),
        other => Err(format!("{other} of 600")),
    })
    .await;
    let sql = "SELECT count(DISTINCT change) FROM domicile.journal WHERE conflict = 'unstamped'";
    assert_eq!(world.one(&world.eu, sql).await, 600);
    eventually("the rows are repaired", async || {
        match world.one(&world.eu, "SELECT count(*) FROM item").await {
            count if count == before => Ok(()),
            count => Err(format!("{count} rows, not {before}")),
        }
    })
    .await;
    world.settle().await;
}
