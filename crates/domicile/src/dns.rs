//! Which addresses does somebody get who asks for the cluster by name?
//!
//! Each agent may be a name server of one zone:
//!
//! ```text
//!   db.example.com      A, AAAA   gateways of the regions that own something, are up and not drained
//!   eu.db.example.com   A, AAAA   the gateway of region eu, whatever it is like
//!   ns-eu. ...          A, AAAA   the name server of region eu, beside its gateway
//! ```
//!
//! Who is in the first answer is decided by `core::traffic`. Nothing else is answered: no other zones, no
//! transfers, no updates.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use domicile_core::config::Config;
use domicile_core::health::DRAINED;
use domicile_core::id::RegionId;
use domicile_core::traffic::{AnswerRate, drawn, led_to, nearest};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_server::proto::rr::rdata::{A, AAAA, NS, SOA};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use ipnet::IpNet;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::directory::view::OwnershipView;
use crate::observe::Observer;
use crate::status::RegionStatus;

/// A larger answer than this may be lost in pieces on the way (DNS flag day 2020).
const PAYLOAD_MAX: u16 = 1232;
/// Everybody takes as much (RFC 1035).
const PAYLOAD_MIN: u16 = 512;
/// Who says nothing for so long over TCP is let go.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Answers that wait for a slow client.
const ANSWERS_WAITING: usize = 16;

/// From one lot to the next: multiples of the golden ratio spread evenly, however many there are (Weyl).
const LOT_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// What answers are made of.
pub struct Sources {
    pub config: Arc<Config>,
    pub region: RegionId,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub status: watch::Receiver<Arc<RegionStatus>>,
    pub observer: Observer,
    pub clock: Clock,
}

/// The two ways on which one is asked.
pub struct Sockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

impl Sockets {
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let whom = || format!("listen for resolvers on {address}");
        let udp = UdpSocket::bind(address).await.with_context(whom)?;
        let tcp = TcpListener::bind(address).await.with_context(whom)?;
        Ok(Self { udp, tcp })
    }
}

/// Answers for as long as it is polled.
pub async fn serve(sockets: Sockets, zone: Zone) -> anyhow::Result<()> {
    let mut server = Server::new(zone);
    server.register_socket(sockets.udp);
    server.register_listener(sockets.tcp, SILENCE_MAX, ANSWERS_WAITING);
    server.block_until_done().await.context("serve names")
}

/// The zone, as this agent answers for it.
pub struct Zone {
    sources: Sources,
    name: Name,
    ttl: u32,
    rate: Mutex<AnswerRate>,
    lot: AtomicU64,
}

/// What is said to one question.
struct Answer {
    code: ResponseCode,
    authoritative: bool,
    truncated: bool,
    records: Vec<Record>,
    /// Beside an answer without records: for how long there is none.
    soa: Option<Record>,
}

impl Answer {
    fn refusal(code: ResponseCode) -> Self {
        Self { code, authoritative: false, truncated: false, records: Vec::new(), soa: None }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut respond: R,
    ) -> ResponseInfo {
        let answer = self.answer(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        metadata.truncation = answer.truncated;
        let mut edns = Edns::new();
        edns.set_max_payload(payload(request)).set_version(0);
        let mut response = MessageResponseBuilder::from_message_request(request);
        if let Some(told) = subnet(request) {
            let scope = if self.asks_for_networks() { told.source_prefix() } else { 0 };
            let subnet = ClientSubnet::new(told.addr(), told.source_prefix(), scope);
            edns.options_mut().insert(EdnsOption::Subnet(subnet));
        }
        if request.edns.is_some() {
            response.edns(&edns);
        }
        let response = response.build(metadata, &answer.records, [], &answer.soa, []);
        match respond.send_response(response).await {
            Ok(info) => info,
            // The client is gone; what is returned is only for a log.
            Err(_) => {
                metadata.response_code = ResponseCode::ServFail;
                hickory_server::proto::op::Header { metadata, counts: Default::default() }.into()
            }
        }
    }
}

impl Zone {
    /// Fails where the configuration names no zone.
    pub fn new(sources: Sources) -> anyhow::Result<Self> {
        let dns = sources.config.dns.as_ref().context("dns.zone names no zone")?;
        let mut name = Name::from_ascii(&dns.zone).context("dns.zone is no name")?.to_lowercase();
        name.set_fqdn(true);
        let ttl = u32::try_from(dns.ttl.0 / 1000).unwrap_or(u32::MAX);
        Ok(Self { sources, name, ttl, rate: Mutex::default(), lot: AtomicU64::new(0) })
    }

