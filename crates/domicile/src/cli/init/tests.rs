//! Does the proposal fit real databases?

use std::process::Command;

use super::*;
use crate::lab::cluster::{Cluster, temporary_cluster};

fn pgbench(cluster: &Cluster) {
    let output = Command::new(cluster.bin().program("pgbench"))
        .args(["-i", "-q", "-s", "2", "-h", "127.0.0.1", "-U", "postgres"])
        .args(["-p", &cluster.port().to_string(), "postgres"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn cluster_with(schema: &str) -> (Cluster, impl Sized) {
    let (cluster, folder) = temporary_cluster("init", &[("fsync", "off")]).await.unwrap();
    cluster.connect().await.unwrap().batch_execute(schema).await.unwrap();
    (cluster, folder)
}

async fn proposal(cluster: &Cluster, asked: Option<&str>) -> Proposal {
    let catalog = catalog::read(&cluster.connect().await.unwrap()).await.unwrap();
    let asked = asked.map(|text| text.parse::<Partition>().unwrap());
    propose::propose(&catalog, 3, asked.as_ref())
}

fn table<'a>(proposal: &'a Proposal, name: &str) -> &'a ProposedTable {
    proposal.tables.iter().find(|table| table.name.name == name).unwrap()
}

fn owned_by(proposal: &Proposal, name: &str) -> String {
    owned(table(proposal, name))
}

fn notes(proposal: &Proposal, name: &str) -> String {
    table(proposal, name).notes.join(" ")
}

#[tokio::test]
async fn pgbench_is_divided_by_branch() {
    let (cluster, _folder) = cluster_with("").await;
    pgbench(&cluster);
    let proposal = proposal(&cluster, None).await;
    assert_eq!(proposal.partition.to_string(), "hash(bid, 48)");
    for name in ["pgbench_branches", "pgbench_tellers", "pgbench_accounts", "pgbench_history"] {
        assert_eq!(owned_by(&proposal, name), "by bid", "{name}");
    }
    assert!(notes(&proposal, "pgbench_history").contains("no primary key: inserts only"));
    assert!(notes(&proposal, "pgbench_accounts").contains("bid may be null"));
    assert_eq!(notes(&proposal, "pgbench_branches"), "");
}

const SHOP: &str = "
CREATE TABLE countries (code text PRIMARY KEY);
CREATE TABLE tenants (id uuid PRIMARY KEY, country text REFERENCES countries);
CREATE TABLE orders (
    tenant_id uuid NOT NULL REFERENCES tenants,
    id bigint,
    note text,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE payments (
    id bigint PRIMARY KEY,
    tenant_id uuid NOT NULL,
    order_id bigint NOT NULL,
    FOREIGN KEY (tenant_id, order_id) REFERENCES orders
);
CREATE TABLE receipts (id bigint PRIMARY KEY, payment_id bigint NOT NULL REFERENCES payments);
CREATE TABLE pages (id bigint PRIMARY KEY, receipt_id bigint NOT NULL REFERENCES receipts);
CREATE TABLE hints (id bigint PRIMARY KEY, payment_id bigint REFERENCES payments);
CREATE TABLE odd (id bigint PRIMARY KEY, tenant_id numeric);
CREATE TABLE events (tenant_id uuid NOT NULL, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE UNLOGGED TABLE sessions (id bigint PRIMARY KEY, tenant_id uuid NOT NULL);
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM orders;
";

#[tokio::test]
async fn tables_are_reached_by_column_by_name_of_the_parent_and_through_parents() {
    let (cluster, _folder) = cluster_with(SHOP).await;
    let proposal = proposal(&cluster, None).await;
    assert_eq!(proposal.partition.to_string(), "hash(tenant_id, 48)");
    assert_eq!(owned_by(&proposal, "orders"), "by tenant_id");
    assert_eq!(owned_by(&proposal, "tenants"), "by id");
    assert_eq!(owned_by(&proposal, "payments"), "by tenant_id");
    assert_eq!(owned_by(&proposal, "receipts"), "with public.payments (payment_id)");
    assert_eq!(owned_by(&proposal, "pages"), "with public.receipts (receipt_id)");
    assert_eq!(owned_by(&proposal, "events"), "by tenant_id");
    assert!(proposal.tables.iter().all(|table| table.name.name != "events_2026"));
}

#[tokio::test]
async fn a_table_that_cannot_be_divided_says_why() {
    let (cluster, _folder) = cluster_with(SHOP).await;
    let proposal = proposal(&cluster, None).await;
    let place = |name: &str| (owned_by(&proposal, name), notes(&proposal, name));
    for (name, owner, note) in [
        ("countries", "as a whole", "no foreign key leads to a table that does"),
        ("hints", "as a whole", "its foreign key hints_payment_id_fkey may be null"),
        ("odd", "as a whole", "Its tenant_id is numeric"),
        ("sessions", "not replicated", "It is unlogged"),
        ("events", "by tenant_id", "It has no primary key"),
    ] {
        let (owned, notes) = place(name);
        assert_eq!(owned, owner, "{name}");
        assert!(notes.contains(note), "{name}: {notes}");
    }
    assert_eq!(proposal.left_out.len(), 1);
}

#[tokio::test]
async fn tables_that_only_share_an_id_get_one_owner() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY, note text);
                  CREATE TABLE b (id int PRIMARY KEY, note text);";
    let (cluster, _folder) = cluster_with(schema).await;
    assert_eq!(proposal(&cluster, None).await.partition, Partition::Whole);
    let asked = proposal(&cluster, Some("hash(id, 8)")).await;
    assert_eq!(asked.partition.to_string(), "hash(id, 8)");
}

#[tokio::test]
async fn what_is_written_can_be_read_back() {
    let (cluster, _folder) = cluster_with(SHOP).await;
    let regions = [
        given_region(&format!("eu={}", cluster.connection_string())).unwrap(),
        given_region("us=host=127.0.0.1 port=1 user=postgres dbname=shop").unwrap(),
    ];
    for scheme in [None, Some("whole"), Some("home(country)"), Some("hash(tenant_id, id, 8)")] {
        let text = write::file(&proposal(&cluster, scheme).await, "shop", &regions);
        let config = settings::parse(&text).unwrap_or_else(|wrong| panic!("{wrong:?}\n{text}"));
        assert_eq!(config.regions.len(), 2);
        assert_eq!(config.regions[1].peer, "127.0.0.1:7402");
        assert_eq!(config.tables.len(), 10);
    }
}

#[test]
fn a_cluster_name_is_made_of_the_databases() {
    assert_eq!(cluster_name("Shop DB"), "shopdb");
    assert_eq!(cluster_name("Ä"), "main");
}
