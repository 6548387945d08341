//! Is nobody told a success for a commit whose wait for a copy was cancelled?
//!
//! The server waits for a standby that never comes, as it waits for the agent at RPO 0.

use crate::*;

/// Ways to commit, each a row of its own: what comes before, and what commits.
const SIMPLE: [(&str, &str); 5] = [
    ("", "INSERT INTO note VALUES (1)"),
    ("", "BEGIN; INSERT INTO note VALUES (2); COMMIT"),
    ("BEGIN; INSERT INTO note VALUES (3)", "COMMIT"),
    ("BEGIN; INSERT INTO note VALUES (4)", "COMMIT; SELECT * FROM generate_series(1, 100000)"),
    ("", "CALL note_twice(5)"),
];
const EXTENDED: [(&str, &str); 2] =
    [("", "INSERT INTO note VALUES (11)"), ("BEGIN; INSERT INTO note VALUES (12)", "COMMIT")];

const WAITING: &str = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

async fn without_its_standby() -> Region {
    let wanted = Wanted::new(Mode::Local).rpo(Rpo::Zero { copies: 1 });
    let eu = wanted.region().await;
    eu.run(
        "CREATE TABLE note (id int);
         CREATE PROCEDURE note_twice(number int) LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO note VALUES (number);
             COMMIT;
             INSERT INTO note SELECT -number WHERE false;
         END $$",
    )
    .await;
    eu.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    eu.run("SELECT pg_reload_conf()").await;
    until(&eu, "SELECT current_setting('synchronous_standby_names') = 'nobody'").await;
    eu
}

/// Commits in one way, has `cancel` cancel the wait, and returns the session and what it was told.
async fn committed(
    eu: &Region,
    (before, commit): (&'static str, &'static str),
    extended: bool,
    cancel: impl AsyncFnOnce(&Client),
) -> (Client, Result<(), tokio_postgres::Error>) {
    let client = Arc::new(eu.connect().await);
    client.batch_execute(before).await.unwrap();
    let committing = client.clone();
    let committing = tokio::spawn(async move {
        match extended {
            true => committing.execute(commit, &[]).await.map(drop),
            false => committing.simple_query(commit).await.map(drop),
        }
    });
    until(eu, &format!("SELECT EXISTS ({WAITING})")).await;
    cancel(&client).await;
    let told = within(committing).await.unwrap();
    until(eu, &format!("SELECT NOT EXISTS ({WAITING})")).await;
    (Arc::into_inner(client).unwrap(), told)
}

fn every_way() -> impl Iterator<Item = ((&'static str, &'static str), bool)> {
    let simple = SIMPLE.into_iter().map(|way| (way, false));
    simple.chain(EXTENDED.into_iter().map(|way| (way, true)))
}

#[tokio::test]
async fn a_commit_whose_wait_is_cancelled_has_an_unknown_outcome_and_its_session_goes_on() {
    let eu = without_its_standby().await;
    for (way, extended) in every_way() {
        let (by_client, error) = committed(&eu, way, extended, async |client| {
            client.cancel_token().cancel_query(NoTls).await.unwrap();
        })
        .await;
        let error = error.expect_err(way.1);
        assert_eq!(code(&error), "08007", "{way:?}: {error:?}");
        assert_eq!(place(&by_client).await, "eu", "{way:?}");

        let (by_server, error) = committed(&eu, way, extended, async |_| {
            eu.run(&format!("SELECT pg_cancel_backend(pid) FROM ({WAITING}) waiting")).await;
        })
        .await;
        let error = error.expect_err(way.1);
        assert_eq!(code(&error), "08007", "{way:?}: {error:?}");
        assert_eq!(place(&by_server).await, "eu", "{way:?}");
    }
    let committed = eu.count("SELECT count(*) FROM note").await;
    assert_eq!(committed, 2 * every_way().count() as i64, "they are committed all the same");
}

#[tokio::test]
async fn a_commit_whose_session_is_terminated_is_told_no_success() {
    let eu = without_its_standby().await;
    for (way, extended) in every_way() {
        let (_, error) = committed(&eu, way, extended, async |_| {
            eu.run(&format!("SELECT pg_terminate_backend(pid) FROM ({WAITING}) waiting")).await;
        })
        .await;
        let error = error.expect_err(way.1);
        assert_eq!(code(&error), "08007", "{way:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_timeout_within_a_procedure_that_commits_is_told_no_success() {
    let eu = without_its_standby().await;
    let before = "SET statement_timeout = '200ms'";
    let way = (before, "CALL note_twice(1)");
    let (client, error) = committed(&eu, way, false, async |_| {}).await;
    assert_eq!(code(&error.expect_err(way.1)), "08007");
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn copy_behind_a_commit_that_was_cancelled_ends_the_session() {
    let eu = without_its_standby().await;
    let way = ("BEGIN; INSERT INTO note VALUES (1)", "COMMIT; COPY note FROM STDIN");
    let (client, error) = committed(&eu, way, false, async |client| {
        client.cancel_token().cancel_query(NoTls).await.unwrap();
    })
    .await;
    assert_eq!(code(&error.expect_err(way.1)), "08007");
    assert!(within(client.simple_query("SELECT 1")).await.is_err(), "the server waits for rows");
}

#[tokio::test]
async fn without_an_rpo_the_warning_is_postgresqls() {
    let eu = Wanted::new(Mode::Local).region().await;
    eu.run("CREATE TABLE note (id int)").await;
    eu.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    eu.run("SELECT pg_reload_conf()").await;
    until(&eu, "SELECT current_setting('synchronous_standby_names') = 'nobody'").await;
    let (_, told) = committed(&eu, SIMPLE[0], false, async |client| {
        client.cancel_token().cancel_query(NoTls).await.unwrap();
    })
    .await;
    told.unwrap();
}
