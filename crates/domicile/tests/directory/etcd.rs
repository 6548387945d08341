//! Does what etcd promises hold through us: when members die, hang, or forget who we are?

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use domicile::directory::{Client, DirectoryError, Written};
use domicile::lab::etcd::{Etcd, EtcdConfig};
use domicile::lab::relay::Relay;
use domicile::proto::etcd as proto;
use domicile_core::config;
use proto::auth_client::AuthClient;
use proto::kv_client::KvClient;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::world::{
    PATIENCE, as_documents, client_of, document, etcd_config, put, set, view_that, within,
};

async fn start(members: usize) -> Etcd {
    Etcd::start(members, EtcdConfig::default()).await.expect("etcd")
}

/// Puts a tag of its own into the one document, by compare-and-set, whatever happens meanwhile.
///
/// A write that got no answer may have happened: so it looks first, every time.
async fn add_tag(client: &Client, tag: &str) {
    loop {
        let Ok(found) = client.get("tags").await else { continue };
        let (text, seen) = found.map_or((String::new(), 0), |found| {
            (String::from_utf8(found.value.to_vec()).expect("text"), found.revision)
        });
        if text.split(' ').any(|there| there == tag) {
            return;
        }
        let value = Bytes::from(format!("{text}{tag} "));
        // Whatever becomes of it, the next look tells.
        let _ = client.write("tags", seen, Some(value)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_among_compare_and_sets_loses_none_and_doubles_none() {
    const WRITERS: usize = 4;
    const TAGS: usize = 60;
    let mut etcd = start(3).await;
    let mut views = client_of(&etcd.endpoints()).follow("", CancellationToken::new());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let mut endpoints = etcd.endpoints();
            endpoints.rotate_left(writer % 3);
            let client = client_of(&endpoints);
            tokio::spawn(async move {
                for i in 0..TAGS {
                    add_tag(&client, &format!("{writer}.{i}")).await;
                }
            })
        })
        .collect();
    let tags = |view: &domicile::directory::View| {
        let (value, _) = view.documents.get("tags").cloned().unwrap_or_default();
        String::from_utf8(value.to_vec()).expect("text").split_whitespace().count()
    };
    for before_next in [30, 100] {
        view_that(&mut views, |view| tags(view) >= before_next).await;
        let leader = etcd.leader().await.expect("a leader");
        etcd.kill_member(leader);
        view_that(&mut views, |view| tags(view) >= before_next + 30).await;
        etcd.start_member(leader).expect("start");
        etcd.wait_for_leader(PATIENCE).await.expect("leader");
    }
    for writer in writers {
        within(writer).await.expect("writer");
    }
    let found = client_of(&etcd.endpoints()).get("tags").await.expect("get").expect("there");
    let text = String::from_utf8(found.value.to_vec()).expect("text");
    let all: Vec<&str> = text.split_whitespace().collect();
    let different: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!((all.len(), different.len()), (WRITERS * TAGS, WRITERS * TAGS));
    let view = view_that(&mut views, |view| view.revision == found.revision).await;
    assert_eq!((as_documents(&view), view.regressed), (vec![found], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_majority_refuses_to_answer_and_comes_back_with_what_was_there() {
    let mut etcd = start(3).await;
    let client = client_of(&etcd.endpoints());
    let one = put(&client, "a", 0, "one").await;
    let two = put(&client, "b", 0, "two").await;
    // This one's only member stays: it must say itself that it was left alone.
    let mut views = client_of(&etcd.endpoints()[2..]).follow("", CancellationToken::new());
    view_that(&mut views, |view| view.revision == two && view.connected).await;

    etcd.kill_member(0);
    etcd.kill_member(1);
    let view = view_that(&mut views, |view| !view.connected).await;
    assert_eq!(as_documents(&view), [document("a", "one", one), document("b", "two", two)]);
    let error = within(client.read("")).await.expect_err("no majority");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");
    let error = within(client.write("a", one, None)).await.expect_err("no majority");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");

    etcd.start_member(0).expect("start");
    etcd.start_member(1).expect("start");
    etcd.wait_for_leader(PATIENCE).await.expect("leader");
    let view = view_that(&mut views, |view| view.connected).await;
    assert!(!view.regressed, "{view:?}");
    let snapshot = client.read("").await.expect("read");
    assert_eq!(as_documents(&view), snapshot.documents);
    assert_eq!(snapshot.documents[1], document("b", "two", two));
    // The delete that got no answer happened later, or it did not: its condition holds either way.
    match snapshot.documents.len() {
        2 => assert_eq!(snapshot.documents[0], document("a", "one", one)),
        _ => panic!("the member that was left alone had a leader: {snapshot:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_is_passed_over_within_one_read() {
    let etcd = start(3).await;
    // Not the leader: this is not about an election.
    let hung = (etcd.leader().await.expect("a leader") + 1) % 3;
    let mut endpoints = etcd.endpoints();
    endpoints.rotate_left(hung);
    let client = client_of(&endpoints);
    let one = put(&client, "a", 0, "one").await;
    etcd.pause_member(hung);
    let found = within(client.get("a")).await.expect("another member answers");
    assert_eq!(found, Some(document("a", "one", one)));
    let two = put(&client, "a", one, "two").await;
    etcd.resume_member(hung);
    assert_eq!(set(&client, "a", one, "late").await, Written::Conflict(two));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_a_member_that_is_not_there_goes_to_the_next() {
    let mut etcd = start(3).await;
    etcd.kill_member(0);
    etcd.wait_for_leader(PATIENCE).await.expect("leader");
    put(&client_of(&etcd.endpoints()), "a", 0, "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_that_share_an_etcd_see_nothing_of_each_other() {
    let etcd = start(1).await;
    let of =
        |cluster: &str| Client::etcd(&etcd_config(&etcd.endpoints()), cluster).expect("client");
    let one = put(&of("a"), "key", 0, "of a").await;
    let two = put(&of("ab"), "key", 0, "of ab").await;
    assert_eq!(of("a").read("").await.expect("read").documents, [document("key", "of a", one)]);
    assert_eq!(of("ab").read("").await.expect("read").documents, [document("key", "of ab", two)]);
    let mut kv =
        KvClient::connect(format!("http://{}", etcd.endpoints()[0])).await.expect("connect");
    let request = proto::RangeRequest { key: "domicile/a/key".into(), range_end: Bytes::new() };
    let found = kv.range(request).await.expect("range").into_inner().kvs;
    assert_eq!(found[0].value, Bytes::from_static(b"of a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_of_another_name_in_the_same_place_is_noticed() {
    let (first, second) = (start(1).await, start(1).await);
    let address = |etcd: &Etcd| etcd.endpoints()[0].parse().expect("address");
    let relay = Relay::start(address(&first)).await.expect("relay");
    let mut views = client_of(&[relay.address().to_string()]).follow("", CancellationToken::new());
    for etcd in [&first, &second] {
        put(&client_of(&etcd.endpoints()), "a", 0, "one").await;
    }
    let before = view_that(&mut views, |view| view.documents.len() == 1).await;
    relay.control().set_target(address(&second));
    relay.control().cut_and_reset();
    view_that(&mut views, |view| !view.connected).await;
    relay.control().heal();
    let after = view_that(&mut views, |view| view.connected).await;
    // Nothing else would tell them apart.
    assert_eq!((&after.documents, after.revision), (&before.documents, before.revision));
    assert!(after.regressed && after.store != before.store, "{after:?}");
}

const OURS: (&str, &str) = ("domicile", "a secret");

async fn admin(etcd: &Etcd) -> AuthClient<Channel> {
    AuthClient::connect(format!("http://{}", etcd.endpoints()[0])).await.expect("connect")
}

/// Turns logins on; `domicile` may touch what cluster `lab` keeps.
async fn enable_auth(etcd: &Etcd) {
    let mut auth = admin(etcd).await;
    let user = |name: &str, password: &str| proto::AuthUserAddRequest {
        name: name.to_owned(),
        password: password.to_owned(),
    };
    let grant = |user: &str, role: &str| proto::AuthUserGrantRoleRequest {
        user: user.to_owned(),
        role: role.to_owned(),
    };
    auth.user_add(user("root", "root")).await.expect("add user");
    auth.user_add(user(OURS.0, OURS.1)).await.expect("add user");
    auth.role_add(proto::AuthRoleAddRequest { name: "root".to_owned() }).await.expect("add role");
    auth.role_add(proto::AuthRoleAddRequest { name: "lab".to_owned() }).await.expect("add role");
    let perm = proto::Permission {
        perm_type: proto::permission::Type::Readwrite.into(),
        key: "domicile/lab/".into(),
        range_end: "domicile/lab0".into(),
    };
    let perm = proto::AuthRoleGrantPermissionRequest { name: "lab".to_owned(), perm: Some(perm) };
    auth.role_grant_permission(perm).await.expect("grant permission");
    auth.user_grant_role(grant("root", "root")).await.expect("grant role");
    auth.user_grant_role(grant(OURS.0, "lab")).await.expect("grant role");
    auth.auth_enable(proto::AuthEnableRequest {}).await.expect("enable");
}

fn login(folder: &Path, user: &str, password: &str) -> Option<config::Login> {
    let file = folder.join(format!("password-of-{user}-{}", password.len()));
    fs::write(&file, format!("{password}\n")).expect("write");
    Some(config::Login { user: user.to_owned(), password_file: file.display().to_string() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_renewed_when_its_token_is_over_and_a_wrong_one_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut etcd = start(1).await;
    enable_auth(&etcd).await;
    let endpoints = etcd.endpoints();
    let with = |login| config::Etcd { login, ..etcd_config(&endpoints) };
    let ours = with(login(folder.path(), OURS.0, OURS.1));
    let client = Client::etcd(&ours, "lab").expect("client");
    let mut views = client.follow("", CancellationToken::new());
    let one = put(&client, "a", 0, "one").await;
    view_that(&mut views, |view| view.revision == one && view.connected).await;

    for (wrong, what) in [
        (with(None), "user name is empty"),
        (with(login(folder.path(), OURS.0, "another")), "authentication failed"),
        (with(login(folder.path(), "nobody", OURS.1)), "authentication failed"),
    ] {
        let client = Client::etcd(&wrong, "lab").expect("client");
        let error = client.read("").await.expect_err("refused");
        assert!(matches!(error, DirectoryError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let elsewhere = Client::etcd(&ours, "other").expect("client");
    let error = elsewhere.read("").await.expect_err("refused");
    assert!(error.to_string().contains("permission denied"), "{error}");

    // A member that starts anew knows no token any more.
    etcd.kill_member(0);
    view_that(&mut views, |view| !view.connected).await;
    etcd.start_member(0).expect("start");
    etcd.wait_for_leader(PATIENCE).await.expect("leader");
    view_that(&mut views, |view| view.connected).await;
    etcd.kill_member(0);
    etcd.start_member(0).expect("start");
    etcd.wait_for_leader(PATIENCE).await.expect("leader");
    let two = put(&client, "a", one, "two").await;
    view_that(&mut views, |view| view.revision == two && view.connected).await;

    // Any change of a user ends what was given out before it.
    let mut root = admin(&etcd).await;
    let request = proto::AuthenticateRequest { name: "root".into(), password: "root".into() };
    let token = root.authenticate(request).await.expect("login").into_inner().token;
    let change = proto::AuthUserAddRequest { name: "more".into(), password: "more".into() };
    let mut change = tonic::Request::new(change);
    change.metadata_mut().insert("token", token.parse().expect("token"));
    root.user_add(change).await.expect("add user");
    let three = put(&client, "a", two, "three").await;
    view_that(&mut views, |view| view.revision == three && view.connected).await;
}

/// An authority and what it signed, as files.
struct Authority {
    ca: String,
    certificate: String,
    key: String,
}

fn authority(folder: &Path, name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("key");
    let ca = params.self_signed(&key).expect("certificate").pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, &issuer).expect("certificate").pem();
    let write = |what: &str, pem: &str| {
        let file = folder.join(format!("{name}-{what}.pem"));
        fs::write(&file, pem).expect("write");
        file.display().to_string()
    };
    Authority {
        ca: write("ca", &ca),
        certificate: write("certificate", &certificate),
        key: write("key", &key.serialize_pem()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_reached_by_tls_and_each_side_must_be_who_it_should() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (ours, theirs) = (authority(folder.path(), "ours"), authority(folder.path(), "theirs"));
    let mut arguments = vec!["--client-cert-auth".to_owned()];
    for (key, file) in
        [("trusted-ca-file", &ours.ca), ("cert-file", &ours.certificate), ("key-file", &ours.key)]
    {
        arguments.extend([format!("--{key}"), file.clone()]);
    }
    let config = EtcdConfig { arguments, tls: true, folder: None };
    let etcd = Etcd::start(1, config).await.expect("etcd");
    let endpoints = etcd.endpoints();
    let with = |ca: &Authority, shown: Option<&Authority>| {
        let identity = shown.map(|of| config::Identity {
            certificate: of.certificate.clone(),
            key: of.key.clone(),
        });
        let tls = Some(config::Tls { ca: ca.ca.clone(), identity });
        Client::etcd(&config::Etcd { tls, ..etcd_config(&endpoints) }, "lab").expect("client")
    };
    let client = with(&ours, Some(&ours));
    let mut views = client.follow("", CancellationToken::new());
    let one = put(&client, "a", 0, "one").await;
    view_that(&mut views, |view| view.revision == one && view.connected).await;

    for wrong in [
        with(&ours, None),
        with(&ours, Some(&theirs)),
        with(&theirs, Some(&ours)),
        client_of(&endpoints),
    ] {
        let error = within(wrong.read("")).await.expect_err("refused");
        assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_wrong_is_told_by_its_key() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ours = authority(folder.path(), "ours");
    let empty = folder.path().join("empty").display().to_string();
    fs::write(&empty, "").expect("write");
    let missing = "/nowhere/file".to_owned();
    let identity = |certificate: &String, key: &String| {
        Some(config::Identity { certificate: certificate.clone(), key: key.clone() })
    };
    let tls = |ca: &String, identity| Some(config::Tls { ca: ca.clone(), identity });
    let login = config::Login { user: "eu".to_owned(), password_file: missing.clone() };
    for (key, tls, login) in [
        ("directory.ca", tls(&missing, None), None),
        ("directory.ca", tls(&empty, None), None),
        ("directory.certificate", tls(&ours.ca, identity(&missing, &ours.key)), None),
        ("directory.certificate", tls(&ours.ca, identity(&empty, &ours.key)), None),
        ("directory.key", tls(&ours.ca, identity(&ours.certificate, &missing)), None),
        ("directory.password_file", None, Some(login)),
    ] {
        let config = config::Etcd { tls, login, ..etcd_config(&["127.0.0.1:1".to_owned()]) };
        let error = Client::etcd(&config, "lab").expect_err("refused");
        assert!(matches!(error, DirectoryError::Setting { .. }), "{error}");
        assert!(error.to_string().starts_with(key), "{error}");
    }
}
