//! Could a register in one place have answered what everybody was told of a row, under cuts, a switchover and a
//! failover, with clocks that are minutes apart?
//!
//! One client writes, each time a higher number. Of such a register, reads are linearizable if and only if each shows a
//! number that somebody has begun to write, none that is older than one whose write had ended before, and none
//! that is older than one that a read had shown which had ended before (Lamport, "On Interprocess Communication",
//! 1986: an atomic register). All of it by one clock, which is nobody's whom we test.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use super::regions::{config, eventually, settle};
use super::{address, balance, is_refused, one, world};

/// In seconds.
const CLOCKS: [(&str, i64); 3] = [("eu", 420), ("us", -300), ("ap", 0)];
const BOUND: Duration = Duration::from_millis(1500);

/// Numbers that only rise, and when each was reached.
#[derive(Default)]
struct Reached(Mutex<Vec<(Instant, i32)>>);

impl Reached {
    fn note(&self, number: i32) {
        let mut reached = self.0.lock().unwrap();
        if reached.last().is_none_or(|(_, highest)| *highest < number) {
            reached.push((Instant::now(), number));
        }
    }

    fn before(&self, moment: Instant) -> i32 {
        let reached = self.0.lock().unwrap();
        let count = reached.partition_point(|(at, _)| *at <= moment);
        count.checked_sub(1).map_or(0, |last| reached[last].1)
    }
}

#[derive(Default)]
struct Register {
    /// The highest that anybody has begun to write.
    begun: AtomicI32,
    /// What the writer was told a success of.
    written: Reached,
    /// What strong reads have shown.
    shown: Reached,
    /// What the writer wrote last, and what it is to show to find that.
    token: Mutex<(i32, String)>,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Strong,
    Bounded,
    /// With the token of the writer, which is another session in another region.
    Session,
}

impl Asked {
    fn options(self) -> &'static str {
        match self {
            Self::Strong => "-c domicile.freshness_wait=700ms -c domicile.freshness=strong",
            Self::Bounded => {
                "-c domicile.freshness_wait=700ms -c domicile.freshness=bounded(1500ms)"
            }
            Self::Session => "-c domicile.freshness_wait=700ms -c domicile.freshness=session",
        }
    }
}

impl Register {
    async fn write(&self, address: String, stop: CancellationToken) {
        let mut session = None;
        while !stop.is_cancelled() {
            let Some(client) = session_at(&mut session, &address).await else { continue };
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let sql = format!("UPDATE account SET balance = {number} WHERE id = 1");
            if client.simple_query(&sql).await.is_err() {
                // It may have been written all the same; a later number comes in any case.
                session = None;
                continue;
            }
            self.written.note(number);
            match one(client, "SHOW domicile.token").await {
                Ok(token) => *self.token.lock().unwrap() = (number, token),
                Err(_) => session = None,
            }
        }
    }

    /// Returns how often the row was read, and how often that was refused.
    async fn read(&self, address: String, asked: Asked, stop: CancellationToken) -> [u32; 2] {
        let (mut session, mut counts, mut last) = (None, [0, 0], 0);
        while !stop.is_cancelled() {
            let Some(client) = session_at(&mut session, &address).await else { continue };
            let (passed_on, token) = match asked {
                Asked::Session => self.token.lock().unwrap().clone(),
                Asked::Strong | Asked::Bounded => Default::default(),
            };
            if !token.is_empty() {
                let taken = client.batch_execute(&format!("SET domicile.token = '{token}'")).await;
                if taken.is_err() {
                    session = None;
                    continue;
                }
            }
            let begun = Instant::now();
            let least = match asked {
                Asked::Strong => self.written.before(begun).max(self.shown.before(begun)),
                Asked::Bounded => {
                    begun.checked_sub(BOUND).map_or(0, |then| self.written.before(then))
                }
                Asked::Session => passed_on,
            };
            match balance(client).await {
                Ok(number) => {
                    counts[0] += 1;
                    assert!(least <= number, "{number} was read, {least} was there: {address}");
                    assert!(number <= self.begun.load(Ordering::SeqCst), "nobody wrote {number}");
                    assert!(last <= number, "{number} was read after {last}: {address}");
                    last = number;
                    if matches!(asked, Asked::Strong) {
                        self.shown.note(number);
                    }
                }
                Err(error) if is_refused(&error) => counts[1] += 1,
                Err(_) => session = None,
            }
        }
        counts
    }
}

