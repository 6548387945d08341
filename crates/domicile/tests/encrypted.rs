//! Do regions that speak in TLS do everything that others do, and nothing for a stranger?

use std::fs;
use std::path::Path;
use std::process::Command;

use domicile::lab::regions::Regions;
use domicile::tls::authority::{Holder, issue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;

use regions::{assert_alike, config, converge, eventually, start};

const SEED: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";
const NAMES: [&str; 3] = ["eu", "us", "ap"];

async fn encrypted() -> Regions {
    let mut config = config(&NAMES, "whole", 1);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.automatic_failover = true;
    config.tls = true;
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions
}

/// F42: everybody's certificates, and then the authority, are exchanged while a region is lost.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_their_authority_change_during_a_failover() {
    let mut regions = encrypted().await;
    let folder = regions.folder().join("certificates");
    write(&regions, "eu", 1).await;
    commands_reach_everybody(&regions);
    strangers_learn_nothing(&regions).await;

    let next = regions.folder().join("next");
    regions.kill_region("eu");
    renew(&next);
    let both = [fs::read(folder.join("ca.pem")).unwrap(), fs::read(next.join("ca.pem")).unwrap()];
    replace(&folder.join("ca.pem"), &both.concat());
    // Whoever connects from here on shows the next authority's, and is believed.
    for name in NAMES.into_iter().chain(["directory", "operator"]) {
        for ending in ["key", "pem"] {
            let file = format!("{name}.{ending}");
            replace(&folder.join(&file), &fs::read(next.join(&file)).unwrap());
        }
    }
    regions.kill_directory();
    regions.start_directory().unwrap();
    regions.kill_agent("us");
    regions.start_agent("us").unwrap();
    eventually("a survivor owns everything", async || {
        for region in ["us", "ap"] {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            if !status.owns.is_empty() && status.lease_live {
                return Ok(());
            }
        }
        Err("nobody does".to_owned())
    })
    .await;
    replace(&folder.join("ca.pem"), &both[1]);
    regions.start_region("eu").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    commands_reach_everybody(&regions);
    let owner = owner(&regions).await;
    write(&regions, owner, 2).await;
    converge(&regions).await;
    assert_alike(&regions, &["item"]).await;
}

/// What is wrong with a region's files is told by its name, and the old ones hold.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_certificate_is_told() {
    let mut regions = encrypted().await;
    let folder = regions.folder().join("certificates");
    let sound = fs::read(folder.join("us.pem")).unwrap();
    replace(&folder.join("us.pem"), b"no certificate");
    says(&regions, "us", "certificate_unusable").await;
    regions.links().isolate("us");
    eventually("ap has lost us", async || {
        let status = regions.status("ap").await.map_err(|e| e.to_string())?;
        let us = status.peers.iter().find(|peer| peer.region == "us");
        if us.is_some_and(|us| !us.connected) { Ok(()) } else { Err(format!("{us:?}")) }
    })
    .await;
    regions.links().rejoin("us");
    regions.wait_until_ready().await.unwrap();
    replace(&folder.join("us.pem"), &sound);
    silent(&regions, "us").await;

    let soon = [Holder { name: "us".to_owned(), hosts: vec!["127.0.0.1".to_owned()] }];
    issue(&folder, "lab", &soon, 20).unwrap();
    says(&regions, "us", "certificate_ends").await;
    issue(&folder, "lab", &soon, 365).unwrap();
    silent(&regions, "us").await;
}

fn renew(folder: &Path) {
    let names = NAMES.into_iter().chain(["directory", "operator"]);
    let hosts = vec!["127.0.0.1".to_owned()];
    let holders: Vec<Holder> =
        names.map(|name| Holder { name: name.to_owned(), hosts: hosts.clone() }).collect();
    assert!(issue(folder, "lab", &holders, 365).unwrap());
}

/// In one step, as whoever renews certificates does it.
fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("beside");
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, path).unwrap();
}

fn commands_reach_everybody(regions: &Regions) {
    for region in NAMES {
        let mut status = Command::new(regions.binary());
        status.args(["status", "--json", "--config"]).arg(regions.config_file(region));
        let output = status.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
        assert!(NAMES.iter().all(|name| told.contains(&format!("\"{name}\""))), "{told}");
    }
}

/// Neither the agents nor the directory answer in the clear.
async fn strangers_learn_nothing(regions: &Regions) {
    let mut places = vec![regions.directory()];
    places.extend(NAMES.map(|region| regions.peer(region)));
    for place in places {
        let mut stranger = TcpStream::connect(place).await.unwrap();
        stranger.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut answer = Vec::new();
        // It may be told why before it is cut off.
        let _ = stranger.read_to_end(&mut answer).await;
        assert!(answer.len() < 20, "{} bytes: {answer:?}", answer.len());
    }
}

async fn write(regions: &Regions, region: &str, id: i32) {
    eventually(&format!("{region} writes row {id}"), async || {
        let client = regions.connect(region).await.map_err(|e| e.to_string())?;
        let written = client.execute("INSERT INTO item VALUES ($1)", &[&id]).await;
        written.map(drop).map_err(|e| format!("{e:?}"))
    })
    .await;
}

async fn owner(regions: &Regions) -> &'static str {
    for region in NAMES {
        if !regions.status(region).await.unwrap().owns.is_empty() {
            return region;
        }
    }
    panic!("nobody owns anything");
}

async fn says(regions: &Regions, region: &str, state: &str) {
    eventually(&format!("{region} says {state}"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        if status.says(state) { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await;
}

async fn silent(regions: &Regions, region: &str) {
    eventually(&format!("{region} says nothing any more"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        match status.conditions.is_empty() {
            true => Ok(()),
            false => Err(format!("{:?}", status.conditions)),
        }
    })
    .await;
}
