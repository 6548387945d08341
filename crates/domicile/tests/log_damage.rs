//! Is a damaged log noticed, set aside and made whole from a peer, a full disk named and outlasted,
//! and does an agent live through whatever arrives at its ports?

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use domicile::lab::regions::Regions;
use domicile::log::{LOG_SEGMENT_BYTES, LogState, Logs};
use domicile::settings;
use domicile_core::lsn::Lsn;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

mod regions;
use regions::{assert_alike, config, converge, eventually, settle, start};

const SEED_SQL: &str = "CREATE TABLE kept (id int PRIMARY KEY, note text)";
const TABLES: &str = "[[table]]\nname = \"kept\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_made_whole_from_a_peer_and_hostile_bytes_end_nothing() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 3)", 3);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    write_everywhere(&regions, 1).await;
    settle(&regions, "first").await;

    for (round, holder) in (2..).zip(["us", "eu"]) {
        // First a peer's copy of the log of "eu", then that region's own.
        regions.kill_agent(holder);
        damage(&log_of_eu(&regions, holder));
        regions.links().cut("eu", "us");
        regions.start_agent(holder).unwrap();
        // What a peer has, it has again; that this is all that it had, the log's home alone can say.
        let copy_of_another = holder != "eu";
        says(&regions, holder, "copies_short", copy_of_another).await;
        regions.links().heal("eu", "us");
        regions.wait_until_ready().await.unwrap();
        let said = std::fs::read_to_string(regions.agent_log(holder)).unwrap();
        assert!(said.contains("log_corrupt"), "{said}");
        says(&regions, holder, "copies_short", false).await;
        write_everywhere(&regions, round).await;
        settle(&regions, &format!("after damage in {holder}")).await;
        assert!(set_aside(&log_of_eu(&regions, holder)), "the damaged segment is kept aside");
    }

    hostile_bytes_end_nothing(&mut regions).await;
    write_everywhere(&regions, 4).await;
    settle(&regions, "last").await;
    assert_alike(&regions, &["kept"]).await;
    for region in regions.names().to_vec() {
        regions.kill_agent(&region);
    }
    let expected = records(&regions, "eu").await;
    assert!(expected.len() > 100, "{} records", expected.len());
    for holder in ["us", "ap"] {
        let held = records(&regions, holder).await;
        assert!(held == expected, "{holder} holds {} of {}", held.len(), expected.len());
    }
}

/// Nobody else holds what is damaged: it is told, and the way out is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_else_holds_of_a_damaged_log_is_told_and_the_rows_still_get_there() {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.rpo = "none".to_owned();
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let eu = regions.connect("eu").await.unwrap();
    eu.batch_execute("INSERT INTO kept VALUES (1, 'shipped')").await.unwrap();
    converge(&regions).await;
    regions.kill_agent("us");
    let log = log_of_eu(&regions, "eu");
    let shipped = written(&fullest(&log));
    for id in 2..40 {
        let insert = "INSERT INTO kept SELECT $1::int, md5($1::int::text)";
        eu.execute(insert, &[&id]).await.unwrap();
    }
    eventually("the log of eu has it all", async || {
        let end = written(&fullest(&log));
        if end > shipped + 2000 { Ok(()) } else { Err(format!("{end} after {shipped}")) }
    })
    .await;
    regions.kill_agent("eu");
    damage_at(&log, |end| (shipped + end) / 2);
    regions.start_agent("us").unwrap();
    regions.start_agent("eu").unwrap();
    says(&regions, "eu", "log_lost", true).await;

    let mut reseed = Command::new(regions.binary());
    reseed.args(["reseed", "--region", "eu", "--config"]).arg(regions.config_file("eu"));
    let reseeded = tokio::task::spawn_blocking(move || reseed.output()).await.unwrap().unwrap();
    assert!(reseeded.status.success(), "{reseeded:?}");
    says(&regions, "eu", "log_lost", false).await;
    eu.batch_execute("INSERT INTO kept VALUES (40, 'after it')").await.unwrap();
    let us = regions.connect("us").await.unwrap();
    eventually("us shows all", async || {
        let row =
            us.query_one("SELECT count(*) FROM kept", &[]).await.map_err(|e| e.to_string())?;
        match row.get::<_, i64>(0) {
            40 => Ok(()),
            rows => Err(format!("{rows} rows")),
        }
    })
    .await;
    assert_alike(&regions, &["kept"]).await;
}

/// The disk of eu's agent, in a mount namespace of its own that its process alone is in.
const DISK: &str = r#"#!/bin/sh
case "$*" in *"--region eu"*) ;; *) exec {binary} "$@" ;; esac
mkdir -p {data}
# Where no file system may be mounted, files are limited instead.
trap '' XFSZ
unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size=1m tmpfs "$1"' sh {data} ||
    exec {binary} "$@"
