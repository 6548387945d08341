//! Does what is large arrive over a link that needs many seconds for it?

use domicile::lab::regions::Regions;

mod regions;
use regions::{assert_alike, config, eventually, start};

/// 8 Mbit/s.
const BYTES_PER_SECOND: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_takes_longer_than_any_silence_arrives() {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.rpo = "none".to_owned();
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY, note text)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
    regions.links().set_bandwidth(Some(BYTES_PER_SECOND));
    // Hashes take half of their size when they are packed.
    let large = "INSERT INTO item
                 SELECT 1, string_agg(md5(random()::text), '') FROM generate_series(1, 400000)";
    eu.batch_execute(large).await.unwrap();
    eu.batch_execute("INSERT INTO item VALUES (2, 'behind it')").await.unwrap();
    eventually("us shows both", async || {
        let row =
            us.query_one("SELECT count(*) FROM item", &[]).await.map_err(|e| e.to_string())?;
        match row.get::<_, i64>(0) {
            2 => Ok(()),
            rows => Err(format!("{rows} rows")),
        }
    })
    .await;
    assert_alike(&regions, &["item"]).await;
}
