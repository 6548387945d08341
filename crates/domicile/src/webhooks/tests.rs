//! Real sockets on this machine: what arrives, and what of an answer is believed?

use std::collections::BTreeMap;
use std::sync::Arc;

use domicile_core::config::{Secret, Url};
use domicile_core::runbook::Answer::{Failed, Passed};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::authority::{self, Holder};

const SOON: Duration = Duration::from_secs(10);

fn message() -> Message {
    Message {
        text: "shop: switchover of partition 0-3 to us is about to begin".to_owned(),
        cluster: "shop".to_owned(),
        run: "r".to_owned(),
        runbook: "to-us".to_owned(),
        step: 1,
        mode: "planned".to_owned(),
        from: vec!["eu".to_owned()],
        to: "us".to_owned(),
        partitions: Some("0-3".to_owned()),
        granted: false,
        estimated_loss_ms: 0,
        objectives: Vec::new(),
        token: "r/1".to_owned(),
    }
}

fn webhook(url: &str) -> Webhook {
    Webhook { url: Url::Given(url.to_owned()), headers: BTreeMap::new(), ca: None }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Reads one request: its head, in lower case, and its body.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> (String, serde_json::Value) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(read).unwrap().to_lowercase();
    let (_, length) = head.split_once("content-length: ").unwrap();
    let length = length.lines().next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), status: &str, body: &str) {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Answers one connection after the other like this, and returns what was asked.
async fn serve(
    listener: TcpListener,
    answers: &[(&str, &str)],
) -> Vec<(String, serde_json::Value)> {
    let mut asked = Vec::new();
    for (status, body) in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        asked.push(request(&mut stream).await);
        answer(&mut stream, status, body).await;
    }
    asked
}

#[tokio::test]
async fn a_message_has_what_a_receiver_needs_to_do_its_work_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "Bearer s3cret\n").unwrap();
    let (listener, port) = listen().await;
    let mut webhook = webhook(&format!("http://127.0.0.1:{port}/hook?team=dba"));
    let key = Secret::File(file.display().to_string());
    let set_by_cargo = Secret::Environment("CARGO_PKG_NAME".to_owned());
    webhook.headers =
        [("Authorization".to_owned(), key), ("X-Team".to_owned(), set_by_cargo)].into();
    let message = message();
    let answers = [("200 OK", "")];
    let (sent, asked) =
        tokio::join!(send(Some(&webhook), &message, SOON), serve(listener, &answers));
    assert_eq!(sent, (Passed, "200 OK".to_owned()));
    let (head, body) = &asked[0];
    assert!(head.starts_with("post /hook?team=dba http/1.1\r\n"), "{head}");
    for line in [
        &format!("host: 127.0.0.1:{port}"),
        "content-type: application/json",
        "idempotency-key: r/1",
        "authorization: bearer s3cret",
        "x-team: domicile",
    ] {
        assert!(head.lines().any(|told| told == line), "{line}: {head}");
    }
    assert_eq!(*body, serde_json::to_value(&message).unwrap());
}

#[tokio::test]
async fn who_is_busy_is_told_again_by_the_same_token() {
    let (listener, port) = listen().await;
    let (webhook, message) = (webhook(&format!("http://localhost:{port}")), message());
    let answers = [
        ("503 Service Unavailable", "later"),
        ("429 Too Many Requests", ""),
        ("202 Accepted", "\nnoted\nand more"),
    ];
    let (sent, asked) =
        tokio::join!(send(Some(&webhook), &message, SOON), serve(listener, &answers));
    assert_eq!(sent, (Passed, "202 Accepted: noted".to_owned()));
    let told = asked
        .iter()
        .filter(|(head, body)| head.contains("idempotency-key: r/1\r\n") && body["token"] == "r/1");
    assert_eq!(told.count(), 3);
}

#[tokio::test]
async fn who_says_no_is_not_asked_again() {
    for status in ["403 Forbidden", "404 Not Found", "302 Found", "409 Conflict"] {
        let (listener, port) = listen().await;
        let (webhook, message) = (webhook(&format!("http://127.0.0.1:{port}")), message());
        let answers = [(status, "no such channel\nask somebody")];
        // A second request would wait for an answer in vain, and say that.
        let (sent, _) =
            tokio::join!(send(Some(&webhook), &message, SOON), serve(listener, &answers));
        assert_eq!(sent, (Failed, format!("{status}: no such channel")));
    }
}

#[tokio::test]
async fn who_does_not_answer_is_waited_for_only_so_long() {
    let (listener, port) = listen().await;
    let (webhook, message) = (webhook(&format!("http://127.0.0.1:{port}")), message());
    let within = Duration::from_millis(700);
    // It accepts, once with an answer, then without.
    let silent = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        answer(&mut stream, "500 Internal Server Error", "it broke").await;
        let held = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(held);
    };
    let sent = tokio::select! {
        sent = send(Some(&webhook), &message, within) => sent,
        () = silent => unreachable!("it waits for ever"),
    };
    let said = "no answer within 700ms; before: 500 Internal Server Error: it broke";
    assert_eq!(sent, (Failed, said.to_owned()));
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_tried_anew() {
    let (listener, port) = listen().await;
    let (webhook, message) = (webhook(&format!("http://127.0.0.1:{port}")), message());
    let breaks_off = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        drop(stream);
        serve(listener, &[("204 No Content", "")]).await
    };
    let (sent, _) = tokio::join!(send(Some(&webhook), &message, SOON), breaks_off);
    assert_eq!(sent, (Passed, "204 No Content".to_owned()));
}

