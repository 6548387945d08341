//! Does nothing write where a session only reads, whatever it is, and does its client not notice?

use std::sync::Mutex;

use futures_util::StreamExt as _;

use crate::*;

const NEAR: &str = "-c domicile.freshness=eventual";
/// Tables that no guard looks at, and ways to write them that are not in a statement's first word.
const TABLES: &str = "
    CREATE TABLE plain (id int PRIMARY KEY);
    CREATE SEQUENCE numbers;
    CREATE FUNCTION add(id int) RETURNS int LANGUAGE sql AS 'INSERT INTO plain VALUES ($1) RETURNING id';
    CREATE VIEW added AS SELECT add(100) AS id;
    CREATE FUNCTION let_write() RETURNS text LANGUAGE sql
        AS $$ SELECT set_config('default_transaction_read_only', 'off', false) $$;";
const ROUTE: &str = "SHOW domicile.route";

/// Two regions, of which the second owns everything.
async fn owned_by_the_other(wanted: Wanted) -> (Region, Region) {
    let (eu, us) = wanted.owner("us").two_regions().await;
    for region in [&eu, &us] {
        region.run(TABLES).await;
    }
    (eu, us)
}

fn follow() -> Wanted {
    Wanted::new(Mode::FollowOwner)
}

/// A session that reads near.
pub async fn near(region: &Region) -> Client {
    near_in(region, "postgres").await
}

/// The same in a database.
pub async fn near_in(region: &Region, database: &str) -> Client {
    let port = region.address.port();
    let address = format!("host=127.0.0.1 port={port} user=postgres dbname={database}");
    let address = format!("{address} options='{NEAR}'");
    let (client, connection) = within(tokio_postgres::connect(&address, NoTls)).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn plain(region: &Region) -> i64 {
    region.count("SELECT count(*) FROM plain").await
}

#[tokio::test]
async fn what_has_no_guard_is_written_by_the_owner() {
    let (eu, us) = owned_by_the_other(follow()).await;
    let client = near(&eu).await;
    let prepared = client.prepare("INSERT INTO plain VALUES ($1)").await.unwrap();
    within(client.execute(&prepared, &[&1])).await.unwrap();
    within(client.query("INSERT INTO plain VALUES (2) RETURNING id", &[])).await.unwrap();
    for sql in [
        "INSERT INTO plain VALUES (3)",
        "WITH new AS (INSERT INTO plain VALUES (4) RETURNING id) SELECT id FROM new",
        "SELECT add(5)",
        "SELECT id FROM added",
        "INSERT INTO plain VALUES (6); SELECT 1",
        "DO 'BEGIN INSERT INTO plain VALUES (7); END'",
        "SELECT nextval('numbers')",
        "CREATE TABLE made (id int)",
        "SELECT id FROM plain WHERE id = 1 FOR UPDATE",
        "COPY (INSERT INTO plain VALUES (8) RETURNING id) TO STDOUT",
    ] {
        match sql.starts_with("COPY") {
            true => {
                let copied = within(client.copy_out(sql)).await.unwrap();
                within(copied.for_each(async |_| {})).await;
            }
            false => within(client.batch_execute(sql)).await.unwrap(),
        }
        let route = simple(&client, ROUTE).await.unwrap();
        assert!(route.starts_with("us: the owner, because it writes"), "{sql}: {route}");
        assert_eq!(place(&client).await, "eu", "{sql}");
    }
    let large = format!("INSERT INTO plain VALUES (9) -- {}", "large ".repeat(100_000));
    within(client.batch_execute(&large)).await.unwrap();
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 10));
    assert_eq!(us.count("SELECT last_value FROM numbers WHERE is_called").await, 1);
    let made = "SELECT count(*) FROM pg_class WHERE relname = 'made'";
    assert_eq!((eu.count(made).await, us.count(made).await), (0, 1));
}

