//! Do load balancers that ask the agents lead clients to where they can write and read?

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use domicile::lab::cluster::free_port;
use domicile::lab::guarded::Guarded;
use domicile::lab::regions::Regions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{CONSOLE, config, eventually, start, tell_console};

const SEED: &str = "CREATE TABLE note (id int PRIMARY KEY)";
const EXAMPLE: &str = include_str!("../../../docs/operating/haproxy.cfg");

/// The first of three regions owns everything.
async fn world() -> Regions {
    let mut config = config(&["eu", "us", "ap"], "whole", 1);
    config.seed_sql = SEED.to_owned();
    config.tables = "[[table]]\nname = \"note\"\n".to_owned();
    config.gateway = CONSOLE.to_owned();
    config.automatic_failover = true;
    config.suspect_after = Duration::from_secs(2);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions
}

/// The status line and the body.
async fn ask(address: SocketAddr, method: &str, path: &str) -> Result<(u16, String), String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = asked.await.map_err(|error| error.to_string())?;
    let code = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    code.zip(body).ok_or(answer)
}

async fn answers(regions: &Regions, region: &str, path: &str, code: u16) {
    eventually(&format!("{region} answers {path} with {code}"), async || {
        match ask(regions.health(region), "GET", path).await? {
            (found, _) if found == code => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_leads_to_the_primary_and_to_replicas_whoever_that_is() {
    let mut regions = world().await;
    what_is_asked_is_answered(&regions).await;
    nobody_is_sent_to_who_is_drained(&regions).await;

    let (write, read) = (free_port(), free_port());
    let file = regions.folder().join("haproxy.cfg");
    std::fs::write(&file, example(&regions, write, read)).unwrap();
    let mut haproxy = Command::new(haproxy());
    haproxy.arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let _haproxy = Guarded::spawn(&mut haproxy).unwrap();
    writes(write, 1).await;
    eventually("reads are led to a region that follows", async || {
        let at = led(read, "SELECT current_setting('port')").await?;
        let owner = regions.connect("eu").await.map_err(|e| e.to_string())?;
        let row = owner.query_one("SELECT current_setting('port')", &[]).await;
        let owners: String = row.map_err(|e| e.to_string())?.get(0);
        if at == owners { Err("it is the owner's".to_owned()) } else { Ok(()) }
    })
    .await;

    regions.kill_region("eu");
    writes(write, 2).await;
    let owners = ["us", "ap"].map(|region| ask(regions.health(region), "HEAD", "/"));
    let [us, ap] = owners;
    let codes = [us.await.unwrap().0, ap.await.unwrap().0];
    assert!(codes == [200, 503] || codes == [503, 200], "{codes:?}");
    let follower = if codes[0] == 200 { "ap" } else { "us" };
    answers(&regions, follower, "/replica?lag=10s", 200).await;
}

async fn what_is_asked_is_answered(regions: &Regions) {
    let asked: [(&str, u16, u16); 10] = [
        ("/", 200, 503),
        ("/primary", 200, 503),
        ("/read-write?partition=0", 200, 503),
        ("/replica", 503, 200),
        ("/replica?lag=10s", 503, 200),
        ("/read-only?lag=16MB", 200, 200),
        ("/health", 200, 200),
        ("/readiness", 200, 200),
        ("/liveness", 200, 200),
        ("/replica?lag=far", 400, 400),
    ];
    for (path, owner, follower) in asked {
        answers(regions, "eu", path, owner).await;
        answers(regions, "us", path, follower).await;
    }
    let eu = regions.health("eu");
    assert_eq!(ask(eu, "OPTIONS", "/primary").await.unwrap().0, 200);
    assert_eq!(ask(eu, "DELETE", "/primary").await.unwrap().0, 405);
    assert_eq!(ask(eu, "GET", "/read-write?partition=1").await.unwrap().0, 400);
    assert_eq!(ask(eu, "GET", "/nothing").await.unwrap().0, 404);
    let (_, why) = ask(regions.health("us"), "GET", "/primary").await.unwrap();
    assert!(why.contains("other regions own partitions"), "{why}");
    let mut nonsense = TcpStream::connect(eu).await.unwrap();
    nonsense.write_all(&[0xff; 512]).await.unwrap();
    answers(regions, "eu", "/liveness", 200).await;
}

async fn nobody_is_sent_to_who_is_drained(regions: &Regions) {
    for region in ["eu", "us"] {
        tell_console(regions, region, "DRAIN").await;
    }
    let asked = [
        ("/readiness", 503, 503),
        ("/read-only", 503, 503),
        ("/replica", 503, 503),
        ("/primary", 200, 503),
        ("/health", 200, 200),
    ];
    for (path, owner, follower) in asked {
        answers(regions, "eu", path, owner).await;
        answers(regions, "us", path, follower).await;
    }
    let (_, why) = ask(regions.health("us"), "GET", "/replica").await.unwrap();
    assert!(why.contains("the region is drained"), "{why}");
    for region in ["eu", "us"] {
        tell_console(regions, region, "UNDRAIN").await;
        answers(regions, region, "/readiness", 200).await;
    }
}

/// The example of the documentation, with addresses of this machine.
fn example(regions: &Regions, write: u16, read: u16) -> String {
    let mut text =
        EXAMPLE.replace(":5000", &format!(":{write}")).replace(":5001", &format!(":{read}"));
    let places = [("eu", "10.0.1.5"), ("us", "10.1.1.5"), ("ap", "10.2.1.5")];
    for (region, address) in places {
        let postgres: tokio_postgres::Config = regions.postgres(region).parse().unwrap();
        let (port, health) = (postgres.get_ports()[0], regions.health(region));
        let written = format!("{address}:5432 check addr {address} port 7405");
        assert_eq!(text.matches(&written).count(), 2, "{text}");
        let ours = format!("127.0.0.1:{port} check addr {} port {}", health.ip(), health.port());
        text = text.replace(&written, &ours);
    }
    text
}

fn haproxy() -> PathBuf {
    if let Some(named) = std::env::var_os("DOMICILE_HAPROXY") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut found = folders.map(|folder| folder.join("haproxy")).filter(|file| file.is_file());
    found.next().expect("HAProxy is installed by scripts/setup")
}

async fn writes(port: u16, id: i32) {
    eventually("a client that comes to HAProxy writes", async || {
        led(port, &format!("INSERT INTO note VALUES ({id}) RETURNING id::text")).await
    })
    .await;
}

/// What a new session through HAProxy is told.
async fn led(port: u16, sql: &str) -> Result<String, String> {
    let address = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let told = async {
        let (client, driver) = tokio_postgres::connect(&address, NoTls).await?;
        tokio::spawn(driver);
        let answer = client.simple_query(sql).await?;
        let rows = answer.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Result::<_, tokio_postgres::Error>::Ok(rows.last().unwrap_or_default())
    };
    let told = tokio::time::timeout(Duration::from_secs(5), told).await;
    told.map_err(|late| late.to_string())?.map_err(|error| format!("{error:?}"))
}
