//! Does a region run ahead of its copies only as far as its RPO allows, and catch up by itself?

use domicile::lab::regions::Regions;

mod regions;
use regions::{assert_alike, config, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE account (id int PRIMARY KEY, branch text NOT NULL, balance int);
    INSERT INTO account VALUES (1, 'eu', 0);";

const TABLES: &str = "
[[table]]
name = \"account\"
key = \"branch\"
";

/// Commits one after another until one waits, and returns how many returned without a copy. Shipping
/// goes on again then, and so does the one that waited.
async fn ahead_of_copies(rpo: &str) -> i32 {
    let mut config = config(&["eu", "us"], "home(branch)", 2);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = rpo.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    settle(&regions, "start").await;

    regions.links().stop_shipping("eu");
    let client = regions.connect("eu").await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let (told, returned) = tokio::sync::watch::channel(0);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn(async move {
        while !*stopped.borrow() {
            client.batch_execute("UPDATE account SET balance = balance + 1").await.unwrap();
            told.send_modify(|returned| *returned += 1);
        }
    });
    let look = regions.connect("eu").await.unwrap();
    let sql = "SELECT wait_event IS NOT DISTINCT FROM 'SyncRep'
                   AND clock_timestamp() - state_change > interval '2 seconds'
               FROM pg_stat_activity WHERE pid = $1";
    eventually("a commit waits for its copy", async || {
        match look.query_one(sql, &[&pid]).await.map_err(|e| e.to_string())?.get(0) {
            true => Ok(()),
            false => Err(format!("{} commits returned", *returned.borrow())),
        }
    })
    .await;
    let ahead = *returned.borrow();

    regions.links().resume_shipping("eu");
    eventually("the commit that waited returns", async || {
        if *returned.borrow() > ahead { Ok(()) } else { Err("it still waits".to_owned()) }
    })
    .await;
    stop.send_replace(true);
    writer.await.unwrap();
    settle(&regions, "end").await;
    assert_alike(&regions, &["account"]).await;
    // A status is as of a moment ago.
    eventually("nothing is out of order any more", async || {
        let conditions = regions.status("eu").await.map_err(|e| e.to_string())?.conditions;
        if conditions.is_empty() { Ok(()) } else { Err(format!("{conditions:?}")) }
    })
    .await;
    ahead
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_rpo_lets_commits_run_ahead_and_then_makes_them_wait() {
    let ahead = ahead_of_copies("250ms").await;
    assert!(ahead > 0, "no commit returned without a copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rpo_zero_no_commit_returns_without_a_copy() {
    assert_eq!(ahead_of_copies("0").await, 0);
}