    fn answer(&self, request: &Request) -> Answer {
        if request.metadata.op_code != OpCode::Query {
            return Answer::refusal(ResponseCode::NotImp);
        }
        // Of EDNS there is only version 0 (RFC 6891).
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Answer::refusal(ResponseCode::BADVERS);
        }
        let Ok(asked) = request.request_info() else {
            return Answer::refusal(ResponseCode::FormErr);
        };
        let (kind, class) = (asked.query.query_type(), asked.query.query_class());
        let name = Name::from(asked.query.name());
        let refused = [RecordType::AXFR, RecordType::IXFR, RecordType::ANY].contains(&kind);
        if class != DNSClass::IN || !self.name.zone_of(&name) || refused {
            return Answer::refusal(ResponseCode::Refused);
        }
        if asked.protocol == Protocol::Udp && !self.admits(asked.src.ip()) {
            return Answer { truncated: true, ..Answer::refusal(ResponseCode::NoError) };
        }
        let is_led = name == self.name && [RecordType::A, RecordType::AAAA].contains(&kind);
        if is_led && self.sources.ownership.borrow().ownership.is_none() {
            // That there is none would be believed, and kept. So another server is asked.
            return Answer::refusal(ResponseCode::ServFail);
        }
        let told = subnet(request).and_then(|told| network(&told));
        let client = told.unwrap_or(IpNet::from(asked.src.ip().to_canonical()));
        let here = self.records(&name, kind, client);
        let records: Vec<Record> = match &here {
            Some(here) => here.iter().filter(|r| r.record_type() == kind).cloned().collect(),
            None => Vec::new(),
        };
        let code = if here.is_some() { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let soa = records.is_empty().then(|| self.soa());
        Answer { code, authoritative: true, truncated: false, records, soa }
    }

    fn admits(&self, client: IpAddr) -> bool {
        let now = self.sources.clock.now();
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).admits(client, now)
    }

    /// Everything of one name, where it leads by who asks for which `kind`; `None` where there is no such name.
    fn records(&self, name: &Name, kind: RecordType, client: IpNet) -> Option<Vec<Record>> {
        let regions = &self.sources.config.regions;
        if *name == self.name {
            let servers = regions.iter().filter(|region| region.dns.is_some());
            let servers = servers.filter_map(|region| self.name_server(&region.id));
            let named = servers.map(|server| RData::NS(NS(server)));
            let mut records: Vec<Record> = named.map(|data| self.record(name, data)).collect();
            records.push(self.soa());
            for region in self.led_to(kind, client) {
                records.extend(self.addresses(&region).map(|data| self.record(name, data)));
            }
            return Some(records);
        }
        let region = regions.iter().find(|region| {
            let place = self.beneath(region.id.as_str());
            place.as_ref() == Some(name)
                || (region.dns.is_some() && self.name_server(&region.id).as_ref() == Some(name))
        })?;
        Some(self.addresses(&region.id).map(|data| self.record(name, data)).collect())
    }

