//! Does a session begin with what its role has set, or else with what is said of where it came in?

use crate::*;

async fn connect(region: &Region, options: &str) -> Client {
    let address = region.connection_string().replace("user=postgres", "user=app");
    let (client, connection) =
        within(tokio_postgres::connect(&format!("{address} {options}"), NoTls)).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_role_reads_as_near_as_it_has_set() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("us").two_regions().await;
    let database = "ALTER DATABASE postgres SET domicile.freshness = 'strong'";
    eu.run(&format!("CREATE ROLE app LOGIN; CREATE ROLE other; {database}")).await;
    us.run("CREATE ROLE app LOGIN").await;
    eu.run("ALTER ROLE app SET domicile.freshness = 'eventual'").await;
    eu.run("ALTER ROLE other SET domicile.freshness = 'bounded(1s)'").await;
    let client = connect(&eu, "").await;
    assert_eq!(place(&client).await, "eu");
    assert_eq!(simple(&client, "SHOW domicile.freshness").await.unwrap(), "eventual");
    client.batch_execute("SET domicile.freshness = 'strong'").await.unwrap();
    assert_eq!(place(&client).await, "us");
    client.batch_execute("RESET domicile.freshness").await.unwrap();
    assert_eq!(place(&client).await, "eu");

    let said = connect(&eu, "options='-c domicile.freshness=strong'").await;
    assert_eq!(place(&said).await, "us");
    assert_eq!(simple(&eu.connect().await, "SHOW domicile.freshness").await.unwrap(), "strong");
}

#[tokio::test]
async fn who_comes_in_where_less_is_asked_for_reads_near() {
    let wanted = Wanted::new(Mode::FollowOwner).owner("us");
    let wanted = wanted.port(Freshness::Eventual).port(Freshness::Strong);
    let (eu, us) = wanted.two_regions().await;
    eu.run("CREATE ROLE app LOGIN; ALTER ROLE app SET domicile.freshness = 'session'").await;
    us.run("CREATE ROLE app LOGIN").await;
    let connect = async |port: usize, more: &str| {
        let address = format!("host=127.0.0.1 port={} dbname=postgres", eu.ports[port].port());
        let (client, connection) =
            within(tokio_postgres::connect(&format!("{address} {more}"), NoTls)).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let shown = async |client: &Client| simple(client, "SHOW domicile.freshness").await.unwrap();
    assert_eq!(shown(&eu.connect().await).await, "", "where nothing is said of that");
    for (port, freshness, at) in [(0, "eventual", "eu"), (1, "strong", "us")] {
        let client = connect(port, "user=postgres").await;
        assert_eq!((shown(&client).await.as_str(), place(&client).await.as_str()), (freshness, at));
        client.batch_execute("SET domicile.freshness = 'eventual'").await.unwrap();
        assert_eq!(place(&client).await, "eu");
        client.batch_execute("RESET domicile.freshness").await.unwrap();
        assert_eq!(shown(&client).await, freshness);
        // Whoever says something himself, says more.
        assert_eq!(shown(&connect(port, "user=app").await).await, "session");
        let options = "user=app options='-c domicile.freshness=bounded(1s)'";
        assert_eq!(shown(&connect(port, options).await).await, "bounded(1000ms)");
    }
    let client = connect(0, "user=postgres").await;
    let strong =
        format!("/* domicile.freshness=strong */ {}", "SELECT current_setting('cluster_name')");
    assert_eq!(simple(&client, &strong).await.unwrap(), "us");
    assert_eq!(place(&client).await, "eu");
}

#[tokio::test]
async fn what_a_role_has_set_wrong_counts_for_nothing() {
    let eu = Wanted::new(Mode::Local).region().await;
    eu.run("CREATE ROLE app LOGIN; ALTER ROLE app SET domicile.freshness = 'new'").await;
    eu.run("ALTER ROLE app SET domicile.key = '7'").await;
    let client = connect(&eu, "").await;
    assert_eq!(simple(&client, "SHOW domicile.freshness").await.unwrap(), "");
    assert_eq!(simple(&client, "SHOW domicile.key").await.unwrap(), "7");
    let client = connect(&eu, "options='-c domicile.key=8'").await;
    assert_eq!(simple(&client, "SHOW domicile.key").await.unwrap(), "8");
}
