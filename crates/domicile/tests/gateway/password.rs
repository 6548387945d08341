//! Does a session whose servers ask for its password get to another region, and only as its client?

use crate::*;

const RULES: &str = "host all postgres all trust\nhost all all all scram-sha-256\n";

/// Two regions that ask `app` for the same password, and what they keep of it.
pub async fn two_that_ask(wanted: &Wanted) -> (Region, Region) {
    let (eu, us) = wanted.two_regions().await;
    eu.run("CREATE ROLE app LOGIN PASSWORD 'first'; CREATE ROLE nosy LOGIN").await;
    let kept = kept(&eu).await;
    us.run(&format!("CREATE ROLE app LOGIN PASSWORD '{kept}'")).await;
    for region in [&eu, &us] {
        region.guard("us", 4, region.name.as_str() == "us").await;
        region.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO app").await;
        asks(region).await;
    }
    (eu, us)
}

/// Has a region ask everybody but us for a password.
pub async fn asks(region: &Region) {
    let direct = region.cluster.connect().await.unwrap();
    std::fs::write(region.cluster.folder().join("data/pg_hba.conf"), RULES).unwrap();
    direct.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let address = format!("host=127.0.0.1 port={} user=app", region.cluster.port());
    within(async { while tokio_postgres::connect(&address, NoTls).await.is_ok() {} }).await;
}

/// The verifier of `app`.
async fn kept(region: &Region) -> String {
    let direct = region.cluster.connect().await.unwrap();
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
    direct.query_one(sql, &[]).await.unwrap().get(0)
}

pub async fn connect(region: &Region, password: &str) -> Client {
    let address = region.connection_string().replace("user=postgres", "user=app");
    let (client, connection) =
        within(tokio_postgres::connect(&format!("{address} password={password}"), NoTls))
            .await
            .unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_refused_statement_is_done_by_an_owner_that_asks_for_the_password() {
    let (eu, us) = two_that_ask(&Wanted::new(Mode::Local)).await;
    let client = connect(&eu, "first").await;
    let writes = "INSERT INTO note VALUES (1, current_user) RETURNING body";
    assert_eq!(simple(&client, writes).await.unwrap(), "app");
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_session_moves_to_owners_that_ask_for_its_password() {
    let (eu, us) = two_that_ask(&Wanted::new(Mode::FollowOwner).owner("us")).await;
    // It has never been at the server of its own gateway.
    let client = connect(&eu, "first").await;
    for (version, owner) in [(2, "eu"), (3, "us"), (4, "eu")] {
        for region in [&eu, &us] {
            region.publish(owned_by(version, Some(owner)));
        }
        assert_eq!(place(&client).await, owner);
        assert_eq!(simple(&client, "SELECT current_user").await.unwrap(), "app");
    }
}

#[tokio::test]
async fn a_password_that_was_changed_everywhere_opens_everything_to_new_sessions_alone() {
    let (eu, us) = two_that_ask(&Wanted::new(Mode::Local)).await;
    let before = connect(&eu, "first").await;
    eu.run("ALTER ROLE app PASSWORD 'second'").await;
    us.run(&format!("ALTER ROLE app PASSWORD '{}'", kept(&eu).await)).await;
    let after = connect(&eu, "second").await;
    after.batch_execute("INSERT INTO note VALUES (1)").await.unwrap();
    let error = within(before.batch_execute("INSERT INTO note VALUES (2)")).await.unwrap_err();
    assert_eq!(code(&error), "25006");
    assert_eq!(place(&before).await, "eu");
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);
}

#[tokio::test]
async fn a_session_is_told_why_it_does_not_get_to_a_region() {
    let (eu, us) = two_that_ask(&Wanted::new(Mode::Local)).await;
    // The same password, and not the same verifier.
    us.run("ALTER ROLE app PASSWORD 'first'").await;
    let said = psql(&eu, "INSERT INTO note VALUES (1)").await;
    let why = "WARNING:  01000: the statement was not sent on to region \"us\": the server keeps another \
               verifier of this password";
    assert!(said.contains(why) && said.contains("ALTER ROLE") && said.contains("25006"), "{said}");
    us.run("DROP OWNED BY app; DROP ROLE app").await;
    let said = psql(&eu, "INSERT INTO note VALUES (1)").await;
    assert!(said.contains(why), "{said}");
    assert_eq!(us.count("SELECT count(*) FROM note").await, 0);
}

#[tokio::test]
async fn a_session_that_would_have_to_move_without_its_password_is_ended_with_a_reason() {
    let (eu, us) = two_that_ask(&Wanted::new(Mode::FollowOwner).owner("eu")).await;
    us.run("ALTER ROLE app PASSWORD 'first'").await;
    let client = connect(&eu, "first").await;
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("us")));
    }
    let error = within(client.batch_execute("SELECT 1")).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "57P01");
    assert!(error.message().contains("another verifier"), "{error:?}");
}

