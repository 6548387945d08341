//! Do sessions that another region's gateway opens here share servers, and does nobody notice?

use domicile::gateway::Counts;
use futures_util::future;

use super::password::{connect, two_that_ask};
use super::sharing::{self, pgbench, server, until_counted};
use crate::*;

/// Two regions of which `us` owns everything, and has so many servers for those who come in by `eu`.
async fn far_from_owner(servers_max: usize) -> (Region, Region) {
    Wanted::new(Mode::FollowOwner).owner("us").shared(servers_max).two_regions().await
}

fn owner_is(version: u64, owner: &str, regions: [&Region; 2]) {
    for region in regions {
        region.publish(owned_by(version, Some(owner)));
    }
}

#[tokio::test]
async fn many_clients_of_another_region_have_few_servers() {
    let (eu, us) = far_from_owner(2).await;
    let clients = future::join_all((0..20).map(|_| eu.connect())).await;
    let busy = future::join_all(clients.iter().map(|c| simple(c, "SELECT pg_sleep(0.01), 1")));
    assert!(within(busy).await.iter().all(Result::is_ok));
    let servers = future::join_all(clients.iter().map(server)).await;
    let servers: std::collections::BTreeSet<String> = servers.into_iter().collect();
    assert!(servers.len() <= 2, "{servers:?}");
    assert_eq!(place(&clients[0]).await, "us");
    until_counted(&us, |counts| counts == Counts { idle: 2, in_use: 0, waiting: 0 }).await;
}

#[tokio::test]
async fn a_server_shows_the_next_client_of_another_region_nothing_of_the_one_before() {
    let (eu, us) = far_from_owner(1).await;
    sharing::shows_nothing_of_others(&eu, &us).await;
}

#[tokio::test]
async fn what_a_client_of_another_region_has_set_and_prepared_comes_along() {
    let (eu, _us) = far_from_owner(1).await;
    sharing::has_all_come_along(&eu).await;
}

#[tokio::test]
async fn what_lives_on_a_server_keeps_a_client_of_another_region_there() {
    for sql in sharing::KEEPS {
        let (eu, us) = far_from_owner(2).await;
        sharing::is_kept_by(sql, &eu, &us).await;
    }
}

#[tokio::test]
async fn a_cancel_request_from_another_region_meets_nobody_but_its_client() {
    let (eu, us) = far_from_owner(1).await;
    sharing::meets_nobody_else(&eu, &us).await;
}

#[tokio::test]
async fn cancel_requests_from_another_region_at_any_time_end_no_statement_of_others() {
    let (eu, _us) = far_from_owner(1).await;
    sharing::ends_nothing_of_others(&eu).await;
}

#[tokio::test]
async fn pgbench_runs_through_two_gateways_with_more_clients_than_servers() {
    let (eu, us) = far_from_owner(4).await;
    pgbench(&eu, &["-i", "-q", "-s", "1"]).await;
    for protocol in ["simple", "extended", "prepared"] {
        pgbench(&eu, &["-n", "-c", "20", "-j", "20", "-t", "20", "-M", protocol]).await;
    }
    assert_eq!(us.count("SELECT count(*) FROM pgbench_history").await, 1200);
    until_counted(&us, |counts| counts.in_use == 0 && counts.idle > 0).await;
    assert!(sharing::counts(&us).idle <= 4);
}

#[tokio::test]
async fn who_comes_from_another_region_has_proved_who_he_is() {
    let wanted = Wanted::new(Mode::FollowOwner).owner("us").shared(1);
    let (eu, us) = two_that_ask(&wanted).await;
    let (one, two) = (connect(&eu, "first").await, connect(&eu, "first").await);
    assert_eq!(server(&one).await, server(&two).await);
    // The key of one of them opens what all of them share.
    us.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'").await;
    assert_eq!(server(&one).await, server(&two).await);
    assert_eq!(simple(&two, "SELECT current_user").await.unwrap(), "app");
    let address = eu.connection_string().replace("user=postgres", "user=app password=wrong");
    let error = within(tokio_postgres::connect(&address, NoTls)).await.err().unwrap();
    assert_eq!(code(&error), "28P01");
}

