//! Does the console show what there is, to whom it may, and does it hold clients and let them go?

use std::sync::atomic::{AtomicBool, Ordering};

use domicile::lab::cluster::StopMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::*;

const CONSOLE: &str = "domicile";
const CLIENTS: i32 = 8;
/// So often PostgreSQL is started anew.
const RESTARTS: usize = 3;
/// So many statements are acknowledged before each.
const BETWEEN: i64 = 200;

/// A region with a console, and a client in it that may do everything.
async fn with_console() -> (Region, Client) {
    let eu = Wanted::new(Mode::Local).console().region().await;
    eu.run("CREATE ROLE watch LOGIN; CREATE ROLE app LOGIN").await;
    let console = console(&eu).await;
    (eu, console)
}

async fn console(region: &Region) -> Client {
    region.connect_as("postgres", CONSOLE).await.unwrap()
}

/// The rows of an answer, column by column.
async fn shown(console: &Client, command: &str) -> Vec<BTreeMap<String, String>> {
    let messages = within(console.simple_query(command)).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let cells = |row: &tokio_postgres::SimpleQueryRow| {
        let columns = row.columns().iter().enumerate();
        let cell = |i| row.get(i).unwrap_or_default().to_owned();
        columns.map(|(i, column)| (column.name().to_owned(), cell(i))).collect()
    };
    rows.map(cells).collect()
}

/// How many clients are in this state.
async fn count_in(console: &Client, state: &str) -> usize {
    shown(console, "SHOW CLIENTS").await.iter().filter(|row| row["state"] == state).count()
}

async fn until_in(console: &Client, state: &str, count: usize) {
    within(async { while count_in(console, state).await != count {} }).await;
}

/// Pauses from a session of its own.
fn pausing(
    region: &Region,
    command: &'static str,
) -> tokio::task::JoinHandle<Result<(), tokio_postgres::Error>> {
    let address = region.connection_string().replace("dbname=postgres", "dbname=domicile");
    tokio::spawn(async move {
        let (console, connection) = tokio_postgres::connect(&address, NoTls).await?;
        // Both in one task: whoever aborts it closes the connection.
        tokio::select! {
            done = console.batch_execute(command) => done,
            ended = connection => panic!("the console ended by itself: {ended:?}"),
        }
    })
}

async fn until_paused(console: &Client, paused: &str) {
    within(async {
        while shown(console, "SHOW DATABASES").await.iter().any(|row| row["paused"] != paused) {}
    })
    .await;
}

#[tokio::test]
async fn a_console_that_nobody_may_come_to_says_how_that_is_changed() {
    let eu = Wanted::new(Mode::Local).region().await;
    let error = eu.connect_as("postgres", CONSOLE).await.err().unwrap();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "28000");
    assert_eq!(error.message(), "no role may come to the gateway's console");
    assert!(error.hint().unwrap().contains("gateway.admins"));
}

#[tokio::test]
async fn roles_that_are_not_named_do_not_come_and_viewers_change_nothing() {
    let (eu, _console) = with_console().await;
    let error = eu.connect_as("app", CONSOLE).await.err().unwrap();
    let message = error.as_db_error().unwrap().message();
    assert_eq!(message, "role \"app\" may not come to the gateway's console");
    let viewer = eu.connect_as("watch", CONSOLE).await.unwrap();
    assert_eq!(shown(&viewer, "SHOW VERSION").await.len(), 1);
    for command in ["PAUSE", "RESUME", "DRAIN", "UNDRAIN", "KILL_CLIENT 1"] {
        let error = within(viewer.batch_execute(command)).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{command}");
    }
    assert_eq!(count_in(&viewer, "active").await, 2);
}

