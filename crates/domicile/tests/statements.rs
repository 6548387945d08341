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
                        CREATE TABLE note (id int PRIMARY KEY);
                        CREATE FUNCTION post() RETURNS int LANGUAGE sql AS 'SELECT 1';
                        CREATE VIEW posted AS SELECT post()";
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
        ("SELECT lower('A'), now()", "stays", None),
        ("SELECT post()", "tried_here", None),
        ("SELECT * FROM posted", "tried_here", None),
        ("CALL post()", "tried_here", None),
    ] {
        let (code, said) = domicile(regions, &["gateway", "explain", "--json", sql]).await;
        assert_eq!(code, Some(0), "{sql}: {said}");
        let explained: Json = serde_json::from_str(&said).unwrap();
        assert_eq!(explained["goes"], goes, "{sql}: {said}");
        assert_eq!(explained["owner"].as_str(), owner, "{sql}: {said}");
    }
    let (_, said) = domicile(regions, &["gateway", "explain", &by_key(theirs)]).await;
    assert!(said.contains("begins at the owner") && said.contains("belongs to us"), "{said}");
    let (_, said) = domicile(regions, &["gateway", "explain", "SELECT post()"]).await;
    assert!(said.contains("function public.post() is volatile, and may write any rows"), "{said}");
    let (code, said) = domicile(regions, &["gateway", "statements", "--region", "us"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("CREATE EXTENSION pg_stat_statements"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_region_owns_everything_it_is_said_what_may_be_read_near() {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    // There are no agents, and nobody holds a copy.
    config.rpo = "none".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    let preload = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'";
    regions.connect("us").await.unwrap().batch_execute(preload).await.unwrap();
    regions.kill_postgres("us");
    regions.start_postgres("us").await.unwrap();
    let ran = regions.connect("us").await.unwrap();
    ran.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let expected = [
        ("SELECT id FROM account WHERE branch = 1", "stays", "only reads"),
        ("INSERT INTO note VALUES (1)", "to_owner", "INSERT is no read"),
        ("SELECT post()", "unclear", "function public.post() is volatile"),
        ("SELECT * FROM posted", "unclear", "view public.posted calls public.post(), which is"),
    ];
    for (sql, goes, why) in expected {
        ran.batch_execute(sql).await.unwrap();
        let (code, said) = domicile(&regions, &["gateway", "explain", "--json", sql]).await;
        assert_eq!(code, Some(0), "{sql}: {said}");
        let explained: Json = serde_json::from_str(&said).unwrap();
        assert_eq!(explained["goes"], "to_owner", "{sql}: {said}");
        assert_eq!(explained["near"]["goes"], goes, "{sql}: {said}");
        assert!(explained["near"]["why"].as_str().unwrap().contains(why), "{sql}: {said}");
    }
    let (_, said) = domicile(&regions, &["gateway", "explain", "SELECT post()"]).await;
    assert!(said.contains("In a session that reads near it begins at the owner"), "{said}");

    let lint = ["gateway", "statements", "--region", "us"];
    let (code, said) = domicile(&regions, &[&lint[..], &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "{said}");
    let counted: Vec<Json> = serde_json::from_str(&said).unwrap();
    for (sql, goes, _) in expected {
        // Without its constants.
        let begin = &sql[..12];
        let ran = counted.iter().find(|ran| ran["statement"].as_str().unwrap().starts_with(begin));
        assert_eq!(ran.unwrap()["goes"], goes, "{sql}: {said}");
    }
    let (_, said) = domicile(&regions, &lint).await;
    for words in ["MAY ONLY READ", "SELECT post()", "function public.post() is volatile"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
