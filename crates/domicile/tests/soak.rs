//! Does an agent go on, in the memory that it had, whatever is said to its ports and however often?
//!
//! Two regions whose gateways share servers. Clients come, ask one thing and go, as fast as that can be; others say
//! what the protocol has in any order, with bytes changed, missing or too many, to every port that there is.
//! `SOAK_MINUTES=60` goes on for so long, `SOAK_SEED=7` repeats what is said (when is up to the machine), `KEEP=FOLDER` keeps the
//! regions' files and logs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domicile::lab::dice::Dice;
use domicile::lab::regions::Regions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{PATIENCE, config, eventually, start};

const NAMES: [&str; 2] = ["eu", "us"];
/// Without SOAK_MINUTES.
const SHORT: Duration = Duration::from_secs(12);
/// Of all time. After that everything has happened at least once that takes memory once.
const WARM_UP: f64 = 0.25;
/// So much more than then is no sign of anything.
const MORE_MIB: f64 = 48.0;
const NOT_CONNECTED: &str = "there is no connection";
const COMERS: usize = 2;
const FUZZERS: usize = 2;
/// A fuzzer hears no longer than this what it gets for an answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(20);
/// Nothing asks for the end of what was said: so long somebody may be kept waiting for a server.
const ASK_WAIT_MAX: Duration = Duration::from_secs(30);

/// What a client may say once it is in: tags and bodies.
const MESSAGES: [(u8, &[u8]); 22] = [
    (b'Q', b"SELECT 1\0"),
    (b'Q', b"BEGIN\0"),
    (b'Q', b"COMMIT\0"),
    (b'Q', b"ROLLBACK\0"),
    (b'Q', b"SET work_mem = 64\0"),
    (b'Q', b"SET domicile.freshness = '5s'\0"),
    (b'Q', b"SHOW domicile.route\0"),
    (b'Q', b"DISCARD ALL\0"),
    (b'Q', b"LISTEN one\0"),
    (b'Q', b"INSERT INTO item (id, at) VALUES (1, 2)\0"),
    (b'Q', b"COPY item FROM STDIN\0"),
    (b'P', b"s\0SELECT $1\0\0\0"),
    (b'P', b"\0SELECT 1\0\0\0"),
    (b'B', b"\0s\0\0\0\0\x01\xff\xff\xff\xff\0\0"),
    (b'B', b"\0\0\0\0\0\0\0\0"),
    (b'D', b"P\0"),
    (b'E', b"\0\0\0\0\0"),
    (b'C', b"Ss\0"),
    (b'S', b""),
    (b'H', b""),
    (b'd', b"1\t2\n"),
    (b'c', b""),
];
/// What else a port may be told at first: requests for encryption and to cancel, HTTP, TLS.
const OPENINGS: [&[u8]; 6] = [
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"\0\0\0\x08\x04\xd2\x16\x30",
    b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02",
    b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"\x16\x03\x01\0\x05\x01\0\0\x01\0",
];

