//! How does one request get to the region that answers it?

use std::future;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::front::Why;
use domicile_core::front::hop::Hop;
use domicile_core::front::journey::{Failure, Journey, Sight, Step};
use domicile_core::front::replay::Replay;
use domicile_core::front::rule::{self, Asked};
use domicile_core::id::RegionId;
use domicile_core::route::{Caller, Routes};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::watch;

use super::answer::{Body, passed_on, refusal};
use super::body::{Keeper, Kept, keep};
use super::headers::{self, HOP, REFUSED, REGION, REPLAY};
use super::listener::Guest;
use super::{Door, LOOK_AGAIN, tunnel};
use crate::gateway::Other;

/// A request, with what of it is sent on.
struct Visit<'a> {
    door: &'a Door,
    guest: &'a Guest,
    caller: Caller,
    journey: Journey,
    routes: watch::Receiver<Arc<Routes>>,
    method: Method,
    /// With the path and the query that the client has given, and a host that nobody looks up.
    address: Uri,
    headers: HeaderMap,
    body: Keeper,
    /// The client wants to go over to another protocol.
    upgrade: Option<OnUpgrade>,
}

/// Answers one request, whatever it is.
pub async fn answer(door: &Door, guest: Guest, request: Request<Incoming>) -> Response<Body> {
    let (begun, method, path) =
        (door.clock.now(), request.method().clone(), request.uri().path().to_owned());
    // The door to which it came first counts it.
    let is_hop = request.headers().contains_key(HOP) && door.secure.believes(guest.other);
    let under_way = (!is_hop).then(|| door.tally.begin());
    let answer = match Visit::begin(door, &guest, request) {
        Ok((visit, body)) => visit.run(body).await,
        Err(why) => refusal(&why),
    };
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let (answered_by, refused) = (text(REGION), text(REFUSED));
    let (status, took) = (answer.status().as_u16(), door.clock.now().since(begun));
    if let Some(under_way) = under_way {
        let region = door.regions.iter().find(|region| Some(region.as_str()) == answered_by);
        under_way.end(region, refused, status, took);
    }
    if door.config.access_log {
        tracing::info!(
            target: "domicile::access",
            client = %guest.address,
            %method,
            path,
            status,
            answered_by = answered_by.unwrap_or("-"),
            refused = refused.unwrap_or("-"),
            ms = took.0,
        );
    }
    answer
}

impl<'a> Visit<'a> {
    fn begin(
        door: &'a Door,
        guest: &'a Guest,
        mut request: Request<Incoming>,
    ) -> Result<(Self, Kept), Why> {
        if door.secure.clients.is_some() && guest.other == Other::Clear {
            return Err(Why::Refused { what: "this door speaks TLS only" });
        }
        if request.method() == Method::CONNECT {
            return Err(Why::Refused { what: "this door is no proxy for other hosts" });
        }
        let hop = hop(door, guest, request.headers())?;
        let caller = if hop.is_some() { Caller::Peer } else { Caller::Client };
        let wanted = match &hop {
            Some(hop) => hop.wanted(),
            None => rule::wanted(&asked(&request), &door.config.rules, &door.layout)?,
        };
        // What another door sends on, that one says again.
        let repeatable = caller == Caller::Client
            && rule::is_read(request.method().as_str())
            && request.body().is_end_stream();
        let version = request.version();
        let protocol = headers::of_connection(request.headers_mut(), version);
        let upgrade = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let (mut head, body) = request.into_parts();
        if caller == Caller::Client {
            received(door, guest, &mut head)?;
        }
        if let Some(protocol) = protocol {
            headers::put_upgrade(&mut head.headers, protocol);
        }
        // Only who has it from the client sends it elsewhere.
        let limit = match caller {
            Caller::Client => usize::try_from(door.config.replay_body_max).unwrap_or(usize::MAX),
            Caller::Peer => 0,
        };
        let (keeper, body) = keep(body, limit, &door.room);
        let (now, wait) = (door.clock.now(), door.config.wait);
        let journey = Journey::new(door.region.clone(), caller, wanted, repeatable, now, wait);
        let visit = Self {
            door,
            guest,
            caller,
            journey,
            routes: door.routes.clone(),
            address: address(door, &head.uri)?,
            method: head.method,
            headers: head.headers,
            body: keeper,
            upgrade,
        };
        Ok((visit, body))
    }

    async fn run(mut self, body: Kept) -> Response<Body> {
        let (mut body, mut without_body) = (Some(body), Why::NoOwner);
        loop {
            let region = match self.step() {
                Step::To(region) => region,
                Step::Wait => {
                    self.wait().await;
                    continue;
                }
                Step::Answer(why) => return refusal(&why),
            };
            let Some(body) = body.take().or_else(|| self.body.anew()) else {
                return refusal(&without_body);
            };
            match self.send(&region, body).await {
                Ok(answer) => match self.replay(&region, answer.headers()) {
                    None => return self.finish(&region, answer),
                    Some(Ok(())) => without_body = Why::BodyNotKept,
                    Some(Err(why)) => return refusal(&why),
                },
                Err(failure) => self.journey.failed(&region, failure),
            }
        }
    }

    fn step(&mut self) -> Step {
        let now = self.door.clock.now();
        let (routes, down) = (self.routes.borrow_and_update().clone(), self.door.health.down(now));
        let regions = &self.door.regions;
        self.journey.step(&Sight { routes: &routes, regions, down: &down, now })
    }

