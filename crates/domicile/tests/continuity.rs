//! Is a slot that no longer follows on what was read told by name, whatever became of it, and is
//! nothing skipped silently?

use std::process::Command;
use std::time::Duration;

use domicile::directory::Client as Directory;
use domicile::directory::change::begin_incarnation;
use domicile::lab::cluster::{Cluster, ClusterConfig, PgBin};
use domicile::lab::regions::Regions;
use domicile::status::RegionStatus;
use domicile_core::continuity::RESEEDABLE;
use domicile_core::id::Origin;
use tokio_postgres::error::SqlState;

mod regions;
use regions::{assert_alike, config, eventually, settle, start};

const SEED_SQL: &str = "CREATE TABLE kept (id int PRIMARY KEY, note text)";
const TABLES: &str = "[[table]]\nname = \"kept\"\n";
const SLOT: &str = "domicile_lab";
const REGIONS: [&str; 3] = ["eu", "us", "ap"];

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_does_not_follow_on_what_was_read_is_told_and_nothing_is_skipped() {
    let mut config = config(&REGIONS, "hash(id, 3)", 3);
    config.rpo = "none".to_owned();
    config.lease = Duration::from_secs(5);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    write_everywhere(&regions, 1).await;
    settle(&regions, "first").await;

    another_cluster_behind_the_same_address(&mut regions).await;
    a_standby_that_has_everything_goes_on(&mut regions).await;
    a_standby_that_lacks_the_end_is_behind(&mut regions).await;
    write_everywhere(&regions, 2).await;
    settle(&regions, "as before").await;
    assert_alike(&regions, &["kept"]).await;

    dropped_and_made_again_by_hand(&mut regions).await;
    moved_by_hand(&mut regions).await;
    invalidated(&mut regions).await;
    what_a_local_failover_lost_is_applied_again(&mut regions).await;
    a_data_folder_that_is_lost(&mut regions).await;
    what_postgres_cannot_decode(&mut regions).await;
    who_compares_may_be_interrupted(&mut regions).await;
}

/// Commits wait for the capture that the slot is for, and a new slot for all that is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_made_again_though_commits_wait_for_it() {
    let mut config = config(&REGIONS[..2], "hash(id, 2)", 2);
    config.lease = Duration::from_secs(5);
    config.seed_sql =
        format!("{SEED_SQL}; CREATE TABLE setting (name text PRIMARY KEY, value int)");
    config.tables = format!("{TABLES}[[table]]\nname = \"setting\"\nkind = \"shared\"\n");
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    write_everywhere(&regions, 1).await;
    settle(&regions, "first").await;
    let client = regions.connect("eu").await.unwrap();
    eventually("the slot is dropped", async || {
        let sql = "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots
                   WHERE active_pid IS NOT NULL;
                   SELECT pg_drop_replication_slot('domicile_lab')";
        client.batch_execute(sql).await.map_err(|e| e.to_string())
    })
    .await;
    says(&regions, "eu", "slot_lost").await;

    // Every region writes these.
    let (stuck, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
    let sql = "INSERT INTO setting VALUES ('colour', 1)";
    let ended = tokio::time::timeout(regions::PATIENCE, stuck.batch_execute(sql)).await;
    assert!(ended.expect("it is not held for ever").is_err(), "nobody else has it");
    // What comes from elsewhere does not wait for its locks.
    us.batch_execute("INSERT INTO setting VALUES ('colour', 2)").await.unwrap();
    eventually("it is applied", async || {
        let sql = "SELECT value FROM setting WHERE name = 'colour'";
        match client.query_one(sql, &[]).await.map_err(|e| e.to_string())?.get::<_, i32>(0) {
            2 => Ok(()),
            value => Err(format!("{value}")),
        }
    })
    .await;
    let writes = (0..20).map(|i| {
        let regions = &regions;
        async move {
            let client = regions.connect("eu").await.unwrap();
            // Whether it was in time for the new slot is not said here.
            let _ = client.execute("INSERT INTO setting VALUES ($1, 1)", &[&i.to_string()]).await;
        }
    });
    let seeded = seed_again(&regions, "eu", 2);
    tokio::join!(seeded, futures_util::future::join_all(writes));
    regions.wait_until_ready().await.unwrap();
    is_compared(&regions, "eu").await;
    write_everywhere(&regions, 2).await;
    settle(&regions, "after").await;
    assert_alike(&regions, &["kept", "setting"]).await;

    // Nothing more comes of what was before: PostgreSQL has room for so many origins.
    eventually("the origin is forgotten", async || {
        let sql = "SELECT coalesce(string_agg(roname, ' ' ORDER BY roname), '') FROM pg_replication_origin
                   WHERE roname LIKE 'domicile\\_eu-%'";
        let row = us.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        match row.get::<_, &str>(0) {
            "domicile_eu-2" | "domicile_eu-2 domicile_eu-2/2" => Ok(()),
            names => Err(names.to_owned()),
        }
    })
    .await;
    write_everywhere(&regions, 3).await;
    settle(&regions, "without it").await;
    assert_alike(&regions, &["kept", "setting"]).await;
}

