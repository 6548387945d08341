//! Who writes and reads meanwhile?

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile::lab::regions::Regions;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::history::{Access, Fate, History};
use super::regions::eventually;
use super::statements::{BRANCHES, TORN, asked, found, glance, glances, numbers, operation, rows};

/// Between two writes of one writer: regions are to be compared, not measured.
const PACE: Duration = Duration::from_millis(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The owner is found for it.
    Gateway,
    /// Straight to the region's PostgreSQL, of what that region owned when it was last asked; looks
    /// at other branches in the same transaction.
    Direct,
}

/// One client that writes one row after the other; it ends when it is dropped.
pub struct Writer {
    pub region: &'static str,
    pub by: By,
    client: Arc<Client>,
    task: JoinHandle<()>,
}

struct Client {
    region: &'static str,
    by: By,
    /// Keeps the rows of writers apart.
    number: i64,
    history: Arc<Mutex<History>>,
    /// As the history knows it; none before the first operation, and after one that ended as unknown.
    process: Mutex<Option<u64>>,
    /// What it is at, and how its last failure read.
    standing: Mutex<String>,
    hold: AtomicBool,
    resting: AtomicBool,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    async fn run(self: Arc<Self>, address: String) {
        let mut session: Option<tokio_postgres::Client> = None;
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for id in (self.number << 32) + 1.. {
            pace.tick().await;
            let rests = self.hold.load(Ordering::SeqCst);
            self.resting.store(rests, Ordering::SeqCst);
            if rests {
                continue;
            }
            let client = match session.take() {
                Some(client) => client,
                None => match connect(&address).await {
                    Ok(client) => client,
                    Err(error) => {
                        self.say(format!("cannot connect: {error}"));
                        continue;
                    }
                },
            };
            let branch = match self.branch(&client, id).await {
                Ok(branch) => branch,
                Err(error) => {
                    self.say(error);
                    session = (!client.is_closed()).then_some(client);
                    continue;
                }
            };
            self.write(&client, branch, id).await;
            session = (!client.is_closed()).then_some(client);
        }
    }

    async fn branch(&self, session: &tokio_postgres::Client, id: i64) -> Result<i32, String> {
        if self.by == By::Gateway {
            return Ok((id % i64::from(BRANCHES)) as i32 + 1);
        }
        let sql = "SELECT branch FROM branch
                   WHERE (domicile.entry(domicile.partition_of(branch::text))).owner = $1";
        let owned = session.query(sql, &[&self.region]).await.map_err(|e| e.to_string())?;
        match owned.get(id as usize % owned.len().max(1)) {
            Some(row) => Ok(row.get(0)),
            None => Err(format!("{} owns nothing", self.region)),
        }
    }

    async fn write(&self, session: &tokio_postgres::Client, branch: i32, id: i64) {
        let glanced = match self.by {
            By::Gateway => Vec::new(),
            By::Direct => [7, 31].map(|step| (id * step % i64::from(BRANCHES)) as i32 + 1).to_vec(),
        };
        let (process, chapter) = self.begin(asked(&glanced, branch, id));
        let mut sql = operation(chapter, branch, id);
        if self.by == By::Direct {
            let glance = glance(chapter, &glanced);
            sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {glance}; {sql}; COMMIT");
        }
        match session.simple_query(&sql).await {
            Ok(answer) => {
                let found = found(&rows(&answer), &glanced, branch, id);
                self.end(process, Fate::Acknowledged, found);
            }
            Err(error) => {
                let fate = if is_refusal(&error) { Fate::Refused } else { Fate::Unknown };
                self.end(process, fate, asked(&glanced, branch, id));
                self.say(format!("{id}: {error:?}"));
                // Where a statement was refused its transaction is still open.
                let _ = session.batch_execute("ROLLBACK").await;
            }
        }
    }

    /// Returns who begins it, and in which chapter.
    fn begin(&self, asked: Vec<Access>) -> (u64, i32) {
        let mut history = self.history.lock().unwrap();
        let process = *self.process.lock().unwrap().get_or_insert_with(|| history.process());
        history.begin(process, self.region, asked);
        (process, history.chapter)
    }

    fn end(&self, process: u64, fate: Fate, accesses: Vec<Access>) {
        self.history.lock().unwrap().end(process, self.region, fate, accesses);
        // Behind a gateway what a client sees next may be older: another region may own it.
        if fate == Fate::Unknown || self.by == By::Gateway {
            *self.process.lock().unwrap() = None;
        }
    }

