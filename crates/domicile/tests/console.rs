//! Does the console of a real agent tell what the region knows, and does an operator get a restart out of it that no
//! application notices? And does nobody who connects notice that an agent is started anew?

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig};
use tokio::net::TcpStream;
use tokio::process::Command;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{CONSOLE, PATIENCE, config, eventually, start};

const CLIENTS: u32 = 4;
const TRANSACTIONS: u32 = 300;
const TABLES: &str = "
[[table]]
name = \"pgbench_branches\"

[[table]]
name = \"pgbench_tellers\"

[[table]]
name = \"pgbench_accounts\"

[[table]]
name = \"pgbench_history\"
kind = \"local\"
";

fn world_of_two() -> RegionsConfig {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.tables = TABLES.to_owned();
    config.gateway = CONSOLE.to_owned();
    config
}

/// Two regions, of which `eu` owns everything, with the tables of pgbench.
async fn world(config: RegionsConfig) -> Regions {
    let regions = Regions::create(config).await.unwrap();
    for region in regions.names() {
        let mut pgbench = program("pgbench");
        pgbench.args(["--initialize", "--quiet"]).arg(regions.postgres(region));
        // Before there is an agent nobody could confirm a commit.
        run(pgbench.env("PGOPTIONS", "-c synchronous_commit=local")).await;
    }
    regions
}

fn program(name: &str) -> Command {
    Command::new(PgBin::find(None).unwrap().program(name))
}

/// What a program says that succeeds.
async fn run(command: &mut Command) -> String {
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn at_gateway(regions: &Regions, region: &str, database: &str) -> String {
    let address = regions.gateway(region);
    format!("host={} port={} user=postgres dbname={database}", address.ip(), address.port())
}

/// What psql shows for a command of the console.
async fn console(regions: &Regions, region: &str, command: &str) -> String {
    let mut psql = program("psql");
    psql.args(["-X", "-c", command]).arg(at_gateway(regions, region, "domicile"));
    run(&mut psql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_starts_postgres_anew_under_pgbench_and_pgbench_does_not_notice() {
    let mut regions = world(world_of_two()).await;
    start(&mut regions).await;
    let mut pgbench = program("pgbench");
    pgbench.args(["--no-vacuum", "--client", &CLIENTS.to_string()]);
    pgbench.args(["--transactions", &TRANSACTIONS.to_string()]);
    pgbench.arg(at_gateway(&regions, "eu", "postgres"));
    let pgbench = pgbench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let done = async |regions: &Regions| {
        let client = regions.connect("eu").await.map_err(|error| error.to_string())?;
        let row = client.query_one("SELECT count(*) FROM pgbench_history", &[]).await;
        Ok::<i64, String>(row.map_err(|error| error.to_string())?.get(0))
    };
    eventually("pgbench works", async || match done(&regions).await? {
        0..100 => Err("hardly".to_owned()),
        _ => Ok(()),
    })
    .await;

    console(&regions, "eu", "PAUSE;").await;
    let before = done(&regions).await.unwrap();
    assert!(before < i64::from(CLIENTS * TRANSACTIONS), "pgbench has ended before the pause");
    let clients = console(&regions, "eu", "SHOW CLIENTS;").await;
    assert_eq!(clients.matches("| paused |").count(), CLIENTS as usize, "{clients}");
    regions.kill_postgres("eu");
    regions.start_postgres("eu").await.unwrap();
    assert_eq!(done(&regions).await.unwrap(), before, "nothing ran in the pause");
    console(&regions, "eu", "RESUME;").await;

    let output = pgbench.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(done(&regions).await.unwrap(), i64::from(CLIENTS * TRANSACTIONS), "{said}");
    what_is_known_is_shown(&regions).await;
}

async fn what_is_known_is_shown(regions: &Regions) {
    let partitions = console(regions, "us", "SHOW PARTITIONS;").await;
    assert!(partitions.contains("owned by region \"eu\""), "{partitions}");
    eventually("us shows what eu has committed", async || {
        let lag = console(regions, "eu", "SHOW LAG;").await;
        let line =
            lag.lines().find(|line| line.trim_start().starts_with("us ")).unwrap_or_default();
        let lag_bytes = line.split('|').nth(4).unwrap_or_default().trim();
        if lag_bytes == "0" { Ok(()) } else { Err(lag) }
    })
    .await;
}

/// As systemd does for the service of a socket unit, the socket is held here and handed to each agent.
#[tokio::test(flavor = "multi_thread")]
async fn who_connects_while_an_agent_is_started_anew_waits_and_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = world_of_two();
    let (binary, manager) = (config.binary.clone(), folder.path().join("manager"));
    config.binary = manager.clone();
    let mut regions = world(config).await;
    let gateway = regions.gateway("eu");
    // A copy made like this is inherited by whoever is started.
    let held = nix::unistd::dup(std::net::TcpListener::bind(gateway).unwrap()).unwrap();
    let script = format!(
        "#!/bin/bash\n[[ $* != *--region\\ eu* ]] || {{ exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; }}\n\
         exec {} \"$@\"\n",
        held.as_raw_fd(),
        binary.display()
    );
    std::fs::write(&manager, script).unwrap();
    std::fs::set_permissions(&manager, std::fs::Permissions::from_mode(0o755)).unwrap();
    start(&mut regions).await;
    served(TcpStream::connect(gateway).await.unwrap()).await;
    for _ in 0..2 {
        regions.kill_agent("eu");
        let waits = TcpStream::connect(gateway).await.unwrap();
        regions.start_agent("eu").unwrap();
        served(waits).await;
    }
}

async fn served(stream: TcpStream) {
    let login: tokio_postgres::Config = "user=postgres dbname=postgres".parse().unwrap();
    let served = async {
        let (client, driver) = login.connect_raw(stream, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(driver);
        client.batch_execute("SELECT 1").await.unwrap();
    };
    tokio::time::timeout(PATIENCE, served).await.expect("served");
}
