//! Does who watches a gateway see what its clients do?

use domicile::gateway::{Counted, Figures};
use futures_util::future;

use super::statement::{keys, two};
use crate::*;

async fn until_counted(region: &Region, is_so: impl Fn(&Counted) -> bool) {
    let mut last = Counted::default();
    let counting = async {
        while !is_so(&last) {
            last = region.tally.count();
            tokio::task::yield_now().await;
        }
    };
    let counted = tokio::time::timeout(PATIENCE, counting).await;
    assert!(counted.is_ok(), "{last:#?}");
}

#[tokio::test]
async fn clients_are_counted_by_what_they_are_at() {
    let mut wanted = Wanted::new(Mode::Local).shared(1);
    wanted.admission.limits.per_user = Some(3);
    let eu = wanted.region().await;
    let (one, two, three) = (eu.connect().await, eu.connect().await, eu.connect().await);
    assert_eq!(code(&eu.try_connect().await.unwrap_err()), "53300");
    one.batch_execute("BEGIN").await.unwrap();
    let waits = tokio::spawn(async move { (two.batch_execute("SELECT 1").await, two) });
    until_counted(&eu, |counted| {
        let Counted { clients, wait_max, shared_servers, .. } = counted;
        let each = ["idle", "idle in transaction", "waiting"].map(|word| clients.get(word));
        each == [Some(&1); 3] && *wait_max > Millis(10) && shared_servers.get("in_use") == Some(&1)
    })
    .await;
    one.batch_execute("COMMIT").await.unwrap();
    let (waited, _two) = within(waits).await.unwrap();
    waited.unwrap();
    until_counted(&eu, |counted| {
        counted.clients.get("idle") == Some(&3)
            && counted.wait_max == Millis(0)
            && counted.shared_servers == BTreeMap::from([("idle", 1), ("in_use", 0)])
    })
    .await;
    drop(three);
    let counted = eu.tally.count();
    assert_eq!(counted.refused, BTreeMap::from([("connections_per_user", 1)]));
    let Figures { transactions, queries, wait_time, .. } = counted.databases["postgres"];
    assert_eq!((transactions, queries), (2, 3));
    assert!(wait_time > Millis(10), "{wait_time:?}");
    // Sums do not fall when somebody goes who has asked nothing.
    let visitors = future::join_all((0..2).map(|_| async { drop(eu.try_connect().await) }));
    let looking = async {
        let mut before = 0;
        for _ in 0..1000 {
            let sent = eu.tally.count().databases["postgres"].sent_bytes;
            assert!(sent >= before, "{sent} after {before}");
            before = sent;
            tokio::task::yield_now().await;
        }
    };
    within(future::join(visitors, looking)).await;
}

#[tokio::test]
async fn transactions_are_counted_by_what_led_them_to_another_region() {
    let (eu, us) = two().await;
    eu.guard("us", 2, false).await;
    us.guard("us", 2, true).await;
    let client = eu.connect().await;
    let led = || {
        let led = eu.tally.count().databases["postgres"].led;
        [led.by_key, led.by_statement, led.by_guard]
    };
    let (here, there) = keys();
    client.batch_execute(&format!("INSERT INTO item (k) VALUES ({here})")).await.unwrap();
    assert_eq!(led(), [0, 0, 0]);
    client.batch_execute(&format!("INSERT INTO item (k) VALUES ({there})")).await.unwrap();
    assert_eq!(led(), [0, 1, 0]);
    client.batch_execute("INSERT INTO note VALUES (1)").await.unwrap();
    assert_eq!(led(), [0, 1, 1]);
    client.batch_execute(&format!("SET domicile.key = '{there}'")).await.unwrap();
    client.batch_execute("INSERT INTO note VALUES (2)").await.unwrap();
    assert_eq!(led(), [1, 1, 1]);
    drop(client);
    until_counted(&eu, |counted| counted.clients.values().all(|count| *count == 0)).await;
    assert_eq!(led(), [1, 1, 1], "it counts when its client has gone");
}
