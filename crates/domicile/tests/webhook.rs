//! Do runs tell those outside what they are about, once, and heed what they say?

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value as Json;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::eventually;
#[allow(dead_code)]
mod runs;
use runs::{asked, begin, owned, says};

/// Has somebody told before a partition moves and once it has moved.
const TELLS: &str = r#"
name = "tells"
about = "Move a partition to us between two calls."

[parameter.which]
type = "partitions"
about = "Which one"

[parameter.first]
type = "name"
about = "Who is told first"

[[step]]
do = "webhook"
webhook = "{first}"
within = "2s"

[[step]]
do = "hand_over"
partitions = "{which}"
to = "us"

[[step]]
do = "catch_up"

[[step]]
do = "grant"

[[step]]
do = "webhook"
webhook = "willing"
"#;

/// Tells somebody before a partition moves, and two others once it has moved.
const NOTIFIES: &str = r#"
name = "notifies"
about = "Move a partition to us, and say so."

[parameter.which]
type = "partitions"
about = "Which one"

[[step]]
do = "notify"
webhook = "unwilling"

[[step]]
do = "hand_over"
partitions = "{which}"
to = "us"

[[step]]
do = "catch_up"

[[step]]
do = "grant"

[[step]]
do = "notify"
webhook = "down"
within = "1s"

[[step]]
do = "notify"
webhook = "willing"
"#;

/// Somebody outside, who lives in a thread of his own: tests wait for commands meanwhile.
struct Receiver {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Json>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Json>>>::default());
        let hears = heard.clone();
        std::thread::spawn(move || {
            // Who is killed in the middle leaves half a request.
            for stream in listener.incoming() {
                let _ = serve(stream.unwrap(), &hears);
            }
        });
        Self { address, heard }
    }

    /// What was told so far.
    fn heard(&self) -> Vec<Json> {
        self.heard.lock().unwrap().clone()
    }

    /// The configuration by which agents know him, under a name for each of his answers.
    fn settings(&self, key: &std::path::Path) -> String {
        let webhook = |name: &str| {
            format!("[[webhook]]\nname = \"{name}\"\nurl = \"http://{}/{name}\"\n", self.address)
        };
        let key = format!("headers = {{ Authorization = \"file:{}\" }}\n", key.display());
        [webhook("willing"), key, webhook("unwilling"), webhook("down")].concat()
    }
}

