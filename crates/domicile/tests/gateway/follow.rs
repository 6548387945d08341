//! Does an active-passive session live where the owner is, wherever that is now?

use crate::*;

#[tokio::test]
async fn a_session_is_served_by_the_owner_whichever_gateway_it_came_to() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("us").two_regions().await;
    assert_eq!(place(&eu.connect().await).await, "us");
    assert_eq!(place(&us.connect().await).await, "us");
    let client = eu.connect().await;
    client.batch_execute("SELECT 1").await.unwrap();
    let route = simple(&client, "SHOW domicile.route").await.unwrap();
    assert_eq!(route, "us: the owner of everything");
}

#[tokio::test]
async fn a_new_session_waits_until_there_is_an_owner() {
    let eu = Wanted::new(Mode::FollowOwner).region().await;
    let mut connecting = std::pin::pin!(eu.try_connect());
    let early = tokio::time::timeout(Duration::from_millis(200), &mut connecting).await;
    assert!(early.is_err(), "there is no owner yet");
    eu.publish(owned_by(2, Some("eu")));
    let client = within(connecting).await.unwrap();
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_new_session_is_told_when_no_owner_comes() {
    let eu = Wanted::new(Mode::FollowOwner).budget(100).region().await;
    let error = within(eu.try_connect()).await.err().unwrap();
    assert_eq!(code(&error), "57P03");
    assert!(error.as_db_error().unwrap().hint().is_some());
}

#[tokio::test]
async fn an_idle_session_moves_with_its_statements_and_settings() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    let select = client
        .prepare("SELECT current_setting('cluster_name'), current_setting('domicile.mood')")
        .await
        .unwrap();
    client.batch_execute("SET domicile.mood = 'calm'").await.unwrap();
    for (version, owner) in [(2, "us"), (3, "eu"), (4, "us")] {
        for region in [&eu, &us] {
            region.publish(owned_by(version, Some(owner)));
        }
        let row = within(client.query_one(&select, &[])).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (owner, "calm"));
        assert_eq!(place(&client).await, owner);
    }
}

#[tokio::test]
async fn a_session_waits_out_a_hand_over() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    for region in [&eu, &us] {
        region.publish(owned_by(2, None));
    }
    let mut asking = std::pin::pin!(place(&client));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut asking).await;
    assert!(early.is_err(), "there is no owner yet");
    for region in [&eu, &us] {
        region.publish(owned_by(3, Some("us")));
    }
    assert_eq!(within(asking).await, "us");
}

/// Everything is handed over to `next`.
fn on_the_way_to(version: u64, next: &str) -> Routes {
    Routes { next_of_whole: Some(region(next)), ..owned_by(version, None) }
}

const A_SESSION: &str = "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'shop'";
const ITS_PID: &str = "SELECT pid::bigint FROM pg_stat_activity WHERE application_name = 'shop'";
const NO_SESSION: &str =
    "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'shop'";

#[tokio::test]
async fn a_session_that_waits_out_a_hand_over_is_opened_at_its_next_home_meanwhile() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    client.batch_execute("SET application_name = 'shop'").await.unwrap();
    for region in [&eu, &us] {
        region.publish(on_the_way_to(2, "us"));
    }
    let mut asking = std::pin::pin!(place(&client));
    tokio::select! {
        place = &mut asking => panic!("{place} answers while there is no owner"),
        () = until(&us, A_SESSION) => {}
    }
    let opened = us.count(ITS_PID).await;
    for region in [&eu, &us] {
        region.publish(owned_by(3, Some("us")));
    }
    assert_eq!(within(asking).await, "us");
    let used = simple(&client, "SELECT pg_backend_pid()").await.unwrap();
    assert_eq!(used, opened.to_string(), "no other one");
    assert_eq!(simple(&client, "SHOW application_name").await.unwrap(), "shop");
}