    /// Until something is known to have changed, or for a moment.
    async fn wait(&mut self) {
        let left = Duration::from_millis(self.journey.left(self.door.clock.now()).0);
        let changed = async {
            if self.routes.changed().await.is_err() {
                // Nobody tells of changes any more as the agent ends.
                future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(left.min(LOOK_AGAIN), changed).await;
    }

    async fn send(&self, region: &RegionId, body: Kept) -> Result<Response<Incoming>, Failure> {
        let health = &self.door.health;
        let sent = self.try_to_send(region, body).await;
        match &sent {
            Ok(_) => health.answered(region),
            Err(Failure::Unreachable | Failure::AppUnreachable) => {
                health.failed(region, self.door.clock.now());
            }
            Err(Failure::NotOwner | Failure::BrokeOff | Failure::Late) => {}
        }
        sent
    }

    async fn try_to_send(
        &self,
        region: &RegionId,
        body: Kept,
    ) -> Result<Response<Incoming>, Failure> {
        let upstream = self.door.upstreams.get(region).ok_or(Failure::Unreachable)?;
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.address.clone();
        *request.headers_mut() = self.headers.clone();
        let is_hop = *region != self.door.region;
        if is_hop {
            let hop = Hop::new(self.door.region.clone(), self.journey.wanted()).to_string();
            headers::put(request.headers_mut(), HOP, &hop);
        }
        let mut sent = std::pin::pin!(upstream.send(request));
        let answer = loop {
            let progress = self.body.progress();
            let within = Duration::from_millis(self.door.config.answer_within.0);
            match tokio::time::timeout(within, sent.as_mut()).await {
                Ok(answer) => break answer,
                // The client may be slow to send its body.
                Err(_) if self.body.progress() != progress => {}
                Err(_) => return Err(Failure::Late),
            }
        };
        let answer = answer.map_err(|error| {
            tracing::debug!(%region, "a request is not answered: {error}");
            error.failure
        })?;
        let refused = answer.headers().get(REFUSED).filter(|_| is_hop);
        match refused.map(HeaderValue::as_bytes) {
            Some(b"not-owner") => Err(Failure::NotOwner),
            Some(b"app-unreachable") => Err(Failure::AppUnreachable),
            _ => Ok(answer),
        }
    }

    /// Does the application want this request answered elsewhere, and may it be?
    fn replay(&mut self, region: &RegionId, answer: &HeaderMap) -> Option<Result<(), Why>> {
        if self.caller == Caller::Peer {
            return None;
        }
        let said = REPLAY.into_iter().find_map(|(name, source)| Some((answer.get(name)?, source)));
        let (value, source) = said?;
        let text = value.to_str().unwrap_or_default();
        let replay = Replay::read(text, &self.door.layout, &self.door.regions);
        Some(replay.and_then(|Replay { wanted, state }| {
            let state = state.map(|state| format!(";state={state}")).unwrap_or_default();
            headers::put(&mut self.headers, source, &format!("region={region}{state}"));
            self.journey.replay(wanted, self.door.clock.now())
        }))
    }

    fn finish(mut self, region: &RegionId, mut answer: Response<Incoming>) -> Response<Body> {
        let version = answer.version();
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let server = switches.then(|| hyper::upgrade::on(&mut answer));
        let protocol = headers::of_connection(answer.headers_mut(), version);
        if *region == self.door.region {
            answer.headers_mut().remove(REFUSED);
            headers::put(answer.headers_mut(), REGION, region.as_str());
        }
        let Some(((server, client), protocol)) = server.zip(self.upgrade.take()).zip(protocol)
        else {
            // What nobody has asked for cannot be passed on.
            let why = Why::BrokeOff { region: region.clone() };
            return if switches { refusal(&why) } else { passed_on(answer) };
        };
        let (place, shutdown) = (self.guest.place.clone(), self.door.shutdown.clone());
        tokio::spawn(tunnel::run(client, server, place, shutdown));
        headers::put_upgrade(answer.headers_mut(), protocol);
        answer.map(|_| Empty::new().map_err(|never| match never {}).boxed())
    }
}

/// Notes of a request that it came to us first.
fn received(door: &Door, guest: &Guest, head: &mut Parts) -> Result<(), Why> {
    let headers = &mut head.headers;
    headers::take_ours(headers);
    headers::join_cookies(headers);
    headers::put_forwarded(headers, &head.uri, guest.address, guest.other != Other::Clear);
    headers::pass(headers, &door.cluster, &door.region)
}

/// Who connects goes by the region alone; the client of HTTP wants a host.
fn address(door: &Door, uri: &Uri) -> Result<Uri, Why> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = door.region.as_str();
    let address = Uri::builder().scheme("http").authority(host).path_and_query(path).build();
    address.map_err(|_| Why::Refused { what: "there is no path in this request" })
}

/// Reads by which hop a request came, if another door has sent it.
fn hop(door: &Door, guest: &Guest, headers: &HeaderMap) -> Result<Option<Hop>, Why> {
    let Some(value) = headers.get(HOP).filter(|_| door.secure.believes(guest.other)) else {
        return Ok(None);
    };
    let hop = value.to_str().ok().and_then(|text| text.parse().ok());
    hop.map(Some)
        .ok_or(Why::Refused { what: "another door sends this on in a way that is not understood" })
}

fn asked(request: &Request<Incoming>) -> Asked<'_> {
    let headers = request.headers().iter();
    Asked {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: headers.map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
    }
}
