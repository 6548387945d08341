//! Is everything that was acknowledged still there, and everything alike everywhere, whatever was
//! killed, cut, paused, moved or full, and in which order?
//!
//! Three regions at rpo 0 that fail over by themselves. Clients, and pgbench, write owned rows through the
//! gateways; clients write shared rows at their own region. Each fault comes once in a round.
//! `CHAOS_SEED=7` repeats an order of faults, `CHAOS_MINUTES=30` goes on for so long, `KEEP=FOLDER`
//! keeps the regions' files and logs, not what was on disks that can be filled: WAL, agents' data.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domicile::lab::cluster::Disk;
use domicile::lab::dice::Dice;
use domicile::lab::regions::Regions;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

#[path = "chaos/notes.rs"]
mod notes;
#[path = "chaos/pgbench.rs"]
mod pgbench;
mod regions;
use pgbench::{Paid, Pgbench};
use regions::{LOOK_AGAIN, PATIENCE, assert_alike, config, converge, eventually, start};

const NAMES: [&str; 3] = ["eu", "us", "ap"];
const BRANCHES: i32 = 60;
/// Between two writes of one client to shared rows: to apply one takes a dozen statements, and on
/// few cores appliers fall behind writers that never pause.
const SHARED_EVERY: Duration = Duration::from_millis(100);

const LEASE: Duration = Duration::from_secs(3);

