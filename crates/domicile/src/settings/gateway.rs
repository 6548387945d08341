//! How do gateways speak with clients, and with whom?

use std::collections::BTreeSet;
use std::net::IpAddr;

use domicile_core::admission::{Admission, AllowRule, CONNECTIONS_MAX, Limits};
use domicile_core::config::{Console, Gateway, Identity, PoolMode, Sharing};
use domicile_core::time::Millis;
use ipnet::IpNet;

use super::mistake::Mistakes;
use super::resolve::{duration, required};
use super::units;
use super::written::{Names, Written, WrittenAllowRule, WrittenGateway};
use crate::gateway::CONSOLE;

const SERVERS_MAX_DEFAULT: i64 = 20;
/// As many as there are clients at a gateway.
const SERVERS_MAX_MAX: i64 = 10_000;
const SERVERS_IDLE_DEFAULT: Millis = Millis(600_000);
const SERVERS_IDLE_MIN: Millis = Millis(1000);
const SHUTDOWN_TIMEOUT_DEFAULT: Millis = Millis(5000);

/// What of it is wrong is left out.
pub(super) fn resolve(written: &Written, mistakes: &mut Mistakes) -> Gateway {
    let none = WrittenGateway::default();
    let gateway = written.gateway.as_ref().unwrap_or(&none);
    let require_tls = gateway.require_tls.unwrap_or(false);
    let WrittenGateway { certificate, key, .. } = gateway;
    let is_wanted = require_tls || certificate.is_some() || key.is_some();
    let identity = if is_wanted { identity("gateway", [certificate, key], mistakes) } else { None };
    if require_tls && written.tls.is_none() {
        let text =
            "gateways would refuse each other: give [tls], too, by which they know each other";
        mistakes.add("gateway.require_tls", text);
    }
    let rules = gateway.allow.iter().enumerate();
    let rules = rules.map(|(i, rule)| {
        let path = |key: &str| format!("gateway.allow[{}].{key}", i + 1);
        if rule.tls == Some(true) && gateway.certificate.is_none() {
            let text = "nobody can encrypt: give gateway.certificate and gateway.key";
            mistakes.add(path("tls"), text);
        }
        allow_rule(rule, path, mistakes)
    });
    let rules = rules.collect();
    let admission = Admission { rules, limits: limits(gateway, mistakes) };
    let (console, sharing) = (console(written, gateway, mistakes), sharing(gateway, mistakes));
    let timeout = gateway.shutdown_timeout.as_deref();
    let shutdown_timeout =
        duration("gateway.shutdown_timeout", timeout, SHUTDOWN_TIMEOUT_DEFAULT, mistakes);
    Gateway { identity, require_tls, admission, console, sharing, shutdown_timeout }
}

/// Half of it would show nothing.
pub(super) fn identity(
    section: &str,
    [certificate, key]: [&Option<String>; 2],
    mistakes: &mut Mistakes,
) -> Option<Identity> {
    let [certificate, key] = [("certificate", certificate), ("key", key)].map(|(name, text)| {
        required(&format!("{section}.{name}"), text.as_deref(), mistakes).map(str::to_owned)
    });
    Some(Identity { certificate: certificate?, key: key? })
}

fn allow_rule(
    rule: &WrittenAllowRule,
    path: impl Fn(&str) -> String,
    mistakes: &mut Mistakes,
) -> AllowRule {
    let mut names = |key: &str, names| given(&path(key), names, mistakes);
    let [addresses, databases, users] =
        [("address", &rule.address), ("database", &rule.database), ("user", &rule.user)]
            .map(|(key, written)| names(key, written));
    let addresses = addresses.iter().filter_map(|text| match network(text) {
        Ok(network) => Some(network),
        Err(wrong) => {
            mistakes.add(path("address"), wrong);
            None
        }
    });
    AllowRule { addresses: addresses.collect(), databases, users, tls: rule.tls.unwrap_or(false) }
}

