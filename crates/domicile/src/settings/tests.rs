//! Is a sound file understood, and is every mistake of another one told?
//!
//! `golden/*.toml` are files with mistakes, each beside the text that is printed for it.
//! `UPDATE=1` rewrites those texts.

use std::path::{Path, PathBuf};

use domicile_core::admission::{Admission, AllowRule, Limits};
use domicile_core::config::{
    Directory, Etcd, GatewayPort, Http, KeySource, PoolMode, Secret, Sharing, TableKind, Url,
};
use domicile_core::conflict::policy::{ColumnPolicy, Deletes, Policy};
use domicile_core::frame::Compression;
use domicile_core::freshness::Freshness;
use domicile_core::front::rule::{KeyPart, Owner};
use domicile_core::partition::Scheme;
use domicile_core::progress::Rpo;
use domicile_core::retention::OnFull;
use domicile_core::runbook::drill::{Day, DrillTerms, Hours};
use domicile_core::time::Millis;

use super::*;

const SOUND: &str = r#"
cluster = "shop"
partition = "hash(branch_id, 48)"

[directory]
address = "127.0.0.1:7400"
data = "/var/lib/domicile/directory"

[[region]]
name = "eu"
postgres = "host=127.0.0.1 port=5432 user=postgres dbname=shop"
peer = "127.0.0.1:7401"
gateway = "127.0.0.1:6432"
data = "/var/lib/domicile/eu"

[[region]]
name = "us"
postgres = "postgres://postgres@127.0.0.1:5433/shop"
peer = "127.0.0.1:7402"
peer_listen = "0.0.0.0:7402"
gateway = "127.0.0.1:6433"
data = "/var/lib/domicile/us"
"#;

fn sound_with(more: &str) -> Config {
    parse(&format!("{SOUND}{more}")).unwrap()
}

fn mistakes_with(more: &str) -> Vec<String> {
    let mistakes = parse(&format!("{SOUND}{more}")).unwrap_err();
    mistakes.iter().map(|m| format!("{}: {}", m.path, m.text)).collect()
}

#[test]
fn half_of_tls_encrypts_nothing() {
    let mistakes = mistakes_with("[tls]\ncertificate = \"/etc/eu.pem\"");
    assert_eq!(mistakes, ["tls.ca: is missing", "tls.key: is missing"]);
}

/// A sound file whose directory is what `section` says.
fn with_directory(section: &str) -> Result<Config, Vec<String>> {
    let (before, rest) = SOUND.split_once("[directory]").unwrap();
    let (_, after) = rest.split_once("[[region]]").unwrap();
    let text = format!("{before}[directory]\n{section}\n[[region]]{after}");
    parse(&text)
        .map_err(|mistakes| mistakes.iter().map(|m| format!("{}: {}", m.path, m.text)).collect())
}

