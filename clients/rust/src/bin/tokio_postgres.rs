//! tokio-postgres: pipelined by itself, in the extended protocol.

use std::io::Cursor;

use clients::{Outcome, case, driver, large_bytes, large_text, same, url};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _, future, pin_mut};
use serde_json::json;
use time::macros::{date, datetime};
use tokio::sync::mpsc;
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, IsolationLevel, NoTls, SimpleQueryMessage,
};
use uuid::Uuid;

const ADD: &str = "INSERT INTO note (body) VALUES ($1) RETURNING body";
const CLEAN: &str = "DELETE FROM page; DELETE FROM note; DELETE FROM draft";

#[tokio::main]
async fn main() {
    driver("tokio-postgres");
    case("connects_and_says_who_it_is", connects()).await;
    case("several_statements_in_one_text", several_statements()).await;
    case("parameters", parameters()).await;
    case("a_prepared_statement_again_and_again", prepared_again()).await;
    case("values_of_many_types", types()).await;
    case("nulls_and_unicode", nulls()).await;
    case("ten_megabytes", large()).await;
    case("transactions_and_savepoints", savepoints()).await;
    case("a_transaction_that_is_dropped_is_rolled_back", dropped()).await;
    case("errors_tell_where_and_why", errors()).await;
    case("copy_in_and_out", copy()).await;
    case("a_cursor_of_the_server", portal()).await;
    case("rows_one_by_one", rows_one_by_one()).await;
    case("listen_and_notify", listen()).await;
    case("cancel", cancel()).await;
    case("statement_timeout", statement_timeout()).await;
    case("a_pipeline", pipeline()).await;
    case("isolation_levels", isolation()).await;
    case("two_phase_commit", two_phase()).await;
    case("notices", notices()).await;
}

async fn session() -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(&url(), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn clean() -> Result<Client, Error> {
    let client = session().await?;
    client.batch_execute(CLEAN).await?;
    Ok(client)
}

fn code(error: &Error) -> &str {
    error.code().map_or("no code", |code| code.code())
}

async fn count(client: &Client) -> Result<i64, Error> {
    Ok(client.query_one("SELECT count(*) FROM note", &[]).await?.get(0))
}

async fn connects() -> Outcome {
    let mut config: Config = url().parse()?;
    let (client, connection) =
        config.application_name("shop").options("-c work_mem=7MB").connect(NoTls).await?;
    tokio::spawn(connection);
    let row = client
        .query_one("SELECT current_setting('application_name'), current_setting('work_mem')", &[])
        .await?;
    same!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("shop", "7MB"));
    Ok(())
}

async fn several_statements() -> Outcome {
    let client = clean().await?;
    let said = client.simple_query("INSERT INTO note (body) VALUES ('a'); SELECT 2").await?;
    let done: Vec<u64> = said
        .iter()
        .filter_map(|said| match said {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        })
        .collect();
    same!(done, [1, 1]);
    Ok(())
}

async fn parameters() -> Outcome {
    let row = clean().await?.query_one("SELECT $1 || $2::text", &[&"it's ", &"50%"]).await?;
    same!(row.get::<_, &str>(0), "it's 50%");
    Ok(())
}

async fn prepared_again() -> Outcome {
    let client = clean().await?;
    let add = client.prepare(ADD).await?;
    for i in 0..20 {
        let text = i.to_string();
        same!(client.query_one(&add, &[&text]).await?.get::<_, String>(0), text);
    }
    drop(add);
    same!(count(&client).await?, 20);
    Ok(())
}

async fn types() -> Outcome {
    let client = clean().await?;
    let (doc, blob, tags) =
        (json!({"a": [1, null, "ž"]}), vec![0u8, 255, 92], vec![Some("a"), Some("b,c"), None]);
    let (at, day, uid) =
        (datetime!(2026-02-03 04:05:06.789 UTC), date!(1999 - 12 - 31), Uuid::from_u128(1));
    let sql =
        "INSERT INTO note (doc, blob, tags, at, day, uid, flag) VALUES ($1, $2, $3, $4, $5, $6, $7)
               RETURNING doc, blob, tags, at, day, uid, flag";
    let row = client.query_one(sql, &[&doc, &blob, &tags, &at, &day, &uid, &true]).await?;
    same!((row.get::<_, serde_json::Value>(0), row.get::<_, Vec<u8>>(1)), (doc, blob));
    same!(row.get::<_, Vec<Option<&str>>>(2), tags);
    same!((row.get::<_, time::OffsetDateTime>(3), row.get::<_, time::Date>(4)), (at, day));
    same!((row.get::<_, Uuid>(5), row.get::<_, bool>(6)), (uid, true));
    Ok(())
}

async fn nulls() -> Outcome {
    let row = clean()
        .await?
        .query_one("SELECT $1::text, $2::text", &[&None::<&str>, &"日本 ☃ 🐘"])
        .await?;
    same!((row.get::<_, Option<&str>>(0), row.get::<_, &str>(1)), (None, "日本 ☃ 🐘"));
    Ok(())
}

async fn large() -> Outcome {
    let (text, blob) = (large_text(), large_bytes());
    let sql = "INSERT INTO note (body, blob) VALUES ($1, $2) RETURNING body, blob";
    let row = clean().await?.query_one(sql, &[&text, &blob]).await?;
    if row.get::<_, &str>(0) != text || row.get::<_, &[u8]>(1) != blob {
        return Err("another value came back".into());
    }
    Ok(())
}

async fn savepoints() -> Outcome {
    let mut client = clean().await?;
    let mut outer = client.transaction().await?;
    outer.execute(ADD, &[&"kept"]).await?;
    let inner = outer.transaction().await?;
    inner.execute(ADD, &[&"gone"]).await?;
    same!(code(&inner.execute("SELECT 1/0", &[]).await.unwrap_err()), "22012");
    inner.rollback().await?;
    outer.commit().await?;
    same!(count(&client).await?, 1);
    Ok(())
}

