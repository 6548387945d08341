//! Do statements, results, COPY and cancel requests pass as if the gateway were not there?

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt, future};
use tokio_postgres::types::ToSql;

use crate::*;

#[tokio::test]
async fn both_protocols_pass_with_their_values_and_errors() {
    let eu = Wanted::new(Mode::Local).region().await;
    let mut client = eu.connect().await;
    assert_eq!(place(&client).await, "eu");
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, body text)").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
    for id in 1..=3 {
        client.execute(&insert, &[&id, &"x"]).await.unwrap();
    }
    let error = client.execute(&insert, &[&3, &"again"]).await.unwrap_err();
    assert_eq!(code(&error), "23505");
    let transaction = client.transaction().await.unwrap();
    transaction.execute("DELETE FROM t", &[]).await.unwrap();
    transaction.rollback().await.unwrap();
    let count: i64 = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(count, 3);
}

#[tokio::test]
async fn many_statements_in_flight_keep_their_order() {
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    let select = client.prepare("SELECT $1::int").await.unwrap();
    let all = (0..2000).map(|number: i32| {
        let (client, select) = (&client, &select);
        async move { client.query_one(select, &[&number]).await.unwrap().get::<_, i32>(0) == number }
    });
    assert!(within(future::join_all(all)).await.into_iter().all(|same| same));
}

#[tokio::test]
async fn values_larger_than_any_buffer_pass_in_both_directions() {
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    let large = "0123456789abcdef".repeat(512 * 1024);
    let parameters: [&(dyn ToSql + Sync); 1] = [&large];
    let row = within(client.query_one("SELECT $1::text", &parameters)).await.unwrap();
    assert!(row.get::<_, &str>(0) == large);
    assert!(simple(&client, &format!("SELECT '{large}'")).await.unwrap() == large);
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_large_statement_passes_in_a_session_that_asks_for_a_freshness() {
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    client.batch_execute("SET domicile.freshness = 'eventual'").await.unwrap();
    let large = format!("SELECT length('{}')", "x".repeat(600_000));
    assert_eq!(simple(&client, &large).await.unwrap(), "600000");
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn copy_passes_in_both_directions() {
    const ROWS: i64 = 200_000;
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    client.batch_execute("CREATE TABLE t (id int, body text)").await.unwrap();
    let sink = client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for chunk in 0..ROWS / 1000 {
        let lines: String = (0..1000).map(|i| format!("{}\tbody\n", chunk * 1000 + i)).collect();
        within(sink.send(Bytes::from(lines))).await.unwrap();
    }
    assert_eq!(within(sink.finish()).await.unwrap(), u64::try_from(ROWS).unwrap());
    let out = client.copy_out("COPY t TO STDOUT").await.unwrap();
    let lines = out.try_fold(0_i64, async |lines, chunk: Bytes| {
        Ok(lines + i64::try_from(chunk.iter().filter(|b| **b == b'\n').count()).unwrap())
    });
    assert_eq!(within(lines).await.unwrap(), ROWS);
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_copy_that_is_not_finished_leaves_nothing_and_the_session_goes_on() {
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    client.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    {
        let sink = client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(Bytes::from_static(b"1\n")).await.unwrap();
    }
    assert_eq!(simple(&client, "SELECT count(*) FROM t").await.unwrap(), "0");
}

#[tokio::test]
async fn a_cancel_request_reaches_the_server_that_works() {
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    let cancel = client.cancel_token();
    let sleeping = tokio::spawn(async move {
        let error = client.batch_execute("SELECT pg_sleep(600)").await.unwrap_err();
        (client, error)
    });
    until(&eu, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").await;
    cancel.cancel_query(NoTls).await.unwrap();
    let (client, error) = within(sleeping).await.unwrap();
    assert_eq!(code(&error), "57014");
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn notifications_come_without_being_asked_for() {
    let eu = Wanted::new(Mode::Local).region().await;
    let (client, mut connection) =
        tokio_postgres::connect(&eu.connection_string(), NoTls).await.unwrap();
    let (heard, mut hearing) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages =
            futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            let _ = heard.send(message);
        }
    });
    client.batch_execute("LISTEN news").await.unwrap();
    eu.run("NOTIFY news, 'here'").await;
    let message = within(hearing.recv()).await.unwrap();
    assert!(format!("{message:?}").contains("here"));
}

#[tokio::test]
async fn psql_connects_with_its_requests_for_encryption() {
    let eu = Wanted::new(Mode::Local).region().await;
    let mut psql = tokio::process::Command::new(eu.cluster.bin().program("psql"));
    psql.arg(eu.connection_string()).args(["-XAt", "-c", "SELECT 6 * 7"]);
    let output = within(psql.output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{output:?}");
}

#[tokio::test]
async fn an_idle_session_outlives_its_server_with_all_it_had() {
    let mut eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    let select = client.prepare("SELECT current_setting('domicile.mood')").await.unwrap();
    client.batch_execute("SET domicile.mood = 'calm'").await.unwrap();
    eu.cluster.kill();
    eu.cluster.start().await.unwrap();
    let row = within(client.query_one(&select, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "calm");
}

#[tokio::test]
async fn a_session_whose_server_stays_away_is_ended_with_a_reason() {
    let mut eu = Wanted::new(Mode::Local).budget(200).region().await;
    let client = eu.connect().await;
    eu.cluster.kill();
    let error = simple(&client, "SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "57P01");
}

#[tokio::test]
async fn a_session_that_its_server_ends_for_being_idle_is_told() {
    let eu = Wanted::new(Mode::Local).region().await;
    let (client, connection) =
        tokio_postgres::connect(&eu.connection_string(), NoTls).await.unwrap();
    let ended = tokio::spawn(connection);
    client.batch_execute("SET idle_session_timeout = '50ms'").await.unwrap();
    let error = within(ended).await.unwrap().unwrap_err();
    assert_eq!(code(&error), "57P05");
}

#[tokio::test]
async fn a_statement_that_lost_its_server_has_an_unknown_outcome() {
    let mut eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    let spin = "DO $$ BEGIN LOOP END LOOP; END $$";
    let spinning = tokio::spawn(async move { client.batch_execute(spin).await });
    until(&eu, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'DO %')").await;
    eu.cluster.kill();
    let error = within(spinning).await.unwrap().unwrap_err();
    assert_eq!(code(&error), "08007");
    assert!(format!("{error:?}").contains("the outcome of the statement is unknown"));
}

#[tokio::test]
async fn idle_sessions_end_with_the_gateway_and_busy_ones_finish() {
    let eu = Wanted::new(Mode::Local).region().await;
    let (idle, busy) = (eu.connect().await, eu.connect().await);
    let working = tokio::spawn(async move { simple(&busy, "SELECT pg_sleep(0.5), 1").await });
    until(&eu, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").await;
    eu.stop.cancel();
    assert!(within(working).await.unwrap().is_ok());
    within(eu.served).await.unwrap();
    assert!(idle.is_closed() || simple(&idle, "SELECT 1").await.is_err());
}
