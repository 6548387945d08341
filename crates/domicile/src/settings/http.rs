//! Where are the doors for HTTP, and whose are the requests that come there?

use domicile_core::config::{Door, Http, Identity};
use domicile_core::front::rule::{KeyPart, Owner, Pattern, Rule};
use domicile_core::time::Millis;

use super::gateway;
use super::mistake::Mistakes;
use super::partition::Partition;
use super::regions::{address, listen};
use super::resolve::{duration, required, size};
use super::written::{WrittenHttp, WrittenRegion, WrittenRoute};

const REPLAY_BODY_DEFAULT: u64 = 1 << 20;
/// It is kept in memory, for each request.
const REPLAY_BODY_MAX: u64 = 64 << 20;
const WAIT_DEFAULT: Millis = Millis(10_000);
const ANSWER_WITHIN_DEFAULT: Millis = Millis(60_000);

/// Returns a region's door, if it has one, unless that is wrong.
pub(super) fn door(
    written: &WrittenRegion,
    path: &dyn Fn(&str) -> String,
    mistakes: &mut Mistakes,
) -> Option<Option<Door>> {
    if written.http.is_none() {
        for (key, text) in [("http_listen", &written.http_listen), ("app", &written.app)] {
            if text.is_some() {
                mistakes.add(path(key), "is of no use without http, at which the door is reached");
            }
        }
        return Some(None);
    }
    let http = address(&path("http"), written.http.as_deref(), mistakes);
    let listen = listen(&path("http_listen"), &written.http_listen, &http, mistakes);
    let app = address(&path("app"), written.app.as_deref(), mistakes);
    Some(Some(Door { address: http?, listen: listen?, app: app? }))
}

/// What of it is wrong is left out.
pub(super) fn resolve(
    written: Option<&WrittenHttp>,
    regions: &[WrittenRegion],
    tls: bool,
    partition: Option<&Partition>,
    mistakes: &mut Mistakes,
) -> Http {
    check_doors(written.is_some(), regions, mistakes);
    let absent = WrittenHttp::default();
    let written = written.unwrap_or(&absent);
    let max = written.replay_body_max.as_deref();
    let replay_body_max = size("http.replay_body_max", max, REPLAY_BODY_DEFAULT, mistakes);
    if replay_body_max > REPLAY_BODY_MAX {
        mistakes.add("http.replay_body_max", "is kept in memory: expected at most 64MiB");
    }
    let wait = duration("http.wait", written.wait.as_deref(), WAIT_DEFAULT, mistakes);
    let within = written.answer_within.as_deref();
    let answer_within = duration("http.answer_within", within, ANSWER_WITHIN_DEFAULT, mistakes);
    if answer_within <= wait {
        let text = "is not longer than http.wait, for which another door may wait for its owner";
        mistakes.add("http.answer_within", text);
    }
    let rules = (1..).zip(&written.route).filter_map(|(number, route)| {
        rule(route, &|key| format!("http.route[{number}].{key}"), partition, mistakes)
    });
    Http {
        rules: rules.collect(),
        identity: identity(written, tls, mistakes),
        replay_body_max,
        wait,
        answer_within,
        access_log: written.access_log.unwrap_or(false),
    }
}

/// Notes which requests could not get to their owner.
fn check_doors(written: bool, regions: &[WrittenRegion], mistakes: &mut Mistakes) {
    let any = regions.iter().any(|region| region.http.is_some());
    if written && !any && !regions.is_empty() {
        mistakes.add("http", "no region has a door: give http and app in each [[region]]");
    }
    for (number, region) in (1..).zip(regions) {
        if any && region.http.is_none() {
            let text = "is missing: other regions have doors, and would have nowhere to send what this one owns";
            mistakes.add(format!("region[{number}].http"), text);
        }
    }
}