fn startup(database: &str) -> Vec<u8> {
    let parameters = format!("user\0postgres\0database\0{database}\0\0");
    let length = u32::try_from(8 + parameters.len()).unwrap();
    [&length.to_be_bytes()[..], &[0, 3, 0, 0], parameters.as_bytes()].concat()
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(4 + body.len()).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// What was done so far.
#[derive(Default)]
struct Counts {
    came: AtomicU64,
    refused: AtomicU64,
    said: AtomicU64,
}

struct Soak {
    gateways: Vec<SocketAddr>,
    ports: Vec<SocketAddr>,
    counts: Counts,
    over: AtomicBool,
}

impl Soak {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Comes, asks one thing and goes, again and again.
    async fn come_and_go(self: Arc<Self>, mut dice: Dice) {
        while self.goes_on() {
            let gateway = *one_of(&mut dice, &self.gateways);
            let asked = timeout(ASK_WAIT_MAX, ask(gateway)).await;
            let count = match asked {
                Ok(Ok(())) => &self.counts.came,
                // Servers may be in the hands of those who say anything.
                Ok(Err(why)) if why.contains("53300") => &self.counts.refused,
                // There may be no port left for a moment.
                Ok(Err(why)) if why == NOT_CONNECTED => continue,
                failed => panic!("{gateway}: {failed:?}"),
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says anything to anybody, again and again.
    async fn say_anything(self: Arc<Self>, mut dice: Dice) {
        while self.goes_on() {
            let port = *one_of(&mut dice, &self.ports);
            // There may be no port left for a moment.
            let Ok(mut stream) = TcpStream::connect(port).await else { continue };
            let said = anything(&mut dice);
            let cut = dice.below(said.len() as u32 + 1) as usize;
            let hear = dice.below(3) > 0;
            let _ = stream.write_all(&said[..cut]).await;
            if hear {
                let mut answer = [0; 4096];
                let _ = timeout(ANSWER_WAIT_MAX, stream.read(&mut answer)).await;
            }
            let _ = stream.write_all(&said[cut..]).await;
            if hear {
                let mut answer = [0; 4096];
                let _ = timeout(ANSWER_WAIT_MAX, stream.read(&mut answer)).await;
            }
            self.counts.said.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn one_of<'a, T>(dice: &mut Dice, of: &'a [T]) -> &'a T {
    &of[dice.below(of.len() as u32) as usize]
}

/// A conversation that begins as one should, mostly, and has some bytes changed, mostly.
fn anything(dice: &mut Dice) -> Vec<u8> {
    let mut said = match dice.below(8) {
        0 => startup("domicile"),
        1 => one_of(dice, &OPENINGS).to_vec(),
        _ => startup("postgres"),
    };
    let opening = said.len() as u32;
    for _ in 0..dice.below(12) {
        let (tag, body) = *one_of(dice, &MESSAGES);
        said.extend(message(tag, body));
    }
    // The beginning is left alone more often than not: nobody gets further than that otherwise.
    let from = if dice.below(4) > 0 { opening } else { 0 };
    for _ in 0..dice.below(4) {
        let at = (from + dice.below((said.len() as u32).saturating_sub(from))) as usize;
        let byte = dice.below(256) as u8;
        match dice.below(5) {
            _ if at >= said.len() => {}
            0 => said[at] ^= 1 << (byte % 8),
            1 => said[at] = byte,
            2 => _ = said.remove(at),
            3 => said.insert(at, byte),
            _ => said.truncate(at),
        }
    }
    said
}

/// Logs in, asks one thing and says goodbye.
async fn ask(gateway: SocketAddr) -> Result<(), String> {
    let broken = |error: std::io::Error| error.to_string();
    let connected = TcpStream::connect(gateway).await;
    let mut stream = connected.map_err(|_| NOT_CONNECTED.to_owned())?;
    for said in [startup("postgres"), message(b'Q', b"SELECT 1\0")] {
        stream.write_all(&said).await.map_err(broken)?;
        loop {
            let kind = stream.read_u8().await.map_err(broken)?;
            let length = stream.read_u32().await.map_err(broken)?;
            let mut body = vec![0; length as usize - 4];
            stream.read_exact(&mut body).await.map_err(broken)?;
            match kind {
                b'Z' => break,
                b'E' => return Err(String::from_utf8_lossy(&body).into_owned()),
                _ => {}
            }
        }
    }
    stream.write_all(&message(b'X', b"")).await.map_err(broken)
}

/// What of each agent is in memory now.
fn resident_mib(regions: &Regions) -> Vec<f64> {
    let of = |region: &&str| {
        let pid = regions.agent_pid(region).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.expect("the agent is there").trim().trim_end_matches(" kB");
        kib.parse::<f64>().unwrap() / 1024.0
    };
    NAMES.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_in_the_memory_it_had_whatever_is_said_to_it() {
    let minutes = std::env::var("SOAK_MINUTES").map(|m| m.parse::<u64>().unwrap() * 60);
    let length = minutes.map_or(SHORT, Duration::from_secs);
    let seed = std::env::var("SOAK_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut config = config(&NAMES, "hash(id, 6)", 6);
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY, at int)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    config.gateway = "sharing = \"transaction\"\nservers_max = 8\n".to_owned();
    // What is said to a link would go on to an agent that may be gone.
    config.links = false;
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let gateways: Vec<SocketAddr> = NAMES.map(|region| regions.gateway(region)).to_vec();
    let others = NAMES.map(|region| regions.metrics(region));
    let soak = Arc::new(Soak {
        ports: gateways.iter().copied().cycle().take(8).chain(others).collect(),
        gateways,
        counts: Counts::default(),
        over: AtomicBool::new(false),
    });
    let before: Vec<_> = NAMES.map(|region| regions.agent_pid(region)).to_vec();
    let mut dice = Dice(seed);
    let mut next_dice = || Dice(u64::from(dice.below(u32::MAX)));
    let (began, mut tasks) = (Instant::now(), tokio::task::JoinSet::new());
    for _ in 0..COMERS {
        tasks.spawn(soak.clone().come_and_go(next_dice()));
    }
    for _ in 0..FUZZERS {
        tasks.spawn(soak.clone().say_anything(next_dice()));
    }
    let mut warm = None;
    while began.elapsed() < length {
        let left = length.saturating_sub(began.elapsed());
        // Whoever panics ends it.
        if let Ok(Some(ended)) = timeout(left.min(Duration::from_secs(1)), tasks.join_next()).await
        {
            ended.unwrap();
        }
        if began.elapsed() > length.mul_f64(WARM_UP) {
            warm.get_or_insert_with(|| resident_mib(&regions));
        }
    }
    soak.over.store(true, Ordering::Relaxed);
    let ended = async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap()
        }
    };
    timeout(PATIENCE, ended).await.expect("they end");
    let after: Vec<_> = NAMES.map(|region| regions.agent_pid(region)).to_vec();
    assert_eq!(before, after, "nobody was started anew");
    for gateway in &soak.gateways {
        eventually("everybody is served", async || ask(*gateway).await).await;
    }
    let (warm, now) = (warm.expect("it took long enough"), resident_mib(&regions));
    let Counts { came, refused, said } = &soak.counts;
    let [came, refused, said] = [came, refused, said].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{} s: {came} clients came and went, {refused} of them without a server; {said} said anything; \
         agents had {warm:.0?} MiB and have {now:.0?}",
        began.elapsed().as_secs()
    );
    assert!(came > 0 && said > 0, "{came} {said}");
    for (warm, now) in warm.iter().zip(&now) {
        assert!(*now < warm + MORE_MIB, "{warm} MiB, and then {now}");
    }
}
