//! What do those see who write?
//!
//! Each client sends one row, waits for the answer, and goes on some milliseconds later with
//! another, over one connection that it opens anew after an error. A row whose answer did not come
//! is never sent again: its outcome stays unknown.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

const PAUSE: Duration = Duration::from_millis(5);
/// After an error, as a pool of connections does.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// A driver gives a server up after this.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
/// Ids of one client.
const IDS: i64 = 1_000_000;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub struct Clients {
    count: usize,
    began: Instant,
    noted: Arc<Mutex<History>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

#[derive(Clone, Default)]
pub struct History {
    /// In the order in which the answers came.
    pub acknowledged: Vec<(i64, Instant)>,
    /// Answers that were errors by their SQLSTATE, and connections that were lost or refused.
    pub errors: BTreeMap<String, usize>,
    pub first: i64,
    pub last: i64,
}

impl Clients {
    /// Lets so many write to where `postgres` leads; ids begin at `first`.
    pub fn start(count: usize, postgres: &str, first: i64) -> Self {
        let clients = count as i64;
        let last = first + clients * IDS - 1;
        let noted = Arc::new(Mutex::new(History { first, last, ..History::default() }));
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for client in 0..clients {
            let ids = first + client * IDS..first + (client + 1) * IDS;
            tasks.spawn(write(postgres.to_owned(), ids, noted.clone(), stop.clone()));
        }
        Self { count, began: Instant::now(), noted, stop, tasks }
    }

    /// Returns now, and how many writes a second were taken until now, after making sure that nothing went
    /// wrong yet.
    pub fn mark(&self) -> anyhow::Result<(Instant, usize)> {
        let noted = lock(&self.noted);
        ensure!(!noted.acknowledged.is_empty(), "nothing was written before it began");
        ensure!(noted.errors.is_empty(), "errors before it began: {:?}", noted.errors);
        let (now, written) = (Instant::now(), noted.acknowledged.len());
        Ok((now, (written as f64 / (now - self.began).as_secs_f64()) as usize))
    }

    /// Waits until something was acknowledged that was sent after `begin`.
    pub async fn wait_for_writes_after(
        &self,
        begin: Instant,
        at_most: Duration,
    ) -> anyhow::Result<()> {
        // More than may have been on their way then.
        while lock(&self.noted).after(begin).count() <= 2 * self.count {
            if begin.elapsed() > at_most {
                bail!("no writes are taken {} s after it began", at_most.as_secs());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Lets every client get its last answer.
    pub async fn stop(mut self) -> anyhow::Result<History> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a client")?;
        }
        Ok(lock(&self.noted).clone())
    }
}

impl History {
    fn after(&self, begin: Instant) -> impl Iterator<Item = Instant> {
        self.acknowledged.iter().map(|(_, at)| *at).filter(move |at| *at > begin)
    }

    /// Takes note of an error; there is none where no answer came in time.
    fn failed(&mut self, error: Option<tokio_postgres::Error>) {
        let what = match &error {
            None => "no answer",
            Some(error) => error.code().map_or("connection lost", |code| code.code()),
        };
        *self.errors.entry(what.to_owned()).or_default() += 1;
    }

    /// The longest time for which one client had no acknowledgement, of those that ended after `begin`.
    pub fn longest_wait_after(&self, begin: Instant) -> Duration {
        let mut last: BTreeMap<i64, Instant> = BTreeMap::new();
        let mut longest = Duration::ZERO;
        for (id, at) in &self.acknowledged {
            let before = last.insert((id - self.first) / IDS, *at);
            if let Some(before) = before.filter(|_| *at > begin) {
                longest = longest.max(*at - before);
            }
        }
        longest
    }

    /// The longest time without any acknowledgement that ended after `begin`: from when, until when.
    pub fn longest_gap_after(&self, begin: Instant) -> (Instant, Instant) {
        let pairs = self.acknowledged.iter().zip(self.acknowledged.iter().skip(1));
        let ended = pairs.map(|((_, one), (_, next))| (*one, *next)).filter(|(_, to)| *to > begin);
        ended.max_by_key(|(from, to)| *to - *from).unwrap_or((begin, begin))
    }
}

async fn write(
    postgres: String,
    ids: Range<i64>,
    noted: Arc<Mutex<History>>,
    stop: CancellationToken,
) {
    let (mut session, mut pause) = (None, PAUSE);
    for id in ids {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(std::mem::replace(&mut pause, PAUSE_AFTER_ERROR)) => {}
        }
        let client = match session.take() {
            Some(client) => client,
            None => match timeout(CONNECT_WAIT_MAX, connect(&postgres)).await {
                Ok(Ok(client)) => client,
                failed => {
                    lock(&noted).failed(failed.ok().and_then(Result::err));
                    continue;
                }
            },
        };
        let sql = format!("INSERT INTO entry (id) VALUES ({id})");
        match timeout(ANSWER_WAIT_MAX, client.batch_execute(&sql)).await {
            Ok(Ok(())) => {
                // Under the lock, so that the order is that of the times.
                let mut noted = lock(&noted);
                noted.acknowledged.push((id, Instant::now()));
                (session, pause) = (Some(client), PAUSE);
            }
            failed => lock(&noted).failed(failed.ok().and_then(Result::err)),
        }
    }
}

/// Opens a session; it ends when the client is dropped.
pub async fn connect(postgres: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, driver) = tokio_postgres::connect(postgres, NoTls).await?;
    tokio::spawn(driver);
    Ok(client)
}

fn lock(noted: &Mutex<History>) -> MutexGuard<'_, History> {
    noted.lock().unwrap_or_else(PoisonError::into_inner)
}
