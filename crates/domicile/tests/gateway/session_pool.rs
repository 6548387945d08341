//! Do clients that have a server from their first statement to their end leave nothing there?

use domicile::gateway::Counts;
use futures_util::future;

use super::sharing::{counts, pgbench, server, until_counted};
use crate::*;

/// A region whose clients share `servers_max` servers, each for a whole session.
async fn region_of(servers_max: usize) -> Region {
    Wanted::new(Mode::Local).pooled(PoolMode::Session, servers_max).budget(300).region().await
}

async fn until_free(region: &Region) {
    until_counted(region, |counts| counts.in_use == 0).await;
}

#[tokio::test]
async fn all_that_lives_on_a_server_is_there_in_the_next_transaction() {
    let eu = region_of(2).await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    let kept = server(&one).await;
    one.batch_execute(
        "LISTEN news; CREATE TEMP TABLE own AS SELECT 7 AS a; PREPARE own AS TABLE own;
         DO $$ BEGIN PERFORM set_config('app.tenant', 'one', false); PERFORM pg_advisory_lock(7); END $$",
    )
    .await
    .unwrap();
    let prepared = one.prepare("SELECT a + $1::int FROM own").await.unwrap();
    assert_ne!(server(&two).await, kept);
    assert_eq!(simple(&one, "EXECUTE own").await.unwrap(), "7");
    assert_eq!(one.query_one(&prepared, &[&1]).await.unwrap().get::<_, i32>(0), 8);
    let holds = "SELECT concat(current_setting('app.tenant', true),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_listening_channels()))";
    assert_eq!(simple(&one, holds).await.unwrap(), "one11");
    assert_eq!(simple(&two, holds).await.unwrap(), "00");
    assert_eq!(server(&one).await, kept);
}

#[tokio::test]
async fn the_next_session_on_a_server_finds_nothing_of_the_one_before() {
    let eu = region_of(1).await;
    eu.run("CREATE ROLE other; CREATE SCHEMA hidden").await;
    let fresh = "SELECT concat_ws(' ', session_user, current_user, current_setting('search_path'),
        current_setting('TimeZone'), nullif(current_setting('app.tenant', true), ''),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
        (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors),
        (SELECT count(*) FROM pg_prepared_statements), to_regclass('pg_temp.leak'), pg_backend_pid())";
    let looked = async || {
        let client = eu.connect().await;
        let shown = simple(&client, fresh).await.unwrap();
        drop(client);
        until_free(&eu).await;
        shown
    };
    let before = looked().await;
    for sql in [
        "SET SESSION AUTHORIZATION other",
        "SET search_path = hidden",
        "SET TimeZone = 'Asia/Kathmandu'",
        "SELECT set_config('app.tenant', 'one', false)",
        "SELECT pg_advisory_lock(7)",
        "LISTEN news",
        "CREATE TEMP TABLE leak (a int)",
        "PREPARE leak AS SELECT 1",
        "BEGIN; DECLARE leak CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "DO $$ BEGIN EXECUTE 'PREPARE leak AS SELECT 1'; EXECUTE 'SET ROLE other'; END $$",
    ] {
        let dirty = eu.connect().await;
        dirty.batch_execute(sql).await.unwrap();
        let kept = dirty.prepare("SELECT $1::int").await.unwrap();
        dirty.query_one(&kept, &[&1]).await.unwrap();
        drop((kept, dirty));
        until_free(&eu).await;
        assert_eq!(looked().await, before, "{sql}");
    }
    for sql in ["BEGIN", "BEGIN; SELECT 1/0", "COPY pg_class TO STDOUT"] {
        let dirty = eu.connect().await;
        let _ = dirty.batch_execute(sql).await;
        drop(dirty);
        until_free(&eu).await;
        let after = looked().await;
        let (shown, _) = after.rsplit_once(' ').unwrap();
        assert!(before.starts_with(shown), "{sql}: {after}");
    }
}

#[tokio::test]
async fn who_has_asked_for_nothing_has_no_server_and_who_asks_in_vain_goes_on() {
    let eu = region_of(1).await;
    let idle = future::join_all((0..5).map(|_| eu.connect())).await;
    let (one, two) = (&idle[0], &idle[1]);
    assert_eq!(place(one).await, "eu");
    assert_eq!(counts(&eu), Counts { idle: 0, in_use: 1, waiting: 0 });
    let error = simple(two, "SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    drop(idle.into_iter().next().unwrap());
    let two = eu.connect().await;
    until_free(&eu).await;
    assert_eq!(place(&two).await, "eu");
}

#[tokio::test]
async fn a_session_whose_server_dies_goes_on_at_another_unless_it_left_something_there() {
    let eu = region_of(2).await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    one.batch_execute("SET app.tenant = 'one'").await.unwrap();
    let select = one.prepare("SELECT current_setting('app.tenant')").await.unwrap();
    two.batch_execute("CREATE TEMP TABLE own (a int)").await.unwrap();
    eu.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
        .await;
    let alone = "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'";
    until(&eu, alone).await;
    let row = within(one.query_one(&select, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "one");
    let error = simple(&two, "TABLE own").await.unwrap_err();
    assert_eq!(code(&error), "57P01");
    drop((one, two));
    until_free(&eu).await;
}

#[tokio::test]
async fn a_session_that_comes_from_another_region_keeps_its_server_here_too() {
    let wanted = Wanted::new(Mode::FollowOwner).owner("us").pooled(PoolMode::Session, 1);
    let (eu, us) = wanted.budget(300).two_regions().await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    assert_eq!(place(&one).await, "us");
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("eu")));
    }
    one.batch_execute("CREATE TEMP TABLE own AS SELECT 7 AS a").await.unwrap();
    assert_eq!(counts(&eu), Counts { idle: 0, in_use: 1, waiting: 0 });
    let error = simple(&two, "SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "53300", "there is one server");
    assert_eq!(simple(&one, "TABLE own").await.unwrap(), "7");
    drop(one);
    until_free(&eu).await;
    assert_eq!(place(&two).await, "eu");
}

#[tokio::test]
async fn pgbench_runs_with_more_sessions_than_servers_in_all_three_protocols() {
    let eu = Wanted::new(Mode::Local).pooled(PoolMode::Session, 2).region().await;
    pgbench(&eu, &["-i", "-q", "-s", "1"]).await;
    for protocol in ["simple", "extended", "prepared"] {
        // Each transaction is a session.
        pgbench(&eu, &["-n", "-C", "-c", "6", "-j", "6", "-t", "10", "-M", protocol]).await;
    }
    assert_eq!(eu.count("SELECT count(*) FROM pgbench_history").await, 180);
    until_counted(&eu, |counts| counts.in_use == 0 && (1..=2).contains(&counts.idle)).await;
}
