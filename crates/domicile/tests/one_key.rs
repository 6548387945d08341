//! Two owners write a row each under one key: do all regions end with the same one?
//!
//! Nothing can keep them from it where the key does not hold the partition key. The row of the lower
//! partition stays, whatever comes first, and whatever else its losing owner had to say of the other.

use std::process::Command;

use domicile::lab::regions::Regions;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, converge, eventually, start};

const REGIONS: [&str; 3] = ["eu", "us", "ap"];

const SEED: &str = "
    CREATE TABLE ticket (id int PRIMARY KEY, home text NOT NULL, n int NOT NULL, body text);
    ALTER TABLE ticket ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE line (id int PRIMARY KEY, ticket int NOT NULL, n int NOT NULL);
    INSERT INTO ticket VALUES (100, 'eu', 0, NULL), (200, 'us', 0, NULL);
    INSERT INTO line VALUES (100, 100, 0), (200, 200, 0), (201, 200, 0);";

const TABLES: &str = "
[[table]]
name = \"ticket\"
key = [\"home\"]

[[table]]
name = \"line\"
parent = { table = \"ticket\", columns = [\"ticket\"], references = [\"id\"] }
";

#[tokio::test(flavor = "multi_thread")]
async fn the_row_of_the_lower_partition_stays_in_every_region() {
    let mut config = config(&REGIONS, "home(home)", 0);
    config.rpo = "none".to_owned();
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());

    // None of the owners hears of the other, and the third hears of one before the other.
    let links = regions.links();
    links.cut("eu", "us");
    links.cut("eu", "ap");
    // The partition of eu is lower than that of us.
    for (owner, client) in [("eu", &eu), ("us", &us)] {
        let (ticket, sign) = if owner == "eu" { (100, 1) } else { (200, -1) };
        for statement in [
            // One by one, and many at once.
            format!("INSERT INTO ticket VALUES (1, '{owner}', {sign}, repeat('{owner}', 3000))"),
            format!("INSERT INTO ticket VALUES (2, '{owner}', {sign}, repeat('{owner}', 3000))"),
            format!("INSERT INTO ticket VALUES (3, '{owner}', {sign}, repeat('{owner}', 3000))"),
            format!(
                "INSERT INTO ticket SELECT i, '{owner}', {sign} FROM generate_series(301, 400) i"
            ),
            format!("INSERT INTO line SELECT i, {ticket}, {sign} FROM generate_series(1, 9) i"),
            // What was too large stays as it is.
            format!("INSERT INTO ticket VALUES (4, '{owner}', {sign})"),
            // Children of parents that have one key themselves.
            format!("INSERT INTO line VALUES (1001, 1, {sign})"),
            "UPDATE ticket SET n = n * 2 WHERE id < 4".to_owned(),
            "UPDATE ticket SET n = n * 3 WHERE id > 300".to_owned(),
            "UPDATE line SET n = n * 5 WHERE id < 10".to_owned(),
        ] {
            client.batch_execute(&statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        }
    }
    // What loses is deleted or gets another key, and what stays is not touched by that.
    us.batch_execute("DELETE FROM ticket WHERE id = 2").await.unwrap();
    us.batch_execute("DELETE FROM line WHERE id = 2").await.unwrap();
    us.batch_execute("UPDATE ticket SET id = 33 WHERE id = 3").await.unwrap();
    us.batch_execute(
        "DELETE FROM line WHERE ticket = 200 AND id > 200; DELETE FROM ticket WHERE id > 350",
    )
    .await
    .unwrap();
    eventually("ap shows what us wrote", async || {
        let ap = regions.connect("ap").await.map_err(|e| e.to_string())?;
        let row = ap.query_one("SELECT count(*) FROM ticket WHERE id = 33", &[]).await;
        match row.map_err(|e| e.to_string())?.get::<_, i64>(0) {
            1 => Ok(()),
            _ => Err("it does not".to_owned()),
        }
    })
    .await;
    // What loses goes just when what stays takes its place.
    let (holder, ap) = (regions.connect("ap").await.unwrap(), regions.connect("ap").await.unwrap());
    holder.batch_execute("BEGIN; SELECT FROM ticket WHERE id = 4 FOR UPDATE").await.unwrap();
    us.batch_execute("DELETE FROM ticket WHERE id = 4").await.unwrap();
    wait_for_locks(&ap, 1).await;
    for peer in ["us", "ap"] {
        links.heal("eu", peer);
    }
    wait_for_locks(&ap, 2).await;
    holder.batch_execute("COMMIT").await.unwrap();
    converge(&regions).await;

    let shown = "SELECT string_agg(concat_ws(':', id, home, n, left(body, 2)), ' ' ORDER BY id)
                 FROM ticket WHERE id < 100";
    let all = "SELECT count(*) || ' ' || sum(n) || ' ' || count(*) FILTER (WHERE home = 'eu')
               FROM ticket WHERE id > 300";
    let lines = "SELECT count(*) || ' ' || sum(n) FROM line WHERE ticket = 100 AND id < 100";
    for region in REGIONS {
        let client = regions.connect(region).await.unwrap();
        assert_eq!(
            text(&client, shown).await,
            "1:eu:2:eu 2:eu:2:eu 3:eu:2:eu 4:eu:1 33:us:-2:us",
            "{region}"
        );
        assert_eq!(text(&client, all).await, "100 300 100", "{region}");
        assert_eq!(text(&client, lines).await, "9 45", "{region}");
        assert_eq!(
            text(&client, "SELECT n::text FROM line WHERE id = 1001").await,
            "1",
            "{region}"
        );
    }
    assert_alike(&regions, &["ticket", "line"]).await;
    // us was told that its row is here: what it was is in the journal, for a person to look at.
    let open = "SELECT string_agg(DISTINCT concat_ws(' ', conflict, winner, local ->> 'home', new ->> 'home'), ', ')
                FROM domicile.journal WHERE status = 'open' AND relation = 'public.ticket' AND key ->> 'id' = '1'";
    assert_eq!(text(&us, open).await, "insert_exists incoming us eu");
    assert_eq!(
        text(&eu, open).await,
        "insert_exists local eu us, update_origin_differs local eu us"
    );
    let verified = run(&regions, &["verify"]);
    assert!(verified.status.success(), "{verified:?}");

    // What lost is written again under its key once that is free.
    let id = "SELECT id::text FROM domicile.journal
              WHERE conflict = 'insert_exists' AND relation = 'public.ticket' AND key ->> 'id' = '1'";
    let id = text(&us, id).await;
    let replay = ["journal", "replay", &id, "--region", "us", "--force"];
    let refused = run(&regions, &replay);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("have two owners"), "{said}");
    eu.batch_execute("DELETE FROM ticket WHERE id = 1").await.unwrap();
    converge(&regions).await;
    let replayed = run(&regions, &replay);
    assert!(replayed.status.success(), "{replayed:?}");
    converge(&regions).await;
    let again = "SELECT concat_ws(':', id, home, n, left(body, 2)) FROM ticket WHERE id = 1";
    for region in REGIONS {
        let client = regions.connect(region).await.unwrap();
        assert_eq!(text(&client, again).await, "1:us:-2:us", "{region}");
    }
}

/// Each row stays where its owner was told that it is: which of them shall go, a person says.
#[tokio::test(flavor = "multi_thread")]
async fn two_rows_with_one_unique_value_stay_at_home_and_wait_for_a_person() {
    let mut config = config(&["eu", "us"], "home(home)", 0);
    config.rpo = "none".to_owned();
    config.seed_sql =
        "CREATE TABLE person (id int PRIMARY KEY, home text NOT NULL, mail text UNIQUE);
                       INSERT INTO person VALUES (10, 'eu', 'e'), (20, 'us', 'u'), (21, 'us', 'v')"
            .to_owned();
    config.tables = "[[table]]\nname = \"person\"\nkey = [\"home\"]\n".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
    regions.links().cut("eu", "us");
    eu.batch_execute(
        "INSERT INTO person VALUES (1, 'eu', 'x'); INSERT INTO person VALUES (3, 'eu', 'y')",
    )
    .await
    .unwrap();
    us.batch_execute(
        "INSERT INTO person VALUES (2, 'us', 'x'); UPDATE person SET mail = 'y' WHERE id = 20",
    )
    .await
    .unwrap();
    regions.links().heal("eu", "us");
    let shown = "SELECT string_agg(concat_ws(':', id, mail), ' ' ORDER BY id) FROM person";
    for (region, client, others) in [("eu", &eu, "2 us"), ("us", &us, "1 eu")] {
        eventually(&format!("{region} says that rows cannot be repaired"), async || {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            let said = status.says("repair_fails");
            if said { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
        let entries =
            "SELECT string_agg(concat_ws(' ', key ->> 'id', new ->> 'home'), ', ' ORDER BY id)
                       FROM domicile.journal WHERE status = 'open' AND conflict = 'apply_error'";
        assert_eq!(text(client, entries).await, others, "the first of them is for a person");
    }
    assert_eq!(text(&eu, shown).await, "1:x 3:y 10:e 20:u 21:v");
    assert_eq!(text(&us, shown).await, "2:x 10:e 20:y 21:v");

    // Whichever goes, the other one is shown everywhere.
    eu.batch_execute("DELETE FROM person WHERE id = 1").await.unwrap();
    us.batch_execute("UPDATE person SET mail = 'z' WHERE id = 20").await.unwrap();
    for (region, client) in [("eu", &eu), ("us", &us)] {
        eventually(&format!("{region} shows what is left"), async || {
            match text(client, shown).await.as_str() {
                "2:x 3:y 10:e 20:z 21:v" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
    }
    converge(&regions).await;
    let verified = run(&regions, &["verify"]);
    assert!(verified.status.success(), "{verified:?}");
}

/// Waits until so many appliers wait for a row.
async fn wait_for_locks(client: &Client, wanted: i64) {
    eventually(&format!("{wanted} wait for a row"), async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE application_name LIKE 'domicile%' AND wait_event_type = 'Lock'";
        let row = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        let waiting: i64 = row.get(0);
        if waiting == wanted { Ok(()) } else { Err(format!("{waiting} do")) }
    })
    .await;
}

async fn text(client: &Client, sql: &str) -> String {
    let row = client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

fn run(regions: &Regions, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("us"));
    command.output().unwrap()
}
