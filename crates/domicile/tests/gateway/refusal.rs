//! Does a statement that the local guard refuses reach its owner, and the refusal its client when
//! there is no such place?

use std::time::Instant;

use crate::*;

/// Far less than the budget of the sessions here.
const QUICK: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_refused_statement_is_done_by_the_owner() {
    let (eu, us) = Wanted::new(Mode::Local).two_regions().await;
    eu.guard("us", 4, false).await;
    us.guard("us", 4, true).await;
    let client = eu.connect().await;
    client.batch_execute("SET application_name = 'first'").await.unwrap();
    for id in 1..=3 {
        client.batch_execute(&format!("INSERT INTO note VALUES ({id})")).await.unwrap();
        assert_eq!(place(&client).await, "eu");
    }
    assert_eq!(us.count("SELECT count(*) FROM note").await, 3);
    assert_eq!(eu.count("SELECT count(*) FROM note").await, 0);
    client.batch_execute("SET application_name = 'second'").await.unwrap();
    let returned = simple(
        &client,
        "INSERT INTO note VALUES (4, current_setting('application_name')) RETURNING body",
    );
    assert_eq!(returned.await.unwrap(), "second");
}

#[tokio::test]
async fn a_redirected_transaction_stays_with_the_owner_until_it_ends() {
    let (eu, us) = Wanted::new(Mode::Local).two_regions().await;
    eu.guard("us", 4, false).await;
    us.guard("us", 4, true).await;
    let client = eu.connect().await;
    client.batch_execute("INSERT INTO note VALUES (1); BEGIN").await.unwrap();
    assert_eq!(place(&client).await, "us");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn refusals_inside_a_transaction_or_the_extended_protocol_pass_unchanged() {
    let (eu, us) = Wanted::new(Mode::Local).two_regions().await;
    eu.guard("us", 4, false).await;
    us.guard("us", 4, true).await;
    let client = eu.connect().await;
    let error = client.execute("INSERT INTO note VALUES (1)", &[]).await.unwrap_err();
    let refusal = error.as_db_error().unwrap();
    assert_eq!(
        (refusal.code().code(), refusal.detail()),
        ("25006", Some("Owner region: us, epoch: 4."))
    );
    client.batch_execute("BEGIN").await.unwrap();
    let error = client.batch_execute("INSERT INTO note VALUES (1)").await.unwrap_err();
    assert_eq!(code(&error), "25006");
    let error = client.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM note").await, 0);
}

#[tokio::test]
async fn another_error_with_the_same_code_is_not_a_refusal() {
    let (eu, us) = Wanted::new(Mode::Local).two_regions().await;
    us.guard("us", 4, true).await;
    eu.run("CREATE TABLE note (id int)").await;
    let client = eu.connect().await;
    client.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    let error = client.batch_execute("INSERT INTO note VALUES (1)").await.unwrap_err();
    assert_eq!(code(&error), "25006");
    assert_eq!(us.count("SELECT count(*) FROM note").await, 0);
}

#[tokio::test]
async fn a_refusal_that_names_nobody_is_waited_out() {
    let eu = Wanted::new(Mode::Local).region().await;
    eu.guard("none", 4, false).await;
    let client = eu.connect().await;
    let mut inserting = std::pin::pin!(client.batch_execute("INSERT INTO note VALUES (1)"));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut inserting).await;
    assert!(early.is_err(), "no region may write yet");
    eu.guard("eu", 5, false).await;
    let early = tokio::time::timeout(Duration::from_millis(200), &mut inserting).await;
    assert!(early.is_err(), "the guard is not open yet");
    eu.guard("eu", 5, true).await;
    within(inserting).await.unwrap();
    assert_eq!(eu.count("SELECT count(*) FROM note").await, 1);
}

#[tokio::test]
async fn the_last_refusal_is_the_answer_when_the_budget_is_over() {
    let eu = Wanted::new(Mode::Local).budget(200).region().await;
    eu.guard("none", 4, false).await;
    let client = eu.connect().await;
    let error = within(client.batch_execute("INSERT INTO note VALUES (1)")).await.unwrap_err();
    let refusal = error.as_db_error().unwrap();
    assert_eq!(refusal.detail(), Some("Owner region: none, epoch: 4."));
    assert_eq!(refusal.hint(), Some("Connect to the owner."));
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_statement_of_two_owners_is_refused_quickly() {
    let (eu, us) = Wanted::new(Mode::Local).two_regions().await;
    eu.guard("us", 4, false).await;
    us.guard("eu", 6, false).await;
    let client = eu.connect().await;
    let began = Instant::now();
    let error = within(client.batch_execute("INSERT INTO note VALUES (1)")).await.unwrap_err();
    assert!(began.elapsed() < QUICK);
    assert_eq!(error.as_db_error().unwrap().detail(), Some("Owner region: eu, epoch: 6."));
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn an_owner_that_is_not_among_the_peers_is_not_waited_for() {
    let eu = Wanted::new(Mode::Local).region().await;
    eu.guard("mars", 4, false).await;
    let client = eu.connect().await;
    let began = Instant::now();
    let error = within(client.batch_execute("INSERT INTO note VALUES (1)")).await.unwrap_err();
    assert!(began.elapsed() < QUICK);
    assert_eq!(code(&error), "25006");
}

#[tokio::test]
async fn a_statement_waits_for_an_owner_that_cannot_be_reached_and_then_for_the_next_one() {
    let (eu, mut us) = Wanted::new(Mode::Local).two_regions().await;
    eu.guard("us", 4, false).await;
    us.cluster.kill();
    let client = eu.connect().await;
    let mut inserting = std::pin::pin!(client.batch_execute("INSERT INTO note VALUES (1)"));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut inserting).await;
    assert!(early.is_err(), "the owner is down");
    eu.guard("eu", 5, true).await;
    within(inserting).await.unwrap();
}

#[tokio::test]
async fn a_waiting_statement_can_be_cancelled() {
    let eu = Wanted::new(Mode::Local).region().await;
    eu.guard("none", 4, false).await;
    let client = eu.connect().await;
    let cancel = client.cancel_token();
    let inserting = tokio::spawn(async move {
        let error = client.batch_execute("INSERT INTO note VALUES (1)").await.unwrap_err();
        (client, error)
    });
    until(&eu, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'INSERT INTO note%')")
        .await;
    within(async {
        while !inserting.is_finished() {
            cancel.cancel_query(NoTls).await.unwrap();
        }
    })
    .await;
    let (client, error) = inserting.await.unwrap();
    assert_eq!(code(&error), "57014");
    // The last of the requests may reach the server when it is at the next statement.
    let place = "SELECT current_setting('cluster_name')";
    let answer = within(async {
        loop {
            match simple(&client, place).await {
                Err(late) if code(&late) == "57014" => {}
                other => return other.unwrap(),
            }
        }
    });
    assert_eq!(answer.await, "eu");
}
