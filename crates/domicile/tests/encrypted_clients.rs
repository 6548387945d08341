//! Do clients of a gateway get encryption, is nobody served without it where it is wanted, and do gateways
//! know each other by their certificates?

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::Regions;
use domicile::tls::authority::{Holder, issue};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{PATIENCE, config, eventually, start};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

async fn world(partition: &str, partitions: u32, require_tls: bool) -> Regions {
    let mut config = config(&["eu", "us", "ap"], partition, partitions);
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    (config.tls, config.require_tls) = (true, require_tls);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions
}

fn authority(regions: &Regions) -> PathBuf {
    regions.folder().join("certificates/ca.pem")
}

fn psql(gateway: SocketAddr, tls: &str, sql: &str) -> Output {
    let address = format!(
        "host={} port={} user=postgres dbname=postgres {tls}",
        gateway.ip(),
        gateway.port()
    );
    let mut psql = Command::new(PgBin::find(None).unwrap().program("psql"));
    psql.args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose", "-c", sql, &address]).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// A session, or what somebody says instead of beginning one.
async fn encrypted(
    gateway: SocketAddr,
    authority: &Path,
    at_once: bool,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let mut stream = TcpStream::connect(gateway).await?;
    if at_once {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    } else {
        stream.write_all(&SSL_REQUEST).await?;
        assert_eq!(stream.read_u8().await?, b'S');
    }
    let name = ServerName::from(gateway.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn startup(more: &str) -> Vec<u8> {
    let parameters = format!("user\0postgres\0database\0postgres\0{more}\0");
    let length = parameters.len() as u32 + 8;
    [&length.to_be_bytes(), &[0, 3, 0, 0], parameters.as_bytes()].concat()
}

/// What was written may still lie in the buffer of the encryption, and reading does not send it.
async fn say(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

fn query(sql: &str) -> Vec<u8> {
    let length = sql.len() as u32 + 5;
    [b"Q".as_slice(), &length.to_be_bytes(), sql.as_bytes(), b"\0"].concat()
}

/// Reads messages up to the first of this kind, and returns all of them.
async fn until(
    stream: &mut (impl AsyncRead + Unpin),
    kind: u8,
) -> std::io::Result<Vec<(u8, Vec<u8>)>> {
    let mut messages = Vec::new();
    let all = async {
        loop {
            let tag = stream.read_u8().await?;
            let mut body = vec![0; stream.read_u32().await? as usize - 4];
            stream.read_exact(&mut body).await?;
            messages.push((tag, body));
            if tag == kind {
                return std::io::Result::Ok(());
            }
        }
    };
    match tokio::time::timeout(PATIENCE, all).await {
        Ok(read) => read.map(|()| messages),
        Err(_) => panic!("no {:?} in time, only {messages:?}", char::from(kind)),
    }
}

/// Whoever is led elsewhere is led there in the dark, too.
#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_in_the_clear_where_that_is_wanted() {
    let regions = world("hash(id, 9)", 9, true).await;
    let (gateway, ca) = (regions.gateway("eu"), authority(&regions));
    let verified = format!("sslmode=verify-ca sslrootcert={} channel_binding=prefer", ca.display());
    eventually("rows of all owners are written", async || {
        for id in 0..30 {
            let sql = format!("INSERT INTO item VALUES ({id}) ON CONFLICT DO NOTHING");
            let output = psql(gateway, &verified, &sql);
            if !output.status.success() {
                return Err(told(&output));
            }
        }
        Ok(())
    })
    .await;
    let owners =
        "SELECT count(DISTINCT (domicile.entry(domicile.partition_of(id::text))).owner) FROM item";
    assert_eq!(told(&psql(gateway, &verified, owners)).trim(), "3");

    let clear = told(&psql(gateway, "sslmode=disable", "SELECT 1"));
    assert!(clear.contains("takes no session that is not encrypted"), "{clear}");
    let others = regions.folder().join("others");
    let holder = Holder { name: "eu".to_owned(), hosts: vec!["127.0.0.1".to_owned()] };
    issue(&others, "others", &[holder], 30).unwrap();
    let strangers = format!("sslmode=verify-ca sslrootcert={}", others.join("ca.pem").display());
    let refused = psql(gateway, &strangers, "SELECT 1");
    assert!(!refused.status.success(), "{}", told(&refused));

    hostile_bytes_end_only_their_connection(gateway).await;
    a_session_outlives_a_new_certificate(&regions, &others).await;
}

async fn hostile_bytes_end_only_their_connection(gateway: SocketAddr) {
    // Whoever never goes on keeps nobody from being served.
    let mut silent = TcpStream::connect(gateway).await.unwrap();
    silent.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(silent.read_u8().await.unwrap(), b'S');
    for hostile in [
        // As if it had come encrypted.
        [&SSL_REQUEST[..], &startup("")].concat(),
        [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 600]].concat(),
        vec![0x16; 20_000],
    ] {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        stream.write_all(&hostile).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"S") && !answer.starts_with(b"R"), "{answer:?}");
    }
    let mut garbled = TcpStream::connect(gateway).await.unwrap();
    garbled.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(garbled.read_u8().await.unwrap(), b'S');
    garbled.write_all(&startup("")).await.unwrap();
    let mut answer = Vec::new();
    let _ = garbled.read_to_end(&mut answer).await;
    assert!(!answer.contains(&b'Z'), "{answer:?}");
}

