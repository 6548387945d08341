//! Does a region that goes without a goodbye keep nobody waiting for ever?

use domicile::lab::relay::Relay;

use crate::*;

/// A region `us` that can be reached only over the relay, and `eu`, which looks at it over that.
async fn behind_a_link(wanted: &Wanted) -> (Region, Region, Relay) {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let us = wanted.start(region("us"), listen, BTreeMap::new()).await;
    let relay = Relay::start(us.address).await.unwrap();
    let peers = BTreeMap::from([(region("us"), tcp(relay.address().port()))]);
    let eu = wanted.start(region("eu"), listen, peers).await;
    (eu, us, relay)
}

#[tokio::test]
async fn a_statement_in_a_silent_region_has_an_unknown_outcome() {
    let (eu, us, link) = behind_a_link(&Wanted::new(Mode::FollowOwner).owner("us")).await;
    let client = eu.connect().await;
    let sleeping = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(600)").await });
    until(&us, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").await;
    link.control().cut();
    let error = within(sleeping).await.unwrap().unwrap_err();
    assert_eq!(code(&error), "08007");
}

#[tokio::test]
async fn an_idle_session_of_a_silent_region_goes_on_with_the_next_owner() {
    let (eu, _us, link) = behind_a_link(&Wanted::new(Mode::FollowOwner).owner("us")).await;
    let (client, bystander) = (eu.connect().await, eu.connect().await);
    assert_eq!(place(&client).await, "us");
    bystander.batch_execute("BEGIN").await.unwrap();
    link.control().cut();
    // An open transaction is lost as soon as the region counts as silent.
    within(async {
        while !bystander.is_closed() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let mut asking = std::pin::pin!(place(&client));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut asking).await;
    assert!(early.is_err(), "the owner is silent");
    eu.publish(owned_by(2, Some("eu")));
    assert_eq!(within(asking).await, "eu");
}

#[tokio::test]
async fn an_idle_session_goes_on_when_a_silent_region_answers_again() {
    let (eu, _us, link) = behind_a_link(&Wanted::new(Mode::FollowOwner).owner("us")).await;
    let (client, bystander) = (eu.connect().await, eu.connect().await);
    client.batch_execute("LISTEN news").await.unwrap();
    bystander.batch_execute("BEGIN").await.unwrap();
    link.control().cut();
    within(async {
        while !bystander.is_closed() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let mut asking = std::pin::pin!(place(&client));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut asking).await;
    assert!(early.is_err(), "the owner is silent");
    link.control().heal();
    assert_eq!(within(asking).await, "us");
}

/// Their own gateways say it to clients of the region and of other regions alike.
#[tokio::test]
async fn nobody_waits_for_a_server_that_is_silent_and_owns_nothing_any_more() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("us").two_regions().await;
    let idle = us.connect().await;
    let (near, far) = (us.connect().await, eu.connect().await);
    let mut sleeping = Vec::new();
    for client in [near, far] {
        assert_eq!(place(&client).await, "us");
        sleeping
            .push(tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(600)").await }));
    }
    let sql = "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    until(&us, sql).await;
    us.cluster.pause();
    eu.publish(owned_by(2, Some("eu")));
    us.publish(Routes { abandoned: true, ..owned_by(2, Some("eu")) });
    for sleeping in sleeping {
        let error = within(sleeping).await.unwrap().unwrap_err();
        assert_eq!(code(&error), "08007");
    }
    assert_eq!(place(&idle).await, "eu", "it goes where the owner is");
    us.cluster.resume();
    us.publish(owned_by(3, Some("us")));
    eu.publish(owned_by(3, Some("us")));
    assert_eq!(place(&idle).await, "us", "and comes back when all is well");
}