#[tokio::test]
async fn what_was_opened_for_a_hand_over_that_is_called_off_is_closed() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    client.batch_execute("SET application_name = 'shop'").await.unwrap();
    eu.publish(on_the_way_to(2, "us"));
    let mut asking = std::pin::pin!(place(&client));
    tokio::select! {
        place = &mut asking => panic!("{place} answers while there is no owner"),
        () = until(&us, A_SESSION) => {}
    }
    eu.publish(owned_by(3, Some("eu")));
    assert_eq!(within(asking).await, "eu");
    until(&us, NO_SESSION).await;
}

#[tokio::test]
async fn a_next_home_that_does_not_answer_holds_nobody_up() {
    let (eu, mut us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    us.cluster.kill();
    eu.publish(on_the_way_to(2, "us"));
    let mut asking = std::pin::pin!(place(&client));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut asking).await;
    assert!(early.is_err(), "there is no owner yet");
    eu.publish(owned_by(3, Some("eu")));
    assert_eq!(within(asking).await, "eu");
}

#[tokio::test]
async fn a_session_waits_for_room_at_its_next_home() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    for region in [&eu, &us] {
        region.run("CREATE ROLE alice LOGIN").await;
    }
    let client = eu.connect_as("alice", "postgres").await.unwrap();
    us.run("ALTER ROLE alice CONNECTION LIMIT 0").await;
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("us")));
    }
    let mut asking = std::pin::pin!(place(&client));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut asking).await;
    assert!(early.is_err(), "there is no room yet");
    us.run("ALTER ROLE alice CONNECTION LIMIT -1").await;
    assert_eq!(within(asking).await, "us");
}

#[tokio::test]
async fn an_open_transaction_stays_and_ends_where_it_began() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("us")));
    }
    assert_eq!(place(&client).await, "eu");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(place(&client).await, "us");
}

#[tokio::test]
async fn an_idle_session_does_not_notice_that_its_owner_was_killed() {
    let (eu, mut us) = Wanted::new(Mode::FollowOwner).owner("us").two_regions().await;
    let client = eu.connect().await;
    assert_eq!(place(&client).await, "us");
    us.cluster.kill();
    us.stop.cancel();
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("eu")));
    }
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn a_transaction_that_lost_its_owner_is_reported_as_rolled_back() {
    let (eu, mut us) = Wanted::new(Mode::FollowOwner).owner("us").two_regions().await;
    let client = eu.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    us.cluster.kill();
    let error = within(async {
        loop {
            if let Err(error) = client.simple_query("SELECT 1").await {
                break error;
            }
        }
    })
    .await;
    assert!(["08006", "08007", "no code"].contains(&code(&error)), "{error:?}");
}

#[tokio::test]
async fn a_session_with_state_that_cannot_move_is_ended_with_a_reason() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    client.batch_execute("LISTEN news").await.unwrap();
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("us")));
    }
    let error = simple(&client, "SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "57P01");
}

#[tokio::test]
async fn a_cancel_request_follows_the_session_to_another_region() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("us")));
    }
    assert_eq!(place(&client).await, "us");
    let cancel = client.cancel_token();
    let sleeping = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(600)").await });
    until(&us, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").await;
    cancel.cancel_query(NoTls).await.unwrap();
    assert_eq!(code(&within(sleeping).await.unwrap().unwrap_err()), "57014");
}

#[tokio::test]
async fn a_region_that_does_not_answer_holds_nobody_once_it_is_not_the_owner() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = BTreeMap::from([(region("us"), tcp(silent.local_addr().unwrap().port()))]);
    let wanted = Wanted::new(Mode::FollowOwner).owner("eu");
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let eu = wanted.start(region("eu"), listen, peers).await;
    let client = eu.connect().await;
    eu.publish(owned_by(2, Some("us")));
    let mut asking = std::pin::pin!(place(&client));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut asking).await;
    assert!(early.is_err(), "the owner does not answer");
    let back = std::time::Instant::now();
    eu.publish(owned_by(3, Some("eu")));
    assert_eq!(within(asking).await, "eu");
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
}