async fn a_session_outlives_a_new_certificate(regions: &Regions, others: &Path) {
    let (gateway, ca) = (regions.gateway("eu"), authority(regions));
    let mut old = encrypted(gateway, &ca, true).await.unwrap();
    say(&mut old, &startup("")).await;
    until(&mut old, b'Z').await.unwrap();
    for ending in ["key", "pem"] {
        let file = regions.folder().join(format!("certificates/eu.{ending}"));
        fs::write(&file, fs::read(others.join(format!("eu.{ending}"))).unwrap()).unwrap();
    }
    eventually("the next authority's certificate is shown", async || {
        let shaken = encrypted(gateway, &others.join("ca.pem"), false).await;
        shaken.map(drop).map_err(|error| error.to_string())
    })
    .await;
    say(&mut old, &query("SELECT 7")).await;
    let answer = until(&mut old, b'Z').await.unwrap();
    assert!(answer.iter().any(|(tag, body)| *tag == b'D' && body.ends_with(b"7")), "{answer:?}");
}

async fn no_password_is_asked_for_in_the_clear(regions: &Regions) {
    let owner = regions.connect("eu").await.unwrap();
    let sql = "CREATE ROLE teller LOGIN PASSWORD 'secret'";
    owner.batch_execute(sql).await.unwrap();
    let rules = owner.query_one("SHOW hba_file", &[]).await.unwrap().get::<_, String>(0);
    let ca = authority(regions);
    let verified = format!("sslmode=verify-ca sslrootcert={}", ca.display());
    let gateway = regions.gateway("eu");
    let as_teller = |tls: &str| {
        let output = psql(gateway, &format!("{tls} user=teller password=secret"), "SELECT 'in'");
        told(&output).trim().to_owned()
    };
    let trusted = fs::read_to_string(&rules).unwrap();
    for (way, clear) in [("scram-sha-256", "in"), ("password", "the connection is not encrypted")] {
        fs::write(&rules, format!("host all teller all {way}\n{trusted}")).unwrap();
        owner.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually(&format!("{way} is asked for"), async || {
            let (dark, clear_told) = (as_teller(&verified), as_teller("sslmode=disable"));
            match dark == "in" && clear_told.contains(clear) {
                true => Ok(()),
                false => Err(format!("{dark}; {clear_told}")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_calls_itself_a_gateway_is_none_and_one_can_cancel_in_the_dark() {
    let regions = world("whole", 1, false).await;
    let (gateway, ca) = (regions.gateway("us"), authority(&regions));
    let owner = regions.connect("eu").await.unwrap();
    let port: String = owner.query_one("SHOW port", &[]).await.unwrap().get(0);

    let mut clear = TcpStream::connect(gateway).await.unwrap();
    clear.write_all(&startup("domicile.hop\x001\0")).await.unwrap();
    until(&mut clear, b'Z').await.unwrap();
    clear.write_all(&query("SHOW port")).await.unwrap();
    let answer = until(&mut clear, b'Z').await.unwrap();
    let led = answer.iter().any(|(tag, body)| *tag == b'D' && body.ends_with(port.as_bytes()));
    assert!(led, "only a gateway is kept from the owner: {answer:?}");

    let mut session = encrypted(gateway, &ca, true).await.unwrap();
    say(&mut session, &startup("")).await;
    let begun = until(&mut session, b'Z').await.unwrap();
    let (_, key) = begun.iter().find(|(tag, _)| *tag == b'K').unwrap();
    say(&mut session, &query("SELECT pg_sleep(600)")).await;
    let asked = eventually("it runs", async || {
        let sql = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
        let rows = owner.query(sql, &[]).await.map_err(|e| e.to_string())?;
        if rows.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
    asked.await;
    let mut cancel = encrypted(gateway, &ca, false).await.unwrap();
    let request = [&(key.len() as u32 + 8).to_be_bytes()[..], &[4, 210, 22, 46], key].concat();
    say(&mut cancel, &request).await;
    let answer = until(&mut session, b'Z').await.unwrap();
    let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    let cancelled = answer.iter().any(|(tag, body)| *tag == b'E' && text(body).contains("57014"));
    assert!(cancelled, "{answer:?}");

    no_password_is_asked_for_in_the_clear(&regions).await;

    // More than any buffer on the way holds, in both directions.
    let sql = "SELECT repeat('x', 20000000)";
    say(&mut session, &query(sql)).await;
    let answer = until(&mut session, b'Z').await.unwrap();
    assert!(answer.iter().any(|(tag, body)| *tag == b'D' && body.len() > 20_000_000));
    say(&mut session, &query(&format!("SELECT length('{}')", "x".repeat(5_000_000)))).await;
    let answer = until(&mut session, b'Z').await.unwrap();
    assert!(answer.iter().any(|(tag, body)| *tag == b'D' && text(body).contains("5000000")));
}
