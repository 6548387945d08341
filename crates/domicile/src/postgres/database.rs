//! Where is a database, and who may read along on the way to it?
//!
//! A connection string says it in the words of libpq. Whom to believe (`sslmode`, `sslrootcert`,
//! `sslcert`, `sslkey`) is taken out of it here, since tokio-postgres knows only the half of that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use domicile_core::config::Identity;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio_postgres::config::{self, ChannelBinding, Config, Host, SslNegotiation};

const URL_BEGINNINGS: [&str; 2] = ["postgres://", "postgresql://"];
/// As the value of `sslrootcert`: whom the system trusts.
const SYSTEM: &str = "system";

/// What a connection string says.
#[derive(Clone, Debug)]
pub struct Database {
    pub config: Config,
    pub tls: Tls,
}

/// How connections are encrypted, and whom they lead to for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub mode: SslMode,
    /// Whose signature makes a certificate believed. Given where the mode verifies, and only there.
    pub root: Option<Root>,
    /// What is shown to a server that asks for it.
    pub identity: Option<Identity>,
}

/// What a server has to offer, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    /// Encryption where the server offers it, with whoever that is.
    Prefer,
    /// Encryption, with whoever that is.
    Require,
    /// A certificate of the right authority, whatever it is for.
    VerifyCa,
    /// One that names the host, too.
    VerifyFull,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    System,
    File(String),
}

/// All that is wrong with a connection string, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.join("; "))]
pub struct ConnectionStringError(Vec<String>);

impl Database {
    /// Does nothing that is said leave this machine?
    pub fn is_local(&self) -> bool {
        is_local(&self.config)
    }

    /// The same without what an agent shows of itself: for connections on which somebody else logs in.
    pub fn without_identity(mut self) -> Self {
        self.tls.identity = None;
        self
    }
}

impl FromStr for Database {
    type Err = ConnectionStringError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, given) = match URL_BEGINNINGS.iter().any(|start| text.starts_with(start)) {
            true => part_url(text),
            false => part_words(text),
        };
        let mut wrong = Vec::new();
        match rest.parse::<Config>() {
            Ok(mut config) => {
                name_addresses(&mut config);
                let tls = resolve(&given, &config, &mut wrong);
                config.ssl_mode(match tls.mode {
                    SslMode::Disable => config::SslMode::Disable,
                    SslMode::Prefer => config::SslMode::Prefer,
                    SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                        config::SslMode::Require
                    }
                });
                if wrong.is_empty() {
                    return Ok(Self { config, tls });
                }
            }
            Err(error) => {
                resolve(&given, &Config::new(), &mut wrong);
                wrong.insert(0, format!("is not a connection string: {}", cause(&error)));
            }
        }
        Err(ConnectionStringError(wrong))
    }
}

/// What was taken out of a connection string, by its key.
type Given = BTreeMap<&'static str, String>;

/// The ones of these keys.
fn ours(key: &str) -> Option<&'static str> {
    ["sslmode", "sslrootcert", "sslcert", "sslkey"].into_iter().find(|ours| *ours == key)
}

/// Takes ours out of `key=value ...`. What cannot be read stays, so that it is complained about.
fn part_words(text: &str) -> (String, Given) {
    let (mut rest, mut given, mut left) = (String::new(), Given::new(), text);
    while let Some((key, value, after)) = word(left) {
        match ours(key) {
            Some(key) => drop(given.insert(key, value)),
            None => rest.push_str(&left[..left.len() - after.len()]),
        }
        left = after;
    }
    rest.push_str(left);
    (rest, given)
}

/// Reads the first `key=value`, and returns what comes after it.
fn word(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start();
    let (key, rest) = text.split_at(text.find(|c: char| c.is_whitespace() || c == '=')?);
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let quoted = rest.strip_prefix('\'');
    let mut chars = quoted.unwrap_or(rest).chars();
    let mut value = String::new();
    loop {
        let left = chars.as_str();
        match chars.next() {
            Some('\\') => value.extend(chars.next()),
            Some('\'') if quoted.is_some() => return Some((key, value, chars.as_str())),
            Some(c) if quoted.is_none() && c.is_whitespace() => return Some((key, value, left)),
            Some(c) => value.push(c),
            None if quoted.is_some() => return None,
            None => return Some((key, value, left)),
        }
    }
}

/// Takes ours out of `postgres://...?key=value&...`.
fn part_url(text: &str) -> (String, Given) {
    // A password may hold anything but that.
    let credentials = text.find('@').unwrap_or(0);
    let Some(query) = text[credentials..].find('?').map(|at| credentials + at) else {
        return (text.to_owned(), Given::new());
    };
    let (mut given, mut kept) = (Given::new(), Vec::new());
    for pair in text[query + 1..].split('&') {
        let decoded = |text| -> Cow<'_, str> { percent_decode_str(text).decode_utf8_lossy() };
        match pair.split_once('=').map(|(key, value)| (ours(&decoded(key)), decoded(value))) {
            Some((Some(key), value)) => drop(given.insert(key, value.into_owned())),
            _ => kept.push(pair),
        }
    }
    let mut rest = text[..query].to_owned();
    if !kept.is_empty() {
        rest = format!("{rest}?{}", kept.join("&"));
    }
    (rest, given)
}

