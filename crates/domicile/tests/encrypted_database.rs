//! Does all that regions do go on where PostgreSQL takes nobody in the clear, with whom it is for certain?

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::Regions;
use domicile::tls::authority::{CA, Holder, issue};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;

use regions::{assert_alike, config, converge, eventually};

const NAMES: [&str; 3] = ["eu", "us", "ap"];
/// The password of `teller` is "pin", and every region keeps the same of it.
const SEED: &str = "CREATE TABLE item (id int PRIMARY KEY);
    CREATE ROLE keeper SUPERUSER LOGIN PASSWORD 'of the house';
    CREATE ROLE teller LOGIN PASSWORD 'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
             r9A37nZJRAUKZljsV2abYE96Lo0BNj4NthaF8wwOWFM=:\
             apWHHPUi2xAD11jnv15Frbp47T7NBO5pLX736FgLaS8=';
    GRANT ALL ON item TO teller;";
/// The lab looks in past it; agents, gateways and clients do not.
const RULES: &str = "host all postgres 127.0.0.1/32 trust
hostssl all all 127.0.0.1/32 scram-sha-256
";

/// Regions that are not started, the authority of their databases, and the file with whom agents believe.
struct World {
    regions: Regions,
    pki: TempDir,
}

impl World {
    /// Agents log in as `login` says. They believe nobody yet.
    async fn new(login: &str, gateways_encrypt: bool, sharing: &str) -> Self {
        let pki = tempfile::tempdir().unwrap();
        let mut config = config(&NAMES, "whole", 1);
        config.seed_sql = SEED.to_owned();
        config.tables = "[[table]]\nname = \"item\"\n".to_owned();
        config.automatic_failover = true;
        config.tls = gateways_encrypt;
        config.gateway = format!("sharing = \"{sharing}\"\n");
        config.login = format!(
            "user=keeper password='of the house' sslrootcert={} {login}",
            pki.path().join("believed.pem").display()
        );
        let regions = Regions::create(config).await.unwrap();
        let world = Self { regions, pki };
        let shown = world.issued("databases");
        for region in NAMES {
            world.show(region, &shown).await;
            let client = world.regions.connect(region).await.unwrap();
            client.batch_execute("ALTER SYSTEM SET fsync = off").await.unwrap();
            client.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
            fs::write(world.data(region).join("pg_hba.conf"), RULES).unwrap();
            client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        }
        world
    }

    /// Returns a certificate of an authority of this name, without its ending.
    fn issued(&self, authority: &str) -> PathBuf {
        let folder = self.pki.path().join(authority);
        let holder = Holder { name: "db".to_owned(), hosts: vec!["127.0.0.1".to_owned()] };
        issue(&folder, authority, &[holder], 90).unwrap();
        folder.join("db")
    }

    /// Has agents believe these.
    fn believe(&self, authorities: &[&Path]) {
        let all = authorities.iter().map(|file| fs::read_to_string(file).unwrap());
        let beside = self.pki.path().join("next.pem");
        fs::write(&beside, all.collect::<String>()).unwrap();
        fs::rename(&beside, self.pki.path().join("believed.pem")).unwrap();
    }

    fn data(&self, region: &str) -> PathBuf {
        self.regions.folder().join(region).join("postgres/data")
    }

