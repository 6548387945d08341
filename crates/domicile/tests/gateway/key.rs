//! Does a transaction that says whose rows it is about begin at their owner?

use domicile_core::ownership::Ownership;

use crate::own::{Wire, at_once, bind, execute, parse, query, sync, told};
use crate::*;

/// Two regions: what the first does not own of [`PARTITIONS`] is the second's, and it owns all notes.
async fn two(owners: [&str; 2]) -> (Region, Region) {
    two_of(&Wanted::new(Mode::Local), owners).await
}

async fn two_of(wanted: &Wanted, owners: [&str; 2]) -> (Region, Region) {
    let (eu, us) = wanted.two_regions().await;
    eu.guard("us", 4, false).await;
    us.guard("us", 4, true).await;
    for region in [&eu, &us] {
        publish_owners(region, 2, owners);
    }
    (eu, us)
}

fn publish_owners(at: &Region, version: u64, owners: [&str; 2]) {
    let owners = Ownership::initial(PARTITIONS, &owners.map(region));
    at.publish(Routes { owners: Some(Arc::new(owners)), ..owned_by(version, None) });
}

/// A key in a partition of the second owner.
fn key() -> String {
    let layout = Layout { scheme: Scheme::Hash { count: PARTITIONS }, has_reference: false };
    let second = |key: &String| layout.partition_of(&[key.as_bytes()]).unwrap().0 >= PARTITIONS / 2;
    (0..).map(|n| n.to_string()).find(second).unwrap()
}

/// Waits until the key leads: on a busy machine the other region's session may take too long to open at first.
async fn led(client: &Client) {
    within(async { while place(client).await != "us" {} }).await;
}

#[tokio::test]
async fn a_session_with_a_key_reads_and_writes_at_the_owner() {
    let (eu, us) = two(["eu", "us"]).await;
    let mut client = eu.connect().await;
    client.batch_execute(&format!("SET domicile.key = '{}'", key())).await.unwrap();
    assert_eq!(place(&client).await, "us");
    let select = client.prepare("SELECT current_setting('cluster_name')").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let row = within(transaction.query_one(&select, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "us");
    within(transaction.execute("INSERT INTO note VALUES ($1)", &[&1])).await.unwrap();
    within(transaction.commit()).await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);

    // It goes where the owner is now.
    publish_owners(&eu, 3, ["us", "eu"]);
    assert_eq!(place(&client).await, "eu");
    publish_owners(&eu, 4, ["eu", "us"]);
    assert_eq!(simple(&client, "SHOW domicile.key").await.unwrap(), key());
    client.batch_execute("RESET domicile.key").await.unwrap();
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_transaction_is_led_by_a_key_of_its_own_before_it_has_shown_anything() {
    let (eu, us) = two(["eu", "us"]).await;
    let client = eu.connect().await;
    let set = format!("SET LOCAL domicile.key = '{}'", key());
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(&set).await.unwrap();
    assert_eq!(place(&client).await, "us");
    client.batch_execute("INSERT INTO note VALUES (1); COMMIT").await.unwrap();
    assert_eq!(place(&client).await, "eu");
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);

    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(place(&client).await, "eu");
    client.batch_execute(&set).await.unwrap();
    assert_eq!(place(&client).await, "eu", "it has shown something");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(place(&client).await, "eu");
}

/// The same question in both protocols; asked twice, the question is not what was asked for.
async fn route(client: &Client) -> String {
    let shown = simple(client, "SHOW domicile.route").await.unwrap();
    for _ in 0..2 {
        let row = within(client.query_one("SHOW domicile.route", &[])).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), shown);
    }
    shown
}

