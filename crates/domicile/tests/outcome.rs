//! Does a transaction's token tell what became of it, whatever became of its client and of its region?
//!
//! With `rpo = "0"`, so that a commit of which there is no copy has told nobody that it is one. Clients are at another
//! region's gateway: they hear what is said when the owner is lost.

use std::process::{Command, Output};

use domicile::lab::regions::Regions;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

mod regions;
use regions::{assert_alike, config, converge, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE account (id int PRIMARY KEY, branch text NOT NULL, balance int);
    INSERT INTO account SELECT i, 'eu', 0 FROM generate_series(1, 9) i;";
const TABLES: &str = "
[[table]]
name = \"account\"
key = \"branch\"
";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_tells_what_became_of_its_transaction() {
    let mut regions = world().await;

    what_ended_is_told_by_where_it_ran(&regions).await;
    what_is_no_token_is_refused(&regions).await;
    a_lost_owners_transactions_are_told_by_its_survivors(&mut regions).await;
}

/// PostgreSQL alone would give the number of a transaction that a crash took out of the WAL to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_lets_no_other_transaction_have_its_number() {
    let mut regions = world().await;
    // What nobody waits for stays out of the WAL for a while.
    let eu = regions.connect("eu").await.unwrap();
    eu.batch_execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await.unwrap();
    eu.batch_execute("ALTER SYSTEM SET wal_writer_flush_after = '1GB'").await.unwrap();
    eu.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let client = at_gateway(&regions, "us").await;
    let token = begun(&client, 1).await;
    regions.kill_region("eu");
    regions.start_postgres("eu").await.unwrap();
    let eu = regions.connect("eu").await.unwrap();
    let next = eu.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap();
    let next: u64 = next.get::<_, &str>(0).parse().unwrap();
    let named = document(&outcome(&regions, &token))["xid"].as_u64().unwrap();
    assert!(next > named, "{next} has begun anew, behind {named}");
}

async fn world() -> Regions {
    let mut config = config(&["eu", "us", "ap"], "home(branch)", 3);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = "0".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    settle(&regions, "start").await;
    regions
}

async fn what_ended_is_told_by_where_it_ran(regions: &Regions) {
    let client = at_gateway(regions, "us").await;
    let token = begun(&client, 1).await;
    becomes(regions, &token, "in_progress", 4).await;
    client.batch_execute("COMMIT").await.unwrap();
    converge(regions).await;
    let told = becomes(regions, &token, "committed", 0).await;
    assert_eq!(told["held"], json!(["ap", "eu", "us"]));
    assert_eq!(told["shown"], json!(["ap", "eu", "us"]));

    // By a prepared statement, as drivers ask: each time of the transaction that is open.
    let show = client.prepare("SHOW domicile.transaction").await.unwrap();
    for (end, outcome, code) in [("ROLLBACK", "rolled_back", 3), ("COMMIT", "committed", 0)] {
        begun(&client, 1).await;
        let token: String = client.query_one(&show, &[]).await.unwrap().get(0);
        becomes(regions, &token, "in_progress", 4).await;
        client.batch_execute(end).await.unwrap();
        becomes(regions, &token, outcome, code).await;
    }

    // What changes no replicated row is in no log.
    client.batch_execute("BEGIN").await.unwrap();
    let token = shown(&client).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let told = becomes(regions, &token, "committed", 0).await;
    assert_eq!(told["held"], json!([]));
}

async fn what_is_no_token_is_refused(regions: &Regions) {
    let client = at_gateway(regions, "us").await;
    let outside = shown(&client).await.unwrap_err();
    assert_eq!(outside.code().map(|code| code.code()), Some("25P01"), "{outside:?}");
    let token = begun(&client, 2).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    let of_session = client.simple_query("SHOW domicile.token").await.unwrap();
    let changed = token.replacen("t1.A", "t1.B", 1).replacen("t1.", "t1.A", 1);
    for forged in [changed, value(&of_session), "eu-1".to_owned()] {
        let told = outcome(regions, &forged);
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        assert!(String::from_utf8_lossy(&told.stderr).contains("token"), "{told:?}");
    }
}

