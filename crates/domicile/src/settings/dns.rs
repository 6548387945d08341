//! By which name is the cluster found, and what do names lead to?

use std::net::IpAddr;

use domicile_core::config::{Dns, Region};
use domicile_core::time::Millis;
use hickory_server::proto::rr::Name;
use ipnet::IpNet;

use super::gateway::network;
use super::mistake::Mistakes;
use super::resolve::{duration, required};
use super::written::{Names, WrittenDns, WrittenRegion};

const TTL_DEFAULT: Millis = Millis(10_000);
/// Resolvers ask again at each turn otherwise, and a few hold less than a second for an error.
const TTL_MIN: Millis = Millis(1000);
/// For longer nobody should be led to where nothing is any more.
const TTL_MAX: Millis = Millis(60_000);
/// Room for the longest name of a region, and for what stands before it.
const ZONE_BYTES_MAX: usize = 200;

pub(super) fn resolve(written: &WrittenDns, mistakes: &mut Mistakes) -> Option<Dns> {
    let ttl = duration("dns.ttl", written.ttl.as_deref(), TTL_DEFAULT, mistakes);
    if ttl < TTL_MIN || ttl > TTL_MAX || !ttl.0.is_multiple_of(1000) {
        mistakes.add("dns.ttl", "expected whole seconds, 1s to 60s");
    }
    let zone = required("dns.zone", written.zone.as_deref(), mistakes)?;
    let name = Name::from_ascii(zone).ok();
    let named = name.filter(|name| !name.is_root() && zone.len() <= ZONE_BYTES_MAX);
    if named.is_none() {
        let text = format!("\"{zone}\" is not the name of a zone, as in \"db.example.com\"");
        mistakes.add("dns.zone", text);
    }
    let one = match written.answer.as_deref() {
        None | Some("all") => Some(false),
        Some("one") => Some(true),
        Some(other) => {
            mistakes.add("dns.answer", format!("\"{other}\" is neither \"all\" nor \"one\""));
            None
        }
    };
    named.map(|_| Dns { zone: zone.to_owned(), ttl, one: one.unwrap_or_default() })
}

/// Returns the networks whose clients are led to a region first.
pub(super) fn clients(path: &str, written: Option<&Names>, mistakes: &mut Mistakes) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in written.map(Names::list).unwrap_or_default() {
        match network(&text) {
            Ok(network) => networks.push(network),
            Err(wrong) => mistakes.add(path, wrong),
        }
    }
    networks
}

/// Returns what a region's name is answered with: what is written, or the host of its gateway.
pub(super) fn addresses(
    path: &str,
    written: Option<&Names>,
    gateway: Option<&str>,
    mistakes: &mut Mistakes,
) -> Vec<IpAddr> {
    let Some(names) = written else {
        let host = gateway.and_then(|gateway| gateway.rsplit_once(':')).map(|(host, _)| host);
        let host = host.unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        return host.parse().into_iter().collect();
    };
    let mut addresses = Vec::new();
    for text in names.list() {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => mistakes.add(path, format!("\"{text}\" is not an IP address")),
        }
    }
    addresses
}

/// Notes which names could not be answered.
pub(super) fn check(
    written: Option<&WrittenDns>,
    regions: &[WrittenRegion],
    resolved: &[Region],
    mistakes: &mut Mistakes,
) {
    for (i, region) in regions.iter().enumerate() {
        if region.dns.is_some() && written.is_none() {
            let path = format!("region[{}].dns", i + 1);
            mistakes.add(path, "answers for no zone: give [dns] with a zone, too");
        }
    }
    for (i, region) in resolved.iter().enumerate() {
        if written.is_some() && region.addresses.is_empty() {
            let path = format!("region[{}].addresses", i + 1);
            mistakes.add(path, "is missing: with [dns] a region's name needs an answer, and its gateway is no address");
        }
    }
}
