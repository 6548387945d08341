//! Is what is read as new as the session asks for, wherever it is read, and is it said when it is not?

use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile::lab::cluster::free_port;
use domicile::lab::regions::{Regions, RegionsConfig};
use futures_util::StreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{config, eventually, settle, start};

#[path = "freshness/register.rs"]
mod register;

const SEED: &str = "
    CREATE TABLE account (id int PRIMARY KEY, branch text NOT NULL, balance int NOT NULL);
    INSERT INTO account VALUES (1, 'eu', 0), (2, 'us', 0), (3, 'ap', 0);";
const TABLES: &str = "[[table]]\nname = \"account\"\n";
/// One way. Longer than a read takes in one place.
const DISTANCE: Duration = Duration::from_millis(50);

const WRITE: &str = "UPDATE account SET balance = balance + 1 WHERE id = 1";
const READ: &str = "SELECT balance FROM account WHERE id = 1";
const PORT: &str = "SELECT current_setting('port')";

async fn world(mut config: RegionsConfig) -> Regions {
    config.seed_sql = SEED.to_owned();
    let key = if config.partition == "whole" { "" } else { "key = \"branch\"\n" };
    config.tables = format!("{TABLES}{key}{}", config.tables);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions.links().set_delay(DISTANCE);
    regions
}

fn address(regions: &Regions, region: &str, options: &str) -> String {
    let gateway = regions.gateway(region);
    let (host, port) = (gateway.ip(), gateway.port());
    format!("host={host} port={port} user=postgres dbname=postgres options='{options}'")
}

async fn connect(regions: &Regions, region: &str, options: &str) -> Result<Client, Error> {
    let address = address(regions, region, options);
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A session at the gateway of `region` that asks for `freshness` from its beginning.
async fn reader(regions: &Regions, region: &str, freshness: &str) -> Client {
    connect(regions, region, &format!("-c domicile.freshness={freshness}")).await.unwrap()
}

/// By the extended protocol.
async fn balance(client: &Client) -> Result<i32, Error> {
    client.query_one(READ, &[]).await.map(|row| row.get(0))
}

/// By the simple protocol.
async fn one(client: &Client, sql: &str) -> Result<String, Error> {
    let answer = client.simple_query(sql).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(row.unwrap_or_default())
}

async fn set(client: &Client, name: &str, value: &str) {
    client.batch_execute(&format!("SET domicile.{name} = '{value}'")).await.unwrap();
}

fn is_refused(error: &Error) -> bool {
    error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_region_writes_a_read_is_as_new_as_it_asks_for() {
    let mut config = config(&["eu", "us", "ap"], "home(branch)", 3);
    config.rpo = "none".to_owned();
    let mut regions = world(config).await;
    settle(&regions, "start").await;
    strong_reads_show_what_was_acknowledged(&regions).await;
    a_session_finds_what_it_wrote_and_passes_it_on(&regions).await;
    a_session_is_told_its_token_after_each_transaction(&regions).await;
    a_transaction_reads_what_it_began_with(&regions).await;
    a_statement_asks_for_its_own_freshness_in_a_comment(&regions).await;
    what_is_too_old_is_said(&regions).await;
    what_is_asked_for_has_to_be_a_freshness(&regions).await;
    tokens_that_no_gateway_has_signed_are_refused(&regions).await;
    nothing_is_signed_where_the_secret_is_not_known(&mut regions).await;
}

async fn tokens_that_no_gateway_has_signed_are_refused(regions: &Regions) {
    let client = connect(regions, "us", "").await.unwrap();
    let token = one(&client, "SHOW domicile.token").await.unwrap();
    let other = connect(regions, "ap", "").await.unwrap();
    set(&other, "token", &token).await;
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    let longer = format!("{token}AAAA");
    let changed = format!("{}{last}", &token[..token.len() - 1]);
    for (made_up, why) in [
        (longer.as_str(), "not written by a gateway"),
        (&changed, ""),
        ("1.eu-1@0/9.lab", "not signed"),
        ("2.AAAA", "not a token"),
    ] {
        let sql = format!("SET domicile.token = '{made_up}'");
        let refused = other.batch_execute(&sql).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{made_up}");
        assert!(refused.as_db_error().unwrap().message().contains(why), "{refused:?}");
    }
    let options = format!("-c domicile.token={longer}");
    let refused = connect(regions, "ap", &options).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PARAMETER_VALUE));
    for region in regions.names() {
        let log = std::fs::read_to_string(regions.agent_log(region)).unwrap();
        assert!(!log.contains("\"secret\""), "{region} shows it");
    }
}