exec unshare --user --map-root-user --mount sh -c \
    'mount -t tmpfs -o size=24m tmpfs "$1"; touch "$1/small"; shift; exec "$@"' \
    sh {data} {binary} "$@"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_outlasted_and_nothing_that_was_acknowledged_is_lost() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 3)", 3);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    // Its agent must be back before that: a full disk is no outage.
    config.lease = std::time::Duration::from_secs(10);
    let folder = tempfile::tempdir().unwrap();
    let binary = config.binary.display().to_string();
    config.keep = Some(folder.path().join("lab"));
    config.binary = folder.path().join("domicile");
    let data = folder.path().join("lab/eu/agent");
    let script = DISK.replace("{binary}", &binary).replace("{data}", &data.display().to_string());
    std::fs::write(&config.binary, script).unwrap();
    for (path, mode) in [(folder.path(), 0o755), (&config.binary, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let disk = Disk { pid: regions.agent_pid("eu").unwrap(), data };
    write_everywhere(&regions, 1).await;

    let control = regions.connect("eu").await.unwrap();
    let writer = tokio::spawn(write_until_told(regions.postgres("eu")));
    eventually("the other one writes", async || {
        let sql = "SELECT FROM kept WHERE id BETWEEN 10000 AND 99999";
        let rows = control.query(sql, &[]).await.map_err(|e| e.to_string())?;
        if rows.is_empty() { Err("nothing yet".to_owned()) } else { Ok(()) }
    })
    .await;
    disk.fill(0);
    says(&regions, "eu", "log_full", true).await;
    // Others write on: one of them holds what the other writes.
    let us = regions.connect("us").await.unwrap();
    let sql = "UPDATE kept SET note = 'meanwhile' WHERE id = (SELECT min(id) FROM kept
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'us')";
    assert_eq!(us.execute(sql, &[]).await.unwrap(), 1);
    assert!(!writer.is_finished(), "nothing holds what is acknowledged");
    disk.free();
    says(&regions, "eu", "log_full", false).await;

    // Enough for small records, and not for a large transaction.
    disk.fill(2 << 20);
    let eu = regions.connect("eu").await.unwrap();
    let sql = "INSERT INTO kept SELECT id, string_agg(md5((id * 100 + i)::text), '')
               FROM generate_series(100000, 124000) id, generate_series(1, 32) i
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu' GROUP BY id";
    let large = tokio::spawn(async move { eu.execute(sql, &[]).await.unwrap() });
    says(&regions, "eu", "log_full", true).await;
    disk.free();
    assert!(large.await.unwrap() > 7000);
    says(&regions, "eu", "log_full", false).await;

    control.batch_execute("CREATE TABLE enough ()").await.unwrap();
    let acknowledged = writer.await.unwrap();
    settle(&regions, "last").await;
    assert_alike(&regions, &["kept"]).await;
    let shown: Vec<i32> = us
        .query("SELECT id FROM kept WHERE id BETWEEN 10000 AND 99999", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !shown.contains(id)).collect();
    assert!(
        acknowledged.len() > 1 && lost.is_empty(),
        "{} acknowledged, lost {lost:?}",
        acknowledged.len()
    );
    assert_eq!(regions.agent_pid("eu"), Some(disk.pid), "the agent lived through all of it");
}

/// What the agent of eu keeps its log on.
struct Disk {
    pid: u32,
    data: PathBuf,
}

impl Disk {
    /// As the agent sees it; nothing where its files are limited instead.
    fn seen(&self) -> Option<PathBuf> {
        let data = self.data.strip_prefix("/").unwrap();
        let seen = Path::new("/proc").join(self.pid.to_string()).join("root").join(data);
        seen.join("small").exists().then_some(seen)
    }

    /// Leaves so much room and no more.
    fn fill(&self, room: u64) {
        let Some(seen) = self.seen() else { return self.limit(&room.to_string()) };
        let filler = std::fs::File::create(seen.join("filler")).unwrap();
        let (mut at, piece) = (0, vec![1; 1 << 16]);
        for size in [1 << 16, 1 << 12, 1] {
            while let Ok(written) = filler.write_at(&piece[..size], at) {
                at += written as u64;
            }
        }
        filler.set_len(at - room).unwrap();
    }

    fn free(&self) {
        match self.seen() {
            Some(seen) => std::fs::remove_file(seen.join("filler")).unwrap(),
            None => self.limit("unlimited"),
        }
    }

    fn limit(&self, bytes: &str) {
        let pid = self.pid.to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        let status = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(status.unwrap().success());
    }
}

