//! Who lets a client in where others have logged in like it, and does he know what PostgreSQL knows?

use domicile::gateway::Counts;
use futures_util::future;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::password::asks;
use super::sharing::{said, server, talk, until_counted};
use crate::*;

/// A region with one server for all that are `app`, which PostgreSQL lets in once at a time.
async fn region_of_one() -> Region {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    eu.run("CREATE ROLE app LOGIN CONNECTION LIMIT 1 PASSWORD 'first'").await;
    asks(&eu).await;
    eu
}

async fn log_in(port: u16, password: &str) -> Result<Client, tokio_postgres::Error> {
    let address =
        format!("host=127.0.0.1 port={port} user=app dbname=postgres password={password}");
    let (client, connection) = within(tokio_postgres::connect(&address, NoTls)).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Logs in until PostgreSQL has done that itself and has left its server to the pool.
async fn introduce(region: &Region, password: &str) -> Client {
    let client = log_in(region.address.port(), password).await.unwrap();
    server(&client).await;
    until_counted(region, |counts| counts == Counts { idle: 1, in_use: 0, waiting: 0 }).await;
    client
}

#[tokio::test]
async fn many_log_in_where_postgresql_has_let_in_one() {
    let eu = region_of_one().await;
    let first = introduce(&eu, "first").await;
    let port = eu.address.port();
    let others = future::join_all((0..20).map(|_| log_in(port, "first"))).await;
    let used = server(&first).await;
    for other in &others {
        let other = other.as_ref().unwrap();
        assert_eq!(server(other).await, used);
        assert_eq!(simple(other, "SELECT current_user").await.unwrap(), "app");
    }
    // PostgreSQL itself has no room for one more.
    let error = log_in(eu.cluster.port(), "first").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    let error = log_in(port, "second").await.unwrap_err();
    assert_eq!(code(&error), "28P01");
    assert_eq!(server(&first).await, used);
}

#[tokio::test]
async fn a_client_hears_of_its_server_what_postgresql_says() {
    let eu = region_of_one().await;
    let heard = async |port: u16| {
        let address = format!("host=127.0.0.1 port={port} user=app dbname=postgres");
        let config =
            format!("{address} password=first application_name=shop options='-c DateStyle=German'");
        let (client, mut connection) =
            within(tokio_postgres::connect(&config, NoTls)).await.unwrap();
        // The first of all waits for the end of the startup.
        tokio::select! {
            biased;
            _ = &mut connection => panic!("it ends"),
            done = client.batch_execute("") => done.unwrap(),
        }
        let names = [
            "server_version",
            "server_encoding",
            "client_encoding",
            "application_name",
            "is_superuser",
            "session_authorization",
            "DateStyle",
            "IntervalStyle",
            "TimeZone",
            "integer_datetimes",
            "standard_conforming_strings",
        ];
        names.map(|name| connection.parameter(name).map(str::to_owned))
    };
    let direct = heard(eu.cluster.port()).await;
    let first = within(heard(eu.address.port())).await;
    until_counted(&eu, |counts| counts == Counts { idle: 1, in_use: 0, waiting: 0 }).await;
    assert_eq!([&first, &heard(eu.address.port()).await], [&direct, &direct]);
    assert!(direct[6].as_deref().unwrap().starts_with("German"), "{direct:?}");
}

#[tokio::test]
async fn what_keeps_a_role_out_of_postgresql_keeps_it_out_at_once() {
    let eu = region_of_one().await;
    eu.run("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; GRANT CONNECT ON DATABASE postgres TO app").await;
    let _first = introduce(&eu, "first").await;
    let refused = async |password: &str| {
        let error = log_in(eu.address.port(), password).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        (error.code().code().to_owned(), error.message().to_owned())
    };
    // PostgreSQL looks at all of it before it counts the connections of a role.
    let itself = async |password: &str| {
        let error = log_in(eu.cluster.port(), password).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        (error.code().code().to_owned(), error.message().to_owned())
    };
    for (change, back) in [
        ("ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN"),
        ("ALTER ROLE app VALID UNTIL '2001-01-01'", "ALTER ROLE app VALID UNTIL 'infinity'"),
        (
            "REVOKE CONNECT ON DATABASE postgres FROM app",
            "GRANT CONNECT ON DATABASE postgres TO app",
        ),
        ("ALTER ROLE app RENAME TO gone", "ALTER ROLE gone RENAME TO app"),
    ] {
        eu.run(change).await;
        assert_eq!(refused("first").await, itself("first").await, "{change}");
        eu.run(back).await;
        log_in(eu.address.port(), "first").await.unwrap_or_else(|error| panic!("{back}: {error}"));
    }
    eu.run("ALTER ROLE app PASSWORD 'second'").await;
    assert_eq!(refused("first").await, itself("first").await);
    // Nobody is known by it yet, and PostgreSQL has no room.
    assert_eq!(refused("second").await.0, "53300");
    eu.run("ALTER ROLE app CONNECTION LIMIT 2").await;
    log_in(eu.address.port(), "second").await.unwrap();
    let rules = eu.cluster.folder().join("data/pg_hba.conf");
    let kept = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("host all app all reject\n{kept}")).unwrap();
    let direct = eu.cluster.connect().await.unwrap();
    let loaded = simple(&direct, "SELECT pg_conf_load_time()").await.unwrap();
    direct.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until(&eu, &format!("SELECT pg_conf_load_time() > '{loaded}'")).await;
    assert_eq!(refused("second").await.0, "28000");
}