#[test]
fn endpoints_make_etcd_the_directory() {
    let config = with_directory(r#"endpoints = "etcd.internal:2379""#).unwrap();
    let endpoints = vec!["etcd.internal:2379".to_owned()];
    let plain = Etcd { endpoints, tls: None, login: None };
    assert_eq!(config.directory, Directory::Etcd(plain));
    let config = with_directory(
        r#"
        endpoints = ["a:2379", "b:2379", "c:2379"]
        ca = "/etc/ca.pem"
        certificate = "/etc/eu.pem"
        key = "/etc/eu.key"
        user = "domicile"
        password_file = "/etc/password"
        "#,
    );
    let Directory::Etcd(etcd) = config.unwrap().directory else { panic!("not etcd") };
    assert_eq!(etcd.endpoints, ["a:2379", "b:2379", "c:2379"]);
    let tls = etcd.tls.unwrap();
    let identity = tls.identity.unwrap();
    let files = (tls.ca.as_str(), identity.certificate.as_str(), identity.key.as_str());
    assert_eq!(files, ("/etc/ca.pem", "/etc/eu.pem", "/etc/eu.key"));
    let login = etcd.login.unwrap();
    assert_eq!((login.user.as_str(), login.password_file.as_str()), ("domicile", "/etc/password"));
}

#[test]
fn endpoints_beside_an_address_are_where_the_directory_goes_next() {
    let section = "address = \"127.0.0.1:7500\"\ndata = \"/d\"\nendpoints = \"a:2379\"";
    let config = with_directory(section).unwrap();
    let Directory::Embedded { address, next: Some(etcd), .. } = config.directory else {
        panic!("not on its way")
    };
    assert_eq!(
        (address.as_str(), etcd.endpoints.as_slice()),
        ("127.0.0.1:7500", &["a:2379".to_owned()][..])
    );
}

#[test]
fn half_an_etcd_and_a_mixed_directory_are_mistakes() {
    let mistakes = |section| with_directory(section).unwrap_err();
    assert_eq!(
        mistakes(
            r#"
            address = "127.0.0.1:7400"
            endpoints = ["a:2379", "b", "a:2379"]
            certificate = "/etc/eu.pem"
            password_file = "/etc/password"
            "#
        ),
        [
            "directory.key: is missing",
            "directory.user: is missing",
            "directory.ca: is missing: a certificate is shown by TLS only",
            "directory.data: is missing",
            "directory.endpoints: \"b\" is not an address: expected host:port",
        ]
    );
    assert_eq!(
        mistakes(r#"endpoints = "127.0.0.1:7401""#),
        ["region[1].peer: is the same as directory.endpoints"]
    );
    assert_eq!(
        mistakes("address = \"a:1\"\ndata = \"/d\"\nca = \"/etc/ca.pem\""),
        ["directory.ca: goes with endpoints, of etcd"]
    );
    assert_eq!(
        mistakes("endpoints = []"),
        ["directory.endpoints: has 0 members, 1 to 9 are possible"]
    );
    assert_eq!(
        mistakes(r#"endpoints = ["a:2379", "a:2379"]"#),
        ["directory.endpoints: names \"a:2379\" twice"]
    );
}

fn table<'a>(config: &'a Config, name: &str) -> &'a TableKind {
    config.kind(&name.parse().unwrap()).unwrap()
}

#[test]
fn a_short_file_gets_all_the_defaults() {
    let config = sound_with("");
    assert_eq!(config.rpo, Rpo::Zero { copies: 1 });
    assert_eq!((config.lease.ttl, config.lease.renew_every), (Millis(3000), Millis(500)));
    assert!(!config.failover.automatic, "one of two would say by itself that the other is gone");
    assert_eq!(config.failover.observers, 1, "two regions leave one observer");
    assert!(sound_with("[failover]\nautomatic = true").failover.automatic);
    assert_eq!(config.regions[0].peer_listen, "127.0.0.1:7401");
    assert_eq!(config.regions[1].peer_listen, "0.0.0.0:7402");
    assert_eq!(config.layout.scheme, Scheme::Hash { count: 48 });
    assert!(!config.layout.has_reference);
}

#[test]
fn tables_get_the_key_of_the_scheme_their_own_or_their_parents() {
    let config = sound_with(
        r#"
        [[table]]
        name = "accounts"
        [[table]]
        name = "audit.entries"
        key = ["tenant", "project"]
        [[table]]
        name = "lines"
        parent = { table = "accounts", columns = "account_id", references = ["id"] }
        [[table]]
        name = "countries"
        kind = "reference"
        "#,
    );
    let own = |columns: &[&str]| {
        TableKind::Owned(KeySource::Columns(columns.iter().map(|c| c.to_string()).collect()))
    };
    assert_eq!(*table(&config, "public.accounts"), own(&["branch_id"]));
    assert_eq!(*table(&config, "audit.entries"), own(&["tenant", "project"]));
    assert!(matches!(
        table(&config, "public.lines"),
        TableKind::Owned(KeySource::Parent { columns, .. }) if columns == &["account_id"]
    ));
    assert!(config.layout.has_reference);
    assert_eq!(config.layout.total(), 49);
}

#[test]
fn a_shared_table_has_a_policy_for_its_rows_or_for_its_columns() {
    let config = sound_with(
        r#"
        [[table]]
        name = "views"
        kind = "shared"
        columns = { hits = "delta", "*" = "last_write_wins" }
        update_delete = "delete_wins"
        [[table]]
        name = "totals"
        kind = "shared"
        policy = "delta"
        [[table]]
        name = "prices"
        kind = "shared"
        policy = "owner_wins"
        prefer = "us"
        "#,
    );
    let policy = |name: &str| config.shared(&name.parse().unwrap()).unwrap().clone();
    let Policy::Merge(columns) = policy("views") else { panic!() };
    assert_eq!(columns.of("hits"), ColumnPolicy::Delta);
    assert_eq!(columns.of("anything"), ColumnPolicy::Own);
    assert_eq!(columns.deletes, Deletes::DeleteWins);
    assert_eq!(policy("totals").slug(), "delta");
    assert_eq!(policy("prices"), Policy::OwnerWins(vec!["us".parse().unwrap()]));
    assert!(!config.guarded(&"public.views".parse().unwrap()));
}

#[test]
fn with_one_partition_reference_tables_need_none_of_their_own() {
    let text = SOUND.replace("hash(branch_id, 48)", "whole");
    let tables = "[[table]]\nname = \"a\"\n[[table]]\nname = \"b\"\nkind = \"reference\"\n";
    let config = parse(&format!("{text}{tables}")).unwrap();
    assert_eq!(*table(&config, "public.a"), TableKind::Owned(KeySource::Whole));
    assert!(!config.layout.has_reference);
}

#[test]
fn an_rpo_of_zero_may_be_a_number() {
    let text = format!("rpo = 0\n{SOUND}");
    assert_eq!(parse(&text).unwrap().rpo, Rpo::Zero { copies: 1 });
    let text = format!("rpo = \"none\"\n{SOUND}");
    assert_eq!(parse(&text).unwrap().rpo, Rpo::None);
}

#[test]
fn an_rpo_may_be_a_bound() {
    let rpo = |text: &str| parse(&format!("rpo = \"{text}\"\n{SOUND}")).map(|config| config.rpo);
    assert_eq!(rpo("250ms").unwrap(), Rpo::Within { copies: 1, age: Millis(250) });
    assert_eq!(rpo("0s").unwrap(), Rpo::Zero { copies: 1 });
    assert_eq!(rpo("5ms").unwrap_err()[0].text, "\"5ms\" is too short: below 10ms it is \"0\"");
    let neither = "\"soon\" is neither \"0\", nor \"none\", nor a duration, as in \"250ms\"";
    assert_eq!(rpo("soon").unwrap_err()[0].text, neither);
}

#[test]
fn the_same_loopback_database_is_another_one_on_another_machine() {
    let two_machines = SOUND
        .replace("127.0.0.1:5433", "127.0.0.1:5432")
        .replace("peer = \"127.0.0.1:7402\"", "peer = \"10.0.0.2:7402\"");
    assert!(parse(&two_machines).is_ok());
    let one_machine = SOUND.replace("127.0.0.1:5433", "127.0.0.1:5432");
    let mistakes = parse(&one_machine).unwrap_err();
    assert_eq!(
        mistakes[0].to_string(),
        "line 18: region[2].postgres: is the same as region[1].postgres"
    );
}

#[test]
fn a_circle_of_parents_is_found_wherever_it_starts() {
    let child = |name: &str, of: &str| {
        format!(
            "[[table]]\nname = \"{name}\"\n\
             parent = {{ table = \"{of}\", columns = \"x\", references = \"id\" }}\n"
        )
    };
    let text = [child("a", "b"), child("b", "a"), child("tail", "a")].concat();
    assert_eq!(
        mistakes_with(&text),
        [
            "table[1].parent.table: the parents go round in a circle: \
             public.a -> public.b -> public.a",
            "table[2].parent.table: the parents go round in a circle: \
             public.b -> public.a -> public.b",
        ]
    );
    assert_eq!(mistakes_with(&child("a", "a")).len(), 1);
}

#[test]
fn a_lost_renewal_must_not_end_a_lease() {
    let lease = "[lease]\nttl = \"1s\"\nrenew = \"450ms\"\n";
    assert_eq!(mistakes_with(lease).len(), 1);
    assert!(mistakes_with(lease)[0].starts_with("lease.renew: 450ms leaves no room"));
}

#[test]
fn a_log_has_room_for_its_segments() {
    let config = sound_with("[log]\nsize_max = \"1GiB\"\non_full = \"block\"\n");
    assert_eq!((config.log.keep, config.log.segment_bytes), (Millis(3_600_000), 64 << 20));
    assert_eq!((config.log.size_max, config.log.on_full), (1 << 30, OnFull::Block));
    assert_eq!(config.log.compression, Compression::Lz4);
    let config = sound_with("[log]\ncompression = \"none\"\n");
    assert_eq!(config.log.compression, Compression::None);
    let log = "[log]\nsegment = \"1MiB\"\nsize_max = \"7MiB\"\non_full = \"delete\"\n\
               compression = \"zstd\"\n";
    assert_eq!(
        mistakes_with(log),
        [
            "log.size_max: 7MiB: with 2 regions and segments of 1MiB it takes at least 8MiB",
            "log.on_full: \"delete\" is neither \"drop_peer\" nor \"block\"",
            "log.compression: \"zstd\" is neither \"lz4\" nor \"none\"",
        ]
    );
}

#[test]
fn drills_start_by_themselves_where_somebody_wants_that() {
    assert_eq!(sound_with("").drills, None);
    let drills = |keys: &str| sound_with(&format!("[drills]\n{keys}\n")).drills.unwrap();
    let week = Millis(7 * 86_400_000);
    assert_eq!(drills(""), DrillTerms { every: week, days: [].into(), hours: None });
    let terms = drills("every = \"14d\"\ndays = [\"sun\", \"sat\"]\nhours = \"22:30-04:00\"");
    assert_eq!((terms.every, terms.days), (week + week, [Day::Sat, Day::Sun].into()));
    assert_eq!(terms.hours, Some(Hours { from: 22 * 60 + 30, until: 4 * 60 }));
    let mistakes = |keys: &str| mistakes_with(&format!("[drills]\n{keys}\n"));
    assert_eq!(mistakes("every = \"1h\""), ["drills.every: 1h: expected 1d to 365d"]);
    assert_eq!(
        mistakes("every = \"2d\"\ndays = []\nhours = \"2:00-4:00\""),
        [
            "drills.every: 2d: with drills.days it is 7d at least",
            "drills.days: names no day",
            "drills.hours: \"2:00-4:00\" are no hours of a day: expected two different times, as in \
             \"02:00-04:30\"",
        ]
    );
    for wrong in ["", "12:00", "12:00-12:00", "24:00-01:00", "12:60-13:00", "+1:00-02:00"] {
        assert_eq!(mistakes(&format!("hours = \"{wrong}\"")).len(), 1, "{wrong}");
    }
}

#[test]
fn a_webhook_keeps_its_secrets_elsewhere() {
    assert!(sound_with("").webhooks.is_empty());
    let webhook = |keys: &str| format!("[[webhook]]\nname = \"team\"\n{keys}\n");
    let sound = |keys: &str| sound_with(&webhook(keys)).webhooks["team"].clone();
    let kept = sound("url = \"env:TEAM_URL\"\nheaders = { X-Key = \"file:/etc/key\" }");
    assert_eq!(kept.url, Url::Kept(Secret::Environment("TEAM_URL".to_owned())));
    assert_eq!(kept.headers["X-Key"], Secret::File("/etc/key".to_owned()));
    let given = sound("url = \"https://hooks.example.com/a\"\nca = \"/etc/ca.pem\"");
    assert_eq!(given.url, Url::Given("https://hooks.example.com/a".to_owned()));
    assert_eq!(given.ca.as_deref(), Some("/etc/ca.pem"));

    let mistakes = |keys: &str| mistakes_with(&webhook(keys));
    assert_eq!(mistakes(""), ["webhook[1].url: is missing"]);
    let address = "expected an address that begins with http:// or https://";
    assert_eq!(mistakes("url = \"hooks.example.com\""), [format!("webhook[1].url: {address}")]);
    let url = "url = \"http://h\"\n";
    for (headers, wrong) in [
        ("X-Key = \"s3cret\"", "X-Key: expected file:PATH or env:NAME"),
        ("X-Key = \"env:\"", "X-Key: expected file:PATH or env:NAME"),
        ("\"X Key\" = \"env:KEY\"", "\"X Key\" is not a header"),
        ("Host = \"env:KEY\"", "Host: every message has this header already"),
    ] {
        let told = mistakes(&format!("{url}headers = {{ {headers} }}"));
        assert_eq!(told, [format!("webhook[1].headers: {wrong}")]);
    }
    let twice = [webhook(url), webhook(url)].concat();
    assert_eq!(mistakes_with(&twice), ["webhook[2].name: there is a webhook \"team\" already"]);
    let named = "[[webhook]]\nname = \"The Team\"\nurl = \"http://h\"\n";
    let told = mistakes_with(named);
    assert!(told[0].starts_with("webhook[1].name: \"The Team\" is not a name"), "{told:?}");
}

#[test]
fn every_mistake_is_told_at_once_and_where_it_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/settings/golden");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mistakes = parse(&text).unwrap_err();
        let path = PathBuf::from("domicile.toml");
        let printed = format!("{}\n", SettingsError::Mistakes { path, mistakes });
        compare(&file.with_extension("txt"), &printed);
    }
}