/// An address is the name that a certificate is looked at for where there is no other.
fn name_addresses(config: &mut Config) {
    if config.get_hosts().is_empty() {
        for address in config.get_hostaddrs().to_vec() {
            config.host(address.to_string());
        }
    }
}

fn resolve(given: &Given, config: &Config, wrong: &mut Vec<String>) -> Tls {
    let value = |key| given.get(key).filter(|value: &&String| !value.is_empty());
    let root = value("sslrootcert").map(|root| match root.as_str() {
        SYSTEM => Root::System,
        file => Root::File(file.to_owned()),
    });
    let identity = match (value("sslcert"), value("sslkey")) {
        (Some(certificate), Some(key)) => {
            Some(Identity { certificate: certificate.clone(), key: key.clone() })
        }
        (None, None) => None,
        (Some(_), None) => {
            wrong.push("sslcert needs sslkey".to_owned());
            None
        }
        (None, Some(_)) => {
            wrong.push("sslkey needs sslcert".to_owned());
            None
        }
    };
    let asked = value("sslmode").map(|text| mode(text, wrong));
    // Who says whom to believe does not want to speak with others.
    let default = match root {
        Some(_) => SslMode::VerifyFull,
        None if is_local(config) && identity.is_none() => SslMode::Disable,
        None => SslMode::Prefer,
    };
    let tls = demand(asked.unwrap_or(Some(default)), root, identity, wrong);
    let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
    if direct && tls.mode == SslMode::Prefer {
        wrong.push("sslnegotiation=direct needs sslmode=require, or one that verifies".to_owned());
    }
    let sockets_only = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    let mode = match sockets_only && !config.get_hosts().is_empty() {
        true => SslMode::Disable,
        false => tls.mode,
    };
    if config.get_channel_binding() == ChannelBinding::Require && mode == SslMode::Disable {
        wrong.push("channel_binding=require needs TLS".to_owned());
    }
    Tls { mode, ..tls }
}

fn mode(text: &str, wrong: &mut Vec<String>) -> Option<SslMode> {
    let all = [
        SslMode::Disable,
        SslMode::Prefer,
        SslMode::Require,
        SslMode::VerifyCa,
        SslMode::VerifyFull,
    ];
    let found = all.into_iter().find(|mode| mode.to_string() == text);
    if found.is_none() {
        let names = all.map(|mode| mode.to_string()).join(", ");
        wrong.push(format!("sslmode=\"{text}\" is none of {names}"));
    }
    found
}

/// Puts together what was asked for; an unknown mode was complained about.
fn demand(
    mode: Option<SslMode>,
    root: Option<Root>,
    identity: Option<Identity>,
    wrong: &mut Vec<String>,
) -> Tls {
    let mode = mode.unwrap_or(SslMode::Disable);
    let (mode, root) = match (mode, root) {
        (SslMode::Disable, _) => (mode, None),
        (SslMode::VerifyFull, Some(root)) => (mode, Some(root)),
        (_, Some(Root::System)) => {
            wrong.push(format!(
                "sslrootcert=system needs sslmode=verify-full, not {mode}: anybody has a certificate \
                 of these authorities"
            ));
            (mode, None)
        }
        // As libpq has it, too.
        (SslMode::Require | SslMode::VerifyCa, Some(root)) => (SslMode::VerifyCa, Some(root)),
        (SslMode::Prefer, Some(_)) => {
            wrong.push(
                "sslmode=prefer believes anybody, sslrootcert or not: ask for verify-full, or verify-ca"
                    .to_owned(),
            );
            (mode, None)
        }
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => {
            wrong.push(format!("sslmode={mode} needs sslrootcert: a file, or \"system\""));
            (mode, None)
        }
        (SslMode::Prefer | SslMode::Require, None) => (mode, None),
    };
    Tls { mode, root, identity }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

fn is_local(config: &Config) -> bool {
    let numbers = config.get_hostaddrs();
    if !numbers.is_empty() {
        return numbers.iter().all(IpAddr::is_loopback);
    }
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => is_loopback(name),
        Host::Unix(_) => true,
    })
}