/// eu is lost with a commit that only it has; and it comes back.
async fn a_lost_owners_transactions_are_told_by_its_survivors(regions: &mut Regions) {
    let client = at_gateway(regions, "us").await;
    let copied = begun(&client, 3).await;
    client.batch_execute("COMMIT").await.unwrap();
    converge(regions).await;

    let (alone, sleeper) = (at_gateway(regions, "us").await, at_gateway(regions, "us").await);
    let (lost, open) = (begun(&alone, 4).await, begun(&sleeper, 5).await);
    let impatient = at_gateway(regions, "us").await;
    let (given_up, cancel) = (begun(&impatient, 6).await, impatient.cancel_token());
    regions.links().stop_shipping("eu");
    let told = says_and_waits(regions, impatient, "COMMIT", "SyncRep").await;
    cancel.cancel_query(NoTls).await.unwrap();
    names(&told.await.unwrap().unwrap_err(), &given_up);
    let told = document(&run_in(regions, "eu", &["--json", "outcome", &given_up]));
    assert_eq!((&told["outcome"], &told["held"]), (&json!("committed"), &json!(["eu"])), "{told}");
    let committing = says_and_waits(regions, alone, "COMMIT", "SyncRep").await;
    let asking = says_and_waits(regions, sleeper, "SELECT pg_sleep(600)", "PgSleep").await;
    // Whoever can ask eu hears that nobody was told yet.
    let told = run_in(regions, "eu", &["--json", "outcome", &lost]);
    assert_eq!(document(&told)["outcome"], "in_progress", "{told:?}");
    regions.kill_region("eu");
    for (token, told) in [(&lost, committing), (&open, asking)] {
        names(&told.await.unwrap().unwrap_err(), token);
        becomes(regions, token, "unknown", 4).await;
    }
    let told = becomes(regions, &copied, "committed", 0).await;
    assert_eq!(told["held"], json!(["ap", "us"]));

    let failover = ["failover", "--from", "eu", "--to", "us", "--attest"];
    let done = run(regions, &failover);
    assert!(done.status.success(), "{done:?}");
    for token in [&lost, &open, &given_up] {
        becomes(regions, token, "not_history", 3).await;
    }
    becomes(regions, &copied, "committed", 0).await;

    regions.links().resume_shipping("eu");
    regions.start_region("eu").await.unwrap();
    for token in [&lost, &given_up] {
        eventually("the journal has what was lost", async || {
            let told = document(&outcome(regions, token));
            let in_journal = told["journaled"] == json!(["eu"]);
            if in_journal { Ok(()) } else { Err(format!("{told}")) }
        })
        .await;
        let told = becomes(regions, token, "passed_over", 3).await;
        let says = told["says"].as_str().unwrap();
        assert!(says.contains("domicile journal list --region eu"), "{says}");
    }
    becomes(regions, &open, "rolled_back", 3).await;
    becomes(regions, &copied, "committed", 0).await;
    eventually("what was lost is repaired", async || {
        let eu = regions.connect("eu").await.map_err(|e| e.to_string())?;
        let sql = "SELECT count(*) FROM domicile.repair";
        let row = eu.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        if row.get::<_, i64>(0) == 0 { Ok(()) } else { Err("repairs are pending".to_owned()) }
    })
    .await;
    assert_alike(regions, &["account"]).await;
}

/// A session at the gateway of `region`, which has its statements sent on to the owner.
async fn at_gateway(regions: &Regions, region: &str) -> Client {
    let gateway = regions.gateway(region);
    let address =
        format!("host={} port={} user=postgres dbname=postgres", gateway.ip(), gateway.port());
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Writes in a transaction that stays open, and returns its token.
async fn begun(client: &Client, id: i32) -> String {
    client.batch_execute("BEGIN").await.unwrap();
    let sql = format!("UPDATE account SET balance = balance + 1 WHERE id = {id}");
    client.batch_execute(&sql).await.unwrap();
    shown(client).await.unwrap()
}

async fn shown(client: &Client) -> Result<String, tokio_postgres::Error> {
    client.simple_query("SHOW domicile.transaction").await.map(|answer| value(&answer))
}

fn value(answer: &[SimpleQueryMessage]) -> String {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.expect("a row").to_owned()
}

type Waiting = JoinHandle<Result<(), tokio_postgres::Error>>;

/// Has a client say something for which it waits at eu.
async fn says_and_waits(
    regions: &Regions,
    client: Client,
    sql: &'static str,
    wait_event: &str,
) -> Waiting {
    let saying = tokio::spawn(async move { client.batch_execute(sql).await });
    let eu = regions.connect("eu").await.unwrap();
    eventually("the session waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = $1 AND query = $2";
        let row = eu.query_one(waiting, &[&wait_event, &sql]).await.map_err(|e| e.to_string())?;
        if row.get::<_, i64>(0) == 1 { Ok(()) } else { Err(wait_event.to_owned()) }
    })
    .await;
    saying
}

/// The client was told that nobody knows, and how to find out.
fn names(error: &tokio_postgres::Error, token: &str) {
    assert_eq!(error.code().map(|code| code.code()), Some("08007"), "{error:?}");
    let hint = error.as_db_error().and_then(|error| error.hint()).unwrap();
    assert!(hint.ends_with(&format!("domicile outcome {token}")), "{hint}");
}

/// Asks what became of a transaction, and fails unless that is told, in words and in the exit code.
async fn becomes(regions: &Regions, token: &str, expected: &str, code: i32) -> Value {
    let told = outcome(regions, token);
    let document = document(&told);
    assert_eq!(document["outcome"], expected, "{document:#}");
    assert_eq!(told.status.code(), Some(code), "{document:#}");
    document
}

fn document(told: &Output) -> Value {
    serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{told:?}"))
}

fn outcome(regions: &Regions, token: &str) -> Output {
    run(regions, &["--json", "outcome", token])
}

fn run(regions: &Regions, arguments: &[&str]) -> Output {
    run_in(regions, "us", arguments)
}

fn run_in(regions: &Regions, region: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file(region));
    command.output().unwrap()
}
