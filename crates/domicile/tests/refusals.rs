//! What becomes of a change that PostgreSQL refuses: is it tried again, or is the rest let by?
//!
//! A trigger that fires for applied rows refuses them with each of PostgreSQL's classes of errors: so often as a
//! sequence says, which no rollback takes back.

use domicile::lab::regions::Regions;
use tokio_postgres::Client;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{config, eventually, start};

const SEED: &str = "
    CREATE TABLE item (id int PRIMARY KEY, code text);
    CREATE SEQUENCE tries;
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.code IS NOT NULL AND nextval('public.tries') <= 3 THEN
            RAISE EXCEPTION USING ERRCODE = NEW.code, MESSAGE = 'refused on purpose';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse();
    ALTER TABLE item ENABLE REPLICA TRIGGER refuse;";

/// A deadlock, a serialization failure, a lock that is not to be had, no room, an end of the server.
const PASS: [&str; 8] = ["40P01", "40001", "55P03", "53100", "53200", "53300", "57P01", "57P03"];
/// A value that does not fit, a check, a right, a trigger of the application's own.
const STAY: [&str; 4] = ["22003", "23514", "42501", "P0001"];

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_itself_is_tried_again_and_what_does_not_lets_the_rest_by() {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.rpo = "none".to_owned();
    config.seed_sql = SEED.to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
    for (id, code) in (1..).zip(PASS) {
        write(&eu, &us, id, code).await;
        shows(&us, id).await;
        let tried: i64 = us.query_one("SELECT last_value FROM tries", &[]).await.unwrap().get(0);
        assert!(tried > 3, "{code}: tried {tried} times");
    }
    let journal = "SELECT coalesce(string_agg(key ->> 'id', ' ' ORDER BY id), '')
                   FROM domicile.journal WHERE conflict = 'apply_error' AND status = 'open'";
    let text: String = us.query_one(journal, &[]).await.unwrap().get(0);
    assert_eq!(text, "", "nothing was given up");

    for (id, code) in (101..).zip(STAY) {
        write(&eu, &us, id, code).await;
        eu.execute("INSERT INTO item VALUES ($1)", &[&(id + 100)]).await.unwrap();
        shows(&us, id + 100).await;
    }
    let text: String = us.query_one(journal, &[]).await.unwrap().get(0);
    assert_eq!(text, "101 102 103 104", "each is told of once, and the rest went on");
}

/// A server that has nothing to do for this database but much for another one frees its WAL.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_moves_on_while_only_other_databases_of_the_server_are_written() {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.rpo = "none".to_owned();
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let eu = regions.connect("eu").await.unwrap();
    eu.batch_execute("CREATE DATABASE other").await.unwrap();
    let to_other = format!("{} dbname=other", regions.postgres("eu"));
    let (other, driver) = tokio_postgres::connect(&to_other, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(driver);
    other
        .batch_execute(
            "CREATE TABLE busy AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)",
        )
        .await
        .unwrap();
    let now = "SELECT pg_current_wal_lsn()::text";
    let here: String = eu.query_one(now, &[]).await.unwrap().get(0);
    eventually("the slot has passed it", async || {
        // What a slot holds back goes by what was running: a checkpoint tells.
        eu.batch_execute("CHECKPOINT").await.map_err(|e| e.to_string())?;
        let sql =
            "SELECT confirmed_flush_lsn >= $1::text::pg_lsn AND restart_lsn >= $1::text::pg_lsn,
                          confirmed_flush_lsn || ' ' || restart_lsn
                   FROM pg_replication_slots WHERE slot_type = 'logical'";
        let slot = eu.query_one(sql, &[&here]).await.map_err(|e| e.to_string())?;
        if slot.get(0) { Ok(()) } else { Err(slot.get(1)) }
    })
    .await;
}

/// Commits at the owner what the other region's trigger refuses three times.
async fn write(eu: &Client, us: &Client, id: i32, code: &str) {
    us.batch_execute("ALTER SEQUENCE tries RESTART").await.unwrap();
    eu.execute("INSERT INTO item VALUES ($1, $2)", &[&id, &code]).await.unwrap();
}

async fn shows(client: &Client, id: i32) {
    eventually(&format!("row {id} is applied"), async || {
        let row = client.query_one("SELECT count(*) FROM item WHERE id = $1", &[&id]).await;
        match row.map_err(|e| e.to_string())?.get::<_, i64>(0) {
            1 => Ok(()),
            _ => Err("it is not".to_owned()),
        }
    })
    .await;
}
