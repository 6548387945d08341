use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;
use tonic::transport::Uri;

use super::authority::{CA, Holder, issue};
use super::ends::connect;
use super::*;

const DAYS: u32 = 90;

fn issued(folder: &Path, host: &str, days: u32) -> MutualTls {
    let holder = Holder { name: "eu".to_owned(), hosts: vec![host.to_owned()] };
    issue(folder, "test", &[holder], days).unwrap();
    files(&folder.join(CA), &folder.join("eu.pem"), &folder.join("eu.key"))
}

/// Of an authority of its own.
fn credentials(host: &str) -> (TempDir, Arc<Credentials>) {
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::open(&issued(folder.path(), host, DAYS)).unwrap();
    (folder, Arc::new(credentials))
}

/// Somebody who answers a byte with the same byte, and where.
async fn echo(credentials: Arc<Credentials>) -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let mut incoming = std::pin::pin!(incoming(listener, credentials));
        while let Some(stream) = incoming.next().await {
            let mut stream = stream.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    uri
}

/// In TLS 1.3 who connects hears of a refusal only when it reads.
async fn answers(credentials: &Arc<Credentials>, uri: &Uri) -> Result<(), String> {
    let stream = connect(credentials.clone(), uri.clone()).await.map_err(|e| e.to_string())?;
    let mut stream = stream.into_inner();
    stream.write_u8(7).await.map_err(|e| e.to_string())?;
    let byte = stream.read_u8().await.map_err(|e| e.to_string())?;
    assert_eq!(byte, 7);
    Ok(())
}

#[tokio::test]
async fn those_of_one_authority_speak_with_each_other() {
    let (_folder, ours) = credentials("127.0.0.1");
    let uri = echo(ours.clone()).await;
    answers(&ours, &uri).await.unwrap();
}

#[tokio::test]
async fn strangers_are_refused_at_both_ends_and_hold_nobody_up() {
    let (folder, ours) = credentials("127.0.0.1");
    let uri = echo(ours.clone()).await;
    let (_other, theirs) = credentials("127.0.0.1");
    let refused = answers(&theirs, &uri).await.unwrap_err();
    assert!(refused.contains("invalid peer certificate"), "{refused}");

    let (trusted, _) = ours.current();
    let (shown, _) = theirs.current();
    // It believes us, and shows the certificate of another authority, or none.
    let mut liar = (*trusted.client).clone();
    liar.client_auth_cert_resolver = shown.client.client_auth_cert_resolver.clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let nobody = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(
            roots("tls.ca", &folder.path().join(CA).display().to_string()).unwrap(),
        )
        .with_no_client_auth();
    let address = uri.authority().unwrap().as_str();
    for config in [liar, nobody] {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let refused = stream.read_u8().await.unwrap_err().to_string();
        assert!(refused.contains("fatal alert"), "{refused}");
    }
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut noise = TcpStream::connect(address).await.unwrap();
    noise.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    // An alert, or nothing, and the end.
    let _ = noise.read_to_end(&mut told).await;
    answers(&ours, &uri).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_place_is_refused() {
    let (folder, ours) = credentials("127.0.0.1");
    issued(folder.path(), "us.example", DAYS);
    let uri = echo(ours.clone()).await;
    let refused = answers(&ours, &uri).await.unwrap_err();
    assert!(refused.contains("not valid for name"), "{refused}");
}

#[tokio::test]
async fn new_files_are_taken_up_and_those_that_do_not_go_together_are_not() {
    let (folder, ours) = credentials("127.0.0.1");
    let uri = echo(ours.clone()).await;
    let (before, _) = ours.current();
    let files = issued(folder.path(), "127.0.0.1", 2 * DAYS);
    let (renewed, fault) = ours.current();
    assert_eq!(fault, None);
    assert_eq!((renewed.ends - before.ends).whole_days(), i64::from(DAYS));
    answers(&ours, &uri).await.unwrap();

    let certificate = fs::read(&files.identity.certificate).unwrap();
    for (path, damage, key) in [
        (&files.identity.certificate, &b"no certificate"[..], "tls.certificate"),
        (&files.ca, b"", "tls.ca"),
        (&files.identity.key, &certificate, "tls.key"),
    ] {
        let sound = fs::read(path).unwrap();
        fs::write(path, damage).unwrap();
        let (loaded, fault) = ours.current();
        assert!(fault.as_deref().is_some_and(|fault| fault.contains(key)), "{fault:?}");
        assert_eq!(loaded.ends, renewed.ends);
        answers(&ours, &uri).await.unwrap();
        assert!(Credentials::open(&files).is_err());
        fs::write(path, sound).unwrap();
        assert_eq!(ours.current().1, None);
    }
}

#[test]
fn a_file_that_keeps_the_time_of_the_one_that_it_replaces_is_taken_up() {
    let (folder, ours) = credentials("127.0.0.1");
    let (before, _) = ours.current();
    let paths = ["ca.pem", "eu.pem", "eu.key"].map(|name| folder.path().join(name));
    let times = || paths.each_ref().map(|path| fs::metadata(path).unwrap().modified().unwrap());
    let kept = times();
    issued(folder.path(), "127.0.0.1", 2 * DAYS);
    for (path, time) in paths.iter().zip(kept) {
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(times(), kept);
    assert_ne!(ours.current().0.ends, before.ends);
}

#[test]
fn what_could_not_be_read_is_read_again_though_it_has_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let files = issued(folder.path(), "127.0.0.1", DAYS);
    let (path, room) = (files.ca.clone(), Arc::new(AtomicBool::new(true)));
    let enough = room.clone();
    let ours = Credentials::read(vec![path.clone()], move || {
        anyhow::ensure!(enough.load(Ordering::Relaxed), "too many open files");
        load(&files)
    });
    let ours = ours.unwrap();
    room.store(false, Ordering::Relaxed);
    fs::write(&path, fs::read(&path).unwrap()).unwrap();
    assert!(ours.current().1.is_some());
    room.store(true, Ordering::Relaxed);
    assert!(ours.current().1.is_some(), "not by everybody who connects");
    assert_eq!(ours.tried_again().1, None);
    assert_eq!(ours.current().1, None);
}

#[test]
fn a_key_of_another_certificate_is_refused_with_both_names() {
    let folder = tempfile::tempdir().unwrap();
    let files = issued(folder.path(), "127.0.0.1", DAYS);
    let key = fs::read(&files.identity.key).unwrap();
    issued(folder.path(), "127.0.0.1", DAYS);
    fs::write(&files.identity.key, key).unwrap();
    let error = format!("{:#}", Credentials::open(&files).err().unwrap());
    assert!(error.contains("tls.key") && error.contains("do not go together"), "{error}");
}

#[test]
fn keys_are_for_their_owner_only_and_an_authority_is_made_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let holder = || [Holder { name: "eu".to_owned(), hosts: vec!["eu.example".to_owned()] }];
    assert!(issue(folder.path(), "test", &holder(), DAYS).unwrap());
    let authority = fs::read(folder.path().join(CA)).unwrap();
    assert!(!issue(folder.path(), "test", &holder(), DAYS).unwrap());
    assert_eq!(fs::read(folder.path().join(CA)).unwrap(), authority);
    for name in ["ca.key", "eu.key"] {
        let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
