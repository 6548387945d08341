use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::authority::{CA, Holder, issue};

const HERE: &str = "127.0.0.1";

/// What somebody shows who answers as PostgreSQL does.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Shown {
    /// Signed by the authority in this folder.
    fn signed(folder: &Path, host: &str) -> Self {
        let holder = Holder { name: "db".to_owned(), hosts: vec![host.to_owned()] };
        issue(folder, "test", &[holder], 90).unwrap();
        let file = |ending: &str| folder.join(format!("db.{ending}")).display().to_string();
        let files = domicile_core::config::Identity { certificate: file("pem"), key: file("key") };
        let (chain, key, _) = tls::identity(["certificate", "key"], &files).unwrap();
        Self { chain, key }
    }

    /// Signed by the authority in this folder, and over since yesterday.
    fn ended(folder: &Path) -> Self {
        Self::signed(folder, HERE);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let authority = KeyPair::from_pem(&read("ca.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read(CA), authority).unwrap();
        let key = KeyPair::generate().unwrap();
        Self::of(until(-1).signed_by(&key, &issuer).unwrap(), &key)
    }

    /// Its own authority.
    fn alone(folder: &Path, days: i64) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = until(days);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.join(CA), certificate.pem()).unwrap();
        Self::of(certificate, &key)
    }

    fn of(certificate: rcgen::Certificate, key: &KeyPair) -> Self {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Self { chain: vec![certificate.der().clone()], key }
    }

    fn acceptor(&self, version: &'static rustls::SupportedProtocolVersion) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = provider.key_provider.load_private_key(self.key.clone_key()).unwrap();
        // Whether they go together is for the other side to find out.
        let shown = CertifiedKey::new(self.chain.clone(), key);
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Names this host, and ends so many days from now.
fn until(days: i64) -> CertificateParams {
    let mut params = CertificateParams::new(vec![HERE.to_owned()]).unwrap();
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(days);
    params.not_before = params.not_after - time::Duration::days(2);
    params
}

/// Answers requests for encryption with these bytes, and goes on with a handshake if there is something to show.
async fn server(answer: &'static [u8], acceptor: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut request = [0; 8];
                socket.read_exact(&mut request).await.unwrap();
                assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
                socket.write_all(answer).await.unwrap();
                if let Some(acceptor) = acceptor
                    && let Ok(mut socket) = acceptor.accept(socket).await
                {
                    socket.write_all(b"Z").await.unwrap();
                    socket.flush().await.unwrap();
                    // Until the other side has read it.
                    let _ = socket.read_u8().await;
                }
            });
        }
    });
    port
}

/// Returns what comes first over an encrypted connection, and `None` over one in the clear.
async fn first(port: u16, tls: &str) -> Result<Option<u8>, String> {
    let database: Database = format!("host={HERE} port={port} {tls}").parse().unwrap();
    let encryption = database.encryption().map_err(|error| format!("{error:#}"))?;
    let socket = TcpStream::connect((HERE, port)).await.unwrap();
    match encryption.begin(socket, HERE).await.map_err(|error| error.to_string())? {
        Secured::Clear(_) => Ok(None),
        Secured::Encrypted(mut socket) => {
            socket.read_u8().await.map(Some).map_err(|error| error.to_string())
        }
    }
}

/// What a session says of the same, which never begins.
async fn session(port: u16, tls: &str) -> String {
    let connection = format!("host={HERE} port={port} user=u {tls}");
    format!("{:#}", crate::postgres::session::connect(&connection, "test").await.unwrap_err())
}

fn verified(mode: &str, folder: &TempDir) -> String {
    format!("sslmode={mode} sslrootcert={}", folder.path().join(CA).display())
}

#[tokio::test]
async fn a_server_is_believed_as_far_as_its_certificate_goes() {
    let [ours, others, ended, alone, over] = [(); 5].map(|()| tempfile::tempdir().unwrap());
    let stranger = Holder { name: "db".to_owned(), hosts: vec![HERE.to_owned()] };
    issue(others.path(), "others", &[stranger], 90).unwrap();
    for version in [&TLS12, &TLS13] {
        let here = Shown::signed(ours.path(), HERE).acceptor(version);
        let here = server(b"S", Some(here)).await;
        let elsewhere = Shown::signed(ours.path(), "db.example").acceptor(version);
        let elsewhere = server(b"S", Some(elsewhere)).await;
        let old = server(b"S", Some(Shown::ended(ended.path()).acceptor(version))).await;
        let own = server(b"S", Some(Shown::alone(alone.path(), 1).acceptor(version))).await;
        let own_old = server(b"S", Some(Shown::alone(over.path(), -1).acceptor(version))).await;
        for (port, tls, refusal) in [
            (here, verified("verify-full", &ours), None),
            (here, verified("verify-ca", &ours), None),
            (here, "sslmode=require".to_owned(), None),
            (here, "sslmode=prefer".to_owned(), None),
            (here, verified("verify-full", &others), Some("UnknownIssuer")),
            (here, verified("verify-ca", &others), Some("UnknownIssuer")),
            (here, verified("require", &others), Some("UnknownIssuer")),
            (elsewhere, verified("verify-full", &ours), Some("not valid for name")),
            (elsewhere, verified("verify-ca", &ours), None),
            (old, verified("verify-full", &ended), Some("expired")),
            (old, verified("verify-ca", &ended), Some("expired")),
            (own, verified("verify-full", &alone), None),
            // It has the name of the one that is believed, and not its key.
            (own, verified("verify-ca", &over), Some("CaUsedAsEndEntity")),
            (own_old, verified("verify-ca", &over), Some("expired")),
        ] {
            let (came, said) = (first(port, &tls).await, session(port, &tls).await);
            match refusal {
                None => {
                    assert_eq!(came, Ok(Some(b'Z')), "{tls}");
                    assert!(!said.contains("handshake"), "{tls}: {said}");
                }
                Some(why) => {
                    assert!(came.as_ref().is_err_and(|told| told.contains(why)), "{tls}: {came:?}");
                    assert!(said.contains(why), "{tls}: {said}");
                }
            }
        }
    }
}

