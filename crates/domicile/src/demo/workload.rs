//! What do the bank's clients do all day?
//!
//! Each client has a home region and talks to its gateway, one statement at a time. When that
//! gateway is gone it takes another region's, as a driver with several hosts does, and goes home
//! when it can. Nothing is sent twice: an answer that did not arrive stays unknown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::time::Time;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use uuid::Uuid;

use super::bank::{self, ACCOUNTS_PER_BRANCH, Branch};
use super::tally::{Acknowledged, Tally};
use crate::clock::Clock;
use crate::lab::dice::Dice;

/// Longer than a gateway holds a statement through a failover.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// Between attempts when no gateway at all is there.
const CONNECT_AGAIN: Duration = Duration::from_millis(100);
/// How long a client stays with another region's gateway before it tries its own again.
const AWAY_MS_MAX: u64 = 2000;
const AMOUNT_MAX: u32 = 9;

#[derive(Clone, Debug)]
pub struct WorkloadConfig {
    /// In the order of the regions.
    pub gateways: Vec<SocketAddr>,
    /// In the same order, as PostgreSQL's `cluster_name`.
    pub names: Vec<String>,
    pub branches: Vec<Branch>,
    /// Indices of the regions in which clients live.
    pub homes: Vec<usize>,
    pub clients_per_region: usize,
    /// How long a client thinks between two statements, on average.
    pub think: Duration,
}

/// All clients of all regions.
#[derive(Debug)]
pub struct Workload {
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Workload {
    pub fn start(config: WorkloadConfig, tally: Arc<Tally>, clock: Clock) -> Self {
        let (stop, stopped) = watch::channel(false);
        let config = Arc::new(config);
        let mut clients = JoinSet::new();
        for home in config.homes.iter().copied() {
            for number in 0..config.clients_per_region {
                let seed = (home * config.clients_per_region + number) as u64;
                let client = BankClient {
                    config: config.clone(),
                    tally: tally.clone(),
                    clock,
                    home,
                    dice: Dice(seed),
                };
                clients.spawn(client.run(stopped.clone()));
            }
        }
        Self { clients, stop }
    }

    /// Lets every client finish its statement, and returns when all have.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
    }
}

struct BankClient {
    config: Arc<WorkloadConfig>,
    tally: Arc<Tally>,
    clock: Clock,
    home: usize,
    dice: Dice,
}

/// A connection through one region's gateway.
struct Session {
    client: Client,
    region: usize,
    since: Time,
}

enum Operation {
    Write { op: Uuid, partition: u32, sql: String },
    Read { sql: String },
}

impl BankClient {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut session = None;
        while !*stopped.borrow() {
            session = self.keep_or_connect(session.take()).await;
            let pause = match &session {
                Some(session) => {
                    self.work(session).await;
                    self.think()
                }
                None => CONNECT_AGAIN,
            };
            let _ = timeout(pause, stopped.changed()).await;
        }
    }

    /// Keeps a session that is whole and at home; else opens one, at home if possible.
    async fn keep_or_connect(&self, session: Option<Session>) -> Option<Session> {
        let now = self.clock.now();
        let whole = session.filter(|session| !session.client.is_closed());
        if let Some(session) = &whole
            && (session.region == self.home || now.0 - session.since.0 < AWAY_MS_MAX)
        {
            return whole;
        }
        if let Some(mut away) = whole {
            away.since = now;
            return Some(self.connect(self.home).await.unwrap_or(away));
        }
        let regions = self.config.gateways.len();
        for step in 0..regions {
            if let Some(session) = self.connect((self.home + step) % regions).await {
                return Some(session);
            }
        }
        None
    }

    async fn connect(&self, region: usize) -> Option<Session> {
        let gateway = self.config.gateways[region];
        let mut config = tokio_postgres::Config::new();
        config.host(gateway.ip().to_string()).port(gateway.port());
        config.user("app").dbname("postgres").application_name("bank");
        let opened = timeout(CONNECT_WAIT_MAX, config.connect(NoTls)).await.ok()?;
        let (client, connection) = opened.ok()?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // Whoever waited for an answer over it counts the loss.
                tracing::debug!(%error, "a client's connection ended");
            }
        });
        Some(Session { client, region, since: self.clock.now() })
    }

    async fn work(&mut self, session: &Session) {
        let operation = self.choose();
        let (sql, op) = match &operation {
            Operation::Write { sql, op, .. } => (sql, Some(*op)),
            Operation::Read { sql } => (sql, None),
        };
        let begin = self.clock.now();
        let answer = timeout(ANSWER_WAIT_MAX, session.client.simple_query(sql)).await;
        let at = self.clock.now();
        match (answer, operation) {
            (Err(_), _) => self.tally.leave_open(op, "no answer in time"),
            (Ok(Err(error)), _) => count_error(&self.tally, op, &error),
            (Ok(Ok(rows)), operation) => match (operation, first_value(&rows)) {
                (Operation::Read { .. }, Some(_)) => self.tally.read(),
                (Operation::Write { op, partition, .. }, Some(name)) => {
                    let region = self.config.names.iter().position(|known| known == name);
                    let region = region.expect("only regions of the demo answer");
                    let took_ms = at.0 - begin.0;
                    let acknowledged = Acknowledged { op, partition, region, at, took_ms };
                    self.tally.acknowledge(acknowledged);
                }
                (_, None) => self.tally.fail("the statement found no account"),
            },
        }
    }

    fn choose(&mut self) -> Operation {
        let branch =
            self.config.branches[self.dice.below(self.config.branches.len() as u32) as usize];
        let account = 1 + self.dice.below(ACCOUNTS_PER_BRANCH);
        let amount = 1 + self.dice.below(AMOUNT_MAX);
        let (op, partition) = (Uuid::now_v7(), branch.partition);
        match self.dice.below(100) {
            0..60 => {
                let sql = bank::deposit(op, branch.id, account, amount);
                Operation::Write { op, partition, sql }
            }
            60..85 => {
                let to =
                    1 + (account + self.dice.below(ACCOUNTS_PER_BRANCH - 1)) % ACCOUNTS_PER_BRANCH;
                let sql = bank::transfer(op, branch.id, account, to, amount);
                Operation::Write { op, partition, sql }
            }
            _ => Operation::Read { sql: bank::balance(branch.id, account) },
        }
    }

    /// Between half and one and a half of the average.
    fn think(&mut self) -> Duration {
        let per_mille = 500 + self.dice.below(1001);
        self.config.think * per_mille / 1000
    }
}

/// A lost connection, or a server that ended under the statement, leaves the outcome open.
pub(super) fn count_error(tally: &Tally, op: Option<Uuid>, error: &tokio_postgres::Error) {
    let Some(refusal) = error.as_db_error() else {
        return tally.leave_open(op, "the connection ended");
    };
    let code = refusal.code().code();
    // The numbers of rows and partitions differ from one error to the next.
    let text: String = refusal.message().chars().filter(|c| !c.is_ascii_digit()).collect();
    let text = format!("{code} {text}");
    if code.starts_with("08") || code.starts_with("57P") {
        tally.leave_open(op, &text);
    } else {
        tally.fail(&text);
    }
}

fn first_value(messages: &[SimpleQueryMessage]) -> Option<&str> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