#[test]
fn the_reference_page_is_current() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/config.md");
    compare(&page, &keys::reference());
}

fn compare(file: &Path, printed: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, printed).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(expected, printed, "{} is stale: UPDATE=1 rewrites it", file.display());
}

#[test]
fn a_zone_without_names_or_names_without_a_zone_answer_nothing() {
    let host = "[[region]]\nname = \"ap\"\npostgres = \"host=ap\"\npeer = \"ap:1\"\ngateway = \"ap:2\"\ndata = \"/ap\"\n";
    let about = |more: &str| {
        let mistakes = mistakes_with(more).into_iter();
        mistakes
            .filter(|mistake| mistake.contains("dns") || mistake.contains("addresses"))
            .collect()
    };
    let found: Vec<String> = about("[dns]\nzone = \"db..example\"\nttl = \"90s\"");
    let ttl = "dns.ttl: expected whole seconds, 1s to 60s";
    let zone = "dns.zone: \"db..example\" is not the name of a zone, as in \"db.example.com\"";
    assert_eq!(found, [zone, ttl]);
    let found: Vec<String> = about(&format!("[dns]\nzone = \"db.example\"\n{host}"));
    assert!(
        found[0].ends_with("a region's name needs an answer, and its gateway is no address"),
        "{found:?}"
    );
    let found: Vec<String> =
        about(&format!("{host}dns = \"10.0.0.1:53\"\naddresses = [\"10.0.0.1\", \"x\"]"));
    assert!(found[0].starts_with("region[3].dns: answers for no zone"), "{found:?}");
    assert_eq!(found[1], "region[3].addresses: \"x\" is not an IP address");
    let found: Vec<String> = about("[dns]\nzone = \"db.example\"\nanswer = \"some\"");
    assert_eq!(found[0], "dns.answer: \"some\" is neither \"all\" nor \"one\"");
    let found = mistakes_with(&format!("{host}clients = [\"10.0.0.0/8\", \"10.0.0.0/40\"]"));
    let text = "region[3].clients: \"10.0.0.0/40\" is no address: expected one as in 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32";
    assert_eq!(found, [text]);
}

