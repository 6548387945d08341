//! Does a statement that names its rows' key find them at their owner, and can one see beforehand where it goes?

use domicile::lab::regions::{Regions, partitions_of};
use domicile_core::partition::{Layout, Scheme};
use serde_json::Value as Json;
use tokio::process::Command;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{assert_alike, config, converge, start};

const PARTITIONS: u32 = 8;
const SEED_SQL: &str = "CREATE TABLE account (id int, branch int, balance int NOT NULL DEFAULT 0,
                                              PRIMARY KEY (branch, id));
                        CREATE TABLE note (id int PRIMARY KEY)";
const TABLES: &str =
    "[[table]]\nname = \"account\"\n[[table]]\nname = \"note\"\nkind = \"local\"\n";

async fn client(regions: &Regions, region: &str) -> Client {
    let gateway = regions.gateway(region);
    let address = format!("host={} port={} user=postgres", gateway.ip(), gateway.port());
    let connected = tokio_postgres::connect(&format!("{address} dbname=postgres"), NoTls).await;
    let (client, connection) = connected.unwrap();
    tokio::spawn(connection);
    client
}

async fn domicile(regions: &Regions, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("eu"));
    let output = command.output().await.unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// A branch whose rows are the region's.
async fn branch_of(regions: &Regions, region: &str) -> i32 {
    let owned: Vec<u32> = partitions_of(&regions.status(region).await.unwrap()).collect();
    let layout = Layout { scheme: Scheme::Hash { count: PARTITIONS }, has_reference: false };
    let is_owned = |branch: &i32| {
        owned.contains(&layout.partition_of(&[branch.to_string().as_bytes()]).unwrap().0)
    };
    (1..).find(is_owned).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_at_their_owner_before_they_are_here() {
    let mut config = config(&["eu", "us"], "hash(branch, 8)", PARTITIONS);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = "none".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let (eu, us) = (client(&regions, "eu").await, client(&regions, "us").await);
    let (ours, theirs) = (branch_of(&regions, "eu").await, branch_of(&regions, "us").await);

    // Nothing of what us writes comes to eu.
    regions.links().stop_reading("eu");
    let insert = format!("INSERT INTO account VALUES (1, {theirs}, 100)");
    us.batch_execute(&insert).await.unwrap();
    let deposit = "UPDATE account SET balance = balance + 1 WHERE branch = $1 AND id = $2";
    let prepared = eu.prepare(deposit).await.unwrap();
    assert_eq!(eu.execute(&prepared, &[&theirs, &1]).await.unwrap(), 1);
    let simple = deposit.replace("$1", &theirs.to_string()).replace("$2", "1");
    assert_eq!(eu.execute(&simple, &[]).await.unwrap(), 1);
    let select = "SELECT balance FROM account WHERE branch = $1 AND id = 1 FOR UPDATE";
    let read = eu.query_typed(select, &[(&theirs, Type::INT4)]).await.unwrap();
    assert_eq!(read[0].get::<_, i32>(0), 102);
    assert_eq!(eu.query(&select.replace(" FOR UPDATE", ""), &[&theirs]).await.unwrap().len(), 0);
    regions.links().resume_reading("eu");

    where_they_go(&regions, ours, theirs).await;
    converge(&regions).await;
    assert_alike(&regions, &["account"]).await;
}

/// What `domicile gateway` says beforehand.
async fn where_they_go(regions: &Regions, ours: i32, theirs: i32) {
    let by_key = |branch: i32| format!("DELETE FROM account WHERE branch = {branch}");
    let both = format!("INSERT INTO account VALUES (1, {ours}, 0)");
    let named = format!("INSERT INTO account (id, branch) VALUES (1, {ours}), (1, {theirs})");
    for (sql, goes, owner) in [
        (by_key(ours).as_str(), "to_owner", Some("eu")),
        (by_key(theirs).as_str(), "to_owner", Some("us")),
        (&both, "tried_here", None),
        (&named, "tried_here", None),
        ("UPDATE account SET balance = 0 WHERE branch = $1", "to_owner", None),
        ("UPDATE account SET balance = 0 WHERE id = 1", "tried_here", None),
        ("INSERT INTO note VALUES (1)", "stays", None),
        ("SELECT * FROM account", "stays", None),
    ] {
        let (code, said) = domicile(regions, &["gateway", "explain", "--json", sql]).await;
        assert_eq!(code, Some(0), "{sql}: {said}");
        let explained: Json = serde_json::from_str(&said).unwrap();
        assert_eq!(explained["goes"], goes, "{sql}: {said}");
        assert_eq!(explained["owner"].as_str(), owner, "{sql}: {said}");
    }
    let (_, said) = domicile(regions, &["gateway", "explain", &by_key(theirs)]).await;
    assert!(said.contains("begins at the owner") && said.contains("belongs to us"), "{said}");
    let (code, said) = domicile(regions, &["gateway", "statements", "--region", "us"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("CREATE EXTENSION pg_stat_statements"), "{said}");
}
