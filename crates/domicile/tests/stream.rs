//! Does the walsender client log in, read what was committed, and move the slot?

use std::io::Write as _;

use domicile::lab::cluster::temporary_cluster;
use domicile::postgres::stream::{Stream, StreamConfig, StreamError};
use domicile_core::lsn::Lsn;
use domicile_pg::feedback::Event;
use domicile_pg::pgoutput::{Decoder, Message};

fn config(connection: &str) -> StreamConfig {
    StreamConfig {
        connection: connection.parse().expect("a connection string"),
        application_name: "domicile".into(),
        slot: "s".into(),
        publication: "p".into(),
        start: Lsn::ZERO,
        protocol_version: 1,
        streaming: false,
    }
}

#[tokio::test]
async fn a_password_login_reads_a_commit_and_confirms_it() {
    let settings = [("password_encryption", "scram-sha-256")];
    let (cluster, _folder) = temporary_cluster("stream", &settings).await.expect("a cluster");
    let client = cluster.connect().await.expect("a session");
    // One by one: a slot cannot be made in a transaction that has written.
    for statement in [
        "CREATE ROLE secret LOGIN SUPERUSER REPLICATION PASSWORD 'it''s a secret'",
        "CREATE TABLE t (id integer PRIMARY KEY, note text)",
        "CREATE PUBLICATION p FOR TABLE t",
        "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
        "INSERT INTO t VALUES (1, 'one')",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    let hba: String = client.query_one("SHOW hba_file", &[]).await.expect("a file").get(0);
    let rules = std::fs::read_to_string(&hba).expect("read its rules");
    let mut file = std::fs::File::create(&hba).expect("open its rules");
    write!(file, "host all secret 127.0.0.1/32 scram-sha-256\n{rules}").expect("add a rule");
    client.batch_execute("SELECT pg_reload_conf()").await.expect("reload");

    let address = format!("host=127.0.0.1 port={} dbname=postgres", cluster.port());
    let wrong = config(&format!("{address} user=secret password=wrong"));
    // The reload reaches new connections a moment later: until then even this one is let in.
    let refused = loop {
        if let Err(error) = Stream::start(&wrong).await {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.sqlstate(), Some("28P01"), "{refused}");
    assert!(matches!(refused, StreamError::Server(_)), "{refused}");

    let right = config(&format!("{address} user=secret password='it\\'s a secret'"));
    let mut stream = Stream::start(&right).await.expect("a stream");
    let mut decoder = Decoder::new();
    let end = loop {
        if let Event::XLogData(data) = stream.next().await.expect("an event") {
            let message = decoder.decode(data.payload).expect("pgoutput").message;
            if let Message::Commit(commit) = message {
                break Lsn(commit.end_lsn);
            }
        }
    };
    stream.confirm(end, end, end).await.expect("confirm");
    let moved = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
    let confirmed = async {
        loop {
            let row = client.query_one(moved, &[&end.to_string()]).await.expect("look");
            if row.get::<_, bool>(0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let bound = std::time::Duration::from_secs(10);
    tokio::time::timeout(bound, confirmed).await.expect("the slot moves");
}