async fn dropped() -> Outcome {
    let mut client = clean().await?;
    client.transaction().await?.execute(ADD, &[&"gone"]).await?;
    same!(count(&client).await?, 0);
    Ok(())
}

async fn errors() -> Outcome {
    let client = clean().await?;
    client.execute("INSERT INTO note (id) VALUES (1)", &[]).await?;
    let error = client.execute("INSERT INTO note (id) VALUES (1)", &[]).await.unwrap_err();
    same!(
        (code(&error), error.as_db_error().and_then(|e| e.constraint())),
        ("23505", Some("note_pkey"))
    );
    same!(code(&client.execute("SELECT * FROM nowhere", &[]).await.unwrap_err()), "42P01");
    Ok(())
}

async fn copy() -> Outcome {
    let client = clean().await?;
    let lines: String = (0..10_000).map(|i| format!("row {i}\t{i}\n")).collect();
    let sink = client.copy_in("COPY note (body, amount) FROM STDIN").await?;
    pin_mut!(sink);
    sink.send(Cursor::new(lines.clone().into_bytes())).await?;
    same!(sink.finish().await?, 10_000);
    let out = client.copy_out("COPY (SELECT body, amount FROM note ORDER BY id) TO STDOUT").await?;
    let out: Vec<_> = out.try_collect().await?;
    if out.concat() != lines.as_bytes() {
        return Err("other rows came back".into());
    }
    Ok(())
}

async fn portal() -> Outcome {
    let mut client = clean().await?;
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SELECT generate_series(1, 1000)", &[]).await?;
    same!(transaction.query_portal(&portal, 10).await?.len(), 10);
    same!(transaction.query_portal(&portal, 0).await?.len(), 990);
    transaction.commit().await?;
    Ok(())
}

async fn rows_one_by_one() -> Outcome {
    let client = clean().await?;
    let rows = client.query_raw("SELECT generate_series(1, 1000)", Vec::<i32>::new()).await?;
    pin_mut!(rows);
    let mut sum = 0;
    while let Some(row) = rows.next().await {
        sum += row?.get::<_, i32>(0);
    }
    same!(sum, 500_500);
    Ok(())
}

/// A session, and what it is told besides its answers.
async fn listener() -> Result<(Client, mpsc::UnboundedReceiver<AsyncMessage>), Error> {
    let (client, mut connection) = tokio_postgres::connect(&url(), NoTls).await?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(said)) = future::poll_fn(|cx| connection.poll_message(cx)).await {
            if sender.send(said).is_err() {
                break;
            }
        }
    });
    Ok((client, receiver))
}

async fn listen() -> Outcome {
    let (client, mut said) = listener().await?;
    client.batch_execute("LISTEN news").await?;
    session().await?.batch_execute("NOTIFY news, 'hello'").await?;
    let Some(AsyncMessage::Notification(heard)) = said.recv().await else {
        return Err("no notification".into());
    };
    same!((heard.channel(), heard.payload()), ("news", "hello"));
    Ok(())
}

async fn cancel() -> Outcome {
    let (client, other) = (session().await?, session().await?);
    client.batch_execute("SET application_name = 'sleeper'").await?;
    let token = client.cancel_token();
    let sleeping = tokio::spawn(async move {
        let slept = client.batch_execute("SELECT pg_sleep(60)").await;
        (client, slept)
    });
    let sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'";
    while other.query(sql, &[]).await?.is_empty() {}
    token.cancel_query(NoTls).await?;
    let (client, slept) = sleeping.await?;
    same!(code(&slept.unwrap_err()), "57014");
    client.batch_execute("SELECT 1").await?;
    Ok(())
}

async fn statement_timeout() -> Outcome {
    let client = session().await?;
    client.batch_execute("SET statement_timeout = '50ms'").await?;
    same!(code(&client.query("SELECT pg_sleep(60)", &[]).await.unwrap_err()), "57014");
    Ok(())
}

async fn pipeline() -> Outcome {
    let client = clean().await?;
    let add = client.prepare(ADD).await?;
    let texts: Vec<String> = (0..200).map(|i| i.to_string()).collect();
    let added = texts.iter().map(async |text| client.query_one(&add, &[text]).await);
    let added = future::try_join_all(added).await?;
    same!(added.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), texts);
    Ok(())
}

async fn isolation() -> Outcome {
    let mut client = clean().await?;
    let transaction = client.build_transaction().isolation_level(IsolationLevel::Serializable);
    let transaction = transaction.read_only(true).deferrable(true).start().await?;
    let row = transaction.query_one("SHOW transaction_isolation", &[]).await?;
    same!(row.get::<_, &str>(0), "serializable");
    same!(code(&transaction.execute(ADD, &[&"no"]).await.unwrap_err()), "25006");
    Ok(())
}

async fn two_phase() -> Outcome {
    let client = clean().await?;
    client
        .batch_execute("BEGIN; INSERT INTO draft VALUES ('kept'); PREPARE TRANSACTION 'rust'")
        .await?;
    client.batch_execute("COMMIT PREPARED 'rust'").await?;
    same!(client.query_one("SELECT body FROM draft", &[]).await?.get::<_, &str>(0), "kept");
    Ok(())
}

async fn notices() -> Outcome {
    let (client, mut said) = listener().await?;
    client.batch_execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$").await?;
    for expected in ["one", "two"] {
        let Some(AsyncMessage::Notice(notice)) = said.recv().await else {
            return Err("no notice".into());
        };
        same!(notice.message(), expected);
    }
    Ok(())
}
