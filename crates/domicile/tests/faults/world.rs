//! What is there when a fault strikes, and what must hold when it is over?

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domicile::directory::Client as Directory;
use domicile::directory::documents::{OWNERSHIP_KEY, lift_ownership};
use domicile::lab::regions::Regions;
use domicile::log::{LOG_SEGMENT_BYTES, Logs};
use domicile_core::id::{Epoch, PartitionId, RegionId};
use domicile_core::lsn::Cut;
use domicile_core::ownership::{Ownership, State, Verdict};
use domicile_core::record;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::history::{Access, Fate, History};
use super::measured::{Felt, Measured};
use super::regions::{PATIENCE, assert_alike, config, converge, eventually, start};
use super::statements::{BRANCHES, glance, numbers};
use super::writers::{By, Reader, Writer, connect};

pub const NAMES: [&str; 3] = ["eu", "us", "ap"];
const PARTITIONS: u32 = 12;
/// Long, so that only what a test does to a region is an outage.
pub const LEASE: Duration = Duration::from_secs(5);
const SUSPECT_AFTER: Duration = Duration::from_millis(3500);

const SEED: &str = "
    CREATE ROLE app LOGIN;
    CREATE TABLE branch (branch int PRIMARY KEY, ops bigint NOT NULL, last bigint);
    INSERT INTO branch SELECT b, 0 FROM generate_series(1, 60) b;
    CREATE TABLE op (branch int, id bigint, PRIMARY KEY (branch, id));
    CREATE TABLE account (branch int, side int, balance bigint NOT NULL, PRIMARY KEY (branch, side));
    INSERT INTO account SELECT b, side, 0 FROM generate_series(1, 60) b, generate_series(1, 2) side;
    CREATE TABLE list (branch int, chapter int, ids bigint[] NOT NULL, PRIMARY KEY (branch, chapter));
    CREATE TABLE payment (branch int, id int, reference text, PRIMARY KEY (branch, id),
                          UNIQUE (branch, reference));
    -- No region's but its own: holds a transaction up behind the guard's last check.
    CREATE TABLE held_up (id int);
    CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER hold_up AFTER INSERT ON held_up
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold_up();
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;";
const TABLES: [&str; 5] = ["account", "branch", "list", "op", "payment"];

/// Partition and epoch: whose it was, and where it ended.
type Epochs = BTreeMap<(u32, Epoch), (RegionId, Option<Cut>)>;

pub struct World {
    pub regions: Regions,
    pub writers: Vec<Writer>,
    _readers: [Reader; 3],
    history: Arc<Mutex<History>>,
    epochs: Epochs,
    /// How many changes each region has journaled as beyond a cut.
    tails: BTreeMap<&'static str, i64>,
    began: Instant,
    pub measured: Measured,
}

/// A partition's owner, if it has one, and its epoch.
pub type Owners = Vec<(Option<String>, u64)>;

impl World {
    /// `name` keeps the files of worlds apart, where they are kept.
    pub async fn start(name: &str) -> Self {
        let mut config = config(&NAMES, "hash(branch, 12)", PARTITIONS);
        config.keep = config.keep.map(|folder| folder.join(name));
        config.seed_sql = SEED.to_owned();
        config.tables = TABLES.map(|name| format!("[[table]]\nname = \"{name}\"\n")).concat();
        config.automatic_failover = true;
        config.lease = LEASE;
        config.suspect_after = SUSPECT_AFTER;
        let mut regions = Regions::create(config).await.unwrap();
        start(&mut regions).await;
        let history: Arc<Mutex<History>> = Arc::default();
        let mut writers = Vec::new();
        for (region, number) in NAMES.into_iter().zip((1..).step_by(2)) {
            for (by, number) in [(By::Gateway, number), (By::Direct, number + 1)] {
                let history = history.clone();
                writers.push(Writer::start(&regions, region, by, number, history));
            }
        }
        let _readers = NAMES.map(|region| Reader::start(&regions, region, history.clone()));
        let (epochs, tails, began) = (Epochs::new(), BTreeMap::new(), Instant::now());
        let measured = Measured::new();
        let world = Self { regions, writers, _readers, history, epochs, tails, began, measured };
        world.all_go_on("at the start").await;
        world
    }