async fn nothing_is_signed_where_the_secret_is_not_known(regions: &mut Regions) {
    let client = connect(regions, "eu", "").await.unwrap();
    let token = one(&client, "SHOW domicile.token").await.unwrap();
    regions.kill_directory();
    regions.kill_agent("us");
    regions.start_agent("us").unwrap();
    eventually("it says why there is none", async || {
        let client = connect(regions, "us", "").await.map_err(|e| format!("{e:?}"))?;
        match one(&client, "SHOW domicile.token").await {
            Err(error) if is_refused(&error) => {
                let why = error.as_db_error().unwrap().message();
                if why.contains("is not known here") { Ok(()) } else { Err(why.to_owned()) }
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let client = connect(regions, "us", "").await.unwrap();
    let given = client.batch_execute(&format!("SET domicile.token = '{token}'")).await;
    let why = given.unwrap_err();
    assert!(why.as_db_error().unwrap().message().contains("is not known here"), "{why:?}");
    regions.start_directory().unwrap();
    eventually("it is heard, and is the same", async || {
        let sql = format!("SET domicile.token = '{token}'");
        client.batch_execute(&sql).await.map_err(|e| format!("{e:?}"))
    })
    .await;
}

async fn strong_reads_show_what_was_acknowledged(regions: &Regions) {
    let writer = connect(regions, "eu", "").await.unwrap();
    let strong = reader(regions, "us", "strong").await;
    let eventual = reader(regions, "us", "eventual").await;
    let mut older = 0;
    for written in 1..=20 {
        writer.batch_execute(WRITE).await.unwrap();
        older += i32::from(balance(&eventual).await.unwrap() < written);
        assert_eq!(balance(&strong).await.unwrap(), written);
        assert_eq!(one(&strong, READ).await.unwrap(), written.to_string());
    }
    assert!(older > 0, "nothing was to be waited for");
    // Also where the text that asks for it reads, too.
    writer.batch_execute(WRITE).await.unwrap();
    let both = format!("SET domicile.freshness = 'strong'; {READ}");
    assert_eq!(one(&eventual, &both).await.unwrap(), "21");
    // What one session asks for at once is answered in order, each as new as it asks for.
    writer.batch_execute(WRITE).await.unwrap();
    let (first, second) = tokio::join!(balance(&strong), balance(&strong));
    assert_eq!((first.unwrap(), second.unwrap()), (22, 22));
}

async fn a_session_finds_what_it_wrote_and_passes_it_on(regions: &Regions) {
    // Far from the owner: what it writes travels there.
    let away = reader(regions, "us", "session").await;
    let other = connect(regions, "ap", "").await.unwrap();
    for _ in 0..5 {
        let before = balance(&away).await.unwrap();
        away.batch_execute(WRITE).await.unwrap();
        assert_eq!(balance(&away).await.unwrap(), before + 1, "its own write");
        let shown = away.query_one("SHOW domicile.token", &[]).await.unwrap();
        let token: &str = shown.get(0);
        other.execute(&format!("SET domicile.token = '{token}'"), &[]).await.unwrap();
        assert_eq!(balance(&other).await.unwrap(), before + 1, "with {token}");
    }
    assert_eq!(one(&other, "SHOW domicile.freshness").await.unwrap(), "session");
}

async fn a_session_is_told_its_token_after_each_transaction(regions: &Regions) {
    let options = "-c domicile.freshness=session -c domicile.report_token=on";
    let address = address(regions, "us", options);
    let (client, mut connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
    // Held while the connection works: who has his answer sees what came with it.
    let told = Arc::new(Mutex::new(None));
    let telling = told.clone();
    let talk = futures_util::stream::poll_fn(move |context| {
        let mut told = telling.lock().unwrap();
        let polled = connection.poll_message(context);
        *told = connection.parameter("domicile.token").map(str::to_owned);
        polled
    });
    tokio::spawn(talk.for_each(async |_| {}));
    let token = || told.lock().unwrap().clone();
    let other = connect(regions, "ap", "").await.unwrap();
    for _ in 0..5 {
        let before = balance(&client).await.unwrap();
        client.batch_execute(WRITE).await.unwrap();
        client.execute(WRITE, &[]).await.unwrap();
        client.batch_execute("BEGIN").await.unwrap();
        client.execute(WRITE, &[]).await.unwrap();
        let open = token();
        client.batch_execute("COMMIT").await.unwrap();
        let committed = token().expect("it is told");
        assert_ne!(open.as_ref(), Some(&committed), "not before the commit");
        set(&other, "token", &committed).await;
        assert_eq!(balance(&other).await.unwrap(), before + 3, "with {committed}");
    }
    set(&client, "report_token", "off").await;
    assert_eq!(token().as_deref(), Some(""), "the last one is of no use any more");
}

async fn a_transaction_reads_what_it_began_with(regions: &Regions) {
    let (writer, mut strong) =
        (connect(regions, "eu", "").await.unwrap(), reader(regions, "us", "strong").await);
    writer.batch_execute(WRITE).await.unwrap();
    let expected = balance(&writer).await.unwrap();
    let transaction = strong.build_transaction().read_only(true).start().await.unwrap();
    let row = transaction.query_one(READ, &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), expected);
    transaction.commit().await.unwrap();
}

/// A statement that says how new what it reads has to be.
fn reading(freshness: &str, sql: &str) -> String {
    format!("/* domicile.freshness={freshness} */ {sql}")
}

async fn a_statement_asks_for_its_own_freshness_in_a_comment(regions: &Regions) {
    let (writer, client) =
        (connect(regions, "eu", "").await.unwrap(), reader(regions, "us", "eventual").await);
    let plain = client.prepare(READ).await.unwrap();
    let strong = client.prepare(&reading("strong", READ)).await.unwrap();
    let mut older = 0;
    for _ in 0..10 {
        writer.batch_execute(WRITE).await.unwrap();
        let written = balance(&writer).await.unwrap();
        let first: i32 = client.query_one(&plain, &[]).await.unwrap().get(0);
        older += i32::from(first < written);
        assert_eq!(one(&client, &reading("strong", READ)).await.unwrap(), written.to_string());
        writer.batch_execute(WRITE).await.unwrap();
        // The second waits for the end of the first to know that it begins a transaction.
        let (first, second) =
            tokio::join!(client.query_one(&plain, &[]), client.query_one(&strong, &[]));
        older += i32::from(first.unwrap().get::<_, i32>(0) < written + 1);
        assert_eq!(second.unwrap().get::<_, i32>(0), written + 1);
    }
    assert!(older > 0, "nothing was to be waited for");
    assert_eq!(one(&client, "SHOW domicile.freshness").await.unwrap(), "eventual");

    writer.batch_execute(WRITE).await.unwrap();
    let written = balance(&writer).await.unwrap();
    client.batch_execute(&reading("strong", "BEGIN")).await.unwrap();
    assert_eq!(balance(&client).await.unwrap(), written);
    assert_eq!(one(&client, "SHOW domicile.freshness").await.unwrap(), "strong");
    let same = client.query_one(&reading("strong", READ), &[]).await.unwrap();
    assert_eq!(same.get::<_, i32>(0), written);
    // What it began with it keeps.
    let refused = one(&client, &reading("session", READ)).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{refused:?}");
    assert!(refused.as_db_error().unwrap().message().contains("began with"), "{refused:?}");
    client.batch_execute(&reading("session", "ROLLBACK")).await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    let refused = client.query_one(&strong, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{refused:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
}

async fn what_is_too_old_is_said(regions: &Regions) {
    let client = reader(regions, "us", "bounded(2s)").await;
    balance(&client).await.unwrap();
    assert!(one(&client, "SHOW domicile.staleness").await.unwrap().ends_with("ms"));
    regions.links().cut("eu", "us");
    set(&client, "freshness_wait", "300ms").await;
    eventually("what is shown is too old", async || match balance(&client).await {
        Err(error) if is_refused(&error) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let refused = one(&client, READ).await.unwrap_err();
    assert!(is_refused(&refused), "{refused:?}");
    assert!(refused.as_db_error().unwrap().detail().unwrap().contains("ms ago"), "{refused:?}");
    for enough in ["bounded(1d)", "eventual", "session"] {
        set(&client, "freshness", enough).await;
        balance(&client).await.unwrap();
    }
    regions.links().heal("eu", "us");
    set(&client, "freshness", "strong").await;
    set(&client, "freshness_wait", "20s").await;
    balance(&client).await.unwrap();
}

async fn what_is_asked_for_has_to_be_a_freshness(regions: &Regions) {
    let refused = connect(regions, "us", "-c domicile.freshness=soon").await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PARAMETER_VALUE));
    let client = reader(regions, "us", "eventual").await;
    for wrong in ["freshness = 'soon'", "freshness_wait = '5'", "token = '1.eu-1@0/9.stranger'"] {
        let refused = client.batch_execute(&format!("SET domicile.{wrong}")).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{wrong}");
        let prepared = client.execute(&format!("SET domicile.{wrong}"), &[]).await.unwrap_err();
        assert_eq!(prepared.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{wrong}");
    }
    assert_eq!(one(&client, "SHOW domicile.freshness").await.unwrap(), "eventual");
    balance(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_region_owns_everything_reads_stay_near_while_they_are_new_enough() {
    let mut config = config(&["eu", "us", "ap"], "whole", 1);
    config.rpo = "none".to_owned();
    config.automatic_failover = true;
    config.lease = Duration::from_secs(5);
    // Of the last region.
    let near = free_port();
    config.tables = format!(
        "[[region.gateway_port]]\nlisten = \"127.0.0.1:{near}\"\nfreshness = \"eventual\"\n"
    );
    let mut regions = world(config).await;
    let port =
        async |region: &str| one(&regions.connect(region).await.unwrap(), PORT).await.unwrap();
    let (eu, us) = (port("eu").await, port("us").await);
    who_comes_in_where_less_is_asked_for_reads_near(near, &port("ap").await).await;

    let plain = connect(&regions, "us", "").await.unwrap();
    let client = reader(&regions, "us", "session").await;
    assert_eq!(one(&plain, PORT).await.unwrap(), eu, "its home is the owner's");
    assert_eq!(one(&client, PORT).await.unwrap(), us);
    client.batch_execute(WRITE).await.unwrap();
    assert_eq!(balance(&client).await.unwrap(), 1, "it was written at the owner");
    assert_eq!(one(&client, PORT).await.unwrap(), us);

    for _ in 0..2 {
        assert_eq!(one(&plain, &reading("eventual", PORT)).await.unwrap(), us);
        assert_eq!(one(&plain, PORT).await.unwrap(), eu);
        assert_eq!(one(&client, &reading("strong", PORT)).await.unwrap(), eu);
        assert_eq!(one(&client, PORT).await.unwrap(), us);
    }

    set(&plain, "freshness", "eventual").await;
    assert_eq!(one(&plain, PORT).await.unwrap(), us);
    plain.batch_execute("RESET domicile.freshness").await.unwrap();
    assert_eq!(one(&plain, PORT).await.unwrap(), eu);

    set(&client, "freshness", "bounded(1s)").await;
    eventually("us is as new as that", async || is(&client, &us).await).await;
    regions.links().stop_reading("us");
    eventually("the owner is asked instead", async || is(&client, &eu).await).await;
    regions.links().resume_reading("us");
    eventually("us is as new as that again", async || is(&client, &us).await).await;

    what_was_lost_is_not_waited_for(&mut regions).await;
}

async fn who_comes_in_where_less_is_asked_for_reads_near(near: u16, here: &str) {
    let address = format!("host=127.0.0.1 port={near} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(one(&client, "SHOW domicile.freshness").await.unwrap(), "eventual");
    assert_eq!(one(&client, PORT).await.unwrap(), here);
}

async fn is(client: &Client, port: &str) -> Result<(), String> {
    let found = one(client, PORT).await.map_err(|e| format!("{e:?}"))?;
    if found == port { Ok(()) } else { Err(found) }
}

async fn what_was_lost_is_not_waited_for(regions: &mut Regions) {
    let writer = connect(regions, "eu", "").await.unwrap();
    regions.links().isolate("eu");
    writer.batch_execute(WRITE).await.unwrap();
    let token = one(&writer, "SHOW domicile.token").await.unwrap();
    let strong =
        connect(regions, "eu", "-c domicile.freshness=strong -c domicile.freshness_wait=50ms")
            .await;
    let (strong, bounded) = (strong.unwrap(), reader(regions, "eu", "bounded(1s)").await);
    // It owns everything as far as it knows, and may have lost that.
    eventually("eu vouches for nothing any more", async || {
        for client in [&strong, &bounded] {
            match balance(client).await {
                Err(error)
                    if error
                        .as_db_error()
                        .is_some_and(|e| e.message().contains("not known to be")) => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    })
    .await;
    regions.kill_region("eu");
    let reader = reader(regions, "us", "eventual").await;
    eventually("somebody else is the owner", async || {
        reader.batch_execute(WRITE).await.map_err(|e| e.to_string())
    })
    .await;
    set(&reader, "freshness", "session").await;
    set(&reader, "freshness_wait", "20s").await;
    set(&reader, "token", &token).await;
    let lost = balance(&reader).await.unwrap_err();
    assert!(lost.as_db_error().unwrap().message().contains("was lost"), "{lost:?}");
}