#[tokio::test]
async fn who_comes_home_from_another_region_is_let_in_like_those_before() {
    let (eu, us) = two_that_ask(&Wanted::new(Mode::FollowOwner).owner("us").shared(1)).await;
    let clients = future::join_all((0..4).map(|_| connect(&eu, "first"))).await;
    for client in &clients {
        assert_eq!(place(client).await, "us");
    }
    // PostgreSQL itself has room for one.
    eu.run("ALTER ROLE app CONNECTION LIMIT 1").await;
    owner_is(2, "eu", [&eu, &us]);
    let first = server(&clients[0]).await;
    for client in &clients[1..3] {
        assert_eq!(server(client).await, first);
        assert_eq!(simple(client, "SELECT current_user").await.unwrap(), "app");
    }
    // Whom it would not let in any more has nobody's server.
    eu.run("ALTER ROLE app PASSWORD 'second'").await;
    within(simple(&clients[3], "SELECT 1")).await.unwrap_err();
}

#[tokio::test]
async fn servers_that_died_between_two_statements_are_not_noticed_in_another_region() {
    let (eu, mut us) = far_from_owner(1).await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    one.batch_execute("SET app.tenant = 'one'").await.unwrap();
    let select = one.prepare("SELECT current_setting('app.tenant')").await.unwrap();
    assert_eq!(server(&one).await, server(&two).await);
    us.cluster.kill();
    us.cluster.start().await.unwrap();
    for client in [&two, &one] {
        assert_eq!(place(client).await, "us");
    }
    let row = within(one.query_one(&select, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "one");
}

#[tokio::test]
async fn what_no_server_could_be_had_for_is_done_by_the_next_owner() {
    let (eu, mut us) = far_from_owner(1).await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    let place_of = one.prepare("SELECT current_setting('cluster_name')").await.unwrap();
    assert_eq!(server(&one).await, server(&two).await);
    us.cluster.kill();
    let simply = async { place(&two).await };
    let prepared = async { one.query_one(&place_of, &[]).await.unwrap().get::<_, String>(0) };
    let moving = async {
        // They have come back from there.
        let waiting = || eu.tally.count().clients["waiting"];
        within(async {
            while waiting() < 2 {
                tokio::task::yield_now().await
            }
        })
        .await;
        owner_is(2, "eu", [&eu, &us]);
    };
    let (simply, prepared, ()) = within(future::join3(simply, prepared, moving)).await;
    assert_eq!([simply, prepared], ["eu", "eu"]);
}

#[tokio::test]
async fn who_waits_for_a_server_of_a_gateway_that_stops_goes_on_elsewhere() {
    let (eu, us) = far_from_owner(1).await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    assert_eq!(server(&one).await, server(&two).await);
    one.batch_execute("BEGIN").await.unwrap();
    let moving = async {
        until_counted(&us, |counts| counts.waiting == 1).await;
        us.stop.cancel();
        owner_is(2, "eu", [&eu, &us]);
    };
    let (there, ()) = within(future::join(place(&two), moving)).await;
    assert_eq!(there, "eu");
}

#[tokio::test]
async fn clients_of_two_regions_that_write_in_each_others_do_not_wait_for_each_other() {
    let wanted = Wanted::new(Mode::Local).budget(2000).shared(1);
    let (eu, us) = wanted.two_regions().await;
    eu.guard("us", 1, false).await;
    us.guard("us", 1, true).await;
    eu.run("CREATE TABLE entry (id int)").await;
    us.run(
        "CREATE TABLE entry (id int);
         CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE 'not here' USING ERRCODE = '25006', DETAIL = 'Owner region: eu, epoch: 1.';
         END $$;
         CREATE TRIGGER closed BEFORE INSERT ON entry FOR EACH STATEMENT EXECUTE FUNCTION closed()",
    )
    .await;
    let (one, two) = (eu.connect().await, us.connect().await);
    // Each has the only server of its own region.
    for client in [&one, &two] {
        client.batch_execute("BEGIN").await.unwrap();
    }
    let writing = future::join(
        one.batch_execute("INSERT INTO note VALUES (1)"),
        two.batch_execute("INSERT INTO entry VALUES (1)"),
    );
    let (first, second) = within(writing).await;
    first.unwrap();
    second.unwrap();
    for client in [&one, &two] {
        client.batch_execute("COMMIT").await.unwrap();
    }
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);
    assert_eq!(eu.count("SELECT count(*) FROM entry").await, 1);
}

#[tokio::test]
async fn clients_that_come_together_take_no_more_of_postgresql_than_a_few() {
    let wanted = Wanted::new(Mode::FollowOwner).owner("us").shared(1);
    let (eu, us) = two_that_ask(&wanted).await;
    // One to share, and those by which PostgreSQL lets clients in itself.
    us.run("ALTER ROLE app CONNECTION LIMIT 5").await;
    let clients = future::join_all((0..60).map(|_| connect(&eu, "first"))).await;
    let answers = future::join_all(clients.iter().map(place)).await;
    assert!(answers.iter().all(|place| place == "us"), "{answers:?}");
}
