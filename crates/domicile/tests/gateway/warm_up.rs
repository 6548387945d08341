//! Does a session have a connection where everything is about to go, and go on by it?

use domicile::gateway::WarmedUp;

use crate::*;

const ITS_PID: &str = "SELECT pid::bigint FROM pg_stat_activity WHERE application_name = 'shop'";
const NO_SESSION: &str =
    "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'shop'";

/// Counts how often rows of `note` are to be inserted: a sequence is not rolled back. It comes before the guard, by its name.
const COUNTS: &str = "
    CREATE SEQUENCE asked;
    CREATE FUNCTION asks() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM nextval('asked'); RETURN NULL; END $$;
    CREATE TRIGGER asks BEFORE INSERT ON note FOR EACH STATEMENT EXECUTE FUNCTION asks()";

impl Region {
    async fn warm_up(&self, to: &str) -> (usize, usize) {
        let WarmedUp { ready, wanted } =
            within(self.warm_ups.warm_up(&region(to), Duration::from_secs(60))).await;
        (ready, wanted)
    }
}

#[tokio::test]
async fn a_session_goes_on_by_the_connection_that_was_opened_before_the_hand_over() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    client.batch_execute("SET application_name = 'shop'").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(eu.warm_up("us").await, (1, 1), "it is opened beside the transaction");
    let opened = us.count(ITS_PID).await;
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(place(&client).await, "eu", "it goes on where it was until everything moves");
    client.batch_execute("SET domicile.mood = 'calm'").await.unwrap();
    let mood = client.prepare("SELECT current_setting('domicile.mood')").await.unwrap();
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("us")));
    }
    assert_eq!(place(&client).await, "us");
    assert_eq!(us.count(ITS_PID).await, opened, "no other one");
    let row = within(client.query_one(&mood, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "calm", "what it has become meanwhile it is there, too");
}

#[tokio::test]
async fn only_who_will_move_is_waited_for() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let [_moves, bound, _there] = [eu.connect().await, eu.connect().await, us.connect().await];
    bound.batch_execute("CREATE TEMPORARY TABLE basket (id int)").await.unwrap();
    assert_eq!(eu.warm_up("us").await, (1, 1));
    assert_eq!(us.warm_up("us").await, (1, 1), "its gateway does not matter");
    assert_eq!(us.warm_up("eu").await, (0, 0), "they are there");
    let eu = Wanted::new(Mode::Local).region().await;
    let _stays = eu.connect().await;
    assert_eq!(eu.warm_up("us").await, (0, 0), "who owns what does not move sessions");
}

#[tokio::test]
async fn what_cannot_be_opened_is_told_and_costs_nobody_his_session() {
    let (eu, mut us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    us.cluster.kill();
    assert_eq!(eu.warm_up("us").await, (0, 1));
    assert_eq!(place(&client).await, "eu");
    us.cluster.start().await.unwrap();
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("us")));
    }
    assert_eq!(place(&client).await, "us");
}

#[tokio::test]
async fn a_connection_that_has_ended_meanwhile_is_replaced() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    let client = eu.connect().await;
    client.batch_execute("SET application_name = 'shop'").await.unwrap();
    assert_eq!(eu.warm_up("us").await, (1, 1));
    let opened = us.count(ITS_PID).await;
    us.run(&format!("SELECT pg_terminate_backend({opened})")).await;
    until(&us, NO_SESSION).await;
    for region in [&eu, &us] {
        region.publish(owned_by(2, Some("us")));
    }
    assert_eq!(place(&client).await, "us");
}

#[tokio::test]
async fn what_was_opened_for_another_hand_over_is_closed() {
    let wanted = Wanted::new(Mode::FollowOwner).owner("eu");
    let [eu, us, ap] = wanted.regions(["eu", "us", "ap"]).await.try_into().ok().unwrap();
    let client = eu.connect().await;
    client.batch_execute("SET application_name = 'shop'").await.unwrap();
    assert_eq!(eu.warm_up("us").await, (1, 1));
    assert_eq!(eu.warm_up("ap").await, (1, 1));
    until(&us, NO_SESSION).await;
    assert!(ap.count(ITS_PID).await > 0);
}

#[tokio::test]
async fn a_statement_that_comes_before_the_new_owner_is_open_waits_there() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("eu").two_regions().await;
    us.guard("us", 2, false).await;
    us.run(COUNTS).await;
    let client = eu.connect().await;
    assert_eq!(eu.warm_up("us").await, (1, 1));
    eu.publish(owned_by(2, Some("us")));
    us.publish(Routes { settling: true, live: false, ..owned_by(2, Some("us")) });
    let mut writing = std::pin::pin!(client.batch_execute("INSERT INTO note VALUES (1)"));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut writing).await;
    assert!(early.is_err(), "it is not open yet");
    us.guard("us", 2, true).await;
    us.publish(owned_by(3, Some("us")));
    within(writing).await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM note").await, 1);
    assert_eq!(us.count("SELECT last_value FROM asked").await, 1, "nothing had to be refused");
}