#[tokio::test]
async fn who_comes_logs_in_at_the_regions_postgres() {
    let (eu, _console) = with_console().await;
    eu.run("ALTER ROLE watch PASSWORD 'right'").await;
    let direct = eu.cluster.connect().await.unwrap();
    let rules = "host all postgres all trust\nhost all all all scram-sha-256\n";
    std::fs::write(eu.cluster.folder().join("data/pg_hba.conf"), rules).unwrap();
    direct.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let with = |password| {
        let address = eu.connection_string().replace("user=postgres", "user=watch");
        let address = address.replace("dbname=postgres", "dbname=domicile");
        format!("{address} password={password}")
    };
    within(async { while tokio_postgres::connect(&with("wrong"), NoTls).await.is_ok() {} }).await;
    let error = tokio_postgres::connect(&with("wrong"), NoTls).await.err().unwrap();
    assert_eq!(code(&error), "28P01");
    let (viewer, connection) = tokio_postgres::connect(&with("right"), NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(shown(&viewer, "SHOW POOLS").await.len(), 0);
    until(&eu, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'watch'").await;
}

#[tokio::test]
async fn every_view_is_shown_in_both_protocols_with_the_same_columns() {
    let (eu, console) = with_console().await;
    let app = eu.connect_as("app", "postgres").await.unwrap();
    assert_eq!(place(&app).await, "eu");
    for command in shown(&console, "SHOW HELP").await {
        let command = &command["command"];
        if !command.starts_with("SHOW ") {
            continue;
        }
        let simple = shown(&console, command).await;
        let rows = within(console.query(command.as_str(), &[])).await.unwrap();
        assert_eq!(rows.len(), simple.len(), "{command}");
        for (row, simple) in rows.iter().zip(&simple) {
            let names: Vec<_> = row.columns().iter().map(|column| column.name()).collect();
            assert_eq!(names.len(), simple.len(), "{command}");
            assert!(names.iter().all(|name| simple.contains_key(*name)), "{command}");
        }
    }
    let row = console.query_one("SHOW POOLS", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>("user"), "app");
    assert_eq!((row.get::<_, i64>("cl_active"), row.get::<_, i64>("sv_idle")), (1, 1));
}

#[tokio::test]
async fn psql_shows_a_table_and_what_there_is_for_any_other_word() {
    let (eu, _console) = with_console().await;
    let psql = async |command: &str| {
        let mut psql = tokio::process::Command::new(PgBin::find(None).unwrap().program("psql"));
        let address = eu.connection_string().replace("dbname=postgres", "dbname=domicile");
        psql.args(["-X", "-c", "\\pset border 2", "-c", command, &address]);
        let output = within(psql.output()).await.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let table = psql("show clients;").await;
    assert!(table.contains("| A    | postgres | domicile | active |"), "{table}");
    let refusal = psql("SELECT 1").await;
    assert!(refusal.contains("ERROR:  \"SELECT 1\" is no command of the console"), "{refusal}");
    assert!(refusal.contains("SHOW POOLS") && refusal.contains("PAUSE [database]"), "{refusal}");
}

#[tokio::test]
async fn clients_servers_and_statistics_say_what_sessions_do() {
    let (eu, console) = with_console().await;
    let app = eu.connect_as("app", "postgres").await.unwrap();
    app.batch_execute("BEGIN; SELECT 1").await.unwrap();
    app.batch_execute("SELECT 2").await.unwrap();
    let clients = shown(&console, "SHOW CLIENTS").await;
    let client = clients.iter().find(|row| row["user"] == "app").unwrap();
    let seen = (client["state"].as_str(), client["region"].as_str(), client["addr"].as_str());
    assert_eq!(seen, ("idle in transaction", "eu", "127.0.0.1"));
    let pid = simple(&app, "SELECT pg_backend_pid()").await.unwrap();
    let servers = shown(&console, "SHOW SERVERS").await;
    let seen: Vec<_> = servers.iter().map(|row| (&row["link"], &row["remote_pid"])).collect();
    assert_eq!(seen, [(&client["id"], &pid)]);
    app.batch_execute("COMMIT").await.unwrap();
    drop(app);
    within(async { while shown(&console, "SHOW CLIENTS").await.len() > 1 {} }).await;
    let stats = shown(&console, "SHOW STATS").await;
    let counts = (stats[0]["total_xact_count"].as_str(), stats[0]["total_query_count"].as_str());
    assert_eq!((stats[0]["database"].as_str(), counts), ("postgres", ("1", "4")));
    assert_ne!(stats[0]["total_received"], "0");
}

#[tokio::test]
async fn a_killed_client_is_told_and_gone() {
    let (eu, console) = with_console().await;
    let app = eu.connect_as("app", "postgres").await.unwrap();
    let sleep = tokio::spawn(async move { app.batch_execute("SELECT pg_sleep(600)").await });
    until(&eu, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)'").await;
    let clients = shown(&console, "SHOW CLIENTS").await;
    let id = &clients.iter().find(|row| row["user"] == "app").unwrap()["id"];
    console.batch_execute(&format!("KILL_CLIENT {id}")).await.unwrap();
    assert_eq!(code(&within(sleep).await.unwrap().unwrap_err()), "57P01");
    within(async { while shown(&console, "SHOW CLIENTS").await.len() > 1 {} }).await;
    let error = console.batch_execute(&format!("KILL {id}")).await.unwrap_err();
    assert_eq!(code(&error), "42704");
}

#[tokio::test]
async fn a_pause_returns_when_nothing_runs_and_holds_what_comes_until_resume() {
    let (eu, console) = with_console().await;
    let (first, second) = (eu.connect().await, eu.connect().await);
    first.batch_execute("BEGIN").await.unwrap();
    let pausing = pausing(&eu, "PAUSE");
    until_paused(&console, "1").await;
    let waiting = tokio::spawn(async move { place(&second).await });
    until_in(&console, "paused", 1).await;
    assert!(!pausing.is_finished(), "a transaction is open still");
    assert_eq!(place(&first).await, "eu");
    first.batch_execute("COMMIT").await.unwrap();
    within(pausing).await.unwrap().unwrap();

    let first = tokio::spawn(async move { place(&first).await });
    let newcomer = eu.connection_string();
    let newcomer =
        tokio::spawn(async move { tokio_postgres::connect(&newcomer, NoTls).await.is_ok() });
    until_in(&console, "paused", 3).await;
    console.batch_execute("RESUME").await.unwrap();
    assert!(within(newcomer).await.unwrap());
    assert_eq!(
        (within(first).await.unwrap(), within(waiting).await.unwrap()),
        ("eu".into(), "eu".into())
    );
    let error = console.batch_execute("RESUME").await.unwrap_err();
    assert_eq!(code(&error), "55000");
}

#[tokio::test]
async fn one_database_is_paused_and_the_others_go_on() {
    let (eu, console) = with_console().await;
    eu.run("CREATE DATABASE shop").await;
    let error = console.batch_execute("PAUSE shop").await.unwrap_err();
    assert_eq!(code(&error), "3D000", "nobody has used it yet");
    let shop = eu.connect_as("postgres", "shop").await.unwrap();
    assert_eq!(place(&shop).await, "eu");
    within(console.batch_execute("PAUSE shop")).await.unwrap();
    let waiting = tokio::spawn(async move { place(&shop).await });
    until_in(&console, "paused", 1).await;
    assert_eq!(place(&eu.connect().await).await, "eu");
    console.batch_execute("RESUME shop").await.unwrap();
    assert_eq!(within(waiting).await.unwrap(), "eu");
}

#[tokio::test]
async fn a_pause_that_is_cancelled_or_left_holds_nobody() {
    let (eu, console) = with_console().await;
    let client = eu.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let other = self::console(&eu).await;
    let cancel = other.cancel_token();
    let cancelled = tokio::spawn(async move { other.batch_execute("PAUSE").await });
    until_paused(&console, "1").await;
    cancel.cancel_query(NoTls).await.unwrap();
    assert_eq!(code(&within(cancelled).await.unwrap().unwrap_err()), "57014");
    until_paused(&console, "0").await;
    let resumed = pausing(&eu, "PAUSE");
    until_paused(&console, "1").await;
    console.batch_execute("RESUME").await.unwrap();
    assert_eq!(code(&within(resumed).await.unwrap().unwrap_err()), "55000");
    let left = pausing(&eu, "PAUSE postgres");
    until_paused(&console, "1").await;
    left.abort();
    until_paused(&console, "0").await;
    assert_eq!(place(&eu.connect().await).await, "eu");
}

#[tokio::test]
async fn a_statement_that_waits_in_a_pause_can_be_cancelled() {
    let (eu, console) = with_console().await;
    let client = eu.connect().await;
    within(console.batch_execute("PAUSE")).await.unwrap();
    let cancel = client.cancel_token();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let error = client.batch_execute("SELECT 1").await.unwrap_err();
        let _ = sender.send((code(&error).to_owned(), client));
    });
    until_in(&console, "paused", 1).await;
    cancel.cancel_query(NoTls).await.unwrap();
    let (code, client) = within(receiver).await.unwrap();
    assert_eq!(code, "57014");
    console.batch_execute("RESUME").await.unwrap();
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_started_anew_in_a_pause_and_no_client_notices() {
    is_started_anew(Wanted::new(Mode::Local)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_that_shares_servers() {
    is_started_anew(Wanted::new(Mode::Local).shared(3)).await;
}

async fn is_started_anew(wanted: Wanted) {
    let mut eu = wanted.console().region().await;
    let console = console(&eu).await;
    eu.run("CREATE TABLE note (writer int, id int)").await;
    let idle = eu.connect().await;
    idle.batch_execute("SET application_name = 'idle'").await.unwrap();
    let remembered = idle.prepare("SELECT current_setting('application_name')").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..CLIENTS {
        writers.push(tokio::spawn(write_until(eu.connection_string(), writer, stop.clone())));
    }
    for _ in 0..RESTARTS {
        let before = eu.count("SELECT count(*) FROM note").await;
        let enough = format!("SELECT count(*) >= {} FROM note", before + BETWEEN);
        until(&eu, &enough).await;
        within(console.batch_execute("PAUSE")).await.unwrap();
        eu.cluster.stop(StopMode::Fast).await.unwrap();
        eu.cluster.start().await.unwrap();
        console.batch_execute("RESUME").await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = 0;
    for writer in writers {
        acknowledged += within(writer).await.unwrap();
    }
    assert_eq!(eu.count("SELECT count(*) FROM note").await, acknowledged);
    let name: String = within(idle.query_one(&remembered, &[])).await.unwrap().get(0);
    assert_eq!(name, "idle");
}

/// Writes rows in statements, in transactions and in new sessions, and returns how many were acknowledged.
async fn write_until(address: String, writer: i32, stop: Arc<AtomicBool>) -> i64 {
    let connect = async || {
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let mut client = connect().await;
    let mut insert = client.prepare("INSERT INTO note VALUES ($1, $2)").await.unwrap();
    let mut id = 0;
    while !stop.load(Ordering::Relaxed) {
        match id % 10 {
            0 => {
                client = connect().await;
                insert = client.prepare("INSERT INTO note VALUES ($1, $2)").await.unwrap();
                client.execute(&insert, &[&writer, &id]).await.unwrap();
            }
            1..4 => {
                let transaction = client.transaction().await.unwrap();
                transaction.execute(&insert, &[&writer, &id]).await.unwrap();
                transaction.commit().await.unwrap();
            }
            _ => drop(client.execute(&insert, &[&writer, &id]).await.unwrap()),
        }
        id += 1;
    }
    i64::from(id)
}

#[tokio::test]
async fn clients_of_other_gateways_wait_there_while_their_owner_is_paused() {
    let wanted = Wanted::new(Mode::FollowOwner).owner("us").console();
    let (eu, mut us) = wanted.two_regions().await;
    let client = eu.connect().await;
    assert_eq!(place(&client).await, "us");
    let console = console(&us).await;
    within(console.batch_execute("PAUSE")).await.unwrap();
    us.cluster.stop(StopMode::Fast).await.unwrap();
    let waiting = tokio::spawn(async move { place(&client).await });
    until_in(&self::console(&eu).await, "waiting", 1).await;
    us.cluster.start().await.unwrap();
    console.batch_execute("RESUME").await.unwrap();
    assert_eq!(within(waiting).await.unwrap(), "us");
}

#[tokio::test]
async fn nothing_but_a_login_passes_on_the_way_into_the_console() {
    let (eu, _console) = with_console().await;
    eu.run("CREATE TABLE note (id int)").await;
    let parameters = b"user\0postgres\0database\0domicile\0\0";
    let length = u32::try_from(8 + parameters.len()).unwrap().to_be_bytes();
    let startup = [&length[..], &(3_u32 << 16).to_be_bytes(), parameters].concat();
    let sql = b"INSERT INTO note VALUES (1)\0";
    let length = u32::try_from(4 + sql.len()).unwrap().to_be_bytes();
    let query = [&b"Q"[..], &length, sql].concat();
    let mut stream = TcpStream::connect(eu.address).await.unwrap();
    stream.write_all(&[startup, query].concat()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    let says = |text: &str| answer.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(says("C08P01") || says("C42601"), "{answer:?}");
    assert_eq!(eu.count("SELECT count(*) FROM note").await, 0);
}

#[tokio::test]
async fn a_drained_region_says_so_and_its_clients_go_on() {
    let wanted = Wanted::new(Mode::Local).console();
    let notices = wanted.notices.clone();
    let eu = wanted.region().await;
    let (console, client) = (console(&eu).await, eu.connect().await);
    let error = console.batch_execute("UNDRAIN").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE));
    for command in ["DRAIN", "drain;"] {
        console.batch_execute(command).await.unwrap();
        let said = notices.all();
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].name, "drained");
        assert!(said[0].detail.contains("\"postgres\""), "{}", said[0].detail);
    }
    assert_eq!(state(&console).await, ["active", "drained"]);
    client.batch_execute("SELECT 1").await.unwrap();
    eu.connect().await.batch_execute("SELECT 1").await.unwrap();
    console.batch_execute("UNDRAIN").await.unwrap();
    assert!(notices.all().is_empty());
    assert_eq!(state(&console).await, ["active"]);
    console.batch_execute("PAUSE").await.unwrap();
    assert_eq!(state(&console).await, ["paused"]);
}

/// What the gateway says that it is.
async fn state(console: &Client) -> Vec<String> {
    let lines = shown(console, "SHOW STATE").await;
    lines.iter().filter(|line| line["value"] == "yes").map(|line| line["key"].clone()).collect()
}