#[tokio::test]
async fn a_session_is_told_where_its_last_transaction_went_and_why() {
    let (eu, us) = two(["eu", "us"]).await;
    for region in [&eu, &us] {
        region.run("CREATE TABLE item (k bigint)").await;
    }
    let client = eu.connect().await;
    assert_eq!(route(&client).await, "");
    assert_eq!(place(&client).await, "eu");
    assert_eq!(route(&client).await, "eu: nothing leads elsewhere");
    client.batch_execute("INSERT INTO note VALUES (1)").await.unwrap();
    assert_eq!(route(&client).await, "us: the owner, by the guard of eu, which refused it");

    let partition = {
        let layout = Layout { scheme: Scheme::Hash { count: PARTITIONS }, has_reference: false };
        layout.partition_of(&[key().as_bytes()]).unwrap()
    };
    let led = format!("us: the owner of partition {partition}, where domicile.key leads");
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(&format!("SET LOCAL domicile.key = '{}'", key())).await.unwrap();
    assert_eq!(place(&client).await, "us");
    assert_eq!(route(&client).await, led, "within the transaction, too");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(route(&client).await, led);

    client.batch_execute(&format!("DELETE FROM item WHERE k = {}", key())).await.unwrap();
    let named = format!("us: the owner of partition {partition}, which the statement names");
    assert_eq!(route(&client).await, named);
}

const PLACE: &str = "SELECT current_setting('cluster_name')";

/// A statement that says whose rows its transaction is about.
fn about(key: &str, sql: &str) -> String {
    format!("/* domicile.key='{key}' */ {sql}")
}

#[tokio::test]
async fn a_statement_says_in_its_comment_whose_rows_its_transaction_is_about() {
    let (eu, us) = two(["eu", "us"]).await;
    let client = eu.connect().await;
    led_by(&client, &about(&key(), PLACE)).await;
    assert_eq!(place(&client).await, "eu", "it was said of the one before");
    assert_eq!(simple(&client, &about(&key(), "SHOW domicile.key")).await.unwrap(), key());
    assert_eq!(simple(&client, "SHOW domicile.key").await.unwrap(), "");
    client.batch_execute(&about(&key(), "INSERT INTO note VALUES (1)")).await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);

    // Of a transaction it is said with its beginning, or before it has shown anything.
    for begin in [about(&key(), "BEGIN"), "BEGIN".to_owned()] {
        client.batch_execute(&begin).await.unwrap();
        assert_eq!(simple(&client, &about(&key(), PLACE)).await.unwrap(), "us", "{begin}");
        assert_eq!(place(&client).await, "us");
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(place(&client).await, "eu");
    }
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(place(&client).await, "eu");
    assert_eq!(simple(&client, &about(&key(), PLACE)).await.unwrap(), "eu");
    client.batch_execute("COMMIT").await.unwrap();

    // It stands above what the session has set.
    client.batch_execute(&format!("SET domicile.key = '{}'", key())).await.unwrap();
    assert_eq!(place(&client).await, "us");
    assert_eq!(simple(&client, &about("", PLACE)).await.unwrap(), "eu");
    assert_eq!(place(&client).await, "us");
}

async fn led_by(client: &Client, sql: &str) {
    within(async { while simple(client, sql).await.unwrap() != "us" {} }).await;
}