/// Without a look at the signature a certificate could be anybody's, and a login bound to it worth nothing.
#[tokio::test]
async fn who_shows_a_certificate_holds_its_key() {
    let ours = tempfile::tempdir().unwrap();
    let sound = Shown::signed(ours.path(), HERE);
    let liar = Shown { key: Shown::signed(ours.path(), HERE).key, ..sound };
    for version in [&TLS12, &TLS13] {
        let port = server(b"S", Some(liar.acceptor(version))).await;
        for tls in [verified("verify-full", &ours), "sslmode=require".to_owned()] {
            let told = first(port, &tls).await.unwrap_err();
            assert!(told.contains("BadSignature"), "{told}");
        }
    }
}

#[tokio::test]
async fn nothing_in_the_clear_is_taken_for_an_answer_where_encryption_is_demanded() {
    for (answer, said) in [
        (&b"N"[..], "does not speak TLS, and sslmode=require demands it"),
        (b"E\0\0\0\x08oops", "none of PostgreSQL's"),
        (b"HTTP/1.1 400 Bad Request", "none of PostgreSQL's"),
        (b"", "end of file"),
        // As if it had come encrypted: "you are in", and "go on".
        (b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", ""),
        (b"S\x15\x03\x03\0\x02\x01\0", ""),
    ] {
        let port = server(answer, None).await;
        let told = first(port, "sslmode=require").await.unwrap_err();
        assert!(told.contains(said), "{answer:?}: {told}");
        let told = session(port, "sslmode=require").await;
        assert!(told.starts_with("connect to PostgreSQL: "), "{told}");
    }
    let refusing = server(b"N", None).await;
    assert_eq!(first(refusing, "sslmode=prefer").await, Ok(None));
    let garbled = server(b"SZ\0\0\0\x05I", None).await;
    first(garbled, "sslmode=prefer").await.unwrap_err();
}

/// Who reads the same files shares them; what does not go together is told and not taken up.
#[tokio::test]
async fn new_files_are_taken_up_by_whoever_connects_next() {
    let [ours, next] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let tls = verified("verify-full", &ours);
    let now = Shown::signed(ours.path(), HERE).acceptor(&TLS13);
    let now = server(b"S", Some(now)).await;
    let later = Shown::signed(next.path(), HERE).acceptor(&TLS13);
    let later = server(b"S", Some(later)).await;
    assert_eq!(first(now, &tls).await, Ok(Some(b'Z')));
    first(later, &tls).await.unwrap_err();

    let root = ours.path().join(CA);
    fs::write(&root, "no certificate").unwrap();
    assert_eq!(first(now, &tls).await, Ok(Some(b'Z')));
    let database: Database = format!("host={HERE} {tls}").parse().unwrap();
    let fault = database.tls.files().unwrap().unwrap().current().1.unwrap();
    assert!(fault.contains("sslrootcert"), "{fault}");

    fs::write(&root, fs::read(next.path().join(CA)).unwrap()).unwrap();
    assert_eq!(first(later, &tls).await, Ok(Some(b'Z')));
    first(now, &tls).await.unwrap_err();
}

#[test]
fn files_that_are_not_there_are_named() {
    for (tls, named) in [
        ("sslrootcert=/nowhere/ca.pem", "sslrootcert: read /nowhere/ca.pem"),
        ("sslcert=/nowhere/a.pem sslkey=/nowhere/a.key", "sslcert: read /nowhere/a.pem"),
    ] {
        let database: Database = format!("host=db.example {tls}").parse().unwrap();
        let told = format!("{:#}", database.encryption().unwrap_err());
        assert!(told.contains(named), "{told}");
    }
}

#[test]
fn a_login_is_bound_by_what_the_certificate_is_signed_with() {
    for (algorithm, bytes) in
        [(&rcgen::PKCS_ECDSA_P256_SHA256, 32), (&rcgen::PKCS_ECDSA_P384_SHA384, 48)]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        assert_eq!(end_point(certificate.der()).map(|hash| hash.len()), Some(bytes));
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    assert_eq!(end_point(certificate.der()), None);
    assert_eq!(end_point(&CertificateDer::from(vec![0x30, 0xff])), None);
}