/// What was committed unseen is everywhere, and so is what comes after it.
async fn everything_is_alike(regions: &mut Regions, region: &str) {
    assert_alike(regions, &["kept"]).await;
    regions.wait_until_ready().await.unwrap();
    is_compared(regions, region).await;
    write_everywhere(regions, 8).await;
    settle(regions, &format!("after {region}")).await;
    assert_alike(regions, &["kept"]).await;
    assert_eq!(noted(regions, "eu", "round 8").await, 60);
    let client = regions.connect(region).await.unwrap();
    // What a repair replaced was behind its owner's.
    let sql = "SELECT coalesce(string_agg(journal::text, E'\n'), '') FROM domicile.journal
               WHERE conflict <> 'differed' OR current_setting('cluster_name') = 'eu'";
    let lost: String = client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(lost.is_empty(), "something lost in {region}: {lost}");
}

/// What was not captured is looked at until all regions are alike, whoever else looks.
async fn is_compared(regions: &Regions, region: &str) {
    eventually(&format!("{region} says nothing any more"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        if status.conditions.is_empty() { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await;
}

async fn noted(regions: &Regions, region: &str, note: &str) -> i64 {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT count(*) FROM kept WHERE note = $1";
    client.query_one(sql, &[&note]).await.unwrap().get(0)
}

/// What the operator does.
async fn seed_again(regions: &Regions, region: &str, incarnation: u32) {
    let (binary, file) = (regions.binary().to_owned(), regions.config_file(region).to_owned());
    let output = tokio::process::Command::new(binary)
        .args(["reseed", "--region", region, "--config"])
        .arg(file)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (errors, log) = (String::from_utf8_lossy(&output.stderr), regions.agent_log(region));
    assert!(output.status.success(), "{said}{errors}{}", std::fs::read_to_string(log).unwrap());
    let status = regions.status(region).await.unwrap();
    assert_eq!(status.origin, format!("{region}-{incarnation}"));
    assert!(!RESEEDABLE.into_iter().any(|state| has(&status, state)), "{:?}", status.conditions);
}

/// Nothing of ours is written there, and the right one goes on where it was.
async fn another_cluster_behind_the_same_address(regions: &mut Regions) {
    let port = regions
        .postgres("us")
        .split_whitespace()
        .find_map(|word| word.strip_prefix("port=").map(|port| port.parse().unwrap()));
    regions.kill_postgres("us");
    let mut other = Cluster::create(ClusterConfig {
        bin: PgBin::find(None).unwrap(),
        folder: regions.folder().join("other"),
        port: port.unwrap(),
        name: "other".to_owned(),
        settings: Vec::new(),
        wal_disk_bytes: None,
        environment: Vec::new(),
    })
    .await
    .unwrap();
    other.start().await.unwrap();
    says(regions, "us", "other_system").await;
    let client = other.connect().await.unwrap();
    let schemas = client.query("SELECT FROM pg_namespace WHERE nspname = 'domicile'", &[]).await;
    assert!(schemas.unwrap().is_empty(), "the other cluster is written to");
    drop(client);
    other.kill();
    regions.start_postgres("us").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    says_nothing(regions, "us").await;
}

async fn a_standby_that_has_everything_goes_on(regions: &mut Regions) {
    regions.kill_postgres("us");
    promote(regions).await;
    regions.wait_until_ready().await.unwrap();
    says_nothing(regions, "us").await;
    write_everywhere(regions, 3).await;
    settle(regions, "on timeline 2").await;
}

/// What the local failover lost is in our log: the positions after it are given out again.
async fn a_standby_that_lacks_the_end_is_behind(regions: &mut Regions) {
    regions.kill_postgres("us");
    copy(regions, "data", "behind");
    regions.start_postgres("us").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    write_everywhere(regions, 4).await;
    settle(regions, "what the standby lacks").await;
    let held = regions.status("us").await.unwrap().log_end;

    regions.kill_postgres("us");
    copy(regions, "data", "ahead");
    copy(regions, "behind", "data");
    promote(regions).await;
    let status = says(regions, "us", "timeline_behind").await;
    assert_eq!(status.log_end, held, "the positions of another history are not captured");

    regions.kill_postgres("us");
    copy(regions, "ahead", "data");
    regions.start_postgres("us").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    says_nothing(regions, "us").await;
}

/// What no person has to decide is not left to one, where the configuration says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_begins_anew_by_itself_where_its_server_has_everything() {
    let mut config = config(&REGIONS, "hash(id, 3)", 3);
    config.rpo = "none".to_owned();
    config.lease = Duration::from_secs(5);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = format!("[reseed]\nafter = \"1s\"\n{TABLES}");
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    write_everywhere(&regions, 1).await;
    settle(&regions, "first").await;

    write_unseen(&mut regions, "us").await;
    slot_is_lost_and_made_again(&mut regions, "us").await;
    is_compared(&regions, "us").await;
    assert!(noted(&regions, "eu", "round 6").await > 0, "us owns the rows");
    everything_is_alike(&mut regions, "us").await;

    // Its folder may be somewhere: that is for a person to say, and stays so while another region begins anew.
    write_unseen(&mut regions, "ap").await;
    let data = regions.folder().join("ap/agent");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    regions.start_agent("ap").unwrap();
    says(&regions, "ap", "slot_skipped").await;
    regions.kill_agent("eu");
    slot_is_lost_and_made_again(&mut regions, "eu").await;
    assert_eq!(says(&regions, "ap", "slot_skipped").await.origin, "ap-1");
    seed_again(&regions, "ap", 2).await;
    is_compared(&regions, "eu").await;
    everything_is_alike(&mut regions, "ap").await;
}

/// Nobody does anything. The agent does not run.
async fn slot_is_lost_and_made_again(regions: &mut Regions, region: &str) {
    drop_slot(&regions.connect(region).await.unwrap()).await;
    regions.start_agent(region).unwrap();
    eventually("it writes another incarnation", async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        let goes_on = status.origin == format!("{region}-2") && !has(&status, "slot_lost");
        if goes_on { Ok(()) } else { Err(format!("{} {:?}", status.origin, status.conditions)) }
    })
    .await;
}

async fn dropped_and_made_again_by_hand(regions: &mut Regions) {
    write_unseen(regions, "eu").await;
    let client = regions.connect("eu").await.unwrap();
    drop_slot(&client).await;
    regions.start_agent("eu").unwrap();
    stands_still(regions, "eu", "slot_lost").await;

    let made = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    client.execute(made, &[&SLOT]).await.unwrap();
    stands_still(regions, "eu", "slot_skipped").await;
    seed_again(regions, "eu", 2).await;
    everything_is_alike(regions, "eu").await;
}

async fn moved_by_hand(regions: &mut Regions) {
    write_unseen(regions, "us").await;
    let client = regions.connect("us").await.unwrap();
    eventually("the slot is moved", async || {
        let moved = "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())";
        client.execute(moved, &[&SLOT]).await.map_err(|e| e.to_string())
    })
    .await;
    regions.start_agent("us").unwrap();
    stands_still(regions, "us", "slot_skipped").await;
    seed_again(regions, "us", 2).await;
    everything_is_alike(regions, "us").await;
}

async fn invalidated(regions: &mut Regions) {
    write_unseen(regions, "ap").await;
    let client = regions.connect("ap").await.unwrap();
    for sql in ["ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'", "SELECT pg_reload_conf()"] {
        client.batch_execute(sql).await.unwrap();
    }
    eventually("the slot is invalidated", async || {
        for sql in
            ["SELECT pg_logical_emit_message(false, 'filling', 'x')", "SELECT pg_switch_wal()"]
        {
            client.batch_execute(sql).await.map_err(|e| e.to_string())?;
        }
        client.batch_execute("CHECKPOINT").await.map_err(|e| e.to_string())?;
        let sql = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1";
        let row = client.query_one(sql, &[&SLOT]).await.map_err(|e| e.to_string())?;
        match row.get::<_, Option<String>>(0).as_deref() {
            Some("lost") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    regions.start_agent("ap").unwrap();
    stands_still(regions, "ap", "slot_lost").await;
    seed_again(regions, "ap", 2).await;
    everything_is_alike(regions, "ap").await;
}

/// The other regions hold what this region's tables lost: it was acknowledged.
async fn what_a_local_failover_lost_is_applied_again(regions: &mut Regions) {
    regions.kill_postgres("us");
    copy(regions, "data", "behind");
    regions.start_postgres("us").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    write_everywhere(regions, 7).await;
    settle(regions, "lost here").await;
    regions.kill_postgres("us");
    copy(regions, "behind", "data");
    promote(regions).await;
    says(regions, "us", "timeline_behind").await;
    seed_again(regions, "us", 3).await;
    settle(regions, "applied again").await;
    assert_alike(regions, &["kept"]).await;
    assert_eq!(noted(regions, "us", "round 7").await, 60);
    everything_is_alike(regions, "us").await;
}

/// The database remembers that its slot was read, and by another incarnation than the first.
async fn a_data_folder_that_is_lost(regions: &mut Regions) {
    write_unseen(regions, "ap").await;
    let data = regions.folder().join("ap/agent");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    regions.start_agent("ap").unwrap();
    says(regions, "ap", "slot_skipped").await;
    seed_again(regions, "ap", 3).await;
    everything_is_alike(regions, "ap").await;
}

/// PostgreSQL looks for the publication where the change stands in its WAL: making it again is too
/// late. A row whose text is longer than a gigabyte ends the stream in the same way.
async fn what_postgres_cannot_decode(regions: &mut Regions) {
    let client = regions.connect("us").await.unwrap();
    let major = "SELECT current_setting('server_version_num')::int / 10000";
    let major: i32 = client.query_one(major, &[]).await.unwrap().get(0);
    client.batch_execute("DROP PUBLICATION domicile").await.unwrap();
    write(regions, "us", 6).await;
    if major >= 18 {
        // It passes over what no publication names.
        says(regions, "us", "changes_passed_over").await;
        let repaired = Command::new(regions.binary())
            .args(["verify", "--repair", "--config"])
            .arg(regions.config_file("us"))
            .output();
        assert!(repaired.as_ref().unwrap().status.success(), "{repaired:?}");
    } else {
        let status = says(regions, "us", "capture_fails").await;
        let told = &status.conditions[0].detail;
        assert!(told.contains("publication \"domicile\" does not exist"), "{told}");
        seed_again(regions, "us", 4).await;
    }
    everything_is_alike(regions, "us").await;
}

/// Nothing that was committed unseen is taken for wrong because nobody looked.
async fn who_compares_may_be_interrupted(regions: &mut Regions) {
    write_unseen(regions, "ap").await;
    drop_slot(&regions.connect("ap").await.unwrap()).await;
    regions.start_agent("ap").unwrap();
    let before = says(regions, "ap", "slot_lost").await.origin;
    // As "domicile reseed" does, before it compares.
    let directory = Directory::embedded(&regions.directory().to_string()).unwrap();
    let before: Origin = before.parse().unwrap();
    begin_incarnation(&directory, &before.region, before.incarnation).await.unwrap();
    eventually("it says how many rows differ", async || {
        let status = regions.status("ap").await.map_err(|e| e.to_string())?;
        let mut told = status.conditions.iter();
        match told.any(|c| c.name == "changes_passed_over" && c.detail.contains("rows differ")) {
            true => Ok(()),
            false => Err(format!("{:?}", status.conditions)),
        }
    })
    .await;
    let repaired = Command::new(regions.binary())
        .args(["verify", "--repair", "--config"])
        .arg(regions.config_file("ap"))
        .output();
    assert!(repaired.as_ref().unwrap().status.success(), "{repaired:?}");
    assert!(noted(regions, "eu", "round 6").await > 0, "ap owns the rows");
    everything_is_alike(regions, "ap").await;
}

/// Commits what no agent sees: the guard still admits it.
async fn write_unseen(regions: &mut Regions, region: &str) {
    write_everywhere(regions, 5).await;
    settle(regions, &format!("before {region}")).await;
    regions.kill_agent(region);
    write(regions, region, 6).await;
}

/// The region says so, ships nothing, owns nothing for long, and still applies.
async fn stands_still(regions: &Regions, region: &str, state: &str) {
    let status = says(regions, region, state).await;
    let origin = format!("{region}-1");
    let peer = REGIONS.into_iter().find(|other| *other != region).unwrap();
    let held = regions.status(peer).await.unwrap().flushed[&origin].clone();
    assert_eq!(status.log_end, held, "something behind the gap was captured");
    let client = regions.connect(region).await.unwrap();
    eventually("writes are refused", async || {
        let sql = "UPDATE kept SET note = 'never' WHERE id = (SELECT min(id) FROM kept
                   WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1)";
        match client.execute(sql, &[&region]).await {
            Err(refused) if refused.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // Made nowhere else: it can only have come from there.
    let text = format!("from {peer} while {region} says {state}");
    let client = regions.connect(peer).await.unwrap();
    let sql = "UPDATE kept SET note = $1 WHERE id = (SELECT min(id) FROM kept
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $2)";
    client.execute(sql, &[&text, &peer]).await.unwrap();
    let client = regions.connect(region).await.unwrap();
    eventually("others' changes are still applied", async || {
        let sql = "SELECT FROM kept WHERE note = $1";
        let rows = client.query(sql, &[&text]).await.map_err(|e| e.to_string())?;
        if rows.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(regions.status(region).await.unwrap().log_end, held);
}

async fn drop_slot(client: &tokio_postgres::Client) {
    eventually("the slot is dropped", async || {
        let sql = "SELECT pg_drop_replication_slot($1)";
        client.execute(sql, &[&SLOT]).await.map_err(|e| e.to_string())
    })
    .await;
}

async fn write_everywhere(regions: &Regions, round: i32) {
    for region in regions.names() {
        if regions.status(region).await.unwrap().conditions.is_empty() {
            write(regions, region, round).await;
        }
    }
}

/// Writes some rows that this region owns, one commit each.
async fn write(regions: &Regions, region: &str, round: i32) {
    let client = regions.connect(region).await.unwrap();
    let sql = "INSERT INTO kept SELECT id, 'round ' || $1::text FROM generate_series(1, 60) id
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $2
               ON CONFLICT (id) DO UPDATE SET note = excluded.note";
    eventually("rows are written", async || {
        client.execute(sql, &[&round.to_string(), &region]).await.map_err(|e| format!("{e:?}"))
    })
    .await;
}

async fn says(regions: &Regions, region: &str, state: &str) -> RegionStatus {
    eventually(&format!("{region} says {state}"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        if has(&status, state) { Ok(status) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await
}

async fn says_nothing(regions: &Regions, region: &str) {
    let status = regions.status(region).await.unwrap();
    assert!(status.conditions.is_empty(), "{:?}", status.conditions);
}

fn has(status: &RegionStatus, state: &str) -> bool {
    status.conditions.iter().any(|condition| condition.name == state)
}

/// Starts the PostgreSQL of "us" as the standby it is a copy of, and promotes it.
async fn promote(regions: &mut Regions) {
    let data = regions.folder().join("us/postgres/data");
    shell(&format!("cp -a {0}/PG_VERSION {0}/standby.signal", data.display()));
    regions.start_postgres("us").await.unwrap();
    let client = regions.connect("us").await.unwrap();
    client.execute("SELECT pg_promote()", &[]).await.unwrap();
}

/// Replaces one folder of the PostgreSQL of "us" by a copy of another.
fn copy(regions: &Regions, from: &str, to: &str) {
    let folder = regions.folder().join("us/postgres");
    let (from, to) = (folder.join(from), folder.join(to));
    shell(&format!("rm -rf {1} && cp -a {0} {1}", from.display(), to.display()));
}

fn shell(command: &str) {
    assert!(Command::new("/bin/sh").args(["-c", command]).status().unwrap().success(), "{command}");
}