const SEED_SQL: &str = "
    CREATE TABLE branch (branch int PRIMARY KEY, balance bigint NOT NULL, ops bigint NOT NULL);
    INSERT INTO branch SELECT b, 0, 0 FROM generate_series(1, 60) b;
    CREATE TABLE op (branch int, id bigint, delta bigint NOT NULL, PRIMARY KEY (branch, id));
    CREATE TABLE hits (id int PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO hits SELECT i, 0 FROM generate_series(1, 50) i;
    CREATE ROLE app LOGIN;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;";
const TABLES: &str = "
[[table]]
name = \"branch\"
[[table]]
name = \"op\"
[[table]]
name = \"hits\"
kind = \"shared\"
columns = { n = \"delta\" }
[[table]]
name = \"note\"
kind = \"shared\"
";

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillAgent,
    KillPostgres,
    KillRegion,
    PauseAgent,
    /// Between the region and one other.
    Cut,
    Isolate,
    KillDirectory,
    Switchover,
    /// The disk of the agent's logs.
    LogDiskFull,
    /// The disk of PostgreSQL's WAL, which ends it.
    WalDiskFull,
}

const FAULTS: [Fault; 10] = [
    Fault::KillAgent,
    Fault::KillPostgres,
    Fault::KillRegion,
    Fault::PauseAgent,
    Fault::Cut,
    Fault::Isolate,
    Fault::KillDirectory,
    Fault::Switchover,
    Fault::LogDiskFull,
    Fault::WalDiskFull,
];

impl Fault {
    fn fills_a_disk(self) -> bool {
        matches!(self, Self::LogDiskFull | Self::WalDiskFull)
    }
}

/// Far more than a region needs, and little enough to be filled at once.
const DISK_BYTES: u64 = 256 << 20;
/// Logs and WAL that are not needed go soon, so that only a filled disk is full.
const LOGS: &str = "[log]\nkeep = \"10s\"\nsegment = \"1MiB\"\n";
const WAL: [(&str, &str); 2] = [("min_wal_size", "32MB"), ("max_wal_size", "64MB")];

/// One client, and what it was told.
struct Writer {
    name: String,
    region: &'static str,
    writes: Writes,
    acknowledged: Arc<AtomicU64>,
    /// What it waits for, and how its last failure read.
    standing: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Told>,
}

#[derive(Default)]
struct Told {
    /// Operations that were acknowledged: branch and number.
    operations: Vec<(i32, i64)>,
    /// Hits that were acknowledged, and those of which nobody said.
    hits: u64,
    hits_unknown: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Owned,
    Shared,
}

impl Writer {
    fn start(regions: &Regions, region: &'static str, number: i64, writes: Writes) -> Self {
        let address = match writes {
            Writes::Owned => {
                let gateway = regions.gateway(region);
                format!("host={} port={} user=app dbname=postgres", gateway.ip(), gateway.port())
            }
            Writes::Shared => regions.postgres(region),
        };
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let standing = Arc::new(Mutex::new(String::new()));
        let (count, stopped, now) = (acknowledged.clone(), stop.clone(), standing.clone());
        let task = tokio::spawn(async move {
            let mut told = Told::default();
            let mut session: Option<Client> = None;
            let mut id = number << 40;
            let mut failed = String::new();
            let mut pace = tokio::time::interval(SHARED_EVERY);
            let say = |text: String| *now.lock().unwrap() = text;
            while !stopped.load(Ordering::Relaxed) {
                id += 1;
                say(format!("connects for {id}, {failed}"));
                let client = match session.take() {
                    Some(client) => client,
                    None => match connect(&address).await {
                        Some(client) => client,
                        None => {
                            tokio::task::yield_now().await;
                            continue;
                        }
                    },
                };
                say(format!("writes {id}, {failed}"));
                let done = match writes {
                    Writes::Owned => {
                        let branch = (id % i64::from(BRANCHES)) as i32 + 1;
                        let done = operate(&client, branch, id).await;
                        if done.is_ok() {
                            told.operations.push((branch, id));
                        }
                        done
                    }
                    Writes::Shared => {
                        pace.tick().await;
                        let done = share(&client, id).await;
                        match done {
                            Ok(()) => told.hits += 1,
                            Err(_) => told.hits_unknown += 1,
                        }
                        done
                    }
                };
                match done {
                    Ok(()) => _ = count.fetch_add(1, Ordering::Relaxed),
                    Err(error) => failed = format!("after {id}: {error:?}"),
                }
                session = (!client.is_closed()).then_some(client);
            }
            told
        });
        let kind = if writes == Writes::Owned { "owned" } else { "shared" };
        Self {
            name: format!("{kind} rows from {region}"),
            region,
            writes,
            acknowledged,
            standing,
            stop,
            task,
        }
    }

    /// Waits for a few further acknowledgements.
    async fn goes_on(&self, during: &str) {
        let count = || self.acknowledged.load(Ordering::Relaxed);
        let wanted = count() + 3;
        eventually(&format!("{} are written {during}", self.name), async || {
            if count() >= wanted {
                return Ok(());
            }
            Err(format!("{} of {wanted}; {}", count(), self.standing.lock().unwrap()))
        })
        .await;
    }
}

async fn connect(address: &str) -> Option<Client> {
    let (client, driver) = tokio_postgres::connect(address, NoTls).await.ok()?;
    tokio::spawn(driver);
    Some(client)
}

/// One statement: the gateway sends it to the owner.
async fn operate(client: &Client, branch: i32, id: i64) -> Result<(), tokio_postgres::Error> {
    let delta = id % 1000 - 300;
    let sql = format!(
        "WITH counted AS (UPDATE branch SET balance = balance + {delta}, ops = ops + 1
                          WHERE branch = {branch} RETURNING branch)
         INSERT INTO op SELECT branch, {id}, {delta} FROM counted"
    );
    client.batch_execute(&sql).await
}