fn identity(written: &WrittenHttp, tls: bool, mistakes: &mut Mistakes) -> Option<Identity> {
    if written.certificate.is_none() && written.key.is_none() {
        return None;
    }
    let identity = gateway::identity("http", [&written.certificate, &written.key], mistakes);
    if !tls {
        let text = "doors would refuse each other: give [tls], too, by which they know each other";
        mistakes.add("http.certificate", text);
    }
    identity
}

fn rule(
    written: &WrittenRoute,
    path: &dyn Fn(&str) -> String,
    partition: Option<&Partition>,
    mistakes: &mut Mistakes,
) -> Option<Rule> {
    let pattern = required(&path("path"), written.path.as_deref(), mistakes)?;
    let pattern: Pattern = match pattern.parse() {
        Ok(pattern) => pattern,
        Err(wrong) => {
            mistakes.add(path("path"), format!("\"{pattern}\": {wrong}"));
            return None;
        }
    };
    let methods = written.methods.as_ref().map(|names| names.list()).unwrap_or_default();
    if let Some(wrong) =
        methods.iter().find(|name| name.is_empty() || !name.chars().all(|c| c.is_ascii_uppercase()))
    {
        mistakes.add(path("methods"), format!("\"{wrong}\" is not a method, as in \"POST\""));
    }
    let owner = match written.owner.as_deref() {
        None | Some("writes") => Owner::Writes,
        Some("always") => Owner::Always,
        Some("never") => Owner::Never,
        Some(other) => {
            let text = format!("\"{other}\" is neither \"writes\", nor \"always\", nor \"never\"");
            mistakes.add(path("owner"), text);
            return None;
        }
    };
    let key = key(written, &pattern, &path("key"), mistakes);
    if let Some(partition) = partition
        && !mistakes.has(&path("key"))
        && let Some(wrong) = unfit(&key, owner, partition)
    {
        mistakes.add(path("key"), wrong);
    }
    Some(Rule { path: pattern, methods, key, owner })
}

fn key(
    written: &WrittenRoute,
    pattern: &Pattern,
    path: &str,
    mistakes: &mut Mistakes,
) -> Vec<KeyPart> {
    let mut parts = Vec::new();
    for text in written.key.iter().flat_map(|names| names.list()) {
        let (kind, name) = text.split_once(':').unwrap_or_default();
        let owned = || name.to_owned();
        let part = match kind {
            _ if name.is_empty() => None,
            "path" if !pattern.names().any(|known| known == name) => {
                mistakes.add(path, format!("\"{text}\": there is no {{{name}}} in the path"));
                continue;
            }
            "path" => Some(KeyPart::Path(owned())),
            "header" => Some(KeyPart::Header(name.to_ascii_lowercase())),
            "cookie" => Some(KeyPart::Cookie(owned())),
            "query" => Some(KeyPart::Query(owned())),
            _ => None,
        };
        match part {
            Some(part) => parts.push(part),
            None => {
                let wanted = "expected path:NAME, header:NAME, cookie:NAME or query:NAME";
                mistakes.add(path, format!("\"{text}\": {wanted}"));
            }
        }
    }
    parts
}

/// What is wrong with a key, where rows are divided like this.
fn unfit(key: &[KeyPart], owner: Owner, partition: &Partition) -> Option<String> {
    let columns = partition.columns().len();
    match (partition, owner) {
        (Partition::Whole, _) if !key.is_empty() => {
            Some("is of no use: with partition = \"whole\" one region owns everything".to_owned())
        }
        (_, Owner::Never) if !key.is_empty() => {
            Some("is of no use with owner = \"never\"".to_owned())
        }
        (Partition::Hash { .. } | Partition::Home { .. }, Owner::Always) if key.is_empty() => {
            Some("is missing: without a key nobody is known who owns all of it".to_owned())
        }
        _ if !key.is_empty() && key.len() != columns => {
            Some(format!("has {} parts: partition has {columns} columns", key.len()))
        }
        _ => None,
    }
}
