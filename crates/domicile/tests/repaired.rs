//! Does every kind of row become what history has, after a tail that touched it was cut off?
//!
//! With `rpo = "none"`: an owner that nobody hears commits, another takes over, and the old one comes
//! back. One world for all kinds.

use std::process::{Command, Output};

use domicile::lab::regions::Regions;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, converge, eventually, start};

const SEED: &str = "
    CREATE EXTENSION ltree;
    CREATE EXTENSION citext;
    CREATE TYPE shade AS (light int, name text);
    CREATE FUNCTION shade_text(shade) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'a shade' $$;
    CREATE CAST (shade AS text) WITH FUNCTION shade_text(shade);
    CREATE TABLE invoice (id int PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY, note text);
    CREATE TABLE branch (path ltree PRIMARY KEY, note text);
    CREATE TABLE person (name citext PRIMARY KEY, colour shade, note text);
    CREATE TABLE seat (id int PRIMARY KEY, place text UNIQUE);
    CREATE TABLE page (id int PRIMARY KEY, body text);
    ALTER TABLE page REPLICA IDENTITY FULL;
    CREATE TABLE heap (id int NOT NULL, document json, at point, body text);
    ALTER TABLE heap REPLICA IDENTITY FULL;
    CREATE TABLE tally (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);
    INSERT INTO invoice (id, note) SELECT i, 'seed' FROM generate_series(1, 6) i;
    INSERT INTO branch SELECT ('top.b' || i)::ltree, 'seed' FROM generate_series(1, 6) i;
    INSERT INTO person SELECT 'Name ' || i, (i, 'c')::shade, 'seed' FROM generate_series(1, 6) i;
    INSERT INTO seat SELECT i, 'place ' || i FROM generate_series(1, 6) i;
    INSERT INTO page SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 6) i;
    INSERT INTO heap SELECT i, '{\"b\": 1, \"a\": 2}', point(i, 1), repeat(md5(i::text), 200)
    FROM generate_series(1, 6) i;
    INSERT INTO tally (n) SELECT 0 FROM generate_series(1, 6) i;";

const TABLES: &str = "
[[table]]
name = \"invoice\"

[[table]]
name = \"branch\"

[[table]]
name = \"person\"

[[table]]
name = \"seat\"

[[table]]
name = \"page\"

[[table]]
name = \"heap\"

[[table]]
name = \"tally\"
kind = \"shared\"
";

/// What eu alone commits, each statement for itself.
const TAIL: [&str; 19] = [
    "UPDATE invoice SET note = 'lost' WHERE id = 1",
    "DELETE FROM invoice WHERE id = 2",
    "INSERT INTO invoice (id, note) VALUES (7, 'lost')",
    // It gets another number than history's.
    "DELETE FROM invoice WHERE id = 3",
    "INSERT INTO invoice (id, note) VALUES (3, 'lost')",
    "UPDATE branch SET note = 'lost' WHERE path = 'top.b1'",
    "DELETE FROM branch WHERE path = 'top.b2'",
    "UPDATE person SET note = 'lost', colour = (9, 'x') WHERE name = 'name 1'",
    "DELETE FROM person WHERE name = 'name 2'",
    // Two rows exchange what no two may have.
    "BEGIN; UPDATE seat SET place = 'kept' WHERE id = 1; UPDATE seat SET place = 'place 1' WHERE id = 2;
     UPDATE seat SET place = 'place 2' WHERE id = 1; COMMIT",
    "INSERT INTO seat VALUES (7, 'taken again')",
    "UPDATE page SET body = body || 'lost' WHERE id = 1",
    "DELETE FROM page WHERE id = 2",
    "INSERT INTO page VALUES (7, repeat(md5('lost'), 200))",
    "UPDATE heap SET document = '{\"lost\": 1}' WHERE id = 1",
    "DELETE FROM heap WHERE id = 2",
    "INSERT INTO heap VALUES (7, '{}', point(0, 0), repeat(md5('lost'), 200))",
    "UPDATE tally SET n = 1 WHERE id = 1",
    "INSERT INTO tally (n) VALUES (7)",
];

const ITEMS: &str = "
    CREATE TABLE item (id int PRIMARY KEY, n int);
    INSERT INTO item SELECT i, 0 FROM generate_series(1, 9) i;";

const OWNED: [&str; 6] = ["invoice", "branch", "person", "seat", "page", "heap"];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_row_is_what_history_has_after_a_tail_was_cut_off() {
    let regions = world(&["eu", "us"], SEED, TABLES).await;
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());

    regions.links().isolate("eu");
    for statement in TAIL {
        eu.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
    let done = run(&regions, &["failover", "--from", "eu", "--to", "us", "--attest"]);
    assert!(done.status.success(), "{done:?}");
    // As a client does that was not answered.
    us.batch_execute("INSERT INTO seat VALUES (8, 'taken again')").await.unwrap();
    let history = rows(&us).await;
    regions.links().rejoin("eu");
    are_journaled(&eu, 19).await;
    converge(&regions).await;

    assert_eq!(rows(&eu).await, history, "eu has what history has");
    assert_eq!(rows(&us).await, history, "us has nothing else");
    let sql = "SELECT count(*) || ' ' || sum(n) FROM tally";
    for client in [&eu, &us] {
        let shared: String = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(shared, "7 8", "no owner, so nothing of it is past a cut");
    }
    assert_alike(&regions, &["tally"]).await;
    let verified = run(&regions, &["verify"]);
    assert!(verified.status.success(), "{verified:?}");
}