#[tokio::test]
async fn a_prepared_statement_says_in_its_comment_whose_rows_it_is_about_each_time() {
    let (eu, _us) = two(["eu", "us"]).await;
    let client = eu.connect().await;
    led_by(&client, &about(&key(), PLACE)).await;
    let [plain, led] = [PLACE.to_owned(), about(&key(), PLACE)];
    let (plain, led) = (client.prepare(&plain).await.unwrap(), client.prepare(&led).await.unwrap());
    for _ in 0..3 {
        for (statement, expected) in [(&led, "us"), (&plain, "eu")] {
            let row = within(client.query_one(statement, &[])).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), expected);
        }
    }
    // All at once: each has to wait for the end of the one before it.
    let [a, b, c] = [&plain, &led, &plain].map(|statement| client.query_one(statement, &[]));
    let (a, b, c) = within(async { tokio::join!(a, b, c) }).await;
    let places = [a, b, c].map(|row| row.unwrap().get::<_, String>(0));
    assert_eq!(places, ["eu", "us", "eu"]);
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_comment_counts_behind_a_begin_that_is_sent_with_it() {
    let (eu, _us) = two(["eu", "us"]).await;
    led_by(&eu.connect().await, &about(&key(), PLACE)).await;
    let mut wire = Wire::connect(eu.address.port()).await;
    let first = [&at_once("BEGIN")[..], &at_once(&about(&key(), PLACE)), &[sync()]].concat();
    assert_eq!(told(&wire.ask(&first).await), "1 2 n C(BEGIN) 1 2 T D(us) C(SELECT 1) Z(T)");
    wire.ask(&[query("COMMIT")]).await;
    let prepared = [parse("b", "BEGIN"), sync(), parse("s", &about(&key(), PLACE)), sync()];
    assert_eq!(told(&wire.ask(&prepared).await), "1 Z(I) 1 Z(I)");
    let run = |name: &str| [bind("", name, 0), execute("", 0)];
    let first = [&run("b")[..], &run("s"), &[sync(), query("COMMIT"), query(PLACE)]].concat();
    let expected = "2 C(BEGIN) 2 D(us) C(SELECT 1) Z(T) C(COMMIT) Z(I) T D(eu) C(SELECT 1) Z(I)";
    assert_eq!(told(&wire.ask(&first).await), expected);
    // Of a simple query, behind another one that is not answered yet.
    let both = [query("SELECT 1"), query(&about(&key(), PLACE)), query(PLACE)];
    let expected = "T D(1) C(SELECT 1) Z(I) T D(us) C(SELECT 1) Z(I) T D(eu) C(SELECT 1) Z(I)";
    assert_eq!(told(&wire.ask(&both).await), expected);
}