    /// By the last ownership that was read, without those that are seen to be down or drained: where `client` is led
    /// that asks for addresses of a `kind`.
    fn led_to(&self, kind: RecordType, client: IpNet) -> Vec<RegionId> {
        let view = self.sources.ownership.borrow().clone();
        let Some(ownership) = view.ownership.as_ref() else { return Vec::new() };
        let (config, all) =
            (&self.sources.config, led_to(ownership, &self.down(), &self.drained()));
        let networks = config
            .regions
            .iter()
            .flat_map(|region| region.clients.iter().map(|network| (&region.id, *network)));
        let capacity = |region: &RegionId| config.region(region).and_then(|region| region.capacity);
        let draw = || {
            let lot = self.lot.fetch_add(LOT_STEP, Ordering::Relaxed);
            // Who has no address of this kind would be no answer.
            let mut with = all.clone();
            with.retain(|region| self.addresses(region).any(|data| data.record_type() == kind));
            drawn(&with, capacity, lot)
        };
        let one = config.dns.as_ref().is_some_and(|dns| dns.one);
        let found = nearest(&all, networks, client).or_else(|| if one { draw() } else { None });
        found.map_or(all.clone(), |region| vec![region])
    }

    /// Does an answer depend on who asks?
    fn asks_for_networks(&self) -> bool {
        self.sources.config.regions.iter().any(|region| !region.clients.is_empty())
    }

    fn down(&self) -> BTreeSet<RegionId> {
        let mut down = self.sources.observer.down();
        let status = self.sources.status.borrow().clone();
        if !status.postgres_reachable || !status.lease_live {
            down.insert(self.sources.region.clone());
        }
        down
    }

    fn drained(&self) -> BTreeSet<RegionId> {
        let mut drained = self.sources.observer.drained();
        if self.sources.status.borrow().says(DRAINED) {
            drained.insert(self.sources.region.clone());
        }
        drained
    }

    fn addresses(&self, region: &RegionId) -> impl Iterator<Item = RData> {
        let region = self.sources.config.region(region);
        let addresses = region.map(|region| region.addresses.as_slice()).unwrap_or_default();
        addresses.iter().map(|address| match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        })
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl, data)
    }

    fn soa(&self) -> Record {
        let regions = &self.sources.config.regions;
        let mut servers = regions.iter().filter(|region| region.dns.is_some());
        let first = servers.find_map(|region| self.name_server(&region.id));
        let master = first.unwrap_or_else(|| self.name.clone());
        let person = self.beneath("hostmaster").unwrap_or_else(|| self.name.clone());
        // All name servers read one directory, so the same answers carry the same number.
        let serial = self.sources.ownership.borrow().revision as u32;
        let data = SOA::new(master, person, serial, 3600, 600, 86_400, self.ttl);
        self.record(&self.name, RData::SOA(data))
    }

    fn name_server(&self, region: &RegionId) -> Option<Name> {
        self.beneath(&format!("ns-{region}"))
    }

    fn beneath(&self, label: &str) -> Option<Name> {
        self.name.prepend_label(label).ok()
    }
}

/// How long an answer over UDP may be.
fn payload(request: &Request) -> u16 {
    let taken = request.edns.as_ref().map_or(PAYLOAD_MIN, Edns::max_payload);
    taken.clamp(PAYLOAD_MIN, PAYLOAD_MAX)
}

/// What a resolver tells of its client (RFC 7871).
fn subnet(request: &Request) -> Option<ClientSubnet> {
    match request.edns.as_ref()?.option(EdnsCode::Subnet)? {
        EdnsOption::Subnet(subnet) => Some(*subnet),
        _ => None,
    }
}