#[tokio::test]
async fn a_transaction_that_has_read_is_told_who_may_write() {
    let (eu, us) = owned_by_the_other(follow()).await;
    let client = near(&eu).await;
    within(client.batch_execute("BEGIN; INSERT INTO plain VALUES (1)")).await.unwrap();
    assert_eq!(place(&client).await, "us");
    within(client.batch_execute("ROLLBACK")).await.unwrap();

    within(client.batch_execute("BEGIN")).await.unwrap();
    assert_eq!(place(&client).await, "eu");
    let refused = within(client.batch_execute("INSERT INTO plain VALUES (1)")).await.unwrap_err();
    let said = refused.as_db_error().unwrap();
    assert_eq!(said.code().code(), "25006");
    assert_eq!(said.detail(), Some("Owner region: us, epoch: 0."));
    assert!(said.hint().unwrap().contains("BEGIN READ WRITE"), "{said:?}");
    within(client.batch_execute("ROLLBACK")).await.unwrap();
    within(client.batch_execute("INSERT INTO plain VALUES (1)")).await.unwrap();
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 1));
}

#[tokio::test]
async fn whoever_chooses_to_write_begins_at_the_owner() {
    let (eu, us) = owned_by_the_other(follow()).await;
    let client = near(&eu).await;
    let begin = client.prepare("BEGIN READ WRITE").await.unwrap();
    for (number, first) in [
        "BEGIN READ WRITE",
        "BEGIN; SET TRANSACTION READ WRITE",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
        "BEGIN; SET LOCAL transaction_read_only = off",
        "prepared",
        "two steps",
    ]
    .into_iter()
    .enumerate()
    {
        match first {
            "prepared" => _ = within(client.execute(&begin, &[])).await.unwrap(),
            "two steps" => {
                within(client.batch_execute("BEGIN")).await.unwrap();
                within(client.batch_execute("SET TRANSACTION READ WRITE")).await.unwrap();
            }
            first => within(client.batch_execute(first)).await.unwrap(),
        }
        let sql = format!("INSERT INTO plain VALUES ({number}); COMMIT");
        within(client.batch_execute(&sql)).await.unwrap();
        assert_eq!(plain(&us).await, number as i64 + 1, "{first}");
        let route = simple(&client, ROUTE).await.unwrap();
        assert_eq!(route, "us: the owner, because it says that it writes", "{first}");
    }
    // In one go, where nobody has been answered yet.
    let (begun, chosen, written) = within(async {
        tokio::join!(
            client.batch_execute("BEGIN"),
            client.batch_execute("SET TRANSACTION READ WRITE"),
            client.batch_execute("INSERT INTO plain VALUES (100); COMMIT")
        )
    })
    .await;
    begun.and(chosen).and(written).unwrap();
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 7));

    within(client.batch_execute("BEGIN")).await.unwrap();
    assert_eq!(place(&client).await, "eu");
    let late = within(client.batch_execute("SET TRANSACTION READ WRITE")).await.unwrap_err();
    assert!(late.as_db_error().unwrap().message().contains("begun to read"), "{late:?}");
    within(client.batch_execute("ROLLBACK")).await.unwrap();
}

#[tokio::test]
async fn what_a_session_sets_itself_lets_it_write_nowhere_else() {
    let (eu, us) = owned_by_the_other(follow()).await;
    let client = near(&eu).await;
    let off = client.prepare("SET default_transaction_read_only = off").await.unwrap();
    for (number, set) in [
        "SET default_transaction_read_only = off",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "SELECT let_write()",
        "RESET ALL",
        "BEGIN; SET default_transaction_read_only = off; COMMIT",
        "DO $$ BEGIN SET default_transaction_read_only = off; END $$",
        "prepared",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(place(&client).await, "eu");
        match set {
            "prepared" => _ = within(client.execute(&off, &[])).await.unwrap(),
            set => within(client.batch_execute(set)).await.unwrap(),
        }
        let sql = format!("INSERT INTO plain VALUES ({number})");
        within(client.batch_execute(&sql)).await.unwrap();
        assert_eq!((plain(&eu).await, plain(&us).await), (0, number as i64 + 1), "{set}");
    }
    // Who wants to be refused is.
    within(client.batch_execute("SET default_transaction_read_only = on")).await.unwrap();
    let insert = "INSERT INTO plain VALUES (100)";
    assert_eq!(code(&within(client.batch_execute(insert)).await.unwrap_err()), "25006");
    let both = format!("BEGIN READ ONLY; {insert}");
    assert_eq!(code(&within(client.batch_execute(&both)).await.unwrap_err()), "25006");
    within(client.batch_execute("ROLLBACK")).await.unwrap();
    // Also where nothing keeps him from it any more.
    eu.publish(owned_by(2, Some("eu")));
    assert_eq!(code(&within(client.batch_execute(insert)).await.unwrap_err()), "25006");
    within(client.batch_execute("SET default_transaction_read_only = off")).await.unwrap();
    within(client.batch_execute(insert)).await.unwrap();
    assert_eq!(plain(&eu).await, 1);
}