async fn share(client: &Client, id: i64) -> Result<(), tokio_postgres::Error> {
    let sql = format!(
        "UPDATE hits SET n = n + 1 WHERE id = {}; UPDATE note SET body = '{id}' WHERE id = {}",
        id % 50 + 1,
        id % 50 + 1
    );
    client.batch_execute(&sql).await
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_and_alike_whatever_failed() {
    let seed = number("CHAOS_SEED").unwrap_or(u64::from(std::process::id()));
    println!("CHAOS_SEED={seed}");
    let mut dice = Dice(seed);
    let mut config = config(&NAMES, "hash(branch, 12)", 12);
    config.seed_sql = [notes::SEED_SQL, pgbench::SEED_SQL, SEED_SQL].concat();
    config.tables = [TABLES, pgbench::TABLES].concat();
    config.automatic_failover = true;
    config.lease = LEASE;
    config.more = LOGS.to_owned();
    config.postgres = WAL.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let mut faults = FAULTS.to_vec();
    match Disk::try_out() {
        Ok(()) => config.disk_bytes = Some(DISK_BYTES),
        Err(error) => {
            println!("NO DISK IS FILLED: {error}");
            faults.retain(|fault| !fault.fills_a_disk());
        }
    }
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let mut writers = Vec::new();
    for (region, number) in NAMES.into_iter().zip(1..) {
        writers.push(Writer::start(&regions, region, number, Writes::Owned));
        writers.push(Writer::start(&regions, region, number + 3, Writes::Shared));
    }

    let benches = NAMES.map(|region| Pgbench::start(&regions, region));

    let began = Instant::now();
    let mut struck: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        // Each fault once a round, in an order of its own.
        let mut round = faults.clone();
        while !round.is_empty() {
            let fault = round.swap_remove(dice.below(round.len() as u32) as usize);
            let at = dice.below(3) as usize;
            let (region, other) = (NAMES[at], NAMES[(at + 1 + dice.below(2) as usize) % 3]);
            println!("{:>5} s  {fault:?} {region} ({other})", began.elapsed().as_secs());
            strike(&mut regions, &writers, fault, region, other, &mut dice).await;
            for writer in &writers {
                writer.goes_on(&format!("after {fault:?} of {region} ({other})")).await;
            }
            *struck.entry(format!("{fault:?}")).or_default() += 1;
        }
        let minutes = number("CHAOS_MINUTES").unwrap_or(0);
        if began.elapsed() >= Duration::from_secs(minutes * 60) {
            break;
        }
    }
    regions.wait_until_ready().await.unwrap();
    let mut told = Told::default();
    for writer in writers {
        writer.stop.store(true, Ordering::Relaxed);
        let more = writer.task.await.unwrap();
        told.operations.extend(more.operations);
        told.hits += more.hits;
        told.hits_unknown += more.hits_unknown;
    }
    let mut paid = Vec::new();
    for bench in benches {
        paid.push(tokio::time::timeout(PATIENCE, bench.end()).await.expect("pgbench ends"));
    }
    let (operations, hits) = (told.operations.len(), told.hits);
    println!("{struck:?}: {operations} operations and {hits} hits were acknowledged");
    converge(&regions).await;
    for region in NAMES {
        check(&regions, region, &told, &paid).await;
    }
    notes::are_explained(&regions).await;
    assert_alike(&regions, &["branch", "op", "hits", "note", "purse", "payment"]).await;
}

/// The first region that owns something, best one of these.
async fn owner<'a>(regions: &Regions, best: [&'a str; 2]) -> &'a str {
    for region in best.into_iter().chain(NAMES) {
        if regions.status(region).await.is_ok_and(|status| !status.owns.is_empty()) {
            return region;
        }
    }
    best[0]
}

