//! Do the clients keep exact books about what they were told, whatever breaks under them?

use std::collections::BTreeMap;

use super::super::bank::Division;
use super::super::proof::{Books, Proof};
use super::super::tally::Phase;
use super::*;
use crate::lab::cluster::{Cluster, ClusterConfig, PgBin, TemporaryFolder, free_port};

const DIVISION: Division = Division::ByBranch(4);
const BOUND: Duration = Duration::from_secs(60);

async fn bank(folder: &TemporaryFolder) -> Cluster {
    let mut cluster = Cluster::create(ClusterConfig {
        bin: PgBin::find(None).unwrap(),
        folder: folder.path().to_owned(),
        port: free_port(),
        name: "eu".to_owned(),
        settings: Vec::new(),
        wal_disk_bytes: None,
        environment: Vec::new(),
    })
    .await
    .unwrap();
    cluster.start().await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute(&DIVISION.seed_sql()).await.unwrap();
    cluster
}

fn clients(cluster: &Cluster, tally: &Arc<Tally>, clock: Clock) -> Workload {
    let config = WorkloadConfig {
        homes: vec![0],
        gateways: vec![SocketAddr::from(([127, 0, 0, 1], cluster.port()))],
        names: vec!["eu".to_owned()],
        branches: DIVISION.branches(),
        clients_per_region: 4,
        think: Duration::from_millis(2),
    };
    Workload::start(config, tally.clone(), clock)
}

async fn until_acknowledged(tally: &Tally, more: u64) {
    let goal = tally.totals().acknowledged + more;
    let reached = async {
        while tally.totals().acknowledged < goal {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND, reached).await.expect("clients work");
}

#[tokio::test]
async fn what_clients_were_told_is_what_the_tables_say_after_a_crash() {
    let folder = TemporaryFolder::create("bank").unwrap();
    let mut cluster = bank(&folder).await;
    let (tally, clock) = (Arc::new(Tally::new(1)), Clock::new());
    tally.set_phase(Phase::Steady);
    let workload = clients(&cluster, &tally, clock);
    until_acknowledged(&tally, 100).await;
    cluster.kill();
    cluster.start().await.unwrap();
    until_acknowledged(&tally, 100).await;
    workload.stop().await;

    let books = Books::read(&cluster.connect().await.unwrap()).await.unwrap();
    let on_record = books.operations.len() as u64;
    let regions = BTreeMap::from([("eu".to_owned(), books)]);
    let proof = Proof::of(regions, &tally.acknowledged(), DIVISION.start_money());
    let totals = tally.totals();
    assert_eq!((proof.lost.len(), proof.money_missing()), (0, Vec::new()));
    assert_eq!(totals.errors, 0, "{:?}", tally.error_texts());
    assert!((totals.acknowledged..=totals.acknowledged + totals.unknown).contains(&on_record));
    assert!(totals.reads > 0);
}