/// Answers one request as its path asks for, and remembers what it said.
fn serve(stream: TcpStream, heard: &Mutex<Vec<Json>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut key) = (0, String::new());
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim().to_lowercase().split_once(": ") {
            Some(("content-length", text)) => length = text.parse().unwrap(),
            Some(("authorization", text)) => key = text.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = match (path.as_str(), key.as_str()) {
        ("/willing", "bearer k") => "200 OK\r\nContent-Length: 5\r\n\r\nnoted",
        ("/down", _) => "503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        _ => "403 Forbidden\r\nContent-Length: 9\r\n\r\nnot today",
    };
    let mut said: Json = serde_json::from_slice(&body).unwrap();
    said["path"] = path.into();
    heard.lock().unwrap().push(said);
    write!(reader.get_mut(), "HTTP/1.1 {answer}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_asks_webhooks_and_whoever_goes_on_asks_by_the_same_token() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "Bearer k\n").unwrap();
    let receiver = Receiver::start();
    let mut regions = runs::world("0", &receiver.settings(&key), &[("tells", TELLS)]).await;
    let last = |regions: &_| asked(regions, &["runbook", "report", "last"]).0;

    assert!(begin(&regions, &["tells", "which=0", "first=willing"]).wait().unwrap().success());
    assert_eq!(owned(&regions, "0"), ("us".to_owned(), 2));
    let run = last(&regions)["run"].as_str().unwrap().to_owned();
    let message = |step: u64, granted: bool, becomes: &str| {
        serde_json::json!({
            "path": "/willing",
            "text": format!(
                "lab: switchover of partition 0 to us{becomes} (runbook tells, run {run})"
            ),
            "cluster": "lab",
            "run": run,
            "runbook": "tells",
            "step": step,
            "mode": "planned",
            "from": ["eu"],
            "to": "us",
            "partitions": "0",
            "granted": granted,
            "estimated_loss_ms": 0,
            "objectives": [],
            "token": format!("{run}/{step}"),
        })
    };
    let [before, after] = [" is about to begin", ": us is the owner now"];
    let expected = [message(1, false, before), message(5, true, after)];
    assert_eq!(receiver.heard(), expected);
    says(&regions, "tells", "calls the webhook willing").await;
    says(&regions, "tells", "webhook willing: 200 OK: noted").await;

    for (first, said) in [
        ("unwilling", "webhook unwilling: 403 Forbidden: not today"),
        ("down", "webhook down: no answer within 2s; before: 503 Service Unavailable"),
        ("nobody", "webhook nobody: has not been called: the configuration here has no such"),
    ] {
        let mut run = begin(&regions, &["tells", "which=1", &format!("first={first}")]);
        assert_eq!(run.wait().unwrap().code(), Some(1));
        says(&regions, "tells", said).await;
        assert_eq!(last(&regions)["state"], "failed");
        assert_eq!(owned(&regions, "1"), ("eu".to_owned(), 1), "nothing was done");
    }
    let again = receiver.heard().iter().filter(|told| told["path"] == "/down").count();
    assert!(again > 1, "who is down is asked again");

    // It has said that it calls the webhook, and dies before anything came of it.
    let before = receiver.heard().len();
    std::fs::write(regions.folder().join("us/agent/kill-at"), "webhook between").unwrap();
    let mut run = begin(&regions, &["tells", "which=2", "first=willing"]);
    // Not before it is written down: who performs the run when it comes back would ask again.
    eventually("another agent has asked", async || {
        let story = last(&regions);
        let journal = story["journal"].as_array().cloned().unwrap_or_default();
        let heard = |line: &Json| {
            line["executor"] != "us" && line["what"] == "webhook willing: 200 OK: noted"
        };
        if journal.iter().any(heard) { Ok(()) } else { Err(format!("{story:#}")) }
    })
    .await;
    regions.start_agent("us").unwrap();
    assert!(run.wait().unwrap().success());
    let id = last(&regions)["run"].as_str().unwrap().to_owned();
    let mut tokens: Vec<Json> =
        receiver.heard()[before..].iter().map(|told| told["token"].clone()).collect();
    // Whoever comes back while the other asks may ask too: that is what tokens are for.
    tokens.dedup();
    assert_eq!(tokens, [format!("{id}/1"), format!("{id}/5")]);
    assert_eq!(owned(&regions, "2"), ("us".to_owned(), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_be_told_holds_no_run_up() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "Bearer k").unwrap();
    let receiver = Receiver::start();
    let regions = runs::world("0", &receiver.settings(&key), &[("notifies", NOTIFIES)]).await;
    assert!(begin(&regions, &["notifies", "which=0"]).wait().unwrap().success());
    assert_eq!(owned(&regions, "0"), ("us".to_owned(), 2));
    let (story, _) = asked(&regions, &["runbook", "report", "last"]);
    assert_eq!(story["state"], "succeeded", "{story:#}");
    for said in [
        "webhook unwilling: 403 Forbidden: not today",
        "webhook down: no answer within 1s; before: 503 Service Unavailable",
        "webhook willing: 200 OK: noted",
    ] {
        says(&regions, "notifies", said).await;
    }
    let run = story["run"].as_str().unwrap();
    let last = receiver.heard().pop().unwrap();
    let text = format!(
        "lab: switchover of partition 0 to us: us is the owner now (runbook notifies, run {run})"
    );
    assert_eq!((&last["path"], &last["text"]), (&"/willing".into(), &text.into()));
}