    /// As the directory has it.
    pub async fn ownership(&self) -> Result<Ownership, String> {
        let directory = Directory::embedded(&self.regions.directory().to_string());
        let read = directory.map_err(|e| e.to_string())?.get(OWNERSHIP_KEY).await;
        let document = read.map_err(|e| e.to_string())?.ok_or("there is no ownership")?;
        lift_ownership("lab", &document.value).map_err(|e| e.to_string())
    }

    pub async fn owners(&self) -> Owners {
        eventually("the owners are read", async || {
            let ownership = self.ownership().await?;
            Ok(owners_of(&ownership))
        })
        .await
    }

    /// A branch that this region owns, and its partition.
    pub async fn branch_of(&self, region: &str) -> (i32, u32) {
        let owners = self.owners().await;
        let client = self.regions.connect(NAMES[0]).await.unwrap();
        let sql = "SELECT branch, domicile.partition_of(branch::text) FROM branch ORDER BY 2, 1";
        let rows = client.query(sql, &[]).await.unwrap();
        let branches = rows.iter().map(|row| (row.get(0), row.get::<_, i32>(1) as u32));
        let owner = |partition: u32| owners[partition as usize].0.as_deref();
        let mut owned = branches.filter(|(_, partition)| owner(*partition) == Some(region));
        owned.next().unwrap_or_else(|| panic!("{region} owns nothing: {owners:?}"))
    }

    /// A session at a region's PostgreSQL, past its gateway.
    pub async fn client(&self, region: &str) -> Client {
        self.regions.connect(region).await.unwrap()
    }

    pub fn writer(&self, region: &str, by: By) -> &Writer {
        let mut writers = self.writers.iter();
        writers.find(|writer| writer.region == region && writer.by == by).unwrap()
    }

    pub async fn all_go_on(&self, when: &str) {
        for writer in &self.writers {
            writer.goes_on(when).await;
        }
    }

    /// Everybody writes all that time.
    pub async fn go_on_for(&self, long: Duration, when: &str) {
        let begun = Instant::now();
        while begun.elapsed() < long {
            self.all_go_on(when).await;
        }
    }

    /// Whoever comes to the gateways of other regions writes everything.
    pub async fn others_go_on(&self, but: &[&str], when: &str) {
        for writer in &self.writers {
            if writer.by == By::Gateway && !but.contains(&writer.region) {
                writer.goes_on(when).await;
            }
        }
    }

    /// Waits until a client that comes to a region's gateway now can write every branch.
    pub async fn new_sessions_write_everything(&self, region: &str) {
        let gateway = self.regions.gateway(region);
        let address =
            format!("host={} port={} user=app dbname=postgres", gateway.ip(), gateway.port());
        for branch in 1..=BRANCHES {
            eventually(&format!("branch {branch} is written at {region}"), async || {
                let client = connect(&address).await.map_err(|e| e.to_string())?;
                let sql = format!("UPDATE branch SET ops = ops WHERE branch = {branch}");
                let written = tokio::time::timeout(PATIENCE, client.batch_execute(&sql)).await;
                written.map_err(|e| e.to_string())?.map_err(|e| format!("{e:?}"))
            })
            .await;
        }
    }

    /// Waits until others own all that `region` owned.
    pub async fn is_taken_over(&self, region: &str) {
        eventually(&format!("others own what {region} owned"), async || {
            let owners = owners_of(&self.ownership().await?);
            let over = |owner: &Option<String>| owner.as_ref().is_some_and(|o| o != region);
            match owners.iter().all(|(owner, _)| over(owner)) {
                true => Ok(()),
                false => Err(format!("{owners:?}")),
            }
        })
        .await;
    }

