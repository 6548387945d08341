//! Does a statement that the local guard refuses reach its owner, and the refusal its client when
//! there is no such place?

use std::time::Instant;

use crate::*;

/// Far less than the budget of the sessions here.
const QUICK: Duration = Duration::from_secs(5);

/// Two regions, of which the second owns every note.
async fn notes_of_the_other() -> (Region, Region) {
    let (eu, us) = Wanted::new(Mode::Local).two_regions().await;
    eu.guard("us", 4, false).await;
    us.guard("us", 4, true).await;
    (eu, us)
}

#[tokio::test]
async fn a_refused_statement_is_done_by_the_owner() {
    let (eu, us) = notes_of_the_other().await;
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
    let (eu, _us) = notes_of_the_other().await;
    let client = eu.connect().await;
    client.batch_execute("INSERT INTO note VALUES (1); BEGIN").await.unwrap();
    assert_eq!(place(&client).await, "us");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_statement_with_parameters_is_done_by_the_owner() {
    let (eu, us) = notes_of_the_other().await;
    let client = eu.connect().await;
    let here = client.prepare("SELECT current_setting('cluster_name')").await.unwrap();
    let insert = client.prepare("INSERT INTO note VALUES ($1, $2) RETURNING body").await.unwrap();
    for id in 1..=3 {
        let row = within(client.query_one(&insert, &[&id, &"text"])).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "text");
        let row = within(client.query_one(&here, &[])).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "eu");
    }
    // Prepared and used in one go.
    within(client.query("INSERT INTO note VALUES ($1)", &[&4])).await.unwrap();
    // The other server has to forget it, too.
    drop(insert);
    let insert = client.prepare("INSERT INTO note (body, id) VALUES ($1, $2)").await.unwrap();
    assert_eq!(within(client.execute(&insert, &[&"more", &5])).await.unwrap(), 1);
    assert_eq!(us.count("SELECT count(*) FROM note").await, 5);
    assert_eq!(eu.count("SELECT count(*) FROM note").await, 0);
}