#[tokio::test]
async fn a_client_that_a_stand_in_let_in_can_cancel_what_it_asks() {
    let eu = region_of_one().await;
    let first = introduce(&eu, "first").await;
    let second = log_in(eu.address.port(), "first").await.unwrap();
    let cancel = second.cancel_token();
    cancel.cancel_query(NoTls).await.unwrap();
    assert_eq!(server(&second).await, server(&first).await);
    let sleeping = tokio::spawn(async move { second.batch_execute("SELECT pg_sleep(600)").await });
    until(&eu, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").await;
    cancel.cancel_query(NoTls).await.unwrap();
    assert_eq!(code(&within(sleeping).await.unwrap().unwrap_err()), "57014");
}

#[tokio::test]
async fn clients_are_let_in_again_when_postgresql_was_started_anew() {
    let mut eu = region_of_one().await;
    let _first = introduce(&eu, "first").await;
    for _ in 0..2 {
        eu.cluster.kill();
        eu.cluster.start().await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = log_in(eu.address.port(), "first").await.unwrap();
            assert_eq!(place(&client).await, "eu");
            clients.push(client);
        }
    }
}

#[tokio::test]
async fn a_name_that_comes_to_mean_another_role_leads_to_no_server_of_the_one_before() {
    let eu = region_of_one().await;
    let first = introduce(&eu, "first").await;
    let port = eu.address.port();
    let before = log_in(port, "first").await.unwrap();
    eu.run("ALTER ROLE app RENAME TO gone; CREATE ROLE app LOGIN PASSWORD 'second'").await;
    let after = log_in(port, "second").await.unwrap();
    for _ in 0..2 {
        assert_eq!(simple(&after, "SELECT session_user").await.unwrap(), "app");
        assert_eq!(simple(&first, "SELECT session_user").await.unwrap(), "gone");
        assert_eq!(simple(&before, "SELECT session_user").await.unwrap(), "gone");
    }
    let another = log_in(port, "second").await.unwrap();
    assert_eq!(server(&another).await, server(&after).await);
}

#[tokio::test]
async fn what_comes_before_the_login_is_over_is_answered_behind_it() {
    for (mode, is_known) in [
        (PoolMode::Session, false),
        (PoolMode::Session, true),
        (PoolMode::Transaction, false),
        (PoolMode::Transaction, true),
    ] {
        let eu = Wanted::new(Mode::Local).pooled(mode, 1).region().await;
        let startup = hostile::startup(3 << 16);
        if is_known {
            let mut stream = TcpStream::connect(eu.address).await.unwrap();
            talk(&mut stream, &startup).await;
            stream.write_all(b"X\0\0\0\x04").await.unwrap();
        }
        let mut stream = TcpStream::connect(eu.address).await.unwrap();
        let early = said(&[
            (b'P', b"s\0SELECT 'early'\0\0\0"),
            (b'B', b"\0s\0\0\0\0\0\0\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'S', b""),
        ]);
        stream.write_all(&[startup, early].concat()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("early") {
            let read = within(stream.read_buf(&mut answer)).await.unwrap();
            let answer = String::from_utf8_lossy(&answer);
            assert!(read > 0, "{mode:?} {is_known}: {answer}");
        }
        let other = eu.connect().await;
        drop(stream);
        until_counted(&eu, |counts| counts.in_use == 0).await;
        let prepared = "SELECT count(*) FROM pg_prepared_statements WHERE name = 's'";
        assert_eq!(simple(&other, prepared).await.unwrap(), "0");
    }
}

#[tokio::test]
async fn who_says_nonsense_to_a_stand_in_is_sent_away() {
    let eu = region_of_one().await;
    let _first = introduce(&eu, "first").await;
    let parameters = b"user\0app\0database\0postgres\0client_encoding\0UTF8\0\0";
    let length = u32::try_from(8 + parameters.len()).unwrap().to_be_bytes();
    let startup = [&length[..], &(3_u32 << 16).to_be_bytes(), parameters].concat();
    for said in [
        &b"Q\0\0\0\x0dSELECT 1\0"[..],
        b"p\0\0\0\x04",
        b"p\0\0\0\x0anonsens",
        b"p\0\0\0\x22SCRAM-SHA-256\0\0\0\0\x0cn,,n=,r=abcd",
        b"p\0\0\0\x06\xff\xff",
        b"p\xff\xff\xff\xff",
        b"X\0\0\0\x04",
        b"",
    ] {
        let mut stream = TcpStream::connect(eu.address).await.unwrap();
        stream.write_all(&startup).await.unwrap();
        stream.write_all(said).await.unwrap();
        // The second answer to a login that goes on is nonsense, too.
        stream.write_all(b"p\0\0\0\x0ac=biws").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with('R') && !answer.contains("server_version"),
            "{said:?}: {answer}"
        );
    }
    // A name that is none stands in nobody's way.
    let address = format!("host=127.0.0.1 port={} user={}", eu.address.port(), "x".repeat(80));
    let error = within(tokio_postgres::connect(&format!("{address} password=x"), NoTls)).await;
    assert_eq!(code(&error.err().unwrap()), "28P01");
    log_in(eu.address.port(), "first").await.unwrap();
}
