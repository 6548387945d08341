//! sqlx: prepared by itself, with a pool and checked types.

use clients::{Outcome, case, driver, large_bytes, large_text, same, url};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use sqlx::postgres::{PgAdvisoryLock, PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use sqlx::types::Decimal;
use sqlx::{Connection as _, Error, Executor as _, PgConnection, Row as _};
use time::macros::{date, datetime};
use uuid::Uuid;

const ADD: &str = "INSERT INTO note (body) VALUES ($1)";
const CLEAN: &str = "DELETE FROM page; DELETE FROM note; DELETE FROM draft";

#[tokio::main]
async fn main() {
    driver("sqlx");
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
    case("rows_one_by_one", rows_one_by_one()).await;
    case("listen_and_notify", listen()).await;
    case("statement_timeout", statement_timeout()).await;
    case("a_pool", pool()).await;
    case("an_advisory_lock", advisory_lock()).await;
    case("two_phase_commit", two_phase()).await;
}

async fn clean() -> Result<PgConnection, Error> {
    let mut c = PgConnection::connect(&url()).await?;
    c.execute(CLEAN).await?;
    Ok(c)
}

fn code(error: Error) -> String {
    match error {
        Error::Database(error) => error.code().unwrap_or_default().into_owned(),
        other => other.to_string(),
    }
}

async fn count(c: &mut PgConnection) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT count(*) FROM note").fetch_one(c).await
}

async fn connects() -> Outcome {
    let options: PgConnectOptions = url().parse()?;
    let options = options.application_name("shop").options([("work_mem", "7MB")]);
    let mut c = PgConnection::connect_with(&options).await?;
    let sql = "SELECT current_setting('application_name'), current_setting('work_mem')";
    let row: (String, String) = sqlx::query_as(sql).fetch_one(&mut c).await?;
    same!(row, ("shop".to_owned(), "7MB".to_owned()));
    Ok(())
}

async fn several_statements() -> Outcome {
    let done = clean()
        .await?
        .execute("INSERT INTO note (body) VALUES ('a'); INSERT INTO note (body) VALUES ('b')")
        .await?;
    same!(done.rows_affected(), 2);
    Ok(())
}

async fn parameters() -> Outcome {
    let sql = "SELECT $1 || $2";
    let said: String =
        sqlx::query_scalar(sql).bind("it's ").bind("50%").fetch_one(&mut clean().await?).await?;
    same!(said, "it's 50%");
    Ok(())
}

async fn prepared_again() -> Outcome {
    let mut c = clean().await?;
    for i in 0..20 {
        sqlx::query(ADD).bind(i.to_string()).execute(&mut c).await?;
    }
    same!(count(&mut c).await?, 20);
    Ok(())
}

async fn types() -> Outcome {
    let amount: Decimal = "1234567890.123456789".parse()?;
    let (doc, blob, tags) =
        (json!({"a": [1, null, "ž"]}), vec![0u8, 255, 92], vec![Some("a".to_owned()), None]);
    let (at, day, uid) =
        (datetime!(2026-02-03 04:05:06.789 UTC), date!(1999 - 12 - 31), Uuid::from_u128(1));
    let sql = "INSERT INTO note (amount, doc, blob, tags, at, day, uid, flag) VALUES ($1, $2, $3, $4, $5, $6, $7, true)
               RETURNING amount, doc, blob, tags, at, day, uid, flag";
    let adding = sqlx::query(sql)
        .bind(amount)
        .bind(&doc)
        .bind(&blob)
        .bind(&tags)
        .bind(at)
        .bind(day)
        .bind(uid);
    let row = adding.fetch_one(&mut clean().await?).await?;
    same!(
        (row.get::<Decimal, _>(0), row.get::<Value, _>(1), row.get::<Vec<u8>, _>(2)),
        (amount, doc, blob)
    );
    same!(
        (row.get::<Vec<Option<String>>, _>(3), row.get::<time::OffsetDateTime, _>(4)),
        (tags, at)
    );
    same!(
        (row.get::<time::Date, _>(5), row.get::<Uuid, _>(6), row.get::<bool, _>(7)),
        (day, uid, true)
    );
    Ok(())
}

async fn nulls() -> Outcome {
    let asking = sqlx::query_as("SELECT $1::text, $2::text").bind(None::<String>).bind("日本 ☃ 🐘");
    let row: (Option<String>, String) = asking.fetch_one(&mut clean().await?).await?;
    same!(row, (None, "日本 ☃ 🐘".to_owned()));
    Ok(())
}

