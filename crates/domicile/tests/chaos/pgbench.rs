//! Is everything there that pgbench was told is committed?
//!
//! One pgbench at each region's gateway, each with another protocol. A client of it ends at its first error, as that of
//! a program that does not try again; whoever ran out of clients is started anew, as another run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::Regions;
use tokio_postgres::Client;

use super::NAMES;

pub const SEED_SQL: &str = "
    CREATE TABLE purse (branch int PRIMARY KEY, spent bigint NOT NULL);
    INSERT INTO purse SELECT b, 0 FROM generate_series(1, 60) b;
    CREATE TABLE payment (branch int, run int, client int, number int, PRIMARY KEY (branch, run, client, number));";
pub const TABLES: &str = "
[[table]]
name = \"purse\"
[[table]]
name = \"payment\"
";

/// Of one transaction; `number` counts those that a client has begun.
const SCRIPT: &str = "
\\set branch random(1, 60)
\\set number :number + 1
BEGIN;
UPDATE purse SET spent = spent + 1 WHERE branch = :branch;
INSERT INTO payment VALUES (:branch, :run, :client_id, :number);
END;
";
const CLIENTS: &str = "2";
/// A second, so that what else writes has its turn, too.
const RATE: &str = "20";
/// Seconds. What it was told is on the disk when it ends.
const RUN: &str = "5";

/// What the clients of one run were told: how many of their transactions are committed.
#[derive(Debug, Default)]
pub struct Paid(Vec<(i32, i32, i32)>);

pub struct Pgbench {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Paid>,
}

impl Pgbench {
    pub fn start(regions: &Regions, region: &'static str) -> Self {
        let place = NAMES.iter().position(|name| *name == region).unwrap();
        let folder = regions.folder().join(region).join("pgbench");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("script.sql"), SCRIPT).unwrap();
        let gateway = regions.gateway(region);
        let (host, port) = (gateway.ip(), gateway.port());
        let address = format!("host={host} port={port} user=app dbname=postgres");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = std::thread::spawn(move || {
            let mut paid = Paid::default();
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // Unlike those of other regions.
                let run = number * NAMES.len() as i32 + place as i32;
                pay(&folder, &address, ["simple", "extended", "prepared"][place], run);
                paid.0.extend(told(&folder, run));
            }
            paid
        });
        Self { stop, task }
    }

    /// Waits for the run that goes on, and returns what all of them were told.
    pub async fn end(self) -> Paid {
        self.stop.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(|| self.task.join().unwrap()).await.unwrap()
    }
}

/// Runs until the time is over, or all clients have met an error.
fn pay(folder: &Path, address: &str, protocol: &str, run: i32) {
    let log = folder.join(format!("{run}"));
    let status = Command::new(PgBin::find(None).unwrap().program("pgbench"))
        .args(["--no-vacuum", "--client", CLIENTS, "--rate", RATE, "--time", RUN])
        .args(["--protocol", protocol, "--define", "number=0", "--define", &format!("run={run}")])
        .args(["--log", "--log-prefix", &log.display().to_string(), "--file"])
        .arg(folder.join("script.sql"))
        .arg(address)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.unwrap();
}

/// Reads how far each client of a run came, and leaves no file of it.
fn told(folder: &Path, run: i32) -> Vec<(i32, i32, i32)> {
    let is_of_run = |path: &PathBuf| path.file_stem().is_some_and(|s| *s == *run.to_string());
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut told = std::collections::BTreeMap::new();
    for file in files.filter(is_of_run) {
        // client, number, time, ...: a line for each transaction that is committed.
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            let client: i32 = line.split(' ').next().unwrap().parse().unwrap();
            *told.entry(client).or_insert(0) += 1;
        }
        std::fs::remove_file(file).unwrap();
    }
    told.into_iter().map(|(client, count)| (run, client, count)).collect()
}

/// Everything is there that was told, once; and at most one more, of which nobody was told.
pub async fn is_there(client: &Client, region: &str, paid: &[Paid]) {
    let all: Vec<_> = paid.iter().flat_map(|paid| paid.0.iter().copied()).collect();
    let count: i64 = all.iter().map(|(_, _, count)| i64::from(*count)).sum();
    println!("{region}: pgbench was told of {count} payments in {} runs of clients", all.len());
    assert!(count > 0, "somebody paid");
    let column = |of: fn(&(i32, i32, i32)) -> i32| all.iter().map(of).collect::<Vec<i32>>();
    let (runs, clients, counts) = (column(|t| t.0), column(|t| t.1), column(|t| t.2));
    let sql = "SELECT told.run, told.client, told.count, count(number), coalesce(max(number), 0)
               FROM unnest($1::int[], $2::int[], $3::int[]) told (run, client, count)
               LEFT JOIN payment USING (run, client) GROUP BY 1, 2, 3
               HAVING count(*) FILTER (WHERE number <= told.count) <> told.count
                   OR coalesce(max(number), 0) > told.count + 1";
    let wrong = client.query(sql, &[&runs, &clients, &counts]).await.unwrap();
    assert!(wrong.is_empty(), "{region} has other payments than pgbench was told: {wrong:?}");
    let sql = "SELECT branch, spent, count(number) FROM purse LEFT JOIN payment USING (branch)
               GROUP BY branch, spent HAVING spent <> count(number)";
    let wrong = client.query(sql, &[]).await.unwrap();
    assert!(wrong.is_empty(), "{region} applied something not exactly once: {wrong:?}");
}
