//! Two regions, and the directory as their witness: without copies to wait for, the one that the
//! directory sees goes on.

use domicile::lab::regions::Regions;
use tokio_postgres::Client;

use super::MACHINE;
use super::regions::{assert_alike, config, converge, eventually, start};
use super::world::LEASE;
use super::writers::is_refusal;

const SEED: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";

/// F33 and F34.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_regions_the_one_that_the_directory_sees_goes_on() {
    let _alone = MACHINE.lock().await;
    let mut config = config(&["eu", "us"], "whole", 1);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = "none".to_owned();
    config.automatic_failover = true;
    config.lease = LEASE;
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let [eu, us] = [regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap()];

    regions.links().cut("eu", "us");
    write(&eu, 1).await;
    eventually("nobody has heard of it for longer than a lease lasts", async || {
        let status = regions.status("eu").await.map_err(|e| e.to_string())?;
        let exposed = status.exposure().age.0;
        if exposed > 2 * LEASE.as_millis() as u64 { Ok(()) } else { Err(exposed.to_string()) }
    })
    .await;
    assert_eq!(owned(&regions, "us").await, 0, "the link alone moves no owner");
    write(&eu, 2).await;
    regions.links().heal("eu", "us");
    regions.wait_until_ready().await.unwrap();
    converge(&regions).await;
    assert_alike(&regions, &["item"]).await;

    regions.links().isolate("eu");
    write(&eu, 3).await;
    eventually("us owns it", async || match owned(&regions, "us").await {
        1 => Ok(()),
        _ => Err("not yet".to_owned()),
    })
    .await;
    write(&us, 4).await;
    let refused = eu.batch_execute("INSERT INTO item VALUES (5)").await.unwrap_err();
    assert!(is_refusal(&refused), "{refused:?}");
    regions.links().rejoin("eu");
    eventually("what eu wrote alone is in its journal", async || {
        let sql = "SELECT count(*) FROM domicile.journal WHERE conflict = 'beyond_cut' AND key ->> 'id' = '3'";
        let row = eu.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        if row.get::<_, i64>(0) == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    eventually("its row is gone, and the new owner's is there", async || {
        let sql = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM item";
        let row = eu.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        let shown: String = row.get(0);
        if shown == "1 2 4" { Ok(()) } else { Err(shown) }
    })
    .await;
    assert_alike(&regions, &["item"]).await;
}

async fn write(client: &Client, id: i32) {
    eventually(&format!("row {id} is written"), async || {
        let written = client.execute("INSERT INTO item VALUES ($1)", &[&id]).await;
        written.map_err(|e| format!("{e:?}"))
    })
    .await;
}

async fn owned(regions: &Regions, region: &str) -> usize {
    regions.status(region).await.map_or(0, |status| status.owns.len())
}
