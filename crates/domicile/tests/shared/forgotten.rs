//! Is a deletion forgotten only when nobody can write of the row any more without knowing of it?
//! And what becomes of a key that is used again then?

use domicile::lab::regions::Regions;

use crate::regions::{assert_alike, config, eventually, settle, start};

const SEED: &str = "CREATE TABLE note (id int PRIMARY KEY, v text);";

const TABLES: &str = "
[[table]]
name = \"note\"
kind = \"shared\"
";

/// Two regions forget soon, one remembers.
async fn regions() -> Regions {
    let mut config = config(&["eu", "us", "ap"], "hash(branch, 12)", 12);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.more = "[shared]\ntombstones = \"100ms\"\n".to_owned();
    config.rpo = "none".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    let file = regions.config_file("ap").to_owned();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"100ms\"", "\"24h\"")).unwrap();
    start(&mut regions).await;
    regions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_forgotten_when_everybody_knows_of_it_and_not_before() {
    let regions = regions().await;
    let insert = "INSERT INTO note SELECT id, 'old' FROM generate_series(1, 5) id";
    write(&regions, "eu", insert).await;
    settle(&regions, "start").await;

    // A key is used again: where its deletion is forgotten, and known everywhere.
    write(&regions, "eu", "DELETE FROM note WHERE id IN (1, 2, 3)").await;
    forgotten(&regions, 3).await;
    write(&regions, "us", "INSERT INTO note VALUES (1, 'us')").await;
    settle(&regions, "again").await;
    assert_alike(&regions, &["note"]).await;
    assert_eq!(note(&regions, "ap", 1).await, "us");
    write(&regions, "ap", "UPDATE note SET v = 'ap' WHERE id = 1").await;
    settle(&regions, "written").await;
    assert_alike(&regions, &["note"]).await;
    assert_eq!(note(&regions, "eu", 1).await, "ap");
    assert_eq!(conflicts(&regions, "eu").await, "");

    // One region is away: what it may write of meanwhile is remembered, however old it is.
    regions.links().stop_reading("ap");
    regions.links().stop_shipping("ap");
    write(&regions, "us", "DELETE FROM note WHERE id = 4").await;
    heard(&regions, "us", "eu", 4).await;
    write(&regions, "us", "DELETE FROM note WHERE id = 5").await;
    // Before that one is counted the other is looked at again.
    counted(&regions, "us", 5).await;
    assert!(is_remembered(&regions, "us", 4).await);
    write(&regions, "ap", "UPDATE note SET v = 'ap' WHERE id = 4").await;
    // Keys that are used again by the region that remembers and by one that does not: neither
    // knows of the other's row, and the one that counts more lives wins, even if it was earlier.
    write(&regions, "ap", "INSERT INTO note VALUES (2, 'ap')").await;
    write(&regions, "eu", "INSERT INTO note VALUES (2, 'eu'), (3, 'eu')").await;
    write(&regions, "ap", "INSERT INTO note VALUES (3, 'ap')").await;
    regions.links().resume_reading("ap");
    regions.links().resume_shipping("ap");
    settle(&regions, "back").await;
    assert_alike(&regions, &["note"]).await;
    for region in regions.names() {
        let found = conflicts(&regions, region).await;
        let found = found.replace("delete_origin_differs", "update_deleted");
        assert_eq!(found, "2:insert_exists 3:insert_exists 4:update_deleted", "in {region}");
    }
    for id in [2, 3, 4] {
        assert_eq!(note(&regions, "us", id).await, "ap");
    }
}

async fn write(regions: &Regions, region: &str, sql: &str) {
    regions.connect(region).await.unwrap().batch_execute(sql).await.unwrap();
}

async fn note(regions: &Regions, region: &str, id: i32) -> String {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT coalesce((SELECT v FROM note WHERE id = $1), 'nothing')";
    client.query_one(sql, &[&id]).await.unwrap().get(0)
}

/// The journal's conflicts, by key.
async fn conflicts(regions: &Regions, region: &str) -> String {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT coalesce(string_agg(key ->> 'id' || ':' || conflict, ' '
                                          ORDER BY key ->> 'id'), '')
               FROM domicile.journal";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn is_remembered(regions: &Regions, region: &str, id: i32) -> bool {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT EXISTS (SELECT FROM domicile.version
                              WHERE deleted AND key = jsonb_build_array($1::int::text)::text)";
    client.query_one(sql, &[&id]).await.unwrap().get(0)
}

/// Waits until the two regions that forget have forgotten the deletion; the third has not.
async fn forgotten(regions: &Regions, id: i32) {
    for region in ["eu", "us"] {
        eventually(&format!("{region} forgets that row {id} was deleted"), async || {
            match is_remembered(regions, region, id).await {
                true => Err("it does not".to_owned()),
                false => Ok(()),
            }
        })
        .await;
    }
    assert!(is_remembered(regions, "ap", id).await);
}

/// Waits until the deletion is one of those that are to be forgotten once everybody knows of them.
async fn counted(regions: &Regions, region: &str, id: i32) {
    told(regions, region, id, "round IS NOT NULL").await;
}

/// Waits until `region` has, besides, `other`'s word that it knows of the deletion.
async fn heard(regions: &Regions, region: &str, other: &str, id: i32) {
    let word = format!(
        "(SELECT bool_and((horizon.frontier ->> '{region}-1')::pg_lsn
                          >= (counted.frontier ->> '{region}-1')::pg_lsn)
          FROM domicile.round counted, domicile.horizon
          WHERE counted.id = round AND region = '{other}')"
    );
    told(regions, region, id, &word).await;
}

async fn told(regions: &Regions, region: &str, id: i32, condition: &str) {
    let client = regions.connect(region).await.unwrap();
    let sql = format!(
        "SELECT coalesce((SELECT {condition} FROM domicile.version
                          WHERE deleted AND key = jsonb_build_array($1::int::text)::text), false)"
    );
    eventually(&format!("the deletion of row {id} in {region}: {condition}"), async || {
        let row = client.query_one(&sql, &[&id]).await.map_err(|e| e.to_string())?;
        if row.get(0) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
}
