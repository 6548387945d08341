//! Where are the regions and the witnesses, and can they be told apart?
//!
//! Two regions may have equal loopback addresses of PostgreSQL or equal folders when they are on
//! two machines; whether they are is judged by the host at which their agents are reached.

use std::collections::BTreeMap;

use domicile_core::config::{Directory, Etcd, GatewayPort, Region, Witness};
use domicile_core::freshness::Freshness;
use domicile_core::id::RegionId;
use tokio_postgres::config::Host;

use super::mistake::Mistakes;
use super::resolve::required;
use super::written::{WrittenGatewayPort, WrittenRegion, WrittenWitness};
use crate::postgres::database::{Database, is_loopback};

/// Returns the regions and the witnesses, unless one of them is wrong.
pub(super) fn resolve(
    regions: &[WrittenRegion],
    witnesses: &[WrittenWitness],
    mistakes: &mut Mistakes,
) -> (Option<Vec<Region>>, Option<Vec<Witness>>) {
    let mut names = NamesTaken::default();
    let regions = (1..).zip(regions).map(|(number, written)| {
        let path = |key: &str| format!("region[{number}].{key}");
        let id = names.take(written.name.as_deref(), format!("region[{number}]"), mistakes);
        resolve_one(written, id, &path, mistakes)
    });
    let regions: Vec<_> = regions.collect();
    let witnesses = (1..).zip(witnesses).map(|(number, written)| {
        let path = |key: &str| format!("witness[{number}].{key}");
        let id = names.take(written.name.as_deref(), format!("witness[{number}]"), mistakes);
        resolve_witness(written, id, &path, mistakes)
    });
    let witnesses: Vec<_> = witnesses.collect();
    (regions.into_iter().collect(), witnesses.into_iter().collect())
}

/// Who has which name.
#[derive(Default)]
struct NamesTaken(BTreeMap<RegionId, String>);

impl NamesTaken {
    fn take(
        &mut self,
        written: Option<&str>,
        by: String,
        mistakes: &mut Mistakes,
    ) -> Option<RegionId> {
        let path = format!("{by}.name");
        let id = name(&path, written, mistakes)?;
        let what = by.split_once('[').map_or(by.as_str(), |(what, _)| what).to_owned();
        if let Some(first) = self.0.insert(id.clone(), by) {
            mistakes.add(path, format!("{what} \"{id}\" is already {first}"));
        }
        Some(id)
    }
}

fn resolve_witness(
    written: &WrittenWitness,
    id: Option<RegionId>,
    path: &dyn Fn(&str) -> String,
    mistakes: &mut Mistakes,
) -> Option<Witness> {
    let peer = address(&path("peer"), written.peer.as_deref(), mistakes);
    let peer_listen = listen(&path("peer_listen"), &written.peer_listen, &peer, mistakes);
    let metrics = optional(&path("metrics"), &written.metrics, mistakes);
    let data = required(&path("data"), written.data.as_deref(), mistakes);
    Some(Witness {
        id: id?,
        peer: peer?,
        peer_listen: peer_listen?,
        metrics: metrics?,
        data: data?.to_owned(),
    })
}