/// A list that stands there and is empty would let everybody in.
fn given(path: &str, written: &Option<Names>, mistakes: &mut Mistakes) -> Vec<String> {
    let Some(written) = written else { return Vec::new() };
    let list = written.list();
    if list.is_empty() || list.iter().any(String::is_empty) {
        mistakes.add(path, "names nothing: leave it out for all");
    }
    list
}

/// Reads addresses with a mask, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network: IpNet = network.map_err(|_| {
        format!(
            "\"{text}\" is no address: expected one as in 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32"
        )
    })?;
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(format!("\"{text}\" says more than its mask holds: expected {whole}")),
    }
}

fn limits(gateway: &WrittenGateway, mistakes: &mut Mistakes) -> Limits {
    let mut limit = |path: &str, written: Option<i64>| {
        let limit = usize::try_from(written?).ok();
        let limit = limit.filter(|limit| (1..=CONNECTIONS_MAX).contains(limit));
        if limit.is_none() {
            let text = format!("{}: expected 1 to {CONNECTIONS_MAX}", written?);
            mistakes.add(path, text);
        }
        limit
    };
    Limits {
        connections: limit("gateway.connections", gateway.connections)
            .unwrap_or(Limits::default().connections),
        per_user: limit("gateway.connections_per_user", gateway.connections_per_user),
        per_database: limit("gateway.connections_per_database", gateway.connections_per_database),
    }
}

fn sharing(written: &WrittenGateway, mistakes: &mut Mistakes) -> Option<Sharing> {
    let servers_max = written.servers_max.unwrap_or(SERVERS_MAX_DEFAULT);
    let idle_max = written.servers_idle.as_deref();
    let idle_max = duration("gateway.servers_idle", idle_max, SERVERS_IDLE_DEFAULT, mistakes);
    if !(1..=SERVERS_MAX_MAX).contains(&servers_max) {
        let text = format!("{servers_max}: expected 1 to {SERVERS_MAX_MAX}");
        mistakes.add("gateway.servers_max", text);
    }
    if idle_max < SERVERS_IDLE_MIN {
        let (idle, min) = (units::written(idle_max), units::written(SERVERS_IDLE_MIN));
        mistakes.add("gateway.servers_idle", format!("{idle}: expected {min} at least"));
    }
    let mode = match written.sharing.as_deref() {
        None | Some("none") => return None,
        Some("session") => PoolMode::Session,
        Some("transaction") => PoolMode::Transaction,
        Some(other) => {
            let text = format!("\"{other}\": expected none, session or transaction");
            mistakes.add("gateway.sharing", text);
            return None;
        }
    };
    Some(Sharing { mode, servers_max: servers_max.try_into().ok()?, idle_max })
}

fn console(written: &Written, gateway: &WrittenGateway, mistakes: &mut Mistakes) -> Console {
    let mut roles = |path: &str, names: &Option<Names>| -> BTreeSet<String> {
        let list = names.as_ref().map(Names::list).unwrap_or_default();
        if list.iter().any(String::is_empty) {
            mistakes.add(path, "names a role without a name");
        }
        list.into_iter().collect()
    };
    let admins = roles("gateway.admins", &gateway.admins);
    let viewers = roles("gateway.viewers", &gateway.viewers);
    if let Some(both) = viewers.intersection(&admins).next() {
        mistakes.add("gateway.viewers", format!("\"{both}\" is among gateway.admins already"));
    }
    let console = Console { admins, viewers };
    let hidden = written.region.iter().position(|region| {
        let postgres = region.postgres.as_deref().unwrap_or_default();
        let postgres = postgres.parse::<tokio_postgres::Config>();
        postgres.is_ok_and(|postgres| postgres.get_dbname() == Some(CONSOLE))
    });
    if let (Some(region), false) = (hidden, console.is_closed()) {
        let text = format!(
            "the console is the database \"{CONSOLE}\", and region[{}].postgres has one of that name",
            region + 1
        );
        mistakes.add(
            if console.admins.is_empty() { "gateway.viewers" } else { "gateway.admins" },
            text,
        );
    }
    console
}
