//! What does each process of the lab read as its configuration?
//!
//! Every region has a file of its own: its own addresses are direct, those of the others lead
//! through the relays of the links from here.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use domicile_core::config::MutualTls;

/// What all files say alike.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) cluster: String,
    /// As in `hash(branch_id, 12)` or `whole`.
    pub(super) partition: String,
    /// `0`, a duration or `none`.
    pub(super) rpo: String,
    pub(super) lease: Duration,
    pub(super) automatic_failover: bool,
    pub(super) suspect_after: Duration,
    /// More sections, as in `[log]`.
    pub(super) zone: Option<String>,
    pub(super) more: String,
    pub(super) gateway: String,
    /// The `[[table]]` part.
    pub(super) tables: String,
}

/// One region as one process sees it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) postgres: String,
    pub(super) peer: SocketAddr,
    pub(super) peer_listen: SocketAddr,
    pub(super) gateway: SocketAddr,
    pub(super) gateway_listen: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) health: SocketAddr,
    pub(super) dns: SocketAddr,
    pub(super) door: Option<SeenDoor>,
}

/// Its door for HTTP.
#[derive(Clone, Debug)]
pub(super) struct SeenDoor {
    pub(super) http: SocketAddr,
    pub(super) http_listen: SocketAddr,
    pub(super) app: SocketAddr,
}

/// One witness as one process sees it.
#[derive(Clone, Debug)]
pub(super) struct SeenWitness {
    pub(super) name: String,
    pub(super) peer: SocketAddr,
    pub(super) peer_listen: SocketAddr,
    pub(super) metrics: SocketAddr,
}

/// The directory as one process reaches it.
#[derive(Clone, Debug)]
pub(super) enum Directory {
    Embedded(SocketAddr),
    Etcd(Vec<String>),
    /// The embedded one, until it has moved to etcd.
    Leaving(SocketAddr, Vec<String>),
}

/// Writes one configuration; `folder` is where the data of directory and agents goes.
pub(super) fn text(
    common: &Common,
    directory: &Directory,
    regions: &[Seen],
    witnesses: &[SeenWitness],
    folder: &Path,
) -> String {
    let folder = folder.display().to_string();
    let embedded = |address: &SocketAddr| {
        let data = quote(&format!("{folder}/directory"));
        format!("address = \"{address}\"\ndata = {data}")
    };
    let etcd = |endpoints: &[String]| {
        let endpoints: Vec<String> = endpoints.iter().map(|endpoint| quote(endpoint)).collect();
        format!("endpoints = [{}]", endpoints.join(", "))
    };
    let directory = match directory {
        Directory::Embedded(address) => embedded(address),
        Directory::Etcd(endpoints) => etcd(endpoints),
        Directory::Leaving(address, endpoints) => {
            format!("{}\n{}", embedded(address), etcd(endpoints))
        }
    };
    let mut text = format!(
        "cluster = {}\npartition = {}\nrpo = {}\n\n[directory]\n{directory}\n\n",
        quote(&common.cluster),
        quote(&common.partition),
        quote(&common.rpo),
    );
    let _ = write!(
        text,
        "[lease]\nttl = \"{}ms\"\n\n[failover]\nautomatic = {}\nsuspect_after = \"{}ms\"\n\n",
        common.lease.as_millis(),
        common.automatic_failover,
        common.suspect_after.as_millis()
    );
    if let Some(zone) = &common.zone {
        let _ = write!(text, "[dns]\nzone = {}\n\n", quote(zone));
    }
    let _ = writeln!(text, "{}", common.more);
    if !common.gateway.is_empty() {
        let _ = writeln!(text, "[gateway]\n{}", common.gateway);
    }
    for (number, region) in (1..).zip(regions) {
        let named =
            |_: &String| format!("dns = \"{}\"\naddresses = \"192.0.2.{number}\"\n", region.dns);
        let names = common.zone.as_ref().map(named).unwrap_or_default();
        let door = |SeenDoor { http, http_listen, app }: &SeenDoor| {
            format!("http = \"{http}\"\nhttp_listen = \"{http_listen}\"\napp = \"{app}\"\n")
        };
        let door = region.door.as_ref().map(door).unwrap_or_default();
        let Seen {
            name,
            postgres,
            peer,
            peer_listen,
            gateway,
            gateway_listen,
            metrics,
            health,
            ..
        } = region;
        let _ = write!(
            text,
            "[[region]]\nname = {}\npostgres = {}\npeer = \"{peer}\"\npeer_listen = \"{peer_listen}\"\n\
             gateway = \"{gateway}\"\ngateway_listen = \"{gateway_listen}\"\n\
             metrics = \"{metrics}\"\nhealth = \"{health}\"\n{door}{}data = {}\n\n",
            quote(name),
            quote(postgres),
            names,
            quote(&format!("{folder}/{name}/agent")),
        );
    }
    for SeenWitness { name, peer, peer_listen, metrics } in witnesses {
        let _ = write!(
            text,
            "[[witness]]\nname = {}\npeer = \"{peer}\"\npeer_listen = \"{peer_listen}\"\n\
             metrics = \"{metrics}\"\ndata = {}\n\n",
            quote(name),
            quote(&format!("{folder}/{name}/agent")),
        );
    }
    text.push_str(&common.tables);
    text
}

