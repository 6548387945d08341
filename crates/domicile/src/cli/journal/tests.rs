//! Are entries found in a real database, and is a missing journal explained?

use super::*;
use crate::lab::cluster::temporary_cluster;

const JOURNAL: &str = "
CREATE SCHEMA domicile;
CREATE TABLE domicile.journal (
    id bigint, at timestamptz, origin text, lsn pg_lsn, xid bigint, relation text, operation text,
    key jsonb, old jsonb, new jsonb, local jsonb, conflict text, reason text, policy text,
    winner text, status text
);
INSERT INTO domicile.journal VALUES
    (1, '2026-03-01 12:00:00+00', 'eu-1', '0/16B3748', 700, 'public.accounts', 'update',
     '{\"id\": 1}', NULL, '{\"id\": 1, \"balance\": 5}', '{\"id\": 1, \"balance\": 7}',
     'beyond_cut', 'written after the cut', NULL, NULL, 'open'),
    (2, '2026-03-01 12:00:01+00', 'us-2', NULL, NULL, 'public.orders', 'delete',
     '{\"id\": 9}', NULL, NULL, NULL, 'delete_missing', NULL, NULL, NULL,
     'settled');
";

#[tokio::test]
async fn entries_are_found_by_what_is_asked_for() {
    let (cluster, _folder) = temporary_cluster("journal", &[("fsync", "off")]).await.unwrap();
    let region: RegionId = "eu".parse().unwrap();
    let everything = Filter { id: None, relation: None, origin: None, status: None, limit: 20 };
    let place = cluster.connection_string();

    let error = entry::read(&region, &place, &everything).await.unwrap_err();
    assert!(matches!(error, JournalError::NotInstalled { .. }), "{error}");

    cluster.connect().await.unwrap().batch_execute(JOURNAL).await.unwrap();
    let ids = async |filter: Filter| -> Vec<i64> {
        let entries = entry::read(&region, &place, &filter).await.unwrap();
        entries.iter().map(|entry| entry.id).collect()
    };
    assert_eq!(ids(everything.clone()).await, [2, 1]);
    assert_eq!(ids(Filter { limit: 1, ..everything.clone() }).await, [2]);
    let accounts = Some("public.accounts".to_owned());
    assert_eq!(ids(Filter { relation: accounts, ..everything.clone() }).await, [1]);
    assert_eq!(ids(Filter { origin: Some("us".into()), ..everything.clone() }).await, [2]);
    assert_eq!(ids(Filter { id: Some(1), ..everything.clone() }).await, [1]);
    assert_eq!(ids(Filter { status: Some("open".into()), ..everything.clone() }).await, [1]);

    let entries = entry::read(&region, &place, &everything).await.unwrap();
    assert_eq!(entries[1].at, "2026-03-01T12:00:00.000Z");
    assert_eq!(entries[1].lsn.as_deref(), Some("0/16B3748"));
}