/// Breaks something, sees the others go on, and mends it.
async fn strike(
    regions: &mut Regions,
    writers: &[Writer],
    fault: Fault,
    region: &str,
    other: &str,
    dice: &mut Dice,
) {
    let others = |but: &[&str]| {
        let but: Vec<&str> = but.to_vec();
        let going = writers.iter().filter(move |writer| !but.contains(&writer.region));
        going.collect::<Vec<_>>()
    };
    let during = format!("during {fault:?} of {region} ({other})");
    match fault {
        Fault::KillAgent => {
            regions.kill_agent(region);
            regions.start_agent(region).unwrap();
        }
        Fault::KillPostgres => {
            regions.kill_postgres(region);
            regions.start_postgres(region).await.unwrap();
        }
        Fault::KillRegion => {
            regions.kill_region(region);
            for writer in others(&[region]) {
                writer.goes_on(&during).await;
            }
            regions.start_region(region).await.unwrap();
        }
        Fault::PauseAgent => {
            regions.pause_agent(region);
            for writer in others(&[region]) {
                writer.goes_on(&during).await;
            }
            regions.resume_agent(region);
        }
        Fault::Cut => {
            regions.links().cut(region, other);
            for writer in others(&[region, other]) {
                writer.goes_on(&during).await;
            }
            regions.links().heal(region, other);
        }
        Fault::Isolate => {
            regions.links().isolate(region);
            for writer in others(&[region]) {
                writer.goes_on(&during).await;
            }
            regions.links().rejoin(region);
        }
        Fault::KillDirectory => {
            regions.kill_directory();
            regions.start_directory().unwrap();
        }
        Fault::Switchover => {
            let from = owner(regions, [region, other]).await;
            let to = if from == other { region } else { other };
            let mut command = Command::new(regions.binary());
            command.args(["switchover", "--from", from, "--to", to]);
            command.arg("--config").arg(regions.config_file(region));
            let moved = tokio::task::spawn_blocking(move || command.output());
            let output = tokio::time::timeout(PATIENCE, moved).await.expect("a switchover ends");
            // It may be refused, and says why; whatever it says, writes go on.
            let output = output.unwrap().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            println!("         {}: {}", output.status, said.lines().last().unwrap_or_default());
        }
        Fault::LogDiskFull => fill_log_disk(regions, writers, region, other, dice).await,
        Fault::WalDiskFull => fill_wal_disk(regions, region, other, dice).await,
    }
}

/// Owned rows of this region wait meanwhile, since nothing holds them; others are written on.
async fn fill_log_disk(
    regions: &mut Regions,
    writers: &[Writer],
    region: &str,
    other: &str,
    dice: &mut Dice,
) {
    let third = NAMES.into_iter().find(|name| ![region, other].contains(name)).unwrap();
    becomes_full(regions, region).await;
    match dice.below(3) {
        0 => {
            println!("         others write on");
            for writer in writers.iter().filter(|writer| writer.region != region) {
                if writer.writes == Writes::Shared {
                    writer.goes_on(&format!("while the log disk of {region} is full")).await;
                }
            }
            regions.log_disk(region).free().unwrap();
        }
        1 => {
            println!("         its agent is killed and started");
            regions.kill_agent(region);
            regions.start_agent(region).unwrap();
            becomes_full(regions, region).await;
            regions.log_disk(region).free().unwrap();
        }
        _ => {
            println!("         {other} is lost, and {region} can seal nothing before it has room");
            regions.kill_region(other);
            eventually(&format!("{third} sees no lease of {other}"), async || {
                let status = regions.status(third).await.map_err(|e| e.to_string())?;
                let lost = status.peers.iter().find(|peer| peer.region == other);
                let silent = lost.map_or(0, |lost| lost.lease_silent_ms);
                let over = u128::from(silent) > LEASE.as_millis();
                if over { Ok(()) } else { Err(format!("silent for {silent} ms")) }
            })
            .await;
            regions.log_disk(region).free().unwrap();
            everything_is_written(regions, third, &format!("without {other}")).await;
            regions.start_region(other).await.unwrap();
        }
    }
}