#[test]
fn further_addresses_of_a_gateway_say_how_new_reads_are_there() {
    let sound = SOUND.replacen(
        "gateway = \"127.0.0.1:6432\"\n",
        "gateway = \"127.0.0.1:6432\"\ngateway_port = [{ listen = \"0.0.0.0:6434\", freshness = \"bounded(5s)\" }]\n",
        1,
    );
    let config = parse(&sound).unwrap();
    let freshness = Freshness::Bounded(Millis(5000));
    let port = GatewayPort { listen: "0.0.0.0:6434".to_owned(), freshness };
    assert_eq!(config.regions[0].gateway_ports, [port]);
    assert!(config.regions[1].gateway_ports.is_empty());
    let found = mistakes_with(
        r#"
        [[region.gateway_port]]
        listen = "0.0.0.0:6434"
        freshness = "soon"

        [[region.gateway_port]]
        listen = "0.0.0.0:6434"
        fresh = true

        [[region.gateway_port]]
        listen = "0.0.0.0"
        freshness = "strong"
        "#,
    );
    let expected = [
        "region[2].gateway_port[1].freshness: \"soon\" is not a freshness: expected strong, bounded(5s), session or eventual",
        "region[2].gateway_port[2].listen: is the same as region[2].gateway_port[1].listen",
        "region[2].gateway_port[2].freshness: is missing",
        "region[2].gateway_port[2].fresh: unknown key; known here: listen, freshness",
        "region[2].gateway_port[3].listen: \"0.0.0.0\" is not an address: expected host:port",
    ];
    let sorted = |mut list: Vec<String>| {
        list.sort_unstable();
        list
    };
    assert_eq!(sorted(found), sorted(expected.map(str::to_owned).to_vec()));
}

