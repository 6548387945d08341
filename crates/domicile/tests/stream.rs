//! Does the walsender client log in, read what was committed or streamed, and move the slot?

use std::io::Write as _;

use domicile::lab::cluster::temporary_cluster;
use domicile::postgres::stream::{Stream, StreamConfig, StreamError};
use domicile_core::lsn::Lsn;
use domicile_pg::feedback::Event;
use domicile_pg::pgoutput::{Decoded, Decoder, Message, Old, Tuple, Value};

fn config(connection: &str) -> StreamConfig {
    StreamConfig {
        connection: connection.parse().expect("a connection string"),
        application_name: "domicile".into(),
        slot: "s".into(),
        publication: "p".into(),
        start: Lsn::ZERO,
        protocol_version: 1,
        streaming: false,
        decoding_memory: None,
    }
}

/// One by one: a slot cannot be made in a transaction that has written.
async fn execute(client: &tokio_postgres::Client, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(statement).await.expect(statement);
    }
}

/// Reads the next message of pgoutput, giving up every wait at once and taking it up again.
async fn read(stream: &mut Stream, decoder: &mut Decoder) -> Decoded {
    let wait = async {
        loop {
            tokio::select! {
                biased;
                event = stream.next() => if let Event::XLogData(data) = event.expect("an event") {
                    return decoder.decode(data.payload).expect("pgoutput");
                },
                () = tokio::task::yield_now() => {}
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.expect("a message in time")
}

fn text(text: &'static str) -> Value {
    Value::Text(text.into())
}

/// A row of the table in the test of every change.
fn row(id: &'static str, note: Value, kept: Value) -> Tuple {
    vec![text(id), note, kept, text("2026-01-02 03:04:05+00"), text("\\x00ff")]
}

#[tokio::test]
async fn every_kind_of_change_is_read_as_it_was_made() {
    let (cluster, folder) = temporary_cluster("changes", &[("fsync", "off")]).await.expect("one");
    let client = cluster.connect().await.expect("a session");
    let insert = "INSERT INTO t VALUES (1, 'one', repeat('x', 9000), '2026-01-02 04:04:05+01', \
                  '\\x00ff')";
    execute(
        &client,
        &[
            // What a region shows its users must not change what it tells the others.
            "ALTER DATABASE postgres SET DateStyle = 'German'",
            "ALTER DATABASE postgres SET TimeZone = 'Asia/Tokyo'",
            "ALTER DATABASE postgres SET bytea_output = 'escape'",
            "CREATE TABLE t (id int PRIMARY KEY, note text, kept text, at timestamptz, raw bytea)",
            "ALTER TABLE t ALTER kept SET STORAGE EXTERNAL",
            "CREATE PUBLICATION p FOR TABLE t",
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
            insert,
            "UPDATE t SET note = NULL",
            "UPDATE t SET id = 2",
            "ALTER TABLE t REPLICA IDENTITY FULL",
            "DELETE FROM t",
            "SELECT pg_logical_emit_message(true, 'domicile', 'hello')",
            "TRUNCATE t RESTART IDENTITY CASCADE",
        ],
    )
    .await;
    let socket = format!("host={} port={}", folder.path().display(), cluster.port());
    let config = config(&format!("{socket} user=postgres dbname=postgres"));
    let mut stream = Stream::start(&config).await.expect("a stream");
    let taken = Stream::start(&config).await.err().expect("a slot has one reader");
    assert_eq!(taken.sqlstate(), Some("55006"), "{taken}");

    let long = Value::Text("x".repeat(9000).into());
    let mut decoder = Decoder::new();
    let mut relation = None;
    let mut changes = Vec::new();
    while !matches!(changes.last(), Some(Message::Truncate { .. })) {
        match read(&mut stream, &mut decoder).await.message {
            Message::Begin(_) | Message::Commit(_) => {}
            Message::Relation(found) => {
                assert_eq!((&*found.namespace, &*found.name), ("public", "t"));
                relation = Some(found.id);
            }
            change => changes.push(change),
        }
    }
    let relation = relation.expect("a relation comes before its rows");
    let key = vec![text("1"), Value::Null, Value::Null, Value::Null, Value::Null];
    let [inserted, updated, moved, deleted, logical, truncated] = &changes[..] else {
        panic!("six changes were made: {changes:?}")
    };
    let new = row("1", text("one"), long.clone());
    assert_eq!(*inserted, Message::Insert { relation, new });
    let new = row("1", Value::Null, Value::Unchanged);
    assert_eq!(*updated, Message::Update { relation, old: Old::None, new });
    let new = row("2", Value::Null, Value::Unchanged);
    assert_eq!(*moved, Message::Update { relation, old: Old::Key(key), new });
    let old = Old::Full(row("2", Value::Null, long));
    assert_eq!(*deleted, Message::Delete { relation, old });
    let Message::Logical { transactional: true, prefix, content, .. } = logical else {
        panic!("a message was emitted: {logical:?}")
    };
    assert_eq!((&**prefix, &content[..]), ("domicile", &b"hello"[..]));
    let (cascade, restart_identity) = (true, true);
    assert_eq!(
        *truncated,
        Message::Truncate { relations: vec![relation], cascade, restart_identity }
    );
}

#[tokio::test]
async fn a_large_transaction_is_streamed_before_it_commits() {
    let settings = [("fsync", "off"), ("logical_decoding_work_mem", "64kB")];
    let (cluster, _folder) = temporary_cluster("large", &settings).await.expect("a cluster");
    let client = cluster.connect().await.expect("a session");
    let insert = "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1, 3000) n";
    execute(
        &client,
        &[
            "CREATE TABLE t (id int, note text)",
            "CREATE PUBLICATION p FOR TABLE t",
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
            "BEGIN",
            insert,
            "SAVEPOINT undone",
            insert,
        ],
    )
    .await;
    let config = StreamConfig {
        protocol_version: 2,
        streaming: true,
        ..config(&cluster.connection_string())
    };
    let mut stream = Stream::start(&config).await.expect("a stream");
    let mut decoder = Decoder::new();
    let first = read(&mut stream, &mut decoder).await.message;
    let Message::StreamStart { xid, first: true } = first else {
        panic!("nothing is committed yet: {first:?}")
    };
    let mut kept = 0;
    let part = loop {
        match read(&mut stream, &mut decoder).await {
            Decoded { stream_xid: Some(part), message: Message::Insert { .. } } if part != xid => {
                break part;
            }
            Decoded { message: Message::Insert { .. }, .. } => kept += 1,
            _ => {}
        }
    };
    execute(&client, &["ROLLBACK TO undone", "COMMIT"]).await;

    let mut undone = Vec::new();
    let commit = loop {
        let Decoded { stream_xid, message } = read(&mut stream, &mut decoder).await;
        match message {
            Message::Insert { .. } if stream_xid == Some(xid) => kept += 1,
            Message::Insert { .. } => assert_eq!(stream_xid, Some(part)),
            Message::StreamAbort(abort) => {
                assert_eq!((abort.xid, abort.at), (xid, None));
                undone.push(abort.subxid);
            }
            Message::StreamCommit { xid: committed, commit } => {
                assert_eq!(committed, xid);
                break commit;
            }
            Message::Relation(_) | Message::StreamStart { .. } | Message::StreamStop => {}
            other => panic!("not expected in a streamed transaction: {other:?}"),
        }
    };
    assert_eq!((kept, undone), (3000, vec![part]));
    assert!(commit.commit_lsn < commit.end_lsn);
}

#[tokio::test]
async fn a_password_login_reads_a_commit_and_confirms_it() {
    let settings = [("password_encryption", "scram-sha-256")];
    let (cluster, _folder) = temporary_cluster("stream", &settings).await.expect("a cluster");
    let client = cluster.connect().await.expect("a session");
    execute(
        &client,
        &[
            "CREATE ROLE secret LOGIN SUPERUSER REPLICATION PASSWORD 'it''s a secret'",
            "CREATE TABLE t (id integer PRIMARY KEY, note text)",
            "CREATE PUBLICATION p FOR TABLE t",
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
            "INSERT INTO t VALUES (1, 'one')",
        ],
    )
    .await;
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
        if let Message::Commit(commit) = read(&mut stream, &mut decoder).await.message {
            break Lsn(commit.end_lsn);
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