/// Writes the section that names a process's certificate.
pub(super) fn tls(files: &MutualTls) -> String {
    let MutualTls { ca, identity, .. } = files;
    let (certificate, key) = (quote(&identity.certificate), quote(&identity.key));
    format!("\n[tls]\nca = {}\ncertificate = {certificate}\nkey = {key}\n", quote(ca))
}

/// Writes the keys by which a gateway shows the same certificate to its clients.
pub(super) fn gateway_tls(files: &MutualTls, required: bool) -> String {
    let (certificate, key) = (quote(&files.identity.certificate), quote(&files.identity.key));
    format!("certificate = {certificate}\nkey = {key}\nrequire_tls = {required}\n")
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_toml_with_every_region_in_it() {
        let common = Common {
            cluster: "lab".to_owned(),
            partition: "whole".to_owned(),
            rpo: "0".to_owned(),
            lease: Duration::from_secs(3),
            automatic_failover: true,
            suspect_after: Duration::from_secs(2),
            zone: Some("db.example".to_owned()),
            more: "[log]\nkeep = \"1s\"\n".to_owned(),
            gateway: "connections = 9\n".to_owned(),
            tables: "[[table]]\nname = \"kept\"\nkind = \"owned\"\n".to_owned(),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        let seen = |name: &str| Seen {
            name: name.to_owned(),
            postgres: "host=127.0.0.1 options='-c a=\"b\"'".to_owned(),
            peer: address,
            peer_listen: address,
            gateway: address,
            gateway_listen: address,
            metrics: address,
            health: address,
            dns: address,
            door: None,
        };
        let directory = Directory::Embedded(address);
        let metro = SeenWitness {
            name: "metro".to_owned(),
            peer: address,
            peer_listen: address,
            metrics: address,
        };
        let regions = [seen("eu"), seen("us")];
        let text = text(&common, &directory, &regions, &[metro], Path::new("/tmp/lab"));
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(parsed["region"].as_array().unwrap().len(), 2);
        assert_eq!(parsed["region"][1]["data"].as_str(), Some("/tmp/lab/us/agent"));
        assert_eq!(parsed["witness"][0]["data"].as_str(), Some("/tmp/lab/metro/agent"));
        assert_eq!(parsed["lease"]["ttl"].as_str(), Some("3000ms"));
        assert_eq!(parsed["log"]["keep"].as_str(), Some("1s"));
        assert_eq!(parsed["table"][0]["name"].as_str(), Some("kept"));
    }
}
