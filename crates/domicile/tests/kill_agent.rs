//! Does an acknowledged write survive, exactly once and in every region, whenever an agent or a
//! PostgreSQL is killed?
//!
//! Real processes, SIGKILL at moments drawn from a seed that is printed: `KILL_SEED=7` repeats one,
//! `KILL_MOMENTS=1000` takes longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use domicile::lab::dice::Dice;
use domicile::lab::regions::Regions;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

mod regions;
use regions::{assert_alike, config, eventually, settle, start};

const MOMENTS: u64 = 100;
/// Every so many moments it is PostgreSQL that dies.
const POSTGRES_EVERY: u64 = 25;
/// A kill comes after at most so many further commits.
const COMMITS_BETWEEN_MAX: u32 = 12;

const SEED_SQL: &str = "
    CREATE TABLE branch (branch int PRIMARY KEY, balance bigint NOT NULL, ops bigint NOT NULL);
    INSERT INTO branch SELECT b, 0, 0 FROM generate_series(1, 60) b;
    CREATE TABLE op (branch int, id bigint, delta bigint NOT NULL, PRIMARY KEY (branch, id));";
const TABLES: &str = "[[table]]\nname = \"branch\"\n[[table]]\nname = \"op\"\n";

/// Commits one operation after the other and remembers those that were acknowledged.
struct Writer {
    region: String,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(i32, i64)>>,
}

impl Writer {
    /// `number` keeps the operations of writers apart.
    async fn start(regions: &Regions, region: &str, number: i64) -> Self {
        let client = regions.connect(region).await.unwrap();
        let owned = eventually("a region owns branches", async || {
            let sql = "SELECT branch FROM branch
                       WHERE (domicile.entry(domicile.partition_of(branch::text))).owner = $1";
            let rows = client.query(sql, &[&region]).await.map_err(|e| e.to_string())?;
            let owned: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
            if owned.len() >= 5 { Ok(owned) } else { Err(format!("{owned:?}")) }
        })
        .await;
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (postgres, count, stopped) =
            (regions.postgres(region), acknowledged.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut kept = Vec::new();
            let mut session = None;
            let mut id = number << 40;
            while !stopped.load(Ordering::Relaxed) {
                id += 1;
                let branch = owned[id as usize % owned.len()];
                let client = match session.take() {
                    Some(client) => client,
                    None => match connect(&postgres).await {
                        Some(client) => client,
                        None => {
                            tokio::task::yield_now().await;
                            continue;
                        }
                    },
                };
                if client.batch_execute(&operation(branch, id)).await.is_ok() {
                    kept.push((branch, id));
                    count.fetch_add(1, Ordering::Relaxed);
                } else {
                    // Refused, or its fate is unknown: either way it is not owed to anyone.
                    let _ = client.batch_execute("ROLLBACK").await;
                }
                session = (!client.is_closed()).then_some(client);
            }
            kept
        });
        Self { region: region.to_owned(), acknowledged, stop, task }
    }

    fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for `more` further acknowledgements.
    async fn goes_on(&self, more: u64) {
        let wanted = self.count() + more;
        eventually(&format!("{} writes on", self.region), async || {
            let count = self.count();
            if count >= wanted { Ok(()) } else { Err(format!("{count} of {wanted}")) }
        })
        .await;
    }
}

async fn connect(postgres: &str) -> Option<Client> {
    let (client, driver) = tokio_postgres::connect(postgres, NoTls).await.ok()?;
    tokio::spawn(driver);
    Some(client)
}

fn operation(branch: i32, id: i64) -> String {
    let delta = id % 1000 - 300;
    format!(
        "BEGIN;
         UPDATE branch SET balance = balance + {delta}, ops = ops + 1 WHERE branch = {branch};
         INSERT INTO op VALUES ({branch}, {id}, {delta});
         COMMIT"
    )
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_is_everywhere_exactly_once_whoever_was_killed_and_when() {
    let seed = number("KILL_SEED", u64::from(std::process::id()));
    println!("KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let mut config = config(&["eu", "us", "ap"], "hash(branch, 12)", 12);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let mut writers = Vec::new();
    for (region, number) in regions.names().iter().zip(1..) {
        writers.push(Writer::start(&regions, region, number).await);
    }

    for moment in 1..=number("KILL_MOMENTS", MOMENTS) {
        let watched = &writers[dice.below(3) as usize];
        watched.goes_on(u64::from(dice.below(COMMITS_BETWEEN_MAX))).await;
        let hit = &writers[dice.below(3) as usize];
        if moment % POSTGRES_EVERY == 0 {
            regions.kill_postgres(&hit.region);
            regions.start_postgres(&hit.region).await.unwrap();
        } else {
            regions.kill_agent(&hit.region);
            regions.start_agent(&hit.region).unwrap();
        }
        hit.goes_on(2).await;
    }

    regions.wait_until_ready().await.unwrap();
    let mut acknowledged = Vec::new();
    for writer in writers {
        writer.goes_on(5).await;
        writer.stop.store(true, Ordering::Relaxed);
        acknowledged.extend(writer.task.await.unwrap());
    }
    settle(&regions, "quiet").await;
    println!("{} writes were acknowledged", acknowledged.len());
    for region in regions.names() {
        check(&regions, region, &acknowledged).await;
    }
    assert_alike(&regions, &["branch", "op"]).await;
}

/// Every acknowledged operation is there, and every operation that is there counted once.
async fn check(regions: &Regions, region: &str, acknowledged: &[(i32, i64)]) {
    let client = regions.connect(region).await.unwrap();
    let (branches, ids): (Vec<i32>, Vec<i64>) = acknowledged.iter().copied().unzip();
    let sql = "SELECT branch, id FROM unnest($1::int[], $2::bigint[]) a (branch, id)
               WHERE NOT EXISTS (SELECT FROM op WHERE op.branch = a.branch AND op.id = a.id)";
    let lost = client.query(sql, &[&branches, &ids]).await.unwrap();
    assert!(lost.is_empty(), "{region} lost {} acknowledged writes: {lost:?}", lost.len());
    let sql = "SELECT branch, ops, balance, count(op), coalesce(sum(delta), 0)::bigint
               FROM branch LEFT JOIN op USING (branch) GROUP BY branch.branch
               HAVING ops <> count(op) OR balance <> coalesce(sum(delta), 0)";
    let wrong = client.query(sql, &[]).await.unwrap();
    assert!(wrong.is_empty(), "{region} applied something not exactly once: {wrong:?}");
    let sql = "SELECT conflict, count(*) FROM domicile.journal GROUP BY 1";
    let journal = client.query(sql, &[]).await.unwrap();
    assert!(journal.is_empty(), "{region} has conflicts: {journal:?}");
}