    /// Waits until PostgreSQL of a region refuses to write what it owned, and returns why.
    pub async fn refuses(&self, client: &Client, branch: i32) -> tokio_postgres::Error {
        // A row of its own: others may be locked by commits that nobody confirms.
        let sql = format!("BEGIN; INSERT INTO payment VALUES ({branch}, -1); ROLLBACK");
        eventually("PostgreSQL refuses", async || {
            let tried = client.batch_execute(&sql).await;
            let _ = client.batch_execute("ROLLBACK").await;
            match tried {
                Err(error) if super::writers::is_refusal(&error) => Ok(error),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Waits until a refusal of a region's PostgreSQL names this region as the owner.
    pub async fn refuses_in_favour_of(&self, client: &Client, branch: i32, owner: &str) {
        eventually(&format!("PostgreSQL says that {owner} owns branch {branch}"), async || {
            let error = self.refuses(client, branch).await;
            let detail = error.as_db_error().and_then(|error| error.detail()).unwrap_or_default();
            let wanted = format!("Owner region: {owner},");
            if detail.starts_with(&wanted) { Ok(()) } else { Err(detail.to_owned()) }
        })
        .await;
    }

    /// Waits until a region's journal has what somebody wrote past a cut.
    pub async fn is_journaled(&self, region: &str, reference: &str) {
        let client = self.regions.connect(region).await.unwrap();
        eventually(&format!("'{reference}' is in the journal of {region}"), async || {
            let sql = "SELECT count(*) FROM domicile.journal
                       WHERE conflict = 'beyond_cut' AND new ->> 'reference' = $1";
            let row = client.query_one(sql, &[&reference]).await.map_err(|e| e.to_string())?;
            match row.get::<_, i64>(0) {
                1 => Ok(()),
                count => Err(format!("{count} entries")),
            }
        })
        .await;
    }

    /// Waits until a region's lease is silent for others, or is heard again, and probes say so.
    pub async fn is_probed(&self, by: &str, region: &str, probe: &str) {
        eventually(&format!("the probe of {region} by {by} is '{probe}'"), async || {
            let status = self.regions.status(by).await.map_err(|e| e.to_string())?;
            let seen = status.peers.iter().find(|peer| peer.region == region);
            match seen.is_some_and(|peer| peer.probe == probe) {
                true => Ok(()),
                false => Err(format!("{seen:?}")),
            }
        })
        .await;
    }

    /// Waits until a region is not relied on any more, by what another one says of it.
    pub async fn is_on_probation(&self, by: &str, region: &str) {
        eventually(&format!("{region} is on probation for {by}"), async || {
            let status = self.regions.status(by).await.map_err(|e| e.to_string())?;
            let seen = status.peers.iter().find(|peer| peer.region == region);
            match seen.is_some_and(|peer| peer.probation_ms > 0) {
                true => Ok(()),
                false => Err(format!("{seen:?}")),
            }
        })
        .await;
    }

    /// Waits until a region says this of itself.
    pub async fn says(&self, region: &str, state: &str) {
        eventually(&format!("{region} says {state}"), async || {
            let status = self.regions.status(region).await.map_err(|e| e.to_string())?;
            if status.says(state) { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
    }

    /// Waits until a region says it no more.
    pub async fn says_no_more(&self, region: &str, state: &str) {
        eventually(&format!("{region} says {state} no more"), async || {
            let status = self.regions.status(region).await.map_err(|e| e.to_string())?;
            if status.says(state) { Err(format!("{:?}", status.conditions)) } else { Ok(()) }
        })
        .await;
    }

    pub async fn no_payment(&self, reference: &str) {
        for region in NAMES {
            let client = self.regions.connect(region).await.unwrap();
            let sql = "SELECT FROM payment WHERE reference = $1";
            let rows = client.query(sql, &[&reference]).await.unwrap();
            assert!(rows.is_empty(), "{region} shows '{reference}'");
        }
    }

    /// Waits until the directory has a hand-over of this partition.
    pub async fn is_handing_over(&self, partition: u32) {
        eventually(&format!("partition {partition} is being handed over"), async || {
            let ownership = self.ownership().await?;
            match ownership.entry(PartitionId(partition)).map(|entry| &entry.state) {
                Some(State::HandingOver { .. }) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments, NAMES[0]).output().unwrap()
    }

    /// Starts a command and leaves it alone.
    pub fn begin(&self, arguments: &[&str], region: &str) -> Child {
        let mut command = self.command(arguments, region);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn command(&self, arguments: &[&str], region: &str) -> Command {
        let mut command = Command::new(self.regions.binary());
        command.args(arguments).arg("--config").arg(self.regions.config_file(region));
        command
    }

    /// Gives every region a third of the partitions again.
    pub async fn deal_out(&mut self) {
        self.regions.wait_until_ready().await.unwrap();
        for (region, first) in NAMES.into_iter().zip((0..).step_by(4)) {
            eventually(&format!("{region} owns its third again"), async || {
                let owners = owners_of(&self.ownership().await?);
                let lacks = |at: &usize| owners[*at].0.as_deref() != Some(region);
                let Some(from) = (first..first + 4).find(lacks) else { return Ok(()) };
                let to = (from..first + 4).take_while(lacks).last().unwrap_or(from);
                // Refused while it lacks something, or while another run is at it.
                let range = format!("{from}-{to}");
                let moved = self.run(&["switchover", "--partitions", &range, "--to", region]);
                let refused = String::from_utf8_lossy(&moved.stderr);
                Err(format!("{refused}{}", self.plight(region).await))
            })
            .await;
        }
        self.regions.wait_until_ready().await.unwrap();
    }

    /// What a region says of itself, and what its PostgreSQL is busy with.
    async fn plight(&self, region: &str) -> String {
        let said = match self.regions.status(region).await {
            Ok(status) => format!("{:#?} {:#?}", status.conditions, status.peers),
            Err(error) => error.to_string(),
        };
        let Ok(client) = self.regions.connect(region).await else { return said };
        let sql = "SELECT application_name || ' ' || state || ' ' || concat(wait_event, ' ', pg_blocking_pids(pid))
                          || ' ' || left(query, 200)
                   FROM pg_stat_activity WHERE application_name LIKE 'domicile%'
                   UNION ALL SELECT progress::text FROM domicile.progress
                   UNION ALL SELECT repair::text FROM domicile.repair";
        match client.query(sql, &[]).await {
            Ok(rows) => rows.iter().fold(said, |said, row| {
                format!("{said}\n{}", row.get::<_, Option<&str>>(0).unwrap_or_default())
            }),
            Err(error) => format!("{said} {error}"),
        }
    }

    /// Has everything come to rest, and looks at what must hold. `fault` is the name of the function that
    /// tried it, in words.
    pub async fn holds(&mut self, fault: &str) {
        self.deal_out().await;
        self.all_go_on(&format!("after {fault}")).await;
        self.measure(fault);
        for writer in &self.writers {
            writer.rest().await;
        }
        let ownership = self.ownership().await.unwrap();
        self.epochs_hold(&ownership);
        converge(&self.regions).await;
        self.is_alike().await;
        for region in NAMES {
            self.writes_hold(region, fault).await;
        }
        self.reads_hold(fault).await;
        self.writers.iter().for_each(Writer::go_on);
        println!("{:>5} s  {fault}", self.began.elapsed().as_secs());
    }

    /// When, where and with what all this is measured.
    pub async fn circumstances(&self) -> String {
        let client = self.client(NAMES[0]).await;
        let sql =
            "SELECT current_date::text, split_part(current_setting('server_version'), ' ', 1)";
        let row = client.query_one(sql, &[]).await.unwrap();
        let (date, version): (String, String) = (row.get(0), row.get(1));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let build = if cfg!(debug_assertions) { "a debug build" } else { "an optimised build" };
        format!(
            "{date}, PostgreSQL {version}, {cores} cores, {build}; a lease lasts {LEASE:?}, and a region is \
             suspected after {SUSPECT_AFTER:?}"
        )
    }

    fn measure(&mut self, fault: &str) {
        let (fates, pause) = {
            let history = self.history.lock().unwrap();
            (history.fates.clone(), history.longest_pause())
        };
        let before = |of: fn(&Felt) -> u64| self.measured.values().map(of).sum::<u64>();
        let count = |wanted| fates.values().filter(|fate| **fate == wanted).count() as u64;
        let felt = Felt {
            pause_ms: pause.as_millis() as u64,
            acknowledged: count(Fate::Acknowledged) - before(|felt| felt.acknowledged),
            refused: count(Fate::Refused) - before(|felt| felt.refused),
            // One that is under way counts as unknown for now.
            unknown: count(Fate::Unknown).saturating_sub(before(|felt| felt.unknown)),
        };
        self.measured.insert(fault.replace(' ', "_"), felt);
    }

    /// Each epoch is one region's for ever, ends in one place, and follows on the one before.
    fn epochs_hold(&mut self, ownership: &Ownership) {
        let mut found = Epochs::new();
        for entry in ownership.entries() {
            for partition in entry.range.first..=entry.range.last {
                for closed in &entry.closed {
                    let (by, cut) = (closed.by.clone(), Some(closed.cut.clone()));
                    assert_eq!(closed.cut.origin.region, by, "{entry:?}");
                    found.insert((partition, closed.epoch), (by, cut));
                }
                let State::Owned { by } = &entry.state else { panic!("at rest: {entry:?}") };
                let twice = found.insert((partition, entry.epoch), (by.clone(), None));
                assert_eq!(twice, None, "{entry:?}");
                let epochs = found.range((partition, Epoch(0))..=(partition, entry.epoch));
                assert_eq!(epochs.count() as u64, entry.epoch.0, "one is missing: {entry:?}");
            }
        }
        for (at, (by, cut)) in &self.epochs {
            let (now, ends) = &found[at];
            assert_eq!(now, by, "partition {} at epoch {} was given to two", at.0, at.1.0);
            assert!(cut.is_none() || ends == cut, "partition {} ends elsewhere", at.0);
        }
        self.epochs = found;
    }

    /// Repairs may still be on their way when the logs are applied.
    async fn is_alike(&self) {
        let rows = TABLES.map(|table| format!("SELECT whole::text FROM {table} whole"));
        let sums = format!(
            "SELECT coalesce(sum(hashtextextended(row_, 0)::numeric), 0)::text FROM ({}) rows_ (row_)",
            rows.join(" UNION ALL ")
        );
        let mut clients = Vec::new();
        for region in NAMES {
            clients.push(self.regions.connect(region).await.unwrap());
        }
        eventually("all regions are alike", async || {
            let mut seen = Vec::new();
            for client in &clients {
                let row = client.query_one(&sums, &[]).await.map_err(|e| e.to_string())?;
                seen.push(row.get::<_, String>(0));
            }
            if seen.iter().all(|sum| *sum == seen[0]) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
        assert_alike(&self.regions, &TABLES).await;
    }

    async fn writes_hold(&self, region: &str, fault: &str) {
        let client = self.regions.connect(region).await.unwrap();
        let shown = client.query("SELECT id FROM op", &[]).await.unwrap();
        let shown: Vec<i64> = shown.iter().map(|row| row.get(0)).collect();
        let fates = self.history.lock().unwrap().fates.clone();
        let mut owed = fates.clone();
        owed.retain(|_, fate| *fate == Fate::Acknowledged);
        for id in shown {
            let fate = fates.get(&id);
            let possible = matches!(fate, Some(Fate::Acknowledged | Fate::Unknown));
            assert!(possible, "after {fault} {region} shows {id}, which was {fate:?}");
            owed.remove(&id);
        }
        assert!(owed.is_empty(), "after {fault} {region} lost what was acknowledged: {owed:?}");
        let sql = "SELECT branch FROM branch LEFT JOIN op USING (branch)
                   GROUP BY branch.branch HAVING ops <> count(id)";
        let wrong = client.query(sql, &[]).await.unwrap();
        assert!(wrong.is_empty(), "after {fault} {region} counts {} branches wrongly", wrong.len());
    }

    /// What was read since the last fault, and what every region shows now that all is at rest.
    async fn reads_hold(&mut self, fault: &str) {
        let mut repaired = BTreeSet::new();
        let chapter = self.history.lock().unwrap().chapter;
        let branches: Vec<i32> = (1..=BRANCHES).collect();
        for region in NAMES {
            let client = self.regions.connect(region).await.unwrap();
            let sql = "SELECT count(*) FROM domicile.journal WHERE conflict = 'beyond_cut'";
            let tails = client.query_one(sql, &[]).await.unwrap().get(0);
            if self.tails.insert(region, tails).unwrap_or(0) != tails {
                repaired.insert(region);
            }
            let shown = client.query(&glance(chapter, &branches), &[]).await.unwrap();
            let lists = branches.iter().zip(&shown);
            let reads = lists
                .map(|(branch, row)| Access::Read { branch: *branch, ids: numbers(row.get(0)) });
            let reads: Vec<Access> = reads.collect();
            let mut history = self.history.lock().unwrap();
            let process = history.process();
            history.begin(process, region, reads.clone());
            history.end(process, region, Fate::Acknowledged, reads);
        }
        let mut history = self.history.lock().unwrap();
        if let Err(anomaly) = history.check(&repaired) {
            panic!("after {fault}, with tails of {repaired:?} repaired: {anomaly}");
        }
        history.turn_over();
    }

    /// Every log holds of each origin what that region was the owner for, or lies beyond a cut.
    pub async fn end(&mut self) {
        for writer in &self.writers {
            writer.rest().await;
        }
        let ownership = self.ownership().await.unwrap();
        let mut within: BTreeMap<(PartitionId, Epoch), String> = BTreeMap::new();
        for region in NAMES {
            self.regions.kill_agent(region);
            let folder = self.regions.folder().join(region).join("agent");
            let (logs, _) = Logs::open(&folder, LOG_SEGMENT_BYTES).unwrap();
            for (origin, log) in logs.all() {
                let mut reader = log.read(log.trimmed());
                while let Some(frames) = reader.next_batch(1 << 20).await.unwrap() {
                    for frame in frames {
                        let head = record::decode_head(&frame.payload).unwrap();
                        for stamp in &head.stamps {
                            match ownership.verdict(&origin, frame.lsn, *stamp) {
                                Verdict::InHistory => {}
                                Verdict::BeyondCut(_) => continue,
                                wrong => panic!("{origin} at {}: {stamp:?}: {wrong:?}", frame.lsn),
                            }
                            let by = within.entry((stamp.partition, stamp.epoch));
                            let by = by.or_insert_with(|| origin.to_string());
                            assert_eq!(*by, origin.to_string(), "two origins wrote {stamp:?}");
                        }
                    }
                }
            }
        }
        assert!(within.len() >= PARTITIONS as usize, "{} epochs were written in", within.len());
        let history = self.history.lock().unwrap();
        let count = |wanted| history.fates.values().filter(|fate| **fate == wanted).count();
        println!(
            "{} acknowledged, {} refused, {} unknown; {} epochs",
            count(Fate::Acknowledged),
            count(Fate::Refused),
            count(Fate::Unknown),
            self.epochs.len()
        );
    }
}

/// Waits for what was asked for on the side.
pub async fn comes_to_an_end<T>(task: JoinHandle<T>) -> T {
    let ended = tokio::time::timeout(PATIENCE, task).await;
    ended.expect("it comes to an end").unwrap()
}

/// Waits until a command has ended, and returns whether it says that all is well.
pub async fn succeeds(command: Child) -> bool {
    exit_code(command).await == 0
}

/// Waits until a command has ended, and returns how.
pub async fn exit_code(mut command: Child) -> i32 {
    let ended = tokio::task::spawn_blocking(move || command.wait().unwrap().code());
    comes_to_an_end(ended).await.expect("no signal ended it")
}

pub fn owners_of(ownership: &Ownership) -> Owners {
    let partitions = (0..ownership.total()).map(PartitionId);
    let entries = partitions.filter_map(|partition| ownership.entry(partition));
    entries.map(|entry| (entry.owner().map(ToString::to_string), entry.epoch.0)).collect()
}