#[tokio::test]
async fn where_verifiers_cannot_be_read_sessions_stay_where_they_are() {
    let mut wanted = Wanted::new(Mode::Local);
    wanted.reader = "nosy".to_owned();
    let (eu, us) = two_that_ask(&wanted).await;
    let rules = format!("host all nosy all trust\n{RULES}");
    std::fs::write(eu.cluster.folder().join("data/pg_hba.conf"), rules).unwrap();
    eu.run("SELECT pg_reload_conf()").await;
    let said = psql(&eu, "INSERT INTO note VALUES (1)").await;
    let why = "the server asks for a password, and the gateway has no key";
    assert!(said.contains(why) && said.contains("pg_authid"), "{said}");
    assert_eq!(us.count("SELECT count(*) FROM note").await, 0);
}

/// What `psql` says of a statement of `app`.
async fn psql(region: &Region, sql: &str) -> String {
    let address = region.connection_string().replace("user=postgres", "user=app password=first");
    let mut psql = tokio::process::Command::new(PgBin::find(None).unwrap().program("psql"));
    psql.args(["-X", "-v", "VERBOSITY=verbose", "-c", sql, &address]);
    let output = within(psql.output()).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn who_shares_servers_has_proved_who_he_is() {
    let wanted = Wanted::new(Mode::Local).shared(1);
    let (eu, us) = two_that_ask(&wanted).await;
    let (one, two) = (connect(&eu, "first").await, connect(&eu, "first").await);
    let server = async |client| simple(client, "SELECT pg_backend_pid()").await.unwrap();
    assert_eq!(server(&one).await, server(&two).await);
    // The key of one of them opens what all of them share.
    eu.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'").await;
    assert_eq!(server(&one).await, server(&two).await);
    let address = eu.connection_string().replace("user=postgres", "user=app password=wrong");
    let error = within(tokio_postgres::connect(&address, NoTls)).await.err().unwrap();
    assert_eq!(code(&error), "28P01");
    two.batch_execute("INSERT INTO note VALUES (1)").await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);
}

#[tokio::test]
async fn who_logs_in_as_nobody_else_can_keeps_his_server() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    eu.run("SET password_encryption = 'md5'; CREATE ROLE app LOGIN PASSWORD 'first'").await;
    let rules = "host all postgres all trust\nhost all all all md5\n";
    std::fs::write(eu.cluster.folder().join("data/pg_hba.conf"), rules).unwrap();
    eu.run("SELECT pg_reload_conf()").await;
    let address = format!("host=127.0.0.1 port={} user=app", eu.cluster.port());
    within(async { while tokio_postgres::connect(&address, NoTls).await.is_ok() {} }).await;
    let (one, two) = (connect(&eu, "first").await, connect(&eu, "first").await);
    let server = async |client| simple(client, "SELECT pg_backend_pid()").await.unwrap();
    let (first, second) = (server(&one).await, server(&two).await);
    assert!(first != second && server(&one).await == first);
}