async fn world(names: &[&str], seed: &str, tables: &str) -> Regions {
    let mut config = config(names, "whole", 1);
    config.rpo = "none".to_owned();
    config.seed_sql = seed.to_owned();
    config.tables = tables.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions
}

/// Waits until so many changes of the tail are in the journal.
async fn are_journaled(client: &Client, changes: i64) {
    eventually("what was lost is in the journal", async || {
        let sql = "SELECT count(*) FROM domicile.journal WHERE conflict = 'beyond_cut'";
        let row = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        let found: i64 = row.get(0);
        if found == changes { Ok(()) } else { Err(format!("{found} entries")) }
    })
    .await;
}

/// Everything that the owned tables have, as text.
async fn rows(client: &Client) -> Vec<String> {
    let mut rows = Vec::new();
    for table in OWNED {
        let sql = format!("SELECT '{table} ' || row_::text FROM {table} row_ ORDER BY 1");
        let found = client.query(&sql, &[]).await.unwrap();
        rows.extend(found.iter().map(|row| row.get::<_, String>(0)));
    }
    rows
}

fn run(regions: &Regions, arguments: &[&str]) -> Output {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("us"));
    command.output().unwrap()
}

/// eu commits what ap alone takes, and us takes over with neither: what ap shows of it is no history
/// either, and neither of the two may take it from the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_applied_a_tail_gives_it_to_nobody_and_gets_rid_of_it() {
    let regions = world(&["eu", "us", "ap"], ITEMS, "[[table]]\nname = \"item\"\n").await;
    let (eu, ap) = (regions.connect("eu").await.unwrap(), regions.connect("ap").await.unwrap());
    eu.execute("UPDATE item SET n = 1 WHERE id = 1", &[]).await.unwrap();
    converge(&regions).await;

    let links = regions.links();
    links.cut("eu", "us");
    links.cut("us", "ap");
    eu.execute("UPDATE item SET n = 2 WHERE id = 1", &[]).await.unwrap();
    eu.execute("DELETE FROM item WHERE id = 2", &[]).await.unwrap();
    shows(&ap, "1:2 3:0").await;
    links.isolate("eu");
    links.isolate("ap");
    let done = run(&regions, &["failover", "--from", "eu", "--to", "us", "--attest"]);
    assert!(done.status.success(), "{done:?}");
    let us = regions.connect("us").await.unwrap();
    us.execute("UPDATE item SET n = n + 10 WHERE id = 3", &[]).await.unwrap();

    // us stays away from both: each can ask the other alone.
    for region in ["eu", "ap"] {
        links.heal_directory(region);
    }
    links.heal("eu", "ap");
    for client in [&eu, &ap] {
        are_journaled(client, 2).await;
    }
    for region in ["eu", "ap"] {
        eventually(&format!("{region} says that nobody can tell"), async || {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            let said = status.says("repair_fails");
            if said { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
    }
    for region in ["eu", "ap"] {
        links.rejoin(region);
    }
    for client in [&eu, &ap, &us] {
        shows(client, "1:1 2:0 3:10").await;
        eventually("nothing waits for repair", async || {
            let sql = "SELECT count(*) FROM domicile.repair";
            let row = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
            match row.get::<_, i64>(0) {
                0 => Ok(()),
                rows => Err(format!("{rows} rows do")),
            }
        })
        .await;
    }
    assert_alike(&regions, &["item"]).await;
}

/// A row is written past the guard where it is owned, right behind a write that counts, of which the
/// peer shows nothing yet: the peer's row would undo it.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_has_committed_outlives_the_repair_of_what_was_written_behind_it() {
    let regions = world(&["eu", "us"], ITEMS, "[[table]]\nname = \"item\"\n").await;
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
    let holder = regions.connect("us").await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE item IN SHARE MODE").await.unwrap();
    eu.batch_execute("UPDATE item SET n = 5 WHERE id < 3").await.unwrap();
    let behind = "BEGIN; ALTER TABLE item DISABLE TRIGGER ALL;
                  UPDATE item SET n = 99 WHERE id = 1; INSERT INTO item VALUES (10, 99);
                  ALTER TABLE item ENABLE TRIGGER ALL; COMMIT";
    // Its session may be ended before it is told anything.
    let _ = regions.connect("eu").await.unwrap().batch_execute(behind).await;
    eventually("eu says that the peer is behind", async || {
        let status = regions.status("eu").await.map_err(|e| e.to_string())?;
        let said = status.says("repair_fails");
        if said { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await;
    shows(&eu, "1:99 2:5 3:0").await;
    // It goes on meanwhile.
    eu.batch_execute("UPDATE item SET n = n + 1 WHERE id = 2").await.unwrap();
    holder.batch_execute("COMMIT").await.unwrap();
    for client in [&eu, &us] {
        shows(client, "1:5 2:6 3:0").await;
    }
    converge(&regions).await;
    assert_alike(&regions, &["item"]).await;
}

async fn shows(client: &Client, wanted: &str) {
    eventually(&format!("{wanted} is shown"), async || {
        let sql = "SELECT string_agg(id || ':' || n, ' ' ORDER BY id) FROM item WHERE id < 4";
        let row = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        let seen: String = row.get(0);
        if seen == wanted { Ok(()) } else { Err(seen) }
    })
    .await;
}