#[tokio::test]
async fn a_region_that_owns_everything_or_a_part_is_written_as_ever() {
    let wanted = follow().port(Freshness::Eventual);
    let (eu, us) = owned_by_the_other(wanted).await;
    let at_port = format!("host=127.0.0.1 port={} user=postgres", eu.ports[0].port());
    let (client, connection) = within(tokio_postgres::connect(&at_port, NoTls)).await.unwrap();
    tokio::spawn(connection);
    let insert = async |id: i32| {
        within(client.batch_execute(&format!("INSERT INTO plain VALUES ({id})"))).await.unwrap();
    };
    insert(1).await;
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 1));
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("eu")));
    }
    insert(2).await;
    assert_eq!((plain(&eu).await, plain(&us).await), (1, 1));
    assert_eq!(simple(&client, "SHOW transaction_read_only").await.unwrap(), "off");
    for region in [&eu, &us] {
        region.publish(owned_by(3, None));
    }
    let mut waiting = std::pin::pin!(insert(3));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "nobody is the owner");
    for region in [&eu, &us] {
        region.publish(owned_by(4, Some("us")));
    }
    waiting.await;
    assert_eq!((plain(&eu).await, plain(&us).await), (1, 2));

    let (eu, us) = owned_by_the_other(Wanted::new(Mode::Local)).await;
    let client = near(&eu).await;
    within(client.batch_execute("INSERT INTO plain VALUES (1)")).await.unwrap();
    assert_eq!((plain(&eu).await, plain(&us).await), (1, 0));
}

#[tokio::test]
async fn a_session_only_reads_as_long_as_it_reads_near() {
    let (eu, us) = owned_by_the_other(follow()).await;
    let client = eu.connect().await;
    let both = |id: i32| format!("INSERT INTO plain VALUES ({id})");
    let commented = format!("/* domicile.freshness=eventual */ {}", both(1));
    within(client.batch_execute(&commented)).await.unwrap();
    within(client.batch_execute("SET domicile.freshness = 'eventual'")).await.unwrap();
    assert_eq!(place(&client).await, "eu");
    within(client.batch_execute(&both(2))).await.unwrap();
    within(client.batch_execute("RESET domicile.freshness")).await.unwrap();
    within(client.batch_execute(&both(3))).await.unwrap();
    assert_eq!(place(&client).await, "us");
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 3));
}

