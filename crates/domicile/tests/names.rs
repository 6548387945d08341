//! Do names lead to the regions that own something, and to nobody else; and is nothing else answered?

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use domicile::lab::regions::{Regions, RegionsConfig};
use hickory_server::proto::op::{Message, MessageType, OpCode, Query};
use hickory_server::proto::rr::{Name, RecordType};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{CONSOLE, config, eventually, start, tell_console};

const EU: &str = "192.0.2.1";
const US: &str = "192.0.2.2";
const AP: &str = "192.0.2.3";

/// Three regions of which each owns a third; they fail over by themselves.
fn world_of_names() -> RegionsConfig {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 9)", 9);
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    config.automatic_failover = true;
    config.suspect_after = Duration::from_secs(2);
    config.zone = Some("db.example".to_owned());
    config.gateway = CONSOLE.to_owned();
    config
}

async fn world() -> Regions {
    let mut regions = Regions::create(world_of_names()).await.unwrap();
    start(&mut regions).await;
    regions
}

fn dig(server: SocketAddr, arguments: &str) -> String {
    let mut command = Command::new("dig");
    command.arg(format!("@{}", server.ip())).arg("-p").arg(server.port().to_string());
    command.args(["+tries=1", "+timeout=5", "+norecurse"]).args(arguments.split(' '));
    let output = command.output().expect("dig is installed by scripts/setup");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The addresses that a name leads to, in order.
fn addresses(server: SocketAddr, name: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        dig(server, &format!("+short {name} A")).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

async fn leads_to(server: SocketAddr, name: &str, expected: &[&str]) {
    eventually(&format!("{name} leads to {expected:?}"), async || {
        let found = addresses(server, name);
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_lead_to_who_owns_something_and_is_up() {
    let mut regions = world().await;
    let (us, ap) = (regions.dns("us"), regions.dns("ap"));
    for region in ["eu", "us", "ap"] {
        leads_to(regions.dns(region), "db.example", &[EU, US, AP]).await;
    }
    nothing_else_is_answered(us);
    what_is_no_question_harms_nobody(us).await;
    beyond_the_rate_there_is_only_tcp(ap).await;

    tell_console(&regions, "eu", "DRAIN").await;
    for region in ["eu", "us"] {
        leads_to(regions.dns(region), "db.example", &[US, AP]).await;
    }
    assert_eq!(addresses(us, "eu.db.example"), [EU], "whoever asks for it by name finds it");
    tell_console(&regions, "eu", "UNDRAIN").await;
    for region in ["eu", "us"] {
        leads_to(regions.dns(region), "db.example", &[EU, US, AP]).await;
    }

    regions.kill_region("eu");
    leads_to(us, "db.example", &[US, AP]).await;
    leads_to(us, "eu.db.example", &[EU]).await;
    eventually("others own what eu owned", async || {
        let status = regions.status("us").await.map_err(|e| e.to_string())?;
        let ap = regions.status("ap").await.map_err(|e| e.to_string())?;
        let owned = [status.owns.len(), ap.owns.len()];
        if owned.iter().sum::<usize>() >= 3 { Ok(()) } else { Err(format!("{owned:?}")) }
    })
    .await;
    regions.start_region("eu").await.unwrap();
    eventually("eu answers again, and leads to others", async || {
        let found = addresses(regions.dns("eu"), "db.example");
        if found == [US, AP] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(addresses(us, "db.example"), [US, AP], "it is back and owns nothing");
}

fn nothing_else_is_answered(server: SocketAddr) {
    let says = |arguments: &str, expected: &[&str]| {
        let answer = dig(server, arguments);
        for part in expected {
            assert!(answer.contains(part), "{arguments} lacks {part:?}: {answer}");
        }
        answer
    };
    for way in ["+tcp", "+notcp", "+noedns", "+subnet=198.51.100.0/24"] {
        let answer = says(&format!("{way} DB.eXample A"), &["status: NOERROR", "flags: qr aa;"]);
        assert!([EU, US, AP].iter().all(|address| answer.contains(address)), "{answer}");
    }
    says("db.example SOA", &["flags: qr aa;", "ns-eu.db.example. hostmaster.db.example."]);
    let servers = says("+short db.example NS", &["ns-eu.db.example.", "ns-us.db.example."]);
    assert_eq!(servers.lines().count(), 3, "{servers}");
    says("+short ns-us.db.example A", &[US]);
    // How long there is nothing may be kept, too.
    says("db.example AAAA", &["status: NOERROR", "ANSWER: 0", "SOA"]);
    says("nobody.db.example A", &["status: NXDOMAIN", "SOA"]);
    says("deep.eu.db.example A", &["status: NXDOMAIN"]);
    for refused in ["example A", "example.org A", "db.example ANY", "-c CH version.bind TXT"] {
        says(refused, &["status: REFUSED", "ANSWER: 0"]);
    }
    says("db.example AXFR", &["Transfer failed"]);
    says("+edns=1 +noednsneg db.example A", &["status: BADVERS", "EDNS: version: 0", "ANSWER: 0"]);
    says("+bufsize=600 db.example A", &["status: NOERROR", "udp: 600"]);
    says("+opcode=update db.example SOA", &["status: NOTIMP"]);
}

async fn what_is_no_question_harms_nobody(server: SocketAddr) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut tcp = TcpStream::connect(server).await.unwrap();
    for length in [0, 1, 11, 12, 13, 512, 4096] {
        udp.send_to(&vec![0xff; length], server).await.unwrap();
        let _ = tcp.write_all(&vec![0xff; length]).await;
    }
    leads_to(server, "+tcp eu.db.example", &[EU]).await;
    leads_to(server, "eu.db.example", &[EU]).await;
}

/// Whoever asks in somebody else's name sends him nothing that is larger than the question.
async fn beyond_the_rate_there_is_only_tcp(server: SocketAddr) {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii("db.example.").unwrap(), RecordType::A));
    let question = question.to_vec().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    eventually("an answer is cut short", async || {
        for _ in 0..50 {
            udp.send_to(&question, server).await.map_err(|e| e.to_string())?;
            let mut answer = vec![0; 2048];
            let heard = tokio::time::timeout(Duration::from_secs(1), udp.recv(&mut answer)).await;
            let length = heard.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            let answer = Message::from_vec(&answer[..length]).map_err(|e| e.to_string())?;
            if answer.metadata.truncation {
                assert!(answer.answers.is_empty() && length <= question.len(), "{length}");
                return Ok(());
            }
        }
        Err("fifty were answered in full".to_owned())
    })
    .await;
    leads_to(server, "+tcp db.example", &[EU, US, AP]).await;
    // And in the next second in full again.
    leads_to(server, "+ignore db.example", &[EU, US, AP]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_led_to_their_region_and_others_by_capacity() {
    let mut regions = Regions::create(world_of_names()).await.unwrap();
    for region in ["eu", "us", "ap"] {
        let file = regions.config_file(region);
        let text = std::fs::read_to_string(file).unwrap();
        let text = text.replace("[dns]\n", "[dns]\nanswer = \"one\"\n");
        let text = [(EU, "10.0.0.0/8", 1000), (US, "10.1.0.0/16", 2000), (AP, "10.2.0.0/16", 5000)]
            .into_iter()
            .fold(text, |text, (address, clients, capacity)| {
                let given = format!("addresses = \"{address}\"\n");
                let more = format!("{given}clients = \"{clients}\"\ncapacity = {capacity}\n");
                text.replace(&given, &more)
            });
        std::fs::write(file, text).unwrap();
    }
    start(&mut regions).await;
    let us = regions.dns("us");
    let led = |subnet: &str| addresses(us, &format!("+subnet={subnet} db.example"));
    assert_eq!(led("10.1.2.0/24"), [US]);
    assert_eq!(led("10.200.0.0/16"), [EU]);
    let said = dig(us, "+subnet=10.1.2.0/24 db.example A");
    assert!(said.contains("CLIENT-SUBNET: 10.1.2.0/24/24"), "as far as it was looked at: {said}");
    let said = dig(us, "+subnet=0.0.0.0/0 db.example A");
    assert!(said.contains("CLIENT-SUBNET: 0.0.0.0/0/0"), "nobody is told of: {said}");

    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..80 {
        let found = led("192.0.2.0/24");
        assert_eq!(found.len(), 1, "{found:?}");
        *counts.entry(found[0].clone()).or_insert(0) += 1;
    }
    for (address, share) in [(EU, 10), (US, 20), (AP, 50)] {
        let count = counts.get(address).copied().unwrap_or_default();
        assert!((share - 2..=share + 2).contains(&count), "{counts:?}");
    }

    regions.kill_region("us");
    eventually("clients of a region that is gone are led to another", async || {
        let found = addresses(regions.dns("ap"), "+subnet=10.1.2.0/24 db.example");
        if found == [EU] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}