#[test]
fn a_gateway_shows_a_certificate_with_its_key_or_none() {
    let mistakes = mistakes_with("[gateway]\ncertificate = \"/etc/gateway.pem\"");
    assert_eq!(mistakes, ["gateway.key: is missing"]);
    let mistakes = mistakes_with("[gateway]\nrequire_tls = true");
    let text = "gateway.require_tls: gateways would refuse each other: give [tls], too, by which they know \
                each other";
    assert_eq!(mistakes, ["gateway.certificate: is missing", "gateway.key: is missing", text]);
    assert_eq!(sound_with("[gateway]\nrequire_tls = false").gateway.identity, None);
}

#[test]
fn a_gateway_without_a_word_about_it_lets_everybody_in_and_nobody_to_its_console() {
    let gateway = sound_with("").gateway;
    assert_eq!(gateway.admission, Admission::default());
    assert!(gateway.console.is_closed());
}

#[test]
fn rules_and_limits_say_who_comes_in() {
    let gateway = sound_with(
        r#"
        [gateway]
        certificate = "/etc/gateway.pem"
        key = "/etc/gateway.key"
        admins = "postgres"
        viewers = ["watch", "app"]
        connections = 500
        connections_per_user = 100

        [[gateway.allow]]
        address = ["10.0.0.0/8", "::1"]
        database = "shop"
        user = ["app", "till"]

        [[gateway.allow]]
        tls = true
        "#,
    )
    .gateway;
    let limits = Limits { connections: 500, per_user: Some(100), per_database: None };
    let addresses = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let first = AllowRule {
        addresses,
        databases: vec!["shop".to_owned()],
        users: vec!["app".to_owned(), "till".to_owned()],
        tls: false,
    };
    let rules = vec![first, AllowRule { tls: true, ..AllowRule::default() }];
    assert_eq!(gateway.admission, Admission { rules, limits });
    assert!(gateway.console.admins.contains("postgres") && gateway.console.viewers.len() == 2);
}