async fn session_at<'a>(session: &'a mut Option<Client>, address: &str) -> Option<&'a Client> {
    if session.as_ref().is_none_or(Client::is_closed) {
        *session = None;
        let (client, connection) = tokio_postgres::connect(address, NoTls).await.ok()?;
        tokio::spawn(connection);
        *session = Some(client);
    }
    session.as_ref()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_as_new_as_they_ask_for_under_cuts_a_switchover_and_a_failover() {
    let mut config = config(&["eu", "us", "ap"], "home(branch)", 3);
    config.automatic_failover = true;
    config.rpo = "0".to_owned();
    config.clocks = CLOCKS.map(|(region, seconds)| (region.to_owned(), seconds)).into();
    let mut regions = world(config).await;
    settle(&regions, "start").await;
    let now: BTreeMap<&str, f64> = {
        let mut now = BTreeMap::new();
        for (region, _) in CLOCKS {
            let client = regions.connect(region).await.unwrap();
            let row = client.query_one("SELECT extract(epoch FROM now())::float8", &[]).await;
            now.insert(region, row.unwrap().get(0));
        }
        now
    };
    assert!(now["eu"] - now["us"] > 700.0, "the clocks are minutes apart: {now:?}");

    let (register, stop) = (Arc::new(Register::default()), CancellationToken::new());
    let address = |region: &str, options: &str| address(&regions, region, options);
    let (shared, stopping) = (register.clone(), stop.clone());
    let to = address("ap", "");
    let writer = tokio::spawn(async move { shared.write(to, stopping).await });
    let mut readers = Vec::new();
    for region in ["eu", "us", "ap"] {
        for asked in [Asked::Strong, Asked::Bounded, Asked::Session] {
            let from = address(region, asked.options());
            let (shared, stopping) = (register.clone(), stop.clone());
            let reader = async move { shared.read(from, asked, stopping).await };
            readers.push((region, asked, tokio::spawn(reader)));
        }
    }
    let written = async |what: &str| {
        let before = register.begun.load(Ordering::SeqCst);
        eventually(what, async || match register.written.before(Instant::now()) {
            now if now >= before + 10 => Ok(()),
            now => Err(format!("{now}, and 10 more than {before} are to be written")),
        })
        .await;
    };

    written("it begins").await;
    regions.links().cut("eu", "us");
    written("a cut changes nothing for ap").await;
    is_refused_somewhere(&address("us", "-c domicile.freshness=strong")).await;
    regions.links().heal("eu", "us");
    // Until eu has heard of it again it would not be waited for.
    eventually("partition 0 moves to us", async || {
        let mut switchover = Command::new(regions.binary());
        switchover.args(["switchover", "--partitions", "0", "--to", "us", "--config"]);
        let switched = switchover.arg(regions.config_file("us")).output().await;
        let switched = switched.map_err(|error| error.to_string())?;
        if switched.status.success() { Ok(()) } else { Err(format!("{switched:?}")) }
    })
    .await;
    written("us is the owner").await;
    regions.kill_region("us");
    written("somebody took over").await;
    regions.start_region("us").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    written("us is back").await;
    stop.cancel();
    writer.await.unwrap();
    for (region, asked, reader) in readers {
        let [read, refused] = reader.await.unwrap();
        println!("{region} {asked:?}: {read} read, {refused} refused");
        assert!(read > 0, "{region} {asked:?}: nothing was read");
    }
    println!("{} were written", register.written.before(Instant::now()));
}

async fn is_refused_somewhere(address: &str) {
    let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
    tokio::spawn(connection);
    eventually("nobody knows how old that is", async || match balance(&client).await {
        Err(error) if is_refused(&error) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
