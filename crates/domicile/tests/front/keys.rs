//! Where every region writes, does a request go to the owner of its key, and do doors believe only each other?

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;

use crate::regions::config;
use crate::{Got, send, world_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_leads_to_its_owner_over_encrypted_doors() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&["eu", "us", "ap"], "hash(id, 12)", 12);
    (config.tls, config.keep) = (true, Some(folder.path().to_owned()));
    let shown = folder.path().join("certificates/operator");
    let http = format!(
        "certificate = \"{0}.pem\"\nkey = \"{0}.key\"\n[[http.route]]\npath = \"/notes/{{id}}\"\nkey = \"path:id\"",
        shown.display()
    );
    let world = world_of(config, &http).await;
    let ca = folder.path().join("certificates/ca.pem");
    let us = world.regions.door("us");

    let mut answered = BTreeSet::new();
    for id in 0..24 {
        let http2 = id % 2 == 0;
        let answer = encrypted(us, &ca, http2, "POST", &format!("/notes/{id}"), &[]).await;
        // Its guard would refuse what is another's.
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body, answer.header("domicile-region"));
        answered.insert(answer.header("domicile-region").to_owned());
    }
    assert_eq!(answered.len(), 3, "{answered:?}");
    let answer = encrypted(us, &ca, true, "POST", "/any", &[]).await;
    assert_eq!(answer.region(), "us", "without a key it stays");

    let mut explain = Command::new(world.regions.binary());
    explain.args(["http", "explain", "--json", "POST", "/notes/1", "--config"]);
    let explained = explain.arg(world.regions.config_file("us")).output().await.unwrap();
    let explained: Json = serde_json::from_slice(&explained.stdout).unwrap();
    let answer = encrypted(us, &ca, true, "PUT", "/notes/1", &[]).await;
    assert_eq!(explained["owner"], answer.region(), "{explained}");

    let forged = [("domicile-hop", "from=ap;partition=0")];
    for id in 100..106 {
        let answer = encrypted(us, &ca, true, "POST", &format!("/notes/{id}"), &forged).await;
        assert_eq!(answer.status, 200, "only a door is believed: {answer:?}");
    }
    let answer = encrypted(us, &ca, false, "GET", "/any", &forged).await.json();
    assert!(answer["headers"].get("domicile-hop").is_none(), "{answer}");
    assert_eq!(answer["headers"]["x-forwarded-proto"], "https");
    let answer = send(us, "GET", "/any", &[], b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("domicile-refused")), (400, "refused"));
}

/// Sends one request in TLS, in the version of HTTP that was agreed on.
async fn encrypted(
    door: SocketAddr,
    ca: &Path,
    http2: bool,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Got {
    let mut roots = RootCertStore::empty();
    for certificate in domicile::tls::certificates("ca", &ca.display().to_string()).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let wanted: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![wanted.to_vec()];
    let stream = TcpStream::connect(door).await.unwrap();
    let name = ServerName::from(door.ip());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(wanted));
    let mut request = Request::builder().method(method);
    request = match http2 {
        true => request.uri(format!("https://{door}{path}")),
        false => request.uri(path).header("host", door.to_string()),
    };
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let stream = TokioIo::new(stream);
    let answer = if http2 {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Got { status: head.status, headers: head.headers, body }
}
