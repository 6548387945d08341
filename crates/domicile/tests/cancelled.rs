//! Is a commit that no other region holds never told as a success at RPO 0, whoever cancels its wait?

use domicile::lab::regions::Regions;
use tokio_postgres::{Client, NoTls};

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

const COMMIT: &str = "UPDATE account SET balance = balance + 1 WHERE id = 1";

/// A session at the gateway of `region`, which may have its statement sent on to the owner.
async fn at_gateway(regions: &Regions, region: &str) -> Client {
    let gateway = regions.gateway(region);
    let address =
        format!("host={} port={} user=postgres dbname=postgres", gateway.ip(), gateway.port());
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn balance(client: &Client) -> i32 {
    client.query_one("SELECT balance FROM account WHERE id = 1", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_a_copy_is_told_no_success_when_its_wait_is_cancelled() {
    let mut config = config(&["eu", "us"], "home(branch)", 2);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = "0".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    settle(&regions, "start").await;
    regions.links().stop_shipping("eu");
    let (owner, other) =
        (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());

    let mut committed = 0;
    for (region, hears) in [("eu", "error"), ("eu", "notice"), ("us", "error"), ("us", "notice")] {
        let client = at_gateway(&regions, region).await;
        client.batch_execute(&format!("SET client_min_messages = {hears}")).await.unwrap();
        let cancel = client.cancel_token();
        let committing = tokio::spawn(async move {
            let told = client.batch_execute(COMMIT).await;
            (client, told)
        });
        eventually("the commit waits for its copy", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE wait_event = 'SyncRep' AND query LIKE 'UPDATE account%'";
            let row = owner.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
            if row.get::<_, i64>(0) == 1 { Ok(()) } else { Err("it does not".to_owned()) }
        })
        .await;
        cancel.cancel_query(NoTls).await.unwrap();
        let (client, told) = committing.await.unwrap();
        let error = told.expect_err(region);
        let code = error.code().map_or("no code", |code| code.code());
        assert_eq!(code, "08007", "{region}, {hears}: {error:?}");
        committed += 1;
        assert_eq!((balance(&owner).await, balance(&other).await), (committed, 0));
        client.batch_execute("SELECT 1").await.expect("the session goes on");
    }
    regions.links().resume_shipping("eu");
    settle(&regions, "end").await;
    assert_eq!(balance(&other).await, committed, "it came through after all");
    assert_alike(&regions, &["account"]).await;
}
