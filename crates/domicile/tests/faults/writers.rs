//! Who writes meanwhile, and what were they told?

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile::lab::regions::Regions;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::regions::eventually;

pub const BRANCHES: i32 = 60;
/// Between two writes of one writer: regions are to be compared, not measured.
const PACE: Duration = Duration::from_millis(25);

/// What became of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Asked for; the answer has not come, or said nothing of it.
    Unknown,
    Acknowledged,
    /// The server said that nothing was written.
    Refused,
}

/// Every write that was ever asked for, by the number in its row.
pub type History = BTreeMap<i64, Fate>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The owner is found for it.
    Gateway,
    /// Straight to the region's PostgreSQL, of what that region owned when it was last asked.
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
            self.note(id, Fate::Unknown);
            match client.batch_execute(&operation(branch, id)).await {
                Ok(()) => self.note(id, Fate::Acknowledged),
                Err(error) => {
                    if is_refusal(&error) {
                        self.note(id, Fate::Refused);
                    }
                    self.say(format!("{id}: {error:?}"));
                }
            }
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

    fn note(&self, id: i64, fate: Fate) {
        self.history.lock().unwrap().insert(id, fate);
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
        let mine = history.range(self.mine());
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
        let (standing, hold, resting) =
            (Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        let client = Arc::new(Client { region, by, number, history, standing, hold, resting });
        let task = tokio::spawn(client.clone().run(address));
        Self { region, by, client, task }
    }

    /// The newest write that was acknowledged.
    pub fn newest(&self) -> Option<i64> {
        let history = self.client.history.lock().unwrap();
        let mut mine = history.range(self.client.mine()).rev();
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

/// One statement, so that a gateway may send it to the owner.
fn operation(branch: i32, id: i64) -> String {
    format!(
        "WITH counted AS (UPDATE branch SET ops = ops + 1 WHERE branch = {branch} RETURNING branch)
         INSERT INTO op SELECT branch, {id} FROM counted"
    )
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