#[tokio::test]
async fn who_has_answered_is_believed_though_the_rest_does_not_come() {
    let (listener, port) = listen().await;
    let (webhook, message) = (webhook(&format!("http://127.0.0.1:{port}")), message());
    let begins = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nheard";
        stream.write_all(begun).await.unwrap();
        let _held = stream;
        std::future::pending::<()>().await;
    };
    let sent = tokio::select! {
        sent = send(Some(&webhook), &message, Duration::from_millis(700)) => sent,
        () = begins => unreachable!("it waits for ever"),
    };
    assert_eq!(sent, (Passed, "200 OK: heard".to_owned()));
}

#[tokio::test]
async fn who_takes_a_connection_and_says_nothing_is_asked_anew() {
    let (listener, port) = listen().await;
    let (webhook, message) = (webhook(&format!("http://127.0.0.1:{port}")), message());
    let silent_at_first = async {
        let _held = listener.accept().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        answer(&mut stream, "200 OK", "").await;
        std::future::pending::<()>().await;
    };
    let sent = tokio::select! {
        sent = send(Some(&webhook), &message, SOON) => sent,
        () = silent_at_first => unreachable!("it waits for ever"),
    };
    assert_eq!(sent, (Passed, "200 OK".to_owned()));
}

#[tokio::test]
async fn who_is_not_there_is_told_of() {
    let (listener, port) = listen().await;
    drop(listener);
    let webhook = webhook(&format!("http://127.0.0.1:{port}"));
    let (answer, said) = send(Some(&webhook), &message(), Duration::from_millis(300)).await;
    assert_eq!(answer, Failed);
    assert!(said.contains("within 300ms; before: connect: Connection refused"), "{said}");
}

#[tokio::test]
async fn over_https_only_who_is_signed_for_hears_anything() {
    let folder = tempfile::tempdir().unwrap();
    let holder = Holder { name: "hook".to_owned(), hosts: vec!["localhost".to_owned()] };
    authority::issue(folder.path(), "shop", &[holder], 1).unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let files =
        domicile_core::config::Identity { certificate: file("hook.pem"), key: file("hook.key") };
    let (chain, key, _) = crate::tls::identity(["certificate", "key"], &files).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (listener, port) = listen().await;
    let served = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            request(&mut stream).await;
            answer(&mut stream, "200 OK", "heard").await;
        }
    });
    let told = async |host: &str, ca: Option<String>| {
        let webhook = Webhook { ca, ..webhook(&format!("https://{host}:{port}/")) };
        send(Some(&webhook), &message(), SOON).await
    };
    let ca = Some(file("ca.pem"));
    assert_eq!(told("localhost", ca.clone()).await, (Passed, "200 OK: heard".to_owned()));
    for (host, ca, why) in
        [("127.0.0.1", ca, "certificate not valid for name"), ("localhost", None, "UnknownIssuer")]
    {
        let (answer, said) = told(host, ca).await;
        assert!(answer == Failed && said.contains(why), "{host}: {said}");
    }
    served.abort();
}

#[tokio::test]
async fn what_is_missing_here_is_said_and_no_secret_is() {
    assert!(send(None, &message(), SOON).await.1.contains("no such [[webhook]]"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, "https://s3cret@hooks.example.com\n").unwrap();
    let kept = |secret| Webhook { url: Url::Kept(secret), ..webhook("") };
    let missing = Secret::File(folder.path().join("other").display().to_string());
    for (secret, why) in [
        (Secret::File(file.display().to_string()), "url: a user has no place in an address"),
        (missing, "url: read "),
        (Secret::Environment("DOMICILE_NO_SUCH".to_owned()), "url: read the environment's"),
    ] {
        let (answer, said) = send(Some(&kept(secret)), &message(), SOON).await;
        assert!(answer == Failed && said.contains(why), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn the_page_shows_a_message_as_it_is() {
    let page = include_str!("../../../../docs/operating/webhooks.md");
    let (_, rest) = page.split_once("```json\n").unwrap();
    let shown: serde_json::Value = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap();
    let told = serde_json::to_value(message()).unwrap();
    let keys = |message: &serde_json::Value| -> Vec<String> {
        message.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&shown), keys(&told));
}

#[test]
fn an_address_is_read_as_a_whole_or_refused() {
    let read = |text: &str| target::address(text).unwrap();
    let plain = read("http://hooks.example.com");
    assert_eq!((plain.encrypted, plain.port, plain.path.as_str()), (false, 80, "/"));
    let full = read("https://hooks.example.com:8443/a/b?c=d");
    assert_eq!((full.encrypted, full.port, full.path.as_str()), (true, 8443, "/a/b?c=d"));
    assert_eq!(full.host_and_port, "hooks.example.com:8443");
    let v6 = read("https://[::1]/hook");
    assert_eq!((v6.host.as_str(), v6.port, v6.host_and_port.as_str()), ("::1", 443, "[::1]"));
    for wrong in ["", "hooks.example.com", "ftp://h/", "http://", "/hook", "https://a:b@h/"] {
        assert!(target::address(wrong).is_err(), "{wrong}");
    }
}