#[test]
fn all_mistakes_of_rules_and_limits_are_told() {
    let mistakes = mistakes_with(
        r#"
        [gateway]
        admins = "app"
        viewers = ["app", ""]
        connections = 0
        connections_per_database = 1000000

        [[gateway.allow]]
        address = ["10.0.0.1/8", "10.0.0.0/33"]

        [[gateway.allow]]
        address = "10.0.0.1/8"
        user = []
        tls = true
        role = "app"
        "#,
    );
    assert_eq!(
        mistakes,
        [
            "gateway.viewers: names a role without a name",
            "gateway.connections: 0: expected 1 to 100000",
            "gateway.connections_per_database: 1000000: expected 1 to 100000",
            "gateway.allow[1].address: \"10.0.0.1/8\" says more than its mask holds: expected 10.0.0.0/8",
            "gateway.allow[2].address: \"10.0.0.1/8\" says more than its mask holds: expected 10.0.0.0/8",
            "gateway.allow[2].user: names nothing: leave it out for all",
            "gateway.allow[2].tls: nobody can encrypt: give gateway.certificate and gateway.key",
            "gateway.allow[2].role: unknown key; known here: address, database, user, tls",
        ]
    );
}

#[test]
fn a_console_does_not_hide_a_database() {
    let text = format!("{SOUND}[gateway]\nadmins = \"postgres\"")
        .replace("dbname=shop", "dbname=domicile");
    let mistakes = parse(&text).unwrap_err();
    let why =
        "the console is the database \"domicile\", and region[1].postgres has one of that name";
    assert_eq!((mistakes[0].path.as_str(), mistakes[0].text.as_str()), ("gateway.admins", why));
}

#[test]
fn servers_are_shared_where_that_is_asked_for() {
    assert_eq!(sound_with("[gateway]\nsharing = \"none\"").gateway.sharing, None);
    for (word, mode) in [("session", PoolMode::Session), ("transaction", PoolMode::Transaction)] {
        let sharing = Sharing { mode, servers_max: 20, idle_max: Millis(600_000) };
        let shared = sound_with(&format!("[gateway]\nsharing = \"{word}\"")).gateway.sharing;
        assert_eq!(shared, Some(sharing));
    }
    let mistakes = mistakes_with(
        "[gateway]\nsharing = \"statement\"\nservers_max = 0\nservers_idle = \"10ms\"",
    );
    assert_eq!(
        mistakes,
        [
            "gateway.sharing: \"statement\": expected none, session or transaction",
            "gateway.servers_max: 0: expected 1 to 10000",
            "gateway.servers_idle: 10ms: expected 1s at least",
        ]
    );
}