#[tokio::test]
async fn what_a_comment_cannot_set_is_refused_as_set_is() {
    let eu = Wanted::new(Mode::Local).region().await;
    let mut wire = Wire::connect(eu.address.port()).await;
    let wrong = "/* domicile.freshness=soon */ SELECT 1";
    wire.ask(&[parse("wrong", wrong), sync()]).await;
    let large = format!("/* domicile.keys=7 */ SELECT '{}'", "x".repeat(1024 * 1024));
    for (asked, expected) in [
        (vec![query(wrong), query("SELECT 2")], "E(22023) Z(I) T D(2) C(SELECT 1) Z(I)"),
        (vec![query("/* domicile.token='1' */ SELECT 1")], "E(22023) Z(I)"),
        ([&at_once(wrong)[..], &[sync()]].concat(), "1 E(22023) Z(I)"),
        (vec![bind("", "wrong", 0), execute("", 0), sync()], "E(22023) Z(I)"),
        (
            vec![query("BEGIN"), query(wrong), query("/* domicile.key=? ! */ ROLLBACK")],
            "C(BEGIN) Z(T) E(22023) Z(E) C(ROLLBACK) Z(I)",
        ),
        (vec![query("/* domicile.freshness soon */ SELECT 1")], "T D(1) C(SELECT 1) Z(I)"),
    ] {
        assert_eq!(told(&wire.ask(&asked).await), expected);
    }
    let client = eu.connect().await;
    assert_eq!(code(&client.batch_execute(&large).await.unwrap_err()), "22023");
    // The rest of it cannot be passed over.
    within(async {
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_whose_owner_cannot_be_reached_leads_nowhere_and_keeps_nobody() {
    let (eu, mut us) = two(["eu", "us"]).await;
    us.cluster.kill();
    let address = eu.connection_string();
    let options = format!("{address} options='-c domicile.key={}'", key());
    let (client, connection) = within(tokio_postgres::connect(&options, NoTls)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(place(&client).await, "eu");
}

/// The session has stayed where it was, with all that was prepared since.
#[tokio::test]
async fn what_is_prepared_while_an_owner_cannot_be_reached_is_prepared_once() {
    let (eu, us) = two_of(&Wanted::new(Mode::Local).budget(300), ["eu", "us"]).await;
    us.stop.cancel();
    within(us.served).await.unwrap();
    let mut client = eu.connect().await;
    for _ in 0..2 {
        let transaction = client.transaction().await.unwrap();
        let set = format!("SET LOCAL domicile.key = '{}'", key());
        transaction.batch_execute(&set).await.unwrap();
        let insert = transaction.prepare("INSERT INTO note VALUES ($1)").await.unwrap();
        let refused = within(transaction.execute(&insert, &[&1])).await.unwrap_err();
        assert_eq!(code(&refused), "25006", "{refused:?}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_to_say_again_comes_after_what_is_said_again() {
    let (eu, us) = two(["eu", "us"]).await;
    let client = eu.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let set = format!("SET domicile.key = '{}'", key());
    client.batch_execute(&set).await.unwrap();
    let body = "x".repeat(1024 * 1024);
    client.batch_execute(&format!("INSERT INTO note VALUES (1, '{body}')")).await.unwrap();
    assert_eq!(place(&client).await, "us");
    client.batch_execute("COMMIT; RESET domicile.key").await.unwrap();
    assert_eq!(place(&client).await, "eu");
    assert_eq!(us.count("SELECT length(body)::bigint FROM note").await, 1024 * 1024);
}

#[tokio::test]
async fn what_a_prepared_statement_sets_holds_wherever_the_key_leads() {
    let (eu, _us) = two(["eu", "us"]).await;
    let client = eu.connect().await;
    let set = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE";
    client.execute(set, &[]).await.unwrap();
    client.batch_execute(&format!("SET domicile.key = '{}'", key())).await.unwrap();
    led(&client).await;
    assert_eq!(simple(&client, "SHOW transaction_isolation").await.unwrap(), "serializable");
}

#[tokio::test]
async fn what_can_be_prepared_at_the_owner_alone_ends_no_session() {
    let (eu, us) = two(["eu", "us"]).await;
    us.run("CREATE TABLE only_here (id int)").await;
    let client = eu.connect().await;
    client.batch_execute(&format!("SET domicile.key = '{}'", key())).await.unwrap();
    let count = client.prepare("SELECT count(*) FROM only_here").await.unwrap();
    for _ in 0..2 {
        assert_eq!(within(client.query_one(&count, &[])).await.unwrap().get::<_, i64>(0), 0);
    }
    client.batch_execute("RESET domicile.key").await.unwrap();
    assert_eq!(code(&within(client.query(&count, &[])).await.unwrap_err()), "26000");
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn what_is_discarded_is_discarded_wherever_the_key_leads() {
    let (eu, _us) = two(["eu", "us"]).await;
    let client = eu.connect().await;
    let set = format!("SET domicile.key = '{}'", key());
    client.batch_execute(&set).await.unwrap();
    client.batch_execute("CREATE TEMP TABLE mine (id int)").await.unwrap();
    client.batch_execute("SET work_mem = '7MB'").await.unwrap();
    assert_eq!(simple(&client, "SHOW work_mem").await.unwrap(), "7MB");
    client.batch_execute("RESET domicile.key").await.unwrap();
    client.batch_execute("DISCARD ALL").await.unwrap();
    client.batch_execute(&set).await.unwrap();
    assert_eq!(place(&client).await, "us");
    assert_ne!(simple(&client, "SHOW work_mem").await.unwrap(), "7MB");
    assert_eq!(code(&client.batch_execute("TABLE mine").await.unwrap_err()), "42P01");
}

#[tokio::test]
async fn what_a_session_listens_for_at_the_owner_is_heard_between_its_statements() {
    let (eu, us) = two(["eu", "us"]).await;
    let (client, mut connection) =
        tokio_postgres::connect(&eu.connection_string(), NoTls).await.unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(said)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let tokio_postgres::AsyncMessage::Notification(said) = said {
                heard.send(said.payload().to_owned()).unwrap();
            }
        }
    });
    client.batch_execute(&format!("SET domicile.key = '{}'", key())).await.unwrap();
    led(&client).await;
    client.batch_execute("LISTEN news").await.unwrap();
    us.run("NOTIFY news, 'first'").await;
    assert_eq!(within(hears.recv()).await.unwrap(), "first");
    assert_eq!(place(&client).await, "us");
    us.run("NOTIFY news, 'second'").await;
    assert_eq!(within(hears.recv()).await.unwrap(), "second");
}
