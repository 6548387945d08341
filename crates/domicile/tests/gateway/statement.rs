//! Does a statement that says whose rows it writes begin at their owner?

use std::collections::BTreeSet;

use domicile_core::ownership::Ownership;
use tokio_postgres::types::Type;

use crate::*;

/// Two regions that own one half of [`PARTITIONS`] each. Nothing guards `item`: a row stays where its
/// statement was served, and says where that was.
pub async fn two() -> (Region, Region) {
    let (eu, us) = Wanted::new(Mode::Local).two_regions().await;
    let owners = Ownership::initial(PARTITIONS, &["eu", "us"].map(region));
    for region in [&eu, &us] {
        region
            .run(
                "CREATE TABLE item (k bigint, at text DEFAULT current_setting('cluster_name'));
                 CREATE TABLE tagged (id uuid, at text DEFAULT current_setting('cluster_name'))",
            )
            .await;
        let owners = Some(Arc::new(owners.clone()));
        region.publish(Routes { owners, ..owned_by(2, None) });
    }
    (eu, us)
}

fn is_of_us(key: &str) -> bool {
    let layout = Layout { scheme: Scheme::Hash { count: PARTITIONS }, has_reference: false };
    layout.partition_of(&[key.as_bytes()]).unwrap().0 >= PARTITIONS / 2
}

/// One key of each owner: of eu, of us.
pub fn keys() -> (i64, i64) {
    let key = |us| (1..).find(|k: &i64| is_of_us(&k.to_string()) == us).unwrap();
    (key(false), key(true))
}

async fn rows(at: &Region) -> BTreeSet<String> {
    let client = at.cluster.connect().await.unwrap();
    let rows = client.query("SELECT k || ' ' || at FROM item", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn set<const N: usize>(rows: [String; N]) -> BTreeSet<String> {
    BTreeSet::from(rows)
}

#[tokio::test]
async fn a_statement_with_its_key_begins_at_the_owner_in_every_protocol() {
    let (eu, us) = two().await;
    let (ours, theirs) = keys();
    let client = eu.connect().await;
    for key in [ours, theirs] {
        client.batch_execute(&format!("INSERT INTO item (k) VALUES ({key})")).await.unwrap();
    }
    assert_eq!(rows(&eu).await, set([format!("{ours} eu")]));
    assert_eq!(rows(&us).await, set([format!("{theirs} us")]));

    // The row is not here, and none is missed.
    let update = "UPDATE item SET at = at || '!' WHERE k = $1";
    let prepared = client.prepare(update).await.unwrap();
    assert_eq!(within(client.execute(&prepared, &[&theirs])).await.unwrap(), 1);
    assert_eq!(within(client.execute(&prepared, &[&ours])).await.unwrap(), 1);
    let select = "SELECT at FROM item WHERE k = $1 FOR UPDATE";
    let found = within(client.query_typed(select, &[(&theirs, Type::INT8)])).await.unwrap();
    assert_eq!(found[0].get::<_, &str>(0), "us!");
    assert_eq!(place(&client).await, "eu", "it is at home again");
    let delete = "DELETE FROM item WHERE k = $1::bigint RETURNING at";
    let gone = within(client.query_typed(delete, &[(&theirs, Type::INT8)])).await.unwrap();
    assert_eq!(gone.len(), 1);
    assert_eq!(rows(&us).await, BTreeSet::new());
}

#[tokio::test]
async fn a_transaction_goes_where_its_first_write_leads() {
    let (eu, us) = two().await;
    let (ours, theirs) = keys();
    let mut client = eu.connect().await;
    let transaction = client.transaction().await.unwrap();
    let insert = "INSERT INTO item (k) VALUES ($1)";
    within(transaction.execute(insert, &[&theirs])).await.unwrap();
    // It stays there, whatever comes.
    within(transaction.execute(insert, &[&ours])).await.unwrap();
    within(transaction.commit()).await.unwrap();
    assert_eq!(rows(&us).await, set([format!("{theirs} us"), format!("{ours} us")]));

    let many = format!("BEGIN; INSERT INTO item (k) VALUES ({theirs}); SELECT 1; COMMIT");
    client.batch_execute(&many).await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM item").await, 3);
    assert!(rows(&eu).await.is_empty());
}

#[tokio::test]
async fn a_statement_that_does_not_say_whose_rows_is_tried_here() {
    let (eu, us) = two().await;
    let (ours, theirs) = keys();
    let client = eu.connect().await;
    for here in [
        format!("INSERT INTO item (k) VALUES ({ours}), ({theirs})"),
        format!("INSERT INTO item (k) SELECT {theirs} FROM pg_class LIMIT 1"),
        format!("UPDATE item SET at = at WHERE k = {theirs} OR k = 0"),
        format!("UPDATE item SET at = at WHERE k = '{theirs}.0'::numeric"),
        format!("DELETE FROM item WHERE k > {theirs}"),
        format!("SELECT at FROM item WHERE k = {theirs}"),
        "CREATE TABLE other (k int); UPDATE other SET k = 1".to_owned(),
    ] {
        client.batch_execute(&here).await.unwrap();
    }
    assert_eq!(place(&client).await, "eu");
    assert!(rows(&us).await.is_empty());
    assert_eq!(eu.count("SELECT count(*) FROM item").await, 3);
    let wrong = format!("UPDATE item SET k = WHERE k = {theirs}");
    let error = client.batch_execute(&wrong).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::SYNTAX_ERROR), "as PostgreSQL says it");
}

#[tokio::test]
async fn keys_are_compared_as_their_column_writes_them() {
    let (eu, us) = two().await;
    let client = eu.connect().await;
    let (_, theirs) = keys();
    client.batch_execute(&format!("INSERT INTO item (k) VALUES ('00{theirs}')")).await.unwrap();
    assert_eq!(rows(&us).await, set([format!("{theirs} us")]));
    let uuid = (0..=u8::MAX).map(|n| format!("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A{n:02X}"));
    let uuid = uuid.into_iter().find(|uuid| is_of_us(&uuid.to_lowercase())).unwrap();
    let insert = format!("INSERT INTO tagged (id) VALUES ('{uuid}'::uuid)");
    client.batch_execute(&insert).await.unwrap();
    assert_eq!(us.count("SELECT count(*) FROM tagged").await, 1);
}