/// Doors in both regions.
fn with_doors(more: &str) -> Result<Config, Vec<Mistake>> {
    let doors = SOUND.replace(
        "data = \"/var/lib/domicile/us\"",
        "data = \"/us\"\nhttp = \"us:80\"\napp = \"us:3000\"",
    );
    let eu = "data = \"/var/lib/domicile/eu\"";
    parse(&format!(
        "{}{more}",
        doors.replace(eu, "data = \"/eu\"\nhttp = \"eu:80\"\napp = \"eu:3000\"")
    ))
}

#[test]
fn a_door_has_rules_that_find_the_key() {
    let config = with_doors(
        "[http]\nwait = \"5s\"\n[[http.route]]\npath = \"/branches/{id}/*\"\nkey = \"path:id\"\nmethods = \"POST\"\n
         [[http.route]]\npath = \"/*\"\nkey = \"header:X-Branch\"\nowner = \"always\"",
    )
    .unwrap();
    let door = config.regions[0].http.clone().unwrap();
    assert_eq!(
        (door.address.as_str(), door.listen.as_str(), door.app.as_str()),
        ("eu:80", "eu:80", "eu:3000")
    );
    let Http { rules, replay_body_max, wait, .. } = config.http;
    assert_eq!((replay_body_max, wait), (1 << 20, Millis(5000)));
    assert_eq!(rules[0].key, [KeyPart::Path("id".to_owned())]);
    assert_eq!(rules[1].key, [KeyPart::Header("x-branch".to_owned())]);
    assert_eq!(rules[1].owner, Owner::Always);
}

#[test]
fn a_door_that_could_not_send_a_request_to_its_owner_is_a_mistake() {
    let wrong = with_doors(
        "[http]\ncertificate = \"/pem\"\nreplay_body_max = \"1GiB\"\nwait = \"1m\"
         [[http.route]]\npath = \"a\"
         [[http.route]]\npath = \"/{a}/{a}\"
         [[http.route]]\npath = \"/{a}\"\nkey = \"path:b\"
         [[http.route]]\npath = \"/{a}\"\nkey = \"body:a\"
         [[http.route]]\npath = \"/{a}\"\nkey = [\"path:a\", \"query:b\"]
         [[http.route]]\npath = \"/{a}\"\nowner = \"always\"
         [[http.route]]\npath = \"/{a}\"\nowner = \"me\"\nmethods = \"post\"
         [[http.route]]\npath = \"/{a}\"\nkey = \"path:a\"\nowner = \"never\"",
    );
    let mistakes: Vec<String> =
        wrong.unwrap_err().iter().map(|m| format!("{}: {}", m.path, m.text)).collect();
    let expected = [
        "http.key: is missing",
        "http.certificate: doors would refuse each other: give [tls], too, by which they know each other",
        "http.replay_body_max: is kept in memory: expected at most 64MiB",
        "http.answer_within: is not longer than http.wait, for which another door may wait for its owner",
        "http.route[1].path: \"a\": a path begins with a slash",
        "http.route[2].path: \"/{a}/{a}\": {a} stands twice in it",
        "http.route[3].key: \"path:b\": there is no {b} in the path",
        "http.route[4].key: \"body:a\": expected path:NAME, header:NAME, cookie:NAME or query:NAME",
        "http.route[5].key: has 2 parts: partition has 1 columns",
        "http.route[6].key: is missing: without a key nobody is known who owns all of it",
        "http.route[7].owner: \"me\" is neither \"writes\", nor \"always\", nor \"never\"",
        "http.route[7].methods: \"post\" is not a method, as in \"POST\"",
        "http.route[8].key: is of no use with owner = \"never\"",
    ];
    for text in expected {
        assert!(mistakes.iter().any(|found| found == text), "{text}\n{mistakes:#?}");
    }
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    let no_door = mistakes_with("[http]");
    assert_eq!(no_door, ["http: no region has a door: give http and app in each [[region]]"]);
    let one = mistakes_with("app = \"us:3000\"");
    assert_eq!(one, ["region[2].app: is of no use without http, at which the door is reached"]);
    let one = mistakes_with("http = \"us:80\"");
    let text = "region[1].http: is missing: other regions have doors, and would have nowhere to send what this one owns";
    assert_eq!(one, [text, "region[2].app: is missing"]);
}
