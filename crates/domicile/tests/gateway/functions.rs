//! Does a session that reads near have at the owner what may do something though nothing in its text writes?

use crate::only_reads::{near, near_in};
use crate::*;

const TABLES: &str = "
    CREATE TABLE plain (id int PRIMARY KEY);
    CREATE FUNCTION touch() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION look() RETURNS int LANGUAGE sql STABLE AS 'SELECT 2';
    CREATE FUNCTION seeming() RETURNS int LANGUAGE plpgsql STABLE AS
        $$ BEGIN RETURN nextval('numbers'); END $$;
    CREATE SEQUENCE numbers;
    CREATE VIEW touched AS SELECT touch() AS id;
    CREATE VIEW once_more AS SELECT id FROM touched;
    CREATE VIEW told AS SELECT pg_notify('news', 'x')::text FROM plain;
    CREATE VIEW rolled AS SELECT random() AS id;";
const PLACE: &str = "current_setting('cluster_name')";

async fn owned_by_the_other() -> (Region, Region) {
    let (eu, us) = Wanted::new(Mode::FollowOwner).knowing().owner("us").two_regions().await;
    for region in [&eu, &us] {
        region.run(TABLES).await;
    }
    (eu, us)
}

async fn route(client: &Client) -> String {
    simple(client, "SHOW domicile.route").await.unwrap()
}

#[tokio::test]
async fn what_may_do_something_begins_at_the_owner_and_says_why() {
    let (eu, _us) = owned_by_the_other().await;
    let client = near(&eu).await;
    for (sql, why) in [
        (format!("SELECT {PLACE}, touch()"), "function public.touch() is volatile"),
        (
            format!("SELECT {PLACE} FROM touched"),
            "view public.touched calls public.touch(), which is volatile",
        ),
        (
            format!("SELECT {PLACE} FROM once_more"),
            "view public.once_more calls public.touch(), which is volatile",
        ),
        (
            format!("SELECT {PLACE} FROM (SELECT count(*) FROM told) t"),
            "view public.told calls pg_catalog.pg_notify(), which is volatile",
        ),
        (
            format!("SELECT {PLACE}, pg_notify('news', 'x')"),
            "function pg_catalog.pg_notify() is volatile",
        ),
        // Of two statements, whatever the first has shown.
        (format!("SELECT {PLACE}; INSERT INTO plain VALUES (1)"), "INSERT is no read"),
    ] {
        assert_eq!(simple(&client, &sql).await.unwrap(), "us", "{sql}");
        assert_eq!(route(&client).await, format!("us: the owner, because {why}"), "{sql}");
    }
    let prepared = client.prepare(&format!("SELECT {PLACE}, touch()")).await.unwrap();
    let row = within(client.query_one(&prepared, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "us");
    within(client.batch_execute("BEGIN")).await.unwrap();
    assert_eq!(simple(&client, &format!("SELECT {PLACE}, touch()")).await.unwrap(), "us");
    within(client.batch_execute("COMMIT")).await.unwrap();
}

#[tokio::test]
async fn what_only_looks_or_promises_to_stays() {
    let (eu, us) = owned_by_the_other().await;
    let client = near(&eu).await;
    for sql in [
        format!("SELECT {PLACE}, look(), random(), clock_timestamp(), gen_random_uuid()"),
        format!("SELECT {PLACE}, pg_sleep(0), coalesce(NULL, now()), pg_backend_pid()"),
        format!("SELECT {PLACE} FROM rolled"),
        format!("WITH plain AS (SELECT 1) SELECT {PLACE} FROM plain"),
        format!("SELECT {PLACE}, extract(year FROM now()), substring('abc' FROM 2), CURRENT_DATE"),
        format!("BEGIN READ ONLY; SELECT {PLACE}, touch(); COMMIT"),
        format!("CREATE TEMP TABLE made AS SELECT touch(); SELECT {PLACE}"),
        format!("SELECT {PLACE}, touch() FROM made"),
    ] {
        assert_eq!(simple(&client, &sql).await.unwrap(), "eu", "{sql}");
    }
    // What another database has of that name is not known.
    for region in [&eu, &us] {
        region.run("CREATE DATABASE other").await;
        let port = region.cluster.port();
        let address = format!("host=127.0.0.1 port={port} user=postgres dbname=other");
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
        tokio::spawn(connection);
        let touch = "CREATE FUNCTION touch() RETURNS int LANGUAGE sql AS 'SELECT 1'";
        client.batch_execute(touch).await.unwrap();
    }
    let other = near_in(&eu, "other").await;
    assert_eq!(simple(&other, &format!("SELECT {PLACE}, touch()")).await.unwrap(), "eu");
}

#[tokio::test]
async fn what_was_refused_once_is_known_the_next_time() {
    let (eu, us) = owned_by_the_other().await;
    let client = near(&eu).await;
    let sql = "SELECT seeming()";
    within(client.batch_execute(sql)).await.unwrap();
    assert!(route(&client).await.contains("where it was tried"), "{}", route(&client).await);
    within(client.batch_execute(sql)).await.unwrap();
    let known = "us: the owner, because it was refused where it only could read";
    assert_eq!(route(&client).await, known);
    let other = near(&eu).await;
    within(other.batch_execute(sql)).await.unwrap();
    assert_eq!(route(&other).await, known);
    assert_eq!(us.count("SELECT last_value FROM numbers").await, 3);
}

#[tokio::test]
async fn where_the_owner_is_not_reached_what_may_only_read_is_tried_here() {
    let (eu, mut us) = owned_by_the_other().await;
    us.stop.cancel();
    us.cluster.kill();
    let client = near(&eu).await;
    assert_eq!(simple(&client, &format!("SELECT {PLACE}, touch()")).await.unwrap(), "eu");
}