/// Leaves the logs no room until that is said. What is trimmed meanwhile gives room again, so the disk
/// is filled again and again.
async fn becomes_full(regions: &mut Regions, region: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        regions.log_disk(region).fill().unwrap();
        let status = regions.status(region).await;
        let conditions = status.map(|status| status.conditions).map_err(|e| e.to_string());
        if conditions.iter().flatten().any(|condition| condition.name == "log_full") {
            return;
        }
        assert!(Instant::now() < deadline, "{region} does not say that it is full: {conditions:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// PostgreSQL ends all sessions, recovers, and gives up when it has no room for that either.
async fn fill_wal_disk(regions: &mut Regions, region: &str, other: &str, dice: &mut Dice) {
    let said = regions.folder().join(region).join("postgres/postgres.log");
    let before = std::fs::metadata(&said).unwrap().len() as usize;
    regions.wal_disk(region).fill().unwrap();
    eventually(&format!("PostgreSQL of {region} has no room for its WAL"), async || {
        let bytes = std::fs::read(&said).map_err(|e| e.to_string())?;
        if String::from_utf8_lossy(&bytes[before..]).contains("No space left on device") {
            return Ok(());
        }
        // Files that it has prepared still take something.
        let client = regions.connect(region).await.map_err(|e| e.to_string())?;
        let switched = client.batch_execute("SELECT pg_switch_wal()").await;
        Err(format!("{switched:?}"))
    })
    .await;
    if dice.below(2) == 1 {
        println!("         until others own what it owned");
        everything_is_written(regions, other, &format!("while {region} has no room")).await;
    }
    regions.wal_disk(region).free().unwrap();
    // It may still be about to give up; once it has, it must be started.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = regions.connect(region).await {
        assert!(Instant::now() < deadline, "PostgreSQL of {region} has room again: {error}");
        let _ = regions.start_postgres(region).await;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Every partition has an owner: each branch is written through the gateway of `region`.
async fn everything_is_written(regions: &Regions, region: &str, when: &str) {
    let gateway = regions.gateway(region);
    let address = format!("host={} port={} user=app dbname=postgres", gateway.ip(), gateway.port());
    for branch in 1..=BRANCHES {
        eventually(&format!("branch {branch} is written at {region} {when}"), async || {
            let client = connect(&address).await.ok_or("no session")?;
            let sql = format!("UPDATE branch SET ops = ops WHERE branch = {branch}");
            let written = tokio::time::timeout(PATIENCE, client.batch_execute(&sql)).await;
            written.map_err(|e| e.to_string())?.map_err(|e| format!("{e:?}"))
        })
        .await;
    }
}

/// Every acknowledged operation is there, and everything that is there counted once.
async fn check(regions: &Regions, region: &str, told: &Told, paid: &[Paid]) {
    let client = regions.connect(region).await.unwrap();
    let (branches, ids): (Vec<i32>, Vec<i64>) = told.operations.iter().copied().unzip();
    let sql = "SELECT branch, id FROM unnest($1::int[], $2::bigint[]) a (branch, id)
               WHERE NOT EXISTS (SELECT FROM op WHERE op.branch = a.branch AND op.id = a.id)";
    let lost = client.query(sql, &[&branches, &ids]).await.unwrap();
    let lost: Vec<(i32, i64)> = lost.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(lost.is_empty(), "{region} lost {} acknowledged writes: {lost:?}", lost.len());
    let sql = "SELECT branch, ops, balance, count(op), coalesce(sum(delta), 0)::bigint
               FROM branch LEFT JOIN op USING (branch) GROUP BY branch.branch
               HAVING ops <> count(op) OR balance <> coalesce(sum(delta), 0)";
    let wrong = client.query(sql, &[]).await.unwrap();
    assert!(wrong.is_empty(), "{region} applied something not exactly once: {wrong:?}");
    pgbench::is_there(&client, region, paid).await;
    let row = client.query_one("SELECT sum(n)::bigint FROM hits", &[]).await.unwrap();
    let counted = u64::try_from(row.get::<_, i64>(0)).unwrap();
    let possible = told.hits..=told.hits + told.hits_unknown;
    assert!(possible.contains(&counted), "{region} counts {counted} hits, not {possible:?}");
    let sql = "SELECT relation, conflict, status, count(*)::text FROM domicile.journal
               GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
    for row in client.query(sql, &[]).await.unwrap() {
        let words: Vec<String> =
            (0..4).map(|i| row.get::<_, Option<String>>(i).unwrap_or_default()).collect();
        println!("{region} journal: {}", words.join(" "));
    }
}