/// Commits row after row in eu until there is a table that says so; returns what was acknowledged.
async fn write_until_told(postgres: String) -> Vec<i32> {
    let (client, driver) = tokio_postgres::connect(&postgres, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(driver);
    let sql = "INSERT INTO kept SELECT $1, repeat('x', 1000)
               WHERE (domicile.entry(domicile.partition_of($1::int::text))).owner = 'eu'";
    let mut acknowledged = Vec::new();
    for id in 10_000_i32.. {
        if client.execute(sql, &[&id]).await.is_ok_and(|rows| rows == 1) {
            acknowledged.push(id);
        }
        let told = "SELECT to_regclass('enough') IS NOT NULL";
        if client.query_one(told, &[]).await.unwrap().get(0) {
            break;
        }
    }
    acknowledged
}

/// Waits until a region says so of itself, or does so no more.
async fn says(regions: &Regions, region: &str, state: &str, is: bool) {
    eventually(&format!("{region} says {state}: {is}"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        let said = status.conditions.iter().any(|c| c.name == state);
        if said == is { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await;
}

/// Every region writes what it owns, one commit each.
async fn write_everywhere(regions: &Regions, round: i32) {
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let sql = "SELECT id FROM generate_series($1 * 1000, $1 * 1000 + 200) id
                   WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $2";
        for row in client.query(sql, &[&round, &region]).await.unwrap() {
            let id: i32 = row.get(0);
            let sql = "INSERT INTO kept VALUES ($1, repeat('x', 100))";
            eventually("a write is accepted", async || {
                client.execute(sql, &[&id]).await.map_err(|e| format!("{e:?}"))
            })
            .await;
        }
    }
}

fn log_of_eu(regions: &Regions, holder: &str) -> PathBuf {
    regions.folder().join(holder).join("agent/log/eu-1")
}

/// Flips one bit in the middle of the fullest segment, so that sound records follow.
fn damage(folder: &Path) {
    damage_at(folder, |written| written / 2);
}

fn damage_at(folder: &Path, place: impl Fn(u64) -> u64) {
    let longest = fullest(folder);
    let place = place(written(&longest));
    let file = std::fs::File::options().read(true).write(true).open(&longest).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], place).unwrap();
}

fn fullest(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|e| e == "segment"));
    segments.max_by_key(|path| written(path)).unwrap()
}

/// How many bytes of a segment are written: zeros at its end may be room for more.
fn written(segment: &Path) -> u64 {
    let bytes = std::fs::read(segment).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last as u64 + 1)
}

fn set_aside(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names = entries.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    names.any(|name| !name.ends_with(".segment") && name.contains("segment"))
}

/// The log of "eu" as `holder` has it on disk. Its agent must not run.
async fn records(regions: &Regions, holder: &str) -> Vec<(Lsn, Vec<u8>)> {
    let data = regions.folder().join(holder).join("agent");
    let (logs, opened) = Logs::open(&data, LOG_SEGMENT_BYTES).unwrap();
    assert!(opened.iter().all(|(_, opened)| opened.state == LogState::Sound), "{holder}");
    let mut reader = logs.get(&"eu-1".parse().unwrap()).unwrap().read(Lsn::ZERO);
    let mut records = Vec::new();
    while let Some(frames) = reader.next_batch(1 << 20).await.unwrap() {
        records.extend(frames.iter().map(|frame| (frame.lsn, frame.payload.to_vec())));
    }
    records
}

async fn hostile_bytes_end_nothing(regions: &mut Regions) {
    let config = settings::load(regions.config_file("eu")).unwrap();
    let peer: SocketAddr = config.regions[0].peer_listen.parse().unwrap();
    let pid = regions.agent_pid("eu");
    let random: Vec<u8> =
        (0..40_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let huge_frame = [preface.clone(), vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
    let broken_frames = [preface.clone(), random.clone()].concat();
    // A first packet that promises 2 GiB, one shorter than itself, one with nothing but zeros.
    let huge_packet = vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0];
    let short_packet = vec![0, 0, 0, 1];
    let sent = [
        vec![],
        random,
        preface,
        huge_frame,
        broken_frames,
        huge_packet,
        short_packet,
        vec![0; 9000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    let mut half_open = Vec::new();
    for address in [peer, regions.gateway("eu")] {
        for bytes in &sent {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // It may be hung up on while it still talks.
            if let Err(error) = stream.write_all(bytes).await {
                assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
            }
            half_open.push(stream);
        }
    }
    // All of them stay open while others are served.
    regions.wait_until_ready().await.unwrap();
    let gateway = regions.gateway("eu");
    let address =
        format!("host={} port={} user=postgres dbname=postgres", gateway.ip(), gateway.port());
    let (client, driver) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(driver);
    client.query_one("SELECT count(*) FROM kept", &[]).await.unwrap();
    for mut stream in half_open {
        let _ = stream.shutdown().await;
        let mut answer = [0; 64];
        let _ = stream.try_read(&mut answer);
        drop(stream);
    }
    settle(regions, "after hostile bytes").await;
    assert_eq!(regions.agent_pid("eu"), pid);
}