    /// Has PostgreSQL show this certificate from now on.
    async fn show(&self, region: &str, shown: &Path) {
        let data = self.data(region);
        let owner = fs::metadata(&data).unwrap();
        for (from, to) in [("key", "server.key"), ("pem", "server.crt")] {
            let to = data.join(to);
            fs::copy(shown.with_extension(from), &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let client = self.regions.connect(region).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }

    fn start(&mut self) {
        self.regions.start_directory().unwrap();
        for region in NAMES {
            self.regions.start_agent(region).unwrap();
        }
    }

    /// No session of the agents is one that others can read along with.
    async fn all_is_dark(&self) {
        for region in NAMES {
            let client = self.regions.connect(region).await.unwrap();
            let sql = "SELECT count(*) FILTER (WHERE NOT ssl), count(*) FILTER (WHERE ssl),
                              count(*) FILTER (WHERE backend_type = 'walsender')
                       FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename = 'keeper'";
            let row = client.query_one(sql, &[]).await.unwrap();
            let (clear, dark, senders): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            assert!(clear == 0 && dark > senders && senders > 0, "{clear} {dark} {senders}");
        }
    }
}

fn psql(gateway: SocketAddr, tls: &str, sql: &str) -> Output {
    let (host, port) = (gateway.ip(), gateway.port());
    let address = format!("host={host} port={port} user=teller password=pin dbname=postgres {tls}");
    let mut psql = Command::new(PgBin::find(None).unwrap().program("psql"));
    psql.args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose", "-c", sql, &address]).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).trim().to_owned()
}

fn domicile(regions: &Regions, arguments: &[&str]) -> String {
    let mut command = Command::new(regions.binary());
    told(&command.arg("--config").arg(regions.config_file("eu")).args(arguments).output().unwrap())
}

/// A client writes through its gateway, with its own password and PostgreSQL's SCRAM.
async fn write(gateway: SocketAddr, tls: &str, id: i32) {
    eventually(&format!("row {id} is written"), async || {
        let output = psql(gateway, tls, &format!("INSERT INTO item VALUES ({id})"));
        if output.status.success() { Ok(()) } else { Err(told(&output)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_replicate_and_fail_over_where_postgresql_takes_nobody_in_the_clear() {
    let mut world = World::new("channel_binding=require", false, "none").await;
    let others = world.issued("others").with_file_name(CA);
    let databases = world.pki.path().join("databases").join(CA);

    // Whom nobody vouches for is not spoken with, and that is said; it is over when somebody does.
    world.believe(&[&others]);
    world.start();
    for region in NAMES {
        eventually("the agent says why it has no PostgreSQL", async || {
            let status = world.regions.status(region).await.map_err(|e| e.to_string())?;
            let why = "invalid peer certificate: UnknownIssuer";
            let said = |state: &&domicile::status::Condition| {
                state.name == "postgres_unreachable" && state.detail.contains(why)
            };
            match status.conditions.iter().find(said) {
                Some(_) => Ok(()),
                None => Err(format!("{:?}", status.conditions)),
            }
        })
        .await;
    }
    let checked = domicile(&world.regions, &["check", "--json"]);
    assert!(checked.contains("unreachable") && checked.contains("UnknownIssuer"), "{checked}");
    world.believe(&[&databases]);
    world.regions.wait_until_ready().await.unwrap();
    world.all_is_dark().await;
    let checked = domicile(&world.regions, &["check", "--json"]);
    assert!(!checked.contains("\"blocker\""), "{checked}");

    let regions = &mut world.regions;
    for (id, region) in NAMES.iter().enumerate() {
        write(regions.gateway(region), "sslmode=disable", id as i32).await;
    }
    a_statement_is_cancelled_through_a_gateway(regions.gateway("us")).await;
    converge(regions).await;
    assert_alike(regions, &["item"]).await;

    let mut owner = "";
    for region in NAMES {
        if !regions.status(region).await.unwrap().owns.is_empty() {
            owner = region;
        }
    }
    let survivor = *NAMES.iter().find(|name| **name != owner).unwrap();
    let session = log_in(regions.gateway(survivor)).await;
    let insert = session.prepare("INSERT INTO item VALUES ($1)").await.unwrap();
    session.execute(&insert, &[&98]).await.unwrap();
    regions.kill_region(owner);
    write(regions.gateway(survivor), "sslmode=disable", 100).await;
    // Its new server asks it for its password.
    session.execute(&insert, &[&99]).await.unwrap();
    regions.start_region(owner).await.unwrap();
    regions.wait_until_ready().await.unwrap();
    write(regions.gateway(owner), "sslmode=disable", 101).await;
    converge(regions).await;
    assert_alike(regions, &["item"]).await;
    world.all_is_dark().await;
}

async fn log_in(gateway: SocketAddr) -> Client {
    let address = format!(
        "host={} port={} user=teller password=pin dbname=postgres",
        gateway.ip(),
        gateway.port()
    );
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn a_statement_is_cancelled_through_a_gateway(gateway: SocketAddr) {
    let client = log_in(gateway).await;
    let cancel = client.cancel_token();
    let sleeping = client.batch_execute("SELECT pg_sleep(600)");
    let cancelling = async {
        loop {
            // It has an effect only once the statement has begun.
            cancel.cancel_query(NoTls).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = tokio::select! {
        ended = sleeping => ended,
        () = cancelling => unreachable!("it goes on for ever"),
        () = tokio::time::sleep(regions::PATIENCE) => panic!("nobody cancelled it"),
    };
    assert_eq!(ended.unwrap_err().code().map(|code| code.code()), Some("57014"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_bound_through_a_gateway_only_where_it_shows_what_postgresql_shows() {
    is_bound_only_to_what_postgresql_shows("none").await;
}

/// Who logs in like somebody else is let in without PostgreSQL, which alone can bind a login.
#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_where_clients_share_servers() {
    is_bound_only_to_what_postgresql_shows("transaction").await;
}

/// What a client is shown is what it can bind its login to, and PostgreSQL accepts only its own.
async fn is_bound_only_to_what_postgresql_shows(sharing: &str) {
    let mut world = World::new("sslmode=verify-full", true, sharing).await;
    let gateways = world.regions.folder().join("certificates");
    let databases = world.pki.path().join("databases").join(CA);
    world.believe(&[&databases, &gateways.join(CA)]);
    for region in NAMES {
        world.show(region, &gateways.join(region)).await;
    }
    world.start();
    world.regions.wait_until_ready().await.unwrap();
    let mut owner = "";
    for region in NAMES {
        if !world.regions.status(region).await.unwrap().owns.is_empty() {
            owner = region;
        }
    }
    let gateway = world.regions.gateway(owner);
    let verified = format!("sslmode=verify-ca sslrootcert={}", gateways.join(CA).display());
    let asked = |binding: &str| {
        told(&psql(gateway, &format!("{verified} channel_binding={binding}"), "SELECT 'in'"))
    };
    for binding in ["require", "prefer", "disable", "require"] {
        assert_eq!(asked(binding), "in", "{binding}");
    }
    let clear = told(&psql(gateway, "sslmode=disable", "SELECT 'in'"));
    assert_eq!(clear, "in");

    let other = world.pki.path().join("databases/db");
    world.show(owner, &other).await;
    eventually("the login is bound to nothing any more", async || match asked("require") {
        said if said.contains("channel binding is required") => Ok(()),
        said => Err(said),
    })
    .await;
    let refused = asked("prefer");
    let (why, way_out) = ("PostgreSQL's is another one", "channel_binding=disable");
    assert!(refused.contains(why) && refused.contains(way_out), "{refused}");
    assert_eq!(asked("disable"), "in");
    assert_eq!(told(&psql(gateway, "sslmode=disable", "SELECT 'in'")), "in");
    // From another region the way leads through two gateways.
    let far = NAMES.iter().find(|name| **name != owner).unwrap();
    let far = world.regions.gateway(far);
    write(far, &format!("{verified} channel_binding=disable"), 7).await;
    converge(&world.regions).await;
    assert_alike(&world.regions, &["item"]).await;
}