async fn large() -> Outcome {
    let (text, blob) = (large_text(), large_bytes());
    let sql = "INSERT INTO note (body, blob) VALUES ($1, $2) RETURNING body, blob";
    let row: (String, Vec<u8>) =
        sqlx::query_as(sql).bind(&text).bind(&blob).fetch_one(&mut clean().await?).await?;
    if row != (text, blob) {
        return Err("another value came back".into());
    }
    Ok(())
}

async fn savepoints() -> Outcome {
    let mut c = clean().await?;
    let mut outer = c.begin().await?;
    sqlx::query(ADD).bind("kept").execute(&mut *outer).await?;
    let mut inner = outer.begin().await?;
    sqlx::query(ADD).bind("gone").execute(&mut *inner).await?;
    same!(code(inner.execute(sqlx::query("SELECT 1/0")).await.unwrap_err()), "22012");
    inner.rollback().await?;
    outer.commit().await?;
    same!(count(&mut c).await?, 1);
    Ok(())
}

async fn dropped() -> Outcome {
    let mut c = clean().await?;
    sqlx::query(ADD).bind("gone").execute(&mut *c.begin().await?).await?;
    same!(count(&mut c).await?, 0);
    Ok(())
}

async fn errors() -> Outcome {
    let mut c = clean().await?;
    c.execute(sqlx::query("INSERT INTO note (id) VALUES (1)")).await?;
    let error = c.execute(sqlx::query("INSERT INTO note (id) VALUES (1)")).await.unwrap_err();
    let error = error.into_database_error().ok_or("not of the database")?;
    same!((error.is_unique_violation(), error.constraint()), (true, Some("note_pkey")));
    same!(code(c.execute(sqlx::query("SELECT * FROM nowhere")).await.unwrap_err()), "42P01");
    Ok(())
}

async fn copy() -> Outcome {
    let mut c = clean().await?;
    let lines: String = (0..10_000).map(|i| format!("row {i}\t{i}\n")).collect();
    let mut sink = c.copy_in_raw("COPY note (body, amount) FROM STDIN").await?;
    sink.send(lines.as_bytes()).await?;
    same!(sink.finish().await?, 10_000);
    let out = c.copy_out_raw("COPY (SELECT body, amount FROM note ORDER BY id) TO STDOUT").await?;
    let out: Vec<_> = out.try_collect().await?;
    if out.concat() != lines.as_bytes() {
        return Err("other rows came back".into());
    }
    Ok(())
}

async fn rows_one_by_one() -> Outcome {
    let mut c = clean().await?;
    let mut rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 1000)").fetch(&mut c);
    let mut sum = 0;
    while let Some(i) = rows.try_next().await? {
        sum += i;
    }
    same!(sum, 500_500);
    Ok(())
}

async fn listen() -> Outcome {
    let mut listener = PgListener::connect(&url()).await?;
    listener.listen("news").await?;
    clean().await?.execute("NOTIFY news, 'hello'").await?;
    let heard = listener.recv().await?;
    same!((heard.channel(), heard.payload()), ("news", "hello"));
    Ok(())
}

async fn statement_timeout() -> Outcome {
    let options: PgConnectOptions = url().parse()?;
    let mut c =
        PgConnection::connect_with(&options.options([("statement_timeout", "50ms")])).await?;
    same!(code(c.execute(sqlx::query("SELECT pg_sleep(60)")).await.unwrap_err()), "57014");
    Ok(())
}

async fn pool() -> Outcome {
    let mut c = clean().await?;
    let pool: PgPool = PgPoolOptions::new().max_connections(4).connect(&url()).await?;
    let adding = (0..40).map(|_| sqlx::query(ADD).bind("pooled").execute(&pool));
    futures_util::future::try_join_all(adding).await?;
    pool.close().await;
    same!(count(&mut c).await?, 40);
    Ok(())
}

async fn advisory_lock() -> Outcome {
    let lock = PgAdvisoryLock::new("clients");
    let held = lock.acquire(clean().await?).await?;
    let other = lock.try_acquire(PgConnection::connect(&url()).await?).await?;
    same!(other.is_right(), true);
    held.release_now().await?;
    Ok(())
}

async fn two_phase() -> Outcome {
    let mut c = clean().await?;
    c.execute("BEGIN; INSERT INTO draft VALUES ('kept'); PREPARE TRANSACTION 'rust'").await?;
    c.execute("COMMIT PREPARED 'rust'").await?;
    let body: String = sqlx::query_scalar("SELECT body FROM draft").fetch_one(&mut c).await?;
    same!(body, "kept");
    Ok(())
}