#[tokio::test]
async fn a_transaction_whose_first_statement_is_refused_is_the_owners() {
    let (eu, us) = notes_of_the_other().await;
    let mut client = eu.connect().await;
    let insert = client.prepare("INSERT INTO note VALUES ($1, $2)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("SAVEPOINT before; SET LOCAL domicile.mood = 'calm'").await.unwrap();
    within(transaction.execute(&insert, &[&1, &"one"])).await.unwrap();
    // What is made there is the session's, wherever it is.
    let place = transaction.prepare("SELECT current_setting('cluster_name')").await.unwrap();
    let row = within(transaction.query_one(&place, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "us");
    let mood = "SELECT current_setting('domicile.mood')";
    let row = within(transaction.query_one(mood, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "calm");
    transaction.batch_execute("SET domicile.mood = 'glad'").await.unwrap();
    within(transaction.commit()).await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);
    let row = within(client.query_one(&place, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "eu");
    assert_eq!(simple(&client, mood).await.unwrap(), "glad");

    let transaction = client.transaction().await.unwrap();
    within(transaction.execute(&insert, &[&2, &"two"])).await.unwrap();
    within(transaction.rollback()).await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);
}

#[tokio::test]
async fn statements_in_flight_keep_their_order_at_the_owner() {
    let (eu, us) = notes_of_the_other().await;
    let client = eu.connect().await;
    let insert = client.prepare("INSERT INTO note VALUES ($1)").await.unwrap();
    let update = client.prepare("UPDATE note SET body = $1").await.unwrap();
    let (first, second, third) = within(async {
        tokio::join!(
            client.execute(&insert, &[&1]),
            client.execute(&update, &[&"changed"]),
            client.execute(&insert, &[&2])
        )
    })
    .await;
    assert_eq!((first.unwrap(), second.unwrap(), third.unwrap()), (1, 1, 1));
    assert_eq!(us.count("SELECT count(*) FROM note WHERE body = 'changed'").await, 1);
}

#[tokio::test]
async fn a_transaction_that_has_shown_something_stays_and_is_told_the_refusal() {
    let (eu, us) = notes_of_the_other().await;
    let client = eu.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(place(&client).await, "eu");
    let error = within(client.execute("INSERT INTO note VALUES ($1)", &[&1])).await.unwrap_err();
    let refusal = error.as_db_error().unwrap();
    assert_eq!(
        (refusal.code().code(), refusal.detail()),
        ("25006", Some("Owner region: us, epoch: 4."))
    );
    let error = client.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("INSERT INTO note VALUES (1)").await.unwrap();
    assert_eq!(place(&client).await, "eu");
    // It has been asked for rows.
    let copy = client.copy_in::<_, bytes::Bytes>("COPY note FROM STDIN").await.unwrap();
    let copy = std::pin::pin!(copy);
    let error = within(copy.finish()).await.unwrap_err();
    assert_eq!(code(&error), "25006");
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);
}

#[tokio::test]
async fn a_transaction_that_nobody_takes_has_failed_until_it_is_rolled_back() {
    let (eu, us) = Wanted::new(Mode::Local).two_regions().await;
    eu.guard("us", 4, false).await;
    us.guard("eu", 6, false).await;
    let client = eu.connect().await;
    let insert = client.prepare("INSERT INTO note VALUES ($1)").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    let error = within(client.execute(&insert, &[&1])).await.unwrap_err();
    assert_eq!(code(&error), "25006");
    let has_failed = async || {
        let error = client.batch_execute("SELECT 1").await.unwrap_err();
        assert_eq!(code(&error), "25P02");
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(place(&client).await, "eu");
    };
    has_failed().await;
    let together = client.batch_execute("BEGIN; INSERT INTO note VALUES (1)");
    assert_eq!(code(&within(together).await.unwrap_err()), "25006");
    has_failed().await;
    us.guard("us", 7, true).await;
    assert_eq!(within(client.execute(&insert, &[&1])).await.unwrap(), 1);
}

#[tokio::test]
async fn a_transaction_waits_for_its_owner_and_begins_anew_at_home() {
    let eu = Wanted::new(Mode::Local).region().await;
    eu.guard("none", 4, false).await;
    let mut client = eu.connect().await;
    let insert = client.prepare("INSERT INTO note VALUES ($1)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    {
        let mut inserting = std::pin::pin!(transaction.execute(&insert, &[&1]));
        let early = tokio::time::timeout(Duration::from_millis(200), &mut inserting).await;
        assert!(early.is_err(), "no region may write yet");
        eu.guard("eu", 5, true).await;
        assert_eq!(within(inserting).await.unwrap(), 1);
    }
    within(transaction.commit()).await.unwrap();
    assert_eq!(eu.count("SELECT count(*) FROM note").await, 1);
}

#[tokio::test]
async fn pgbench_writes_what_another_region_owns_in_all_three_protocols() {
    let (eu, us) = notes_of_the_other().await;
    us.run("CREATE SEQUENCE number").await;
    eu.run("CREATE SEQUENCE number").await;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("write.sql");
    let sql = "BEGIN;\nINSERT INTO note VALUES (nextval('number'), :client_id);\n\
               SELECT count(*) FROM note;\nCOMMIT;\n";
    std::fs::write(&script, sql).unwrap();
    for (round, protocol) in (1..).zip(["simple", "extended", "prepared"]) {
        let port = eu.address.port().to_string();
        let mut pgbench =
            tokio::process::Command::new(PgBin::find(None).unwrap().program("pgbench"));
        pgbench.args(["-n", "-M", protocol, "-c", "4", "-t", "25", "-f"]).arg(&script);
        pgbench.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "postgres"]);
        let output = within(pgbench.output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("ERROR"), "{protocol}: {said}");
        assert_eq!(us.count("SELECT count(*) FROM note").await, 100 * round);
    }
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