fn resolve_one(
    written: &WrittenRegion,
    id: Option<RegionId>,
    path: &dyn Fn(&str) -> String,
    mistakes: &mut Mistakes,
) -> Option<Region> {
    let postgres = required(&path("postgres"), written.postgres.as_deref(), mistakes);
    if let Some(text) = postgres
        && let Err(wrong) = text.parse::<Database>()
    {
        mistakes.add(path("postgres"), wrong.to_string());
    }
    let peer = address(&path("peer"), written.peer.as_deref(), mistakes);
    let gateway = address(&path("gateway"), written.gateway.as_deref(), mistakes);
    let peer_listen = listen(&path("peer_listen"), &written.peer_listen, &peer, mistakes);
    let gateway_listen =
        listen(&path("gateway_listen"), &written.gateway_listen, &gateway, mistakes);
    let ports = (1..).zip(&written.gateway_port).map(|(number, port)| {
        gateway_port(port, |key| path(&format!("gateway_port[{number}].{key}")), mistakes)
    });
    let gateway_ports: Vec<_> = ports.collect();
    let metrics = optional(&path("metrics"), &written.metrics, mistakes);
    let dns = optional(&path("dns"), &written.dns, mistakes);
    let addresses = super::dns::addresses(
        &path("addresses"),
        written.addresses.as_ref(),
        written.gateway.as_deref(),
        mistakes,
    );
    let clients = super::dns::clients(&path("clients"), written.clients.as_ref(), mistakes);
    let health = optional(&path("health"), &written.health, mistakes);
    let http = super::http::door(written, path, mistakes);
    let capacity = capacity(&path("capacity"), written.capacity, mistakes);
    let data = required(&path("data"), written.data.as_deref(), mistakes);
    Some(Region {
        id: id?,
        postgres: postgres?.to_owned(),
        peer: peer?,
        peer_listen: peer_listen?,
        gateway: gateway?,
        gateway_listen: gateway_listen?,
        gateway_ports: gateway_ports.into_iter().collect::<Option<_>>()?,
        metrics: metrics?,
        dns: dns?,
        addresses,
        clients,
        health: health?,
        http: http?,
        capacity: capacity?,
        data: data?.to_owned(),
    })
}

fn gateway_port(
    written: &WrittenGatewayPort,
    path: impl Fn(&str) -> String,
    mistakes: &mut Mistakes,
) -> Option<GatewayPort> {
    let listen = address(&path("listen"), written.listen.as_deref(), mistakes);
    let freshness = required(&path("freshness"), written.freshness.as_deref(), mistakes);
    let freshness = freshness.and_then(|text| match text.parse::<Freshness>() {
        Ok(freshness) => Some(freshness),
        Err(wrong) => {
            mistakes.add(path("freshness"), wrong.to_string());
            None
        }
    });
    Some(GatewayPort { listen: listen?, freshness: freshness? })
}

/// Commits a second; none where nothing is said.
fn capacity(path: &str, written: Option<i64>, mistakes: &mut Mistakes) -> Option<Option<u64>> {
    let Some(number) = written else { return Some(None) };
    match u64::try_from(number) {
        Ok(commits) if commits > 0 => Some(Some(commits)),
        _ => {
            mistakes.add(path, format!("{number}: expected how many commits a second, at least 1"));
            None
        }
    }
}

fn name(path: &str, written: Option<&str>, mistakes: &mut Mistakes) -> Option<RegionId> {
    match required(path, written, mistakes)?.parse::<RegionId>() {
        Ok(id) => Some(id),
        Err(wrong) => {
            mistakes.add(path, wrong.to_string());
            None
        }
    }
}

/// Returns a `host:port` that must be there.
pub(super) fn address(
    path: &str,
    written: Option<&str>,
    mistakes: &mut Mistakes,
) -> Option<String> {
    let text = required(path, written, mistakes)?;
    if host_and_port(text).is_none() {
        mistakes.add(path, format!("\"{text}\" is not an address: expected host:port"));
        return None;
    }
    Some(text.to_owned())
}

fn optional(
    path: &str,
    written: &Option<String>,
    mistakes: &mut Mistakes,
) -> Option<Option<String>> {
    match written {
        Some(text) => address(path, Some(text), mistakes).map(Some),
        None => Some(None),
    }
}

pub(super) fn listen(
    path: &str,
    written: &Option<String>,
    advertised: &Option<String>,
    mistakes: &mut Mistakes,
) -> Option<String> {
    match written {
        Some(text) => address(path, Some(text), mistakes),
        None => advertised.clone(),
    }
}

fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let host_fits = !host.is_empty() && (bracketed || !host.contains([':', ' ', '/', '@']));
    let port: u16 = port.parse().ok()?;
    (host_fits && port > 0).then_some((host, port))
}

