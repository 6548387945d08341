//! Is a real catalogue read as it is?

use super::*;
use crate::lab::cluster::temporary_cluster;

const SCHEMA: &str = "
CREATE TABLE orders (
    tenant text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    total numeric(10, 2),
    label text GENERATED ALWAYS AS (tenant || '!') STORED,
    dropped int,
    PRIMARY KEY (tenant, id)
);
ALTER TABLE orders DROP COLUMN dropped;
CREATE TABLE lines (
    tenant text NOT NULL,
    order_id bigint NOT NULL,
    line int,
    FOREIGN KEY (tenant, order_id) REFERENCES orders (tenant, id)
);
CREATE UNIQUE INDEX lines_lower ON lines ((lower(tenant)));
CREATE TABLE days (day date, note text) PARTITION BY RANGE (day);
CREATE TABLE days_2026 PARTITION OF days
    FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY RANGE (day);
CREATE TABLE days_2026_h1 PARTITION OF days_2026
    FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
INSERT INTO days SELECT '2026-01-05' FROM generate_series(1, 500);
ANALYZE;
";

#[tokio::test]
async fn the_catalogue_is_read_as_it_is() {
    let (cluster, _folder) = temporary_cluster("catalog", &[("fsync", "off")]).await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute(SCHEMA).await.unwrap();
    let catalog = read(&client).await.unwrap();
    let table = |name: &str| catalog.table(&name.parse().unwrap()).unwrap();

    let orders = table("orders");
    let columns: Vec<(&str, &str)> =
        orders.columns.iter().map(|c| (c.name.as_str(), c.type_name.as_str())).collect();
    let expected =
        [("tenant", "text"), ("id", "bigint"), ("total", "numeric(10,2)"), ("label", "text")];
    assert_eq!(columns, expected);
    assert_eq!(orders.primary_key(), ["tenant", "id"]);
    assert!(orders.column("label").unwrap().generated);
    let sequence = orders.column("id").unwrap().sequence.as_ref().unwrap();
    assert_eq!(
        (sequence.name.as_str(), sequence.increment, sequence.last),
        ("orders_id_seq", 1, None)
    );
    assert!(orders.rows_have_identity() && orders.ours);

    let lines = table("lines");
    assert_eq!(lines.foreign_keys[0].table.to_string(), "public.orders");
    assert_eq!(lines.foreign_keys[0].columns, ["tenant", "order_id"]);
    assert_eq!(lines.foreign_keys[0].references, ["tenant", "id"]);
    assert!(!lines.rows_have_identity());
    assert!(!lines.unique_indexes[0].whole && !lines.unique_by(&["tenant".to_owned()]));

    let days = table("days");
    let below: Vec<String> = days.descendants.iter().map(ToString::to_string).collect();
    assert_eq!(below, ["public.days_2026", "public.days_2026_h1"]);
    assert_eq!((days.shape, days.rows), (Shape::Partitioned, 500.0));
    assert_eq!(table("days_2026_h1").partition_of.as_ref().unwrap().name, "days_2026");
}
