//! An application of one region, small and real: it speaks HTTP and writes into its region's PostgreSQL.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use tokio_util::task::AbortOnDropHandle;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// An application; its connections end with it.
pub struct App {
    pub address: SocketAddr,
    state: Arc<State>,
    running: Option<AbortOnDropHandle<()>>,
}

struct State {
    region: String,
    /// The region's own, past its gateway: the guard alone says who may write.
    postgres: OnceLock<String>,
    /// Method, path and body of each request that it has had, as the body's end was read.
    seen: Mutex<Vec<String>>,
}

impl App {
    pub async fn start(region: &str) -> Self {
        let state = State {
            region: region.to_owned(),
            postgres: OnceLock::new(),
            seen: Mutex::new(Vec::new()),
        };
        let mut app = Self {
            address: ([127, 0, 0, 1], domicile::lab::cluster::free_port()).into(),
            state: Arc::new(state),
            running: None,
        };
        app.resume().await;
        app
    }

    pub fn stop(&mut self) {
        self.running = None;
    }

    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let running = tokio::spawn(serve(listener, self.state.clone()));
        self.running = Some(AbortOnDropHandle::new(running));
    }

    pub fn write_to(&self, postgres: String) {
        self.state.postgres.set(postgres).unwrap();
    }

    /// How often it has had this request.
    pub fn saw(&self, request: &str) -> usize {
        self.state.seen.lock().unwrap().iter().filter(|seen| *seen == request).count()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(state.clone(), request));
            let builder = Builder::new(TokioExecutor::new());
            // Those that break off do so on purpose.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Answer, &'static str> {
    match request.uri().path() {
        "/echo" => return Ok(Response::new(request.into_body().boxed())),
        path if path.ends_with("/socket") => return Ok(shout(request)),
        _ => {}
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "the body broke off")?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let (method, path) = (head.method.as_str(), head.uri.path());
    state.seen.lock().unwrap().push(format!("{method} {path} {text}"));
    if path == "/break" {
        return Err("as if it had crashed");
    }
    let headers = head.headers.iter();
    let headers: BTreeMap<&str, &str> =
        headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    // Asks for a replay where it is told to: `us domicile-replay region=eu`.
    if let Some((at, said)) = headers.get("x-replay").and_then(|said| said.split_once(' '))
        && at == state.region
    {
        return Ok(replay(said));
    }
    if let Some(id) = path.strip_prefix("/notes/").filter(|_| method == "POST") {
        return Ok(write(&state, id).await);
    }
    let said = json!({
        "region": state.region, "method": method, "path": head.uri.to_string(),
        "bytes": body.len(), "headers": headers,
    });
    let mut answer = words(&said.to_string());
    // What an application must not be able to say.
    answer.headers_mut().insert("domicile-refused", "not-owner".parse().unwrap());
    Ok(answer)
}

fn words(text: &str) -> Answer {
    let text = Full::from(text.to_owned());
    Response::new(text.map_err(|never: Infallible| match never {}).boxed())
}

fn replay(said: &str) -> Answer {
    let (name, value) = said.split_once(' ').unwrap();
    let mut answer = words("this is nobody's answer");
    let name: HeaderName = name.parse().unwrap();
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

/// Writes as any application would, and has a write that the guard refuses done by the owner.
async fn write(state: &State, id: &str) -> Answer {
    let written = async {
        let postgres = state.postgres.get().expect("a database");
        let (client, driver) = tokio_postgres::connect(postgres, NoTls).await?;
        tokio::spawn(driver);
        client.execute("INSERT INTO note VALUES ($1::text::int)", &[&id]).await
    };
    match written.await {
        Ok(_) => words(&state.region),
        Err(error) if error.code().is_some_and(|code| code.code() == "25006") => {
            replay("domicile-replay region=owner")
        }
        Err(error) => {
            let mut answer = words(&format!("{error:?}"));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    }
}

/// Goes over to a protocol of capital letters, under the name of the one that may be.
fn shout(mut request: Request<Incoming>) -> Answer {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // Nobody may have asked for it.
        let Ok(upgraded) = upgraded.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut read = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut read).await {
            stream.write_all(&read[..length].to_ascii_uppercase()).await.unwrap();
        }
    });
    let mut answer = words("");
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, "upgrade".parse().unwrap());
    answer.headers_mut().insert(UPGRADE, "websocket".parse().unwrap());
    answer
}