/// Notes what two parts of the cluster cannot share.
pub(super) fn check_addresses(
    regions: &[WrittenRegion],
    witnesses: &[WrittenWitness],
    directory: Option<&Directory>,
    mistakes: &mut Mistakes,
) {
    let mut taken = Taken { by: BTreeMap::new(), mistakes };
    match directory {
        None => {}
        Some(Directory::Embedded { address, data, next }) => {
            let host = host_of(address);
            taken.claim(format!("address {address}"), "directory.address".into());
            taken.claim(format!("folder {} {host}", folder(data)), "directory.data".into());
            next.iter().for_each(|etcd| taken.claim_members(etcd));
        }
        Some(Directory::Etcd(etcd)) => taken.claim_members(etcd),
    }
    for (i, region) in regions.iter().enumerate() {
        let path = |key: &str| format!("region[{}].{key}", i + 1);
        let machine = host_of(region.peer.as_deref().unwrap_or_default());
        for (key, address) in
            [("peer", &region.peer), ("gateway", &region.gateway), ("http", &region.http)]
        {
            if let Some(address) = address {
                taken.claim(format!("address {address}"), path(key));
            }
        }
        for (key, address) in [
            ("peer_listen", &region.peer_listen),
            ("gateway_listen", &region.gateway_listen),
            ("http_listen", &region.http_listen),
            ("app", &region.app),
            ("metrics", &region.metrics),
            ("health", &region.health),
            ("dns", &region.dns),
        ] {
            if let Some(address) = address {
                taken.claim(format!("listen {machine} {address}"), path(key));
            }
        }
        for (number, port) in (1..).zip(&region.gateway_port) {
            if let Some(address) = &port.listen {
                let path = path(&format!("gateway_port[{number}].listen"));
                taken.claim(format!("listen {machine} {address}"), path);
            }
        }
        if let Some(data) = &region.data {
            taken.claim(format!("folder {} {machine}", folder(data)), path("data"));
        }
        for database in region.postgres.iter().flat_map(|text| databases(text, machine)) {
            taken.claim(database, path("postgres"));
        }
    }
    for (number, witness) in (1..).zip(witnesses) {
        let path = |key: &str| format!("witness[{number}].{key}");
        let machine = host_of(witness.peer.as_deref().unwrap_or_default());
        if let Some(address) = &witness.peer {
            taken.claim(format!("address {address}"), path("peer"));
        }
        for (key, address) in [("peer_listen", &witness.peer_listen), ("metrics", &witness.metrics)]
        {
            if let Some(address) = address {
                taken.claim(format!("listen {machine} {address}"), path(key));
            }
        }
        if let Some(data) = &witness.data {
            taken.claim(format!("folder {} {machine}", folder(data)), path("data"));
        }
    }
}

struct Taken<'a> {
    by: BTreeMap<String, String>,
    mistakes: &'a mut Mistakes,
}

impl Taken<'_> {
    fn claim_members(&mut self, etcd: &Etcd) {
        for endpoint in &etcd.endpoints {
            self.claim(format!("address {endpoint}"), "directory.endpoints".into());
        }
    }

    fn claim(&mut self, what: String, path: String) {
        match self.by.get(&what) {
            Some(first) if *first != path => {
                self.mistakes.add(path, format!("is the same as {first}"));
            }
            Some(_) => {}
            None => drop(self.by.insert(what, path)),
        }
    }
}

fn host_of(address: &str) -> &str {
    host_and_port(address).map_or("", |(host, _)| host)
}

fn folder(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// What identifies the database behind a connection string, once for each of its hosts.
fn databases(connection: &str, machine: &str) -> Vec<String> {
    let Ok(Database { config, .. }) = connection.parse() else { return Vec::new() };
    let name = config.get_dbname().or(config.get_user()).unwrap_or_default();
    let ports = config.get_ports();
    let port = |i: usize| ports.get(i).or(ports.first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate();
    hosts
        .map(|(i, host)| match host {
            Host::Tcp(host) if !is_loopback(host) => {
                format!("database {host}:{}/{name}", port(i))
            }
            Host::Tcp(_) => format!("database on {machine}:{}/{name}", port(i)),
            #[cfg(unix)]
            Host::Unix(path) => {
                format!("database on {machine} {}:{}/{name}", path.display(), port(i))
            }
        })
        .collect()
}
