//! Does the proof see what went missing, twice, or by half?

use domicile_core::time::Time;

use super::super::bank::{self, Division};
use super::*;
use crate::lab::cluster::{Cluster, temporary_cluster};

const DIVISION: Division = Division::ByBranch(4);

async fn bank() -> Cluster {
    let (cluster, _folder) = temporary_cluster("bank", &[("fsync", "off")]).await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute(&DIVISION.seed_sql()).await.unwrap();
    cluster
}

fn ack(op: Uuid) -> Acknowledged {
    Acknowledged { op, partition: 0, region: 0, at: Time(1), took_ms: 1 }
}

async fn proof(client: &Client, acknowledged: &[Acknowledged]) -> Proof {
    let books = Books::read(client).await.unwrap();
    let regions = BTreeMap::from([("eu".to_owned(), books.clone()), ("us".to_owned(), books)]);
    Proof::of(regions, acknowledged, DIVISION.start_money())
}

#[tokio::test]
async fn money_that_was_paid_in_and_moved_is_all_there() {
    let cluster = bank().await;
    let client = cluster.connect().await.unwrap();
    let branch = DIVISION.branches()[0].id;
    let (paid, moved) = (Uuid::now_v7(), Uuid::now_v7());
    client.batch_execute(&bank::deposit(paid, branch, 1, 5)).await.unwrap();
    client.batch_execute(&bank::transfer(moved, branch, 1, 2, 7)).await.unwrap();

    let proof = proof(&client, &[ack(paid), ack(moved)]).await;
    assert!(proof.checksums_equal());
    assert_eq!((proof.lost.len(), proof.money_missing()), (0, Vec::new()));
    assert_eq!(proof.regions["eu"].deposited, 5);
}

#[tokio::test]
async fn an_operation_applied_by_half_does_not_add_up() {
    let cluster = bank().await;
    let client = cluster.connect().await.unwrap();
    let branch = DIVISION.branches()[0].id;
    client.batch_execute(&bank::transfer(Uuid::now_v7(), branch, 1, 2, 7)).await.unwrap();
    // The sum over all accounts stays right; only the record tells.
    let twice = format!(
        "UPDATE accounts SET balance = balance + CASE account_id WHEN 1 THEN -7 ELSE 7 END \
         WHERE branch_id = {branch} AND account_id IN (1, 2)"
    );
    client.batch_execute(&twice).await.unwrap();
    assert!(proof(&client, &[]).await.money_missing()[0].contains("2 accounts"));
}

#[tokio::test]
async fn a_lost_operation_is_looked_for_in_the_conflict_journal() {
    let cluster = bank().await;
    let client = cluster.connect().await.unwrap();
    let (kept, gone) = (Uuid::now_v7(), Uuid::now_v7());
    let sql = format!(
        "CREATE SCHEMA domicile;
         CREATE TABLE domicile.journal (operation text, relation text, key jsonb, new jsonb);
         INSERT INTO domicile.journal VALUES
             ('insert', 'public.ledger', '1', '{{\"op_id\": \"{kept}\"}}'),
             ('update', 'public.ledger', '1', '{{}}');"
    );
    client.batch_execute(&sql).await.unwrap();
    let proof = proof(&client, &[ack(kept), ack(gone)]).await;
    assert_eq!((proof.lost.len(), proof.journaled), (2, 1));
    assert_eq!(proof.regions["us"].journal_entries, 2);
}

#[tokio::test]
async fn regions_with_the_same_rows_in_another_order_are_equal() {
    let (one, other) = (bank().await, bank().await);
    let (one, other) = (one.connect().await.unwrap(), other.connect().await.unwrap());
    let insert = |op: u128| {
        format!("INSERT INTO transfers VALUES ('{}', 1, 1, 2, 3, 'epoch')", Uuid::from_u128(op))
    };
    let branch = "INSERT INTO branches VALUES (1, 'one') ON CONFLICT DO NOTHING; \
         INSERT INTO accounts SELECT 1, a, 1000 FROM generate_series(1, 8) a ON CONFLICT DO NOTHING";
    for (client, order) in [(&one, [1, 2]), (&other, [2, 1])] {
        client.batch_execute(branch).await.unwrap();
        for op in order {
            client.batch_execute(&insert(op)).await.unwrap();
        }
    }
    let (one, other) = (Books::read(&one).await.unwrap(), Books::read(&other).await.unwrap());
    assert_eq!(one.checksums, other.checksums);
    assert!(one.checksums["transfers"].starts_with("2:"));
}