/// `None` where it asks not to be led by that, or tells nonsense.
fn network(told: &ClientSubnet) -> Option<IpNet> {
    let prefix = Some(told.source_prefix()).filter(|prefix| *prefix > 0)?;
    IpNet::new(told.addr(), prefix).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domicile_core::lsn::Lsn;
    use domicile_core::ownership::Ownership;
    use hickory_server::proto::op::{Message, MessageType, Query};

    use super::*;
    use crate::log::Logs;
    use crate::observe;
    use crate::positions::Positions;
    use crate::promises::Given;

    const CONFIG: &str = r#"
cluster = "shop"
partition = "hash(id, 2)"
[directory]
address = "127.0.0.1:7400"
data = "/var/lib/domicile/directory"
[dns]
zone = "db.example"
answer = "one"
[[region]]
name = "eu"
postgres = "host=127.0.0.1 port=5432 dbname=shop"
peer = "127.0.0.1:7401"
gateway = "127.0.0.1:6432"
data = "/var/lib/domicile/eu"
dns = "127.0.0.1:53"
addresses = ["192.0.2.1", "2001:db8::1"]
[[region]]
name = "us"
postgres = "host=127.0.0.1 port=5433 dbname=shop"
peer = "127.0.0.1:7402"
gateway = "127.0.0.1:6433"
data = "/var/lib/domicile/us"
addresses = "192.0.2.2"
"#;

    /// The zone as region eu answers for it, which sees nobody; where `known`, both regions own something.
    fn zone(known: bool) -> Zone {
        let config = Arc::new(crate::settings::parse(CONFIG).unwrap());
        let regions: Vec<RegionId> = config.regions.iter().map(|r| r.id.clone()).collect();
        let ownership = known.then(|| Ownership::initial(2, &regions));
        let view = OwnershipView { ownership, ..OwnershipView::default() };
        let ownership = watch::Sender::new(Arc::new(view)).subscribe();
        let status = watch::Sender::new(Arc::new(RegionStatus::default())).subscribe();
        let (clock, region) = (Clock::new(), regions[0].clone());
        let folder = tempfile::tempdir().unwrap();
        let observer = Observer::new(observe::Sources {
            config: config.clone(),
            region: region.clone(),
            clock,
            leases: watch::Sender::default().subscribe(),
            safety: watch::Sender::default().subscribe(),
            ownership: ownership.clone(),
            reseeds: watch::Sender::default().subscribe(),
            logs: Logs::open(folder.path(), 1 << 20).unwrap().0,
            positions: Positions::new(Lsn::ZERO),
            own_status: status.clone(),
            peers: BTreeMap::new(),
            promises: Given::new(clock, config.lease),
        });
        Zone::new(Sources { config, region, ownership, status, observer, clock }).unwrap()
    }

    fn request(name: &str, kind: RecordType, edns: Option<(u8, u16)>) -> Request {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        if let Some((version, payload)) = edns {
            let mut told = Edns::new();
            told.set_version(version).set_max_payload(payload);
            message.edns = Some(told);
        }
        let client = SocketAddr::from(([198, 51, 100, 1], 5353));
        Request::from_bytes(message.to_vec().unwrap(), client, Protocol::Tcp).unwrap()
    }

    #[test]
    fn who_does_not_know_the_owners_leaves_the_answer_to_others() {
        let asked = |name: &str, kind| zone(false).answer(&request(name, kind, None));
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = asked("db.example.", kind);
            assert_eq!(answer.code, ResponseCode::ServFail);
            assert!(answer.soa.is_none(), "nothing to keep");
        }
        assert_eq!(asked("eu.db.example.", RecordType::A).records.len(), 1);
        assert_eq!(asked("db.example.", RecordType::NS).records.len(), 1);
    }

    #[test]
    fn one_region_is_drawn_from_those_that_have_such_an_address() {
        let zone = zone(true);
        let drawn = |kind| {
            let answers = (0..20).map(|_| zone.answer(&request("db.example.", kind, None)));
            let data = answers.map(|answer| match &answer.records[..] {
                [one] => one.data.to_string(),
                other => panic!("{other:?}"),
            });
            data.collect::<BTreeSet<String>>()
        };
        assert_eq!(drawn(RecordType::A).len(), 2);
        assert_eq!(drawn(RecordType::AAAA), ["2001:db8::1".to_owned()].into());
    }

    #[test]
    fn a_newer_edns_is_not_spoken_and_no_answer_is_longer_than_its_client_takes() {
        let asked = |edns| request("db.example.", RecordType::A, edns);
        let code = |version| zone(true).answer(&asked(Some((version, 1232)))).code;
        assert_eq!((code(0), code(1)), (ResponseCode::NoError, ResponseCode::BADVERS));
        for (taken, longest) in [(None, 512), (Some(0), 512), (Some(700), 700), (Some(4096), 1232)]
        {
            assert_eq!(payload(&asked(taken.map(|taken| (0, taken)))), longest, "{taken:?}");
        }
    }
}