/// Does this name of a host mean this machine?
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// tokio-postgres says what is wrong only in the cause.
fn cause(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(text: &str) -> Tls {
        text.parse::<Database>().unwrap().tls
    }

    fn wrong(text: &str) -> String {
        text.parse::<Database>().unwrap_err().to_string()
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_where_that_can_be() {
        for (text, mode) in [
            ("host=db.example user=u", SslMode::Prefer),
            ("postgres://u@10.0.0.1/shop", SslMode::Prefer),
            ("hostaddr=10.0.0.1", SslMode::Prefer),
            ("host=localhost hostaddr=10.0.0.1", SslMode::Prefer),
            ("host=localhost,db.example", SslMode::Prefer),
            ("host=127.0.0.1", SslMode::Disable),
            ("postgres://u@[::1]:5433/shop", SslMode::Disable),
            ("host=/run/postgresql", SslMode::Disable),
            ("host=/run/postgresql sslmode=verify-full sslrootcert=ca.pem", SslMode::Disable),
            ("host=localhost sslmode=require", SslMode::Require),
            ("host=localhost sslcert=a.pem sslkey=a.key", SslMode::Prefer),
            ("host=db.example sslmode=disable sslrootcert=ca.pem", SslMode::Disable),
        ] {
            assert_eq!(tls(text).mode, mode, "{text}");
        }
    }

    #[test]
    fn whom_to_believe_is_read_in_both_ways_of_writing() {
        let full = Tls {
            mode: SslMode::VerifyFull,
            root: Some(Root::File("/a b/c'a.pem".to_owned())),
            identity: Some(Identity { certificate: "c.pem".to_owned(), key: "c.key".to_owned() }),
        };
        for text in [
            "host=db.example sslmode=verify-full sslrootcert='/a b/c\\'a.pem' sslcert=c.pem sslkey=c.key user=u",
            "sslkey = c.key sslrootcert=/a\\ b/c\\'a.pem  sslcert=c.pem host = db.example user=u",
            "postgresql://u@db.example?sslrootcert=%2Fa%20b/c'a.pem&sslcert=c.pem&ssl%6Bey=c.key",
        ] {
            let database: Database = text.parse().unwrap();
            assert_eq!(database.tls, full, "{text}");
            assert_eq!(database.config.get_user(), Some("u"), "{text}");
            assert_eq!(database.config.get_hosts(), [Host::Tcp("db.example".to_owned())]);
            assert_eq!(database.config.get_ssl_mode(), config::SslMode::Require);
        }
        assert_eq!(tls("host=db.example sslrootcert=system").root, Some(Root::System));
        let required = tls("host=db.example sslmode=require sslrootcert=ca.pem");
        assert_eq!(required.mode, SslMode::VerifyCa);
        assert_eq!(tls("host=db.example sslmode=require").root, None);
    }

    #[test]
    fn the_rest_of_a_connection_string_is_as_it_was() {
        let url =
            "postgres://u:p%3F?a@db.example:5433,other/shop?sslmode=require&application_name=a%26b";
        let config = url.parse::<Database>().unwrap().config;
        assert_eq!(config.get_password(), Some(b"p??a".as_slice()));
        assert_eq!(config.get_application_name(), Some("a&b"));
        assert_eq!(config.get_ports(), [5433, 5432]);
        let words = "host=db.example sslmode=require options='-c a=\\'sslmode=x\\'' dbname=shop";
        let config = words.parse::<Database>().unwrap().config;
        assert_eq!(config.get_options(), Some("-c a='sslmode=x'"));
        assert_eq!(config.get_dbname(), Some("shop"));
        let address = "hostaddr=10.0.0.1".parse::<Database>().unwrap().config;
        assert_eq!(address.get_hosts(), [Host::Tcp("10.0.0.1".to_owned())]);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        for (text, said) in [
            (
                "host=h sslmode=allow",
                "sslmode=\"allow\" is none of disable, prefer, require, verify-ca, verify-full",
            ),
            (
                "host=h sslmode=verify-full",
                "sslmode=verify-full needs sslrootcert: a file, or \"system\"",
            ),
            ("host=h sslmode=verify-ca sslrootcert=", "sslmode=verify-ca needs sslrootcert"),
            ("postgres://h?sslmode=verify-ca&sslrootcert=", "sslmode=verify-ca needs sslrootcert"),
            (
                "host=h sslmode=verify-ca sslrootcert=system",
                "needs sslmode=verify-full, not verify-ca",
            ),
            ("host=h sslmode=prefer sslrootcert=ca.pem", "sslmode=prefer believes anybody"),
            ("host=h sslnegotiation=direct", "sslnegotiation=direct needs sslmode=require"),
            ("host=localhost channel_binding=require", "channel_binding=require needs TLS"),
            ("host=h sslmode='require", "unterminated"),
        ] {
            let told = wrong(text);
            assert!(told.contains(said), "{text}: {told}");
        }
        assert_eq!(
            wrong("host=h sslcert=a.pem sslmode=verify-ca oops=1"),
            "is not a connection string: unknown option `oops`; sslcert needs sslkey; \
             sslmode=verify-ca needs sslrootcert: a file, or \"system\""
        );
    }
}