#[tokio::test]
async fn for_its_client_a_session_writes() {
    let (eu, _us) = owned_by_the_other(follow()).await;
    let address =
        format!("{} options='{NEAR}' target_session_attrs=read-write", eu.connection_string());
    let (client, mut connection) = within(tokio_postgres::connect(&address, NoTls)).await.unwrap();
    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let telling = told.clone();
    let talk = futures_util::stream::poll_fn(move |context| {
        let mut told = telling.lock().unwrap();
        let polled = connection.poll_message(context);
        for name in ["default_transaction_read_only", "in_hot_standby"] {
            told.insert(name, connection.parameter(name).map(str::to_owned));
        }
        polled
    });
    tokio::spawn(talk.for_each(async |_| {}));
    for sql in [
        "SELECT 1",
        "RESET ALL",
        "BEGIN; SET default_transaction_read_only = off",
        "ROLLBACK",
        "SELECT 1",
        "INSERT INTO plain VALUES (1)",
    ] {
        within(client.batch_execute(sql)).await.unwrap();
        for (name, value) in told.lock().unwrap().iter() {
            assert_ne!(value.as_deref(), Some("on"), "{name} after {sql}");
        }
        assert_eq!(simple(&client, "SHOW transaction_read_only").await.unwrap_or_default(), "off");
    }
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn temporary_tables_are_the_sessions_where_it_reads() {
    let (eu, us) = owned_by_the_other(follow()).await;
    let client = near(&eu).await;
    within(client.batch_execute("CREATE TEMP TABLE found AS SELECT 1 AS id")).await.unwrap();
    within(client.batch_execute("INSERT INTO found VALUES (2)")).await.unwrap();
    within(client.batch_execute("CREATE INDEX ON found (id)")).await.unwrap();
    assert_eq!(simple(&client, "SELECT count(*) FROM found").await.unwrap(), "2");
    within(client.batch_execute("INSERT INTO plain VALUES (1)")).await.unwrap();
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 1));
    let dropped = client.prepare("DROP TABLE found").await.unwrap();
    within(client.execute(&dropped, &[])).await.unwrap();
    within(client.batch_execute("BEGIN")).await.unwrap();
    within(client.batch_execute("CREATE TEMP TABLE found (id int) ON COMMIT DROP")).await.unwrap();
    within(client.batch_execute("INSERT INTO found VALUES (3); COMMIT")).await.unwrap();
    within(client.batch_execute("INSERT INTO plain VALUES (2)")).await.unwrap();
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 2));
}

#[tokio::test]
async fn a_shared_server_that_was_only_read_is_written_by_the_next_one() {
    let (eu, us) = owned_by_the_other(follow().shared(1)).await;
    let reader = eu.connect().await;
    within(reader.batch_execute("SET domicile.freshness = 'eventual'")).await.unwrap();
    let pid = simple(&reader, "SELECT pg_backend_pid()").await.unwrap();
    within(reader.batch_execute("INSERT INTO plain VALUES (1)")).await.unwrap();
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 1));
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("eu")));
    }
    let writer = eu.connect().await;
    assert_eq!(simple(&writer, "SELECT pg_backend_pid()").await.unwrap(), pid);
    within(writer.batch_execute("INSERT INTO plain VALUES (2)")).await.unwrap();
    assert_eq!((plain(&eu).await, plain(&us).await), (1, 1));
    within(writer.batch_execute("SET domicile.freshness = 'eventual'")).await.unwrap();
    for region in [&eu, &us] {
        region.publish(owned_by(3, Some("us")));
    }
    // Both on one server, by turns.
    for id in [3, 5] {
        for (client, id) in [(&reader, id), (&writer, id + 1)] {
            assert_eq!(simple(client, "SELECT pg_backend_pid()").await.unwrap(), pid);
            let insert = format!("INSERT INTO plain VALUES ({id})");
            within(client.batch_execute(&insert)).await.unwrap();
        }
    }
    assert_eq!((plain(&eu).await, plain(&us).await), (1, 5));
}

#[tokio::test]
async fn where_no_owner_is_found_the_client_is_told() {
    let (eu, us) = owned_by_the_other(follow().budget(300)).await;
    let client = near(&eu).await;
    assert_eq!(place(&client).await, "eu");
    for region in [&eu, &us] {
        region.publish(owned_by(2, None));
    }
    for sql in ["INSERT INTO plain VALUES (1)", "BEGIN READ WRITE"] {
        let refused = within(client.batch_execute(sql)).await.unwrap_err();
        assert_eq!(code(&refused), "25006", "{sql}: {refused:?}");
        assert_eq!(place(&client).await, "eu");
    }
    assert_eq!((plain(&eu).await, plain(&us).await), (0, 0));
}