    fn say(&self, text: String) {
        *self.standing.lock().unwrap() = text;
    }

    /// The numbers of its rows.
    fn mine(&self) -> std::ops::Range<i64> {
        self.number << 32..(self.number + 1) << 32
    }

    fn acknowledged(&self) -> usize {
        let history = self.history.lock().unwrap();
        let mine = history.fates.range(self.mine());
        mine.filter(|(_, fate)| **fate == Fate::Acknowledged).count()
    }
}

impl Writer {
    /// `number` keeps the rows of writers apart.
    pub fn start(
        regions: &Regions,
        region: &'static str,
        by: By,
        number: i64,
        history: Arc<Mutex<History>>,
    ) -> Self {
        let address = match by {
            By::Direct => regions.postgres(region),
            By::Gateway => {
                let gateway = regions.gateway(region);
                format!("host={} port={} user=app dbname=postgres", gateway.ip(), gateway.port())
            }
        };
        let client = Arc::new(Client {
            region,
            by,
            number,
            history,
            process: Mutex::default(),
            standing: Mutex::default(),
            hold: AtomicBool::new(false),
            resting: AtomicBool::new(false),
        });
        let task = tokio::spawn(client.clone().run(address));
        Self { region, by, client, task }
    }

    /// The newest write that was acknowledged.
    pub fn newest(&self) -> Option<i64> {
        let history = self.client.history.lock().unwrap();
        let mut mine = history.fates.range(self.client.mine()).rev();
        mine.find(|(_, fate)| **fate == Fate::Acknowledged).map(|(id, _)| *id)
    }

    /// Waits for further acknowledgements.
    pub async fn goes_on(&self, when: &str) {
        let wanted = self.client.acknowledged() + 3;
        eventually(&format!("{self} writes {when}"), async || {
            let count = self.client.acknowledged();
            if count >= wanted { Ok(()) } else { Err(self.client.standing.lock().unwrap().clone()) }
        })
        .await;
    }

    /// Holds it back; what it asked for has been answered.
    pub async fn rest(&self) {
        self.client.hold.store(true, Ordering::SeqCst);
        eventually(&format!("{self} rests"), async || {
            match self.client.resting.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(self.client.standing.lock().unwrap().clone()),
            }
        })
        .await;
    }

    pub fn go_on(&self) {
        self.client.hold.store(false, Ordering::SeqCst);
    }
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {:?} writer of {}", self.by, self.region)
    }
}

/// A client that looks at its region's own database until it is dropped.
pub struct Reader(JoinHandle<()>);

impl Reader {
    pub fn start(regions: &Regions, region: &'static str, history: Arc<Mutex<History>>) -> Self {
        Self(tokio::spawn(look_on(regions.postgres(region), region, history)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn look_on(address: String, region: &'static str, history: Arc<Mutex<History>>) {
    let mut process = history.lock().unwrap().process();
    let mut session: Option<tokio_postgres::Client> = None;
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for first in (1..=BRANCHES).step_by(6).cycle() {
        pace.tick().await;
        if session.as_ref().is_none_or(tokio_postgres::Client::is_closed) {
            session = connect(&address).await.ok();
            // What is applied need not outlast a crash of PostgreSQL: it comes again, and no session
            // sees it go.
            process = history.lock().unwrap().process();
        }
        let Some(client) = &session else { continue };
        let branches: Vec<i32> = (first..first + 6).collect();
        let chapter = history.lock().unwrap().chapter;
        let sql = format!("{}; {TORN}", glance(chapter, &branches));
        let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {sql}; COMMIT");
        let Ok(answer) = client.simple_query(&sql).await else { continue };
        let rows = rows(&answer);
        let torn: Vec<i32> =
            numbers(rows[branches.len()].get(0)).into_iter().map(|b| b as i32).collect();
        let mut history = history.lock().unwrap();
        if history.chapter == chapter {
            history.glance(process, region, glances(&rows, &branches), &torn);
        }
    }
}

pub async fn connect(address: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, driver) = tokio_postgres::connect(address, NoTls).await?;
    tokio::spawn(driver);
    Ok(client)
}

/// Whether the server said that nothing was written.
pub fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let refusals = [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ];
    error.code().is_some_and(|code| refusals.contains(code))
}
