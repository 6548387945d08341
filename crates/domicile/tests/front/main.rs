//! Is a request of HTTP answered by the region that it belongs to, once, whatever happens meanwhile?

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use domicile::lab::regions::{Regions, RegionsConfig};
use http_body_util::{BodyExt as _, Full};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value as Json;

mod app;
mod hostile;
mod keys;
mod moved;
// Not all of it is of use here.
#[allow(dead_code)]
#[path = "../regions/mod.rs"]
mod regions;
mod requests;

use app::App;
use regions::{config, start};

/// Regions, each with its application.
pub struct World {
    pub regions: Regions,
    pub apps: BTreeMap<String, App>,
}

/// `http` is what the configuration says of doors.
pub async fn world(partition: &str, partitions: u32, http: &str) -> World {
    let config = config(&["eu", "us", "ap"], partition, partitions);
    world_of(config, http).await
}

pub async fn world_of(mut config: RegionsConfig, http: &str) -> World {
    config.seed_sql = "CREATE TABLE note (id int PRIMARY KEY)".to_owned();
    config.tables = "[[table]]\nname = \"note\"\n".to_owned();
    config.more = format!("[http]\naccess_log = true\n{http}\n");
    // Whoever is gone takes no connection; a link would.
    config.links = false;
    let mut apps = BTreeMap::new();
    for name in &config.names {
        apps.insert(name.clone(), App::start(name).await);
    }
    config.apps = apps.iter().map(|(name, app)| (name.clone(), app.address)).collect();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    for (name, app) in &apps {
        app.write_to(regions.postgres(name));
    }
    World { regions, apps }
}

/// What a client gets.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Whose application has answered, by its door and by itself.
    pub fn region(&self) -> String {
        let json = self.json();
        assert_eq!(self.headers["domicile-region"], json["region"].as_str().unwrap(), "{self:?}");
        json["region"].as_str().unwrap().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends one request over a connection of its own.
pub async fn send(
    door: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Got {
    let mut request = Request::builder().method(method).uri(format!("http://{door}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    got(false, request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await
}

/// The same in one version of HTTP or the other.
pub async fn got(http2: bool, request: Request<Full<Bytes>>) -> Got {
    let mut builder = Client::builder(TokioExecutor::new());
    let client = builder.http2_only(http2).build_http();
    let answer = client.request(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Got { status: head.status, headers: head.headers, body }
}
