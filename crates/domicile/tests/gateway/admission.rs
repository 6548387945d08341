//! Are clients let in that may come in, and no others, and no more of them?

use crate::*;

fn limits(connections: usize, per_user: Option<usize>, per_database: Option<usize>) -> Limits {
    Limits { connections, per_user, per_database }
}

fn of_user(name: &str) -> AllowRule {
    AllowRule { users: vec![name.to_owned()], ..AllowRule::default() }
}

/// What somebody is told who is not let in: code and message.
async fn refused(region: &Region, user: &str, database: &str) -> (String, String) {
    let error = region.connect_as(user, database).await.expect_err("nobody lets it in");
    let error = error.as_db_error().expect("the gateway says why");
    (error.code().code().to_owned(), error.message().to_owned())
}

#[tokio::test]
async fn who_no_rule_is_of_is_refused_in_the_words_of_pg_hba() {
    let far = AllowRule { addresses: vec!["192.0.2.0/24".parse().unwrap()], ..of_user("app") };
    let tls = AllowRule { tls: true, ..of_user("safe") };
    let wanted =
        Wanted::new(Mode::Local).admission(&[far, tls, of_user("postgres")], Limits::default());
    let eu = wanted.region().await;
    eu.run("CREATE ROLE app LOGIN; CREATE ROLE safe LOGIN").await;
    assert_eq!(place(&eu.connect().await).await, "eu");
    let told = |message: &str| ("28000".to_owned(), message.to_owned());
    let why = "no gateway.allow entry for host \"127.0.0.1\", user \"app\", database \"postgres\", no encryption";
    assert_eq!(refused(&eu, "app", "postgres").await, told(why));
    let why = "gateway.allow rejects connection for host \"127.0.0.1\", user \"safe\", database \"shop\", no encryption";
    assert_eq!(refused(&eu, "safe", "shop").await, told(why));
}

#[tokio::test]
async fn one_client_more_than_a_limit_is_refused_until_another_leaves() {
    let wanted = Wanted::new(Mode::Local).admission(&[], limits(3, Some(2), Some(2)));
    let eu = wanted.region().await;
    eu.run("CREATE ROLE app LOGIN").await;
    eu.run("CREATE DATABASE shop").await;
    let told = |message: &str| ("53300".to_owned(), message.to_owned());

    let first = eu.connect().await;
    let second = eu.connect_as("postgres", "shop").await.unwrap();
    let why = told("too many connections for role \"postgres\"");
    assert_eq!(refused(&eu, "postgres", "shop").await, why);
    let _third = eu.connect_as("app", "shop").await.unwrap();
    let why = told("gateway has too many connections already");
    assert_eq!(refused(&eu, "app", "postgres").await, why);

    drop(first);
    let why = told("too many connections for database \"shop\"");
    // The gateway hears of the end of a session when it comes to that.
    within(async { while refused(&eu, "app", "shop").await != why {} }).await;
    drop(second);
    within(async { while eu.connect_as("app", "shop").await.is_err() {} }).await;
}

#[tokio::test]
async fn what_clients_meet_does_not_concern_other_gateways() {
    let mut wanted = Wanted::new(Mode::FollowOwner).owner("us");
    wanted.admission =
        Admission { rules: vec![of_user("postgres")], limits: limits(1, None, None) };
    let (eu, us) = wanted.two_regions().await;
    let here = us.connect().await;
    assert_eq!(place(&here).await, "us");
    let through_eu = eu.connect().await;
    assert_eq!(place(&through_eu).await, "us");
    assert_eq!(refused(&us, "postgres", "postgres").await.0, "53300");
}
