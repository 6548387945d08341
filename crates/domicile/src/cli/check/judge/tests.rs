//! What is made of facts that no test server can show?

use std::collections::BTreeMap;

use super::*;
use crate::cli::check::survey::{Basis, Probes, Room, Server};
use crate::postgres::catalog::{
    Catalog, Column, ForeignKey, Persistence, ReplicaIdentity, Role, RowSecurity, Shape, Table,
    UniqueIndex,
};
use crate::settings;

const TEN: Room = Room { max: 10, used: 0 };

const WITNESS: &str = "[[witness]]\nname = \"metro\"\npeer = \"10.0.0.3:1\"\ndata = \"/d\"\n";

/// PostgreSQL 16 as an agent wants it.
fn server() -> Server {
    Server {
        version_num: 160_004,
        version: "16.4".into(),
        database: "shop".into(),
        database_oid: 5,
        role: "domicile".into(),
        encoding: "UTF8".into(),
        system_identifier: None,
        started: "2026-01-01".into(),
        in_recovery: false,
        wal_level: "logical".into(),
        slots: TEN,
        senders: TEN,
        sessions: Room { max: 100, used: 0 },
        sessions_reserved: 3,
        role_sessions: None,
        database_sessions: None,
        origins: TEN,
        origins_ours: 0,
        prepared_transactions_max: 0,
        slot_keep_size: "-1".into(),
        standby_names: "domicile".into(),
        may_create_schema: true,
        may_set_standby_names: true,
        superuser: false,
        bypasses_row_security: true,
        encrypted: true,
        large_objects: 0,
    }
}

fn table(name: &str, columns: &[(&str, &str)]) -> Table {
    let column = |(name, type_name): &(&str, &str)| Column {
        name: name.to_string(),
        type_name: type_name.to_string(),
        element_type: type_name.to_string(),
        not_null: true,
        generated: false,
        nondeterministic: false,
        default: None,
        sequence: None,
    };
    Table {
        oid: 0,
        name: name.parse().unwrap(),
        shape: Shape::Plain,
        persistence: Persistence::Permanent,
        replica_identity: ReplicaIdentity::Default,
        row_security: RowSecurity::Off,
        rows: 0.0,
        ours: true,
        owner: Role { name: "domicile".into(), superuser: false },
        partition_of: None,
        descendants: Vec::new(),
        inherits: false,
        heirs: Vec::new(),
        columns: columns.iter().map(column).collect(),
        unique_indexes: vec![UniqueIndex {
            name: format!("{name}_pkey"),
            primary: true,
            immediate: true,
            whole: true,
            replica_identity: false,
            own: true,
            columns: columns.iter().map(|(name, _)| name.to_string()).collect(),
        }],
        exclusions: Vec::new(),
        foreign_keys: Vec::new(),
        fires: Vec::new(),
        demands: Vec::new(),
    }
}

fn foreign_key(columns: &[&str], to: &str, references: &[&str]) -> ForeignKey {
    let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect();
    ForeignKey {
        name: "link".into(),
        table: to.parse().unwrap(),
        columns: names(columns),
        references: names(references),
    }
}

fn judged(partition: &str, listed: &str, server: Server, tables: Vec<Table>) -> Vec<Finding> {
    judged_on(Basis::default(), partition, listed, server, tables)
}

fn judged_on(
    basis: Basis,
    partition: &str,
    listed: &str,
    server: Server,
    tables: Vec<Table>,
) -> Vec<Finding> {
    let region = |name: &str, host: u8| {
        format!(
            "[[region]]\nname = \"{name}\"\npostgres = \"host=10.0.0.{host} user=x dbname=shop\"\n\
             peer = \"10.0.0.{host}:1\"\ngateway = \"10.0.0.{host}:2\"\ndata = \"/d\"\n"
        )
    };
    let text = format!(
        "cluster = \"shop\"\npartition = \"{partition}\"\n\
         [directory]\naddress = \"10.0.0.9:1\"\ndata = \"/d\"\n{}{}{WITNESS}{listed}",
        region("eu", 1),
        region("us", 2)
    );
    let config = settings::parse(&text).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    let tables = tables.into_iter().map(|table| (table.name.clone(), table)).collect();
    let mut catalog = Catalog { tables };
    catalog.link_partitions();
    let probes = Probes { slot: Ok(()), origin: Ok(()), replica_role: Ok(()) };
    let region = config.regions[0].id.clone();
    let (doubts, is_local) = (BTreeMap::new(), false);
    let reached = Reached { server, is_local, basis, probes, catalog, doubts, passwords: None };
    judge(&config, &[Survey { region, reached: Ok(reached) }])
}

/// The names of what is wrong, the worst first.
fn wrong(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|f| f.level != Level::Ok).map(|f| f.name).collect()
}

fn wrong_with_server(server: Server) -> Vec<&'static str> {
    let accounts = table("accounts", &[("bid", "integer")]);
    let findings =
        judged("hash(bid, 8)", "[[table]]\nname = \"accounts\"\n", server, vec![accounts]);
    findings.into_iter().filter(|f| f.level != Level::Ok).map(|f| f.name).collect()
}

#[test]
fn two_regions_want_a_witness_for_what_the_loss_of_one_leaves() {
    let what = |more: &str, regions: usize, witness: &str| {
        let region = |name: &&str| {
            format!(
                "[[region]]\nname = \"{name}\"\npostgres = \"host={name} user=x dbname=shop\"\n\
                 peer = \"{name}:1\"\ngateway = \"{name}:2\"\ndata = \"/d\"\n"
            )
        };
        let regions: String = ["eu", "us", "ap"][..regions].iter().map(region).collect();
        let text = format!(
            "cluster = \"shop\"\npartition = \"whole\"\n{more}\n[directory]\naddress = \"d:1\"\n\
             data = \"/d\"\n{regions}{witness}[[table]]\nname = \"a\"\n"
        );
        let config = settings::parse(&text).unwrap_or_else(|wrong| panic!("{wrong:?}"));
        let found = judge(&config, &[]);
        let found = found.into_iter().filter(|f| f.name == "no_witness").map(|f| f.what);
        found.reduce(|all, next| format!("{all}, {next}"))
    };
    let said = what("", 2, "").unwrap();
    assert!(said.contains("too few are left to hold copies") && said.contains("neither of two"));
    assert!(what("rpo = \"none\"", 2, "").unwrap().contains("neither of two"));
    let automatic = "rpo = \"none\"\nfailover.automatic = true";
    assert!(what(automatic, 2, "").unwrap().contains("failover.observers"));
    assert_eq!(what("", 2, WITNESS), None);
    assert_eq!(what("", 3, ""), None);
    assert!(what("copies = 2", 3, "").is_some());
    assert_eq!(what("copies = 2", 3, WITNESS), None);
}

#[test]
fn a_sound_server_has_nothing_wrong() {
    assert_eq!(wrong_with_server(server()), [""; 0]);
}

#[test]
fn servers_that_cannot_carry_an_agent_are_told_why() {
    assert_eq!(wrong_with_server(Server { version_num: 130_009, ..server() }), ["version"]);
    assert_eq!(wrong_with_server(Server { version_num: 190_000, ..server() }), ["version"]);
    assert_eq!(wrong_with_server(Server { in_recovery: true, ..server() }), ["standby"]);
    assert_eq!(wrong_with_server(Server { encoding: "LATIN1".into(), ..server() }), ["encoding"]);
    let clear = Server { encrypted: false, ..server() };
    assert_eq!(wrong_with_server(clear), ["database_in_the_clear"]);
    let full = Room { used: 9, ..TEN };
    assert_eq!(wrong_with_server(Server { senders: full, ..server() }), ["max_wal_senders"]);
    let limited = Server { slot_keep_size: "10GB".into(), ..server() };
    assert_eq!(wrong_with_server(limited), ["max_slot_wal_keep_size"]);
}

#[test]
fn room_that_is_too_small_is_told_by_the_limit_that_makes_it_so() {
    let levels = |server| {
        let accounts = table("accounts", &[("bid", "integer")]);
        let listed = "[[table]]\nname = \"accounts\"\n";
        let mut findings = judged("hash(bid, 8)", listed, server, vec![accounts]);
        findings.retain(|finding| finding.level != Level::Ok);
        findings.into_iter().map(|f| (f.level, f.name, f.way_out)).collect::<Vec<_>>()
    };
    let found = |server| levels(server).into_iter().map(|(l, n, _)| (l, n)).collect::<Vec<_>>();
    let left = |left: i64| Room { max: 100, used: 100 - left };
    use Level::{Blocker, Warn};

    let with = |slots| found(Server { slots, ..server() });
    assert_eq!(with(left(0)), [(Blocker, "max_replication_slots")]);
    assert_eq!(with(left(1)), [(Warn, "max_replication_slots")]);
    assert_eq!(with(left(2)), []);
    // Seven and one for the other region; eleven that come and go.
    let with = |sessions| found(Server { sessions, ..server() });
    assert_eq!(with(left(7)), [(Blocker, "max_connections")]);
    assert_eq!(with(left(8)), [(Warn, "max_connections")]);
    assert_eq!(with(left(19)), []);
    // And two WAL senders.
    let with = |limit| levels(Server { role_sessions: Some(limit), ..server() });
    let way_out = "ALTER ROLE domicile CONNECTION LIMIT 21.".to_owned();
    let tight = |max| Room { max, used: 0 };
    assert_eq!(with(tight(9)), [(Blocker, "connection_limit", way_out.clone())]);
    assert_eq!(with(tight(10)), [(Warn, "connection_limit", way_out)]);
    assert_eq!(with(tight(21)), []);
    let with = |limit| levels(Server { database_sessions: Some(limit), ..server() });
    let way_out = "ALTER DATABASE shop CONNECTION LIMIT 26.".to_owned();
    assert_eq!(with(Room { max: 20, used: 5 }), [(Warn, "connection_limit", way_out)]);
    // One for the other region, one for repairs.
    let with = |origins| levels(Server { origins, ..server() });
    let way_out = |value| {
        format!("ALTER SYSTEM SET max_replication_slots = {value}, then restart PostgreSQL.")
    };
    assert_eq!(with(tight(1)), [(Blocker, "replication_origins", way_out(9))]);
    assert_eq!(with(tight(4)), [(Warn, "replication_origins", way_out(9))]);
    assert_eq!(with(tight(5)), []);
    let newer = Server { version_num: 180_000, origins_ours: 7, origins: tight(6), ..server() };
    let way_out = "ALTER SYSTEM SET max_active_replication_origins = 11, then restart PostgreSQL.";
    assert_eq!(levels(newer), [(Blocker, "replication_origins", way_out.to_owned())]);
}

#[test]
fn a_collation_that_the_system_has_changed_is_told() {
    let basis = Basis {
        sorts_by: "libc en_US.UTF-8 version 2.31".into(),
        collation_moved_to: Some("2.36".into()),
        ..Basis::default()
    };
    let accounts = table("accounts", &[("bid", "integer")]);
    let listed = "[[table]]\nname = \"accounts\"\n";
    let findings = judged_on(basis, "hash(bid, 8)", listed, server(), vec![accounts]);
    assert_eq!(wrong(&findings), ["collation_version"]);
    assert!(findings[0].what.contains("version 2.31, and the system has version 2.36"));
}

#[test]
fn at_rpo_zero_commits_must_wait_for_the_agent() {
    let unset = Server { standby_names: String::new(), ..server() };
    assert_eq!(wrong_with_server(unset.clone()), ["ack_fence_not_set"]);
    let taken = Server { standby_names: "standby1".into(), ..server() };
    assert_eq!(wrong_with_server(taken), ["ack_fence_not_set"]);
    let substituted = Server { standby_names: "replica1, domicile".into(), ..server() };
    assert_eq!(wrong_with_server(substituted), ["ack_fence_not_set"]);
    let managed = Server { may_set_standby_names: false, ..unset };
    assert_eq!(wrong_with_server(managed), ["ack_fence"]);
    let set_by_another = Server { may_set_standby_names: false, ..server() };
    assert_eq!(wrong_with_server(set_by_another), [""; 0]);
}

#[test]
fn rows_of_one_partition_may_refer_to_each_other() {
    let orders = table("orders", &[("tenant", "text"), ("id", "bigint")]);
    let mut lines = table("lines", &[("tenant", "text"), ("order_id", "bigint"), ("n", "integer")]);
    lines.foreign_keys.push(foreign_key(&["tenant", "order_id"], "orders", &["tenant", "id"]));
    let listed = "[[table]]\nname = \"orders\"\n[[table]]\nname = \"lines\"\n";
    let findings = judged("hash(tenant, 8)", listed, server(), vec![orders.clone(), lines.clone()]);
    assert_eq!(wrong(&findings), [""; 0]);

    lines.foreign_keys = vec![foreign_key(&["order_id"], "orders", &["id"])];
    let findings = judged("hash(tenant, 8)", listed, server(), vec![orders.clone(), lines.clone()]);
    assert_eq!(wrong(&findings), ["foreign_key_across_owners"]);
    let findings = judged("whole", listed, server(), vec![orders, lines]);
    assert_eq!(wrong(&findings), [""; 0], "one owner has all rows");
}

#[test]
fn a_parent_must_be_one_row() {
    let mut orders = table("orders", &[("bid", "integer"), ("id", "bigint")]);
    let mut lines = table("lines", &[("order_id", "bigint"), ("n", "integer")]);
    lines.foreign_keys.push(foreign_key(&["order_id"], "orders", &["id"]));
    let listed = "[[table]]\nname = \"orders\"\n[[table]]\nname = \"lines\"\n\
                  parent = { table = \"orders\", columns = \"order_id\", references = \"id\" }\n";
    let findings = judged("hash(bid, 8)", listed, server(), vec![orders.clone(), lines.clone()]);
    assert_eq!(wrong(&findings), ["parent_not_unique"]);

    let mut index = orders.unique_indexes[0].clone();
    index.primary = false;
    index.columns = vec!["id".into()];
    orders.unique_indexes.push(index);
    let findings = judged("hash(bid, 8)", listed, server(), vec![orders, lines]);
    assert_eq!(wrong(&findings), ["unique_per_owner"], "the parent has one, and it says so");
}

#[test]
fn a_home_is_named_in_text() {
    let listed = "[[table]]\nname = \"accounts\"\n";
    let by = |type_name| {
        let accounts = table("accounts", &[("home", type_name)]);
        judged("home(home)", listed, server(), vec![accounts])
    };
    assert_eq!(wrong(&by("text")), [""; 0]);
    assert_eq!(wrong(&by("character varying(10)")), [""; 0]);
    assert_eq!(wrong(&by("integer")), ["key_type_home"]);
}

#[test]
fn postgresql_18_changes_no_row_whose_identity_has_a_generated_column() {
    let mut stock = table("stock", &[("bid", "integer"), ("doubled", "integer")]);
    stock.columns[1].generated = true;
    stock.unique_indexes[0].columns = vec!["bid".into()];
    let with = |version_num, kind: &str, stock: &Table| {
        let listed = format!("[[table]]\nname = \"stock\"\n{kind}");
        let server = Server { version_num, ..server() };
        judged("hash(bid, 8)", &listed, server, vec![stock.clone()])
    };
    let shared = "kind = \"shared\"\n";
    assert_eq!(wrong(&with(180_000, "", &stock)), [""; 0]);
    assert_eq!(wrong(&with(170_009, shared, &stock)), [""; 0]);
    assert_eq!(wrong(&with(180_000, shared, &stock)), ["generated_in_identity"]);
    stock.replica_identity = ReplicaIdentity::Full;
    assert_eq!(wrong(&with(170_009, "", &stock)), [""; 0]);
    assert_eq!(wrong(&with(180_000, "", &stock)), ["generated_in_identity"]);
}

#[test]
fn no_changed_row_is_found_by_a_key_with_a_generated_column() {
    let mut stock = table("stock", &[("bid", "integer"), ("doubled", "integer")]);
    stock.columns[1].generated = true;
    let with = |kind: &str, stock: &Table| {
        let listed = format!("[[table]]\nname = \"stock\"\n{kind}");
        judged("hash(bid, 8)", &listed, server(), vec![stock.clone()])
    };
    let (reference, shared) = ("kind = \"reference\"\n", "kind = \"shared\"\n");
    for kind in ["", reference, shared] {
        let findings = with(kind, &stock);
        assert_eq!(wrong(&findings), ["generated_in_key"], "{kind}");
        assert_eq!(findings[0].level, Level::Blocker);
    }
    let mut index = stock.unique_indexes[0].clone();
    (index.primary, index.replica_identity) = (false, true);
    index.name = "by_bid".into();
    index.columns = vec!["bid".into()];
    stock.unique_indexes.push(index);
    assert_eq!(wrong(&with("", &stock)), ["generated_in_key"], "the index is not in use");
    stock.replica_identity = ReplicaIdentity::Index;
    assert_eq!(wrong(&with("", &stock)), [""; 0]);
    assert_eq!(wrong(&with(shared, &stock)), ["generated_in_key"], "its key is the primary one");
    stock.replica_identity = ReplicaIdentity::Full;
    assert_eq!(wrong(&with("", &stock)), [""; 0], "found by what is shipped");
}

#[test]
fn a_partitioned_table_tells_of_its_generated_key_once() {
    let mut days = table("days", &[("bid", "integer"), ("doubled", "integer")]);
    days.columns[1].generated = true;
    days.shape = Shape::Partitioned;
    let mut leaf = Table { name: "days_1".parse().unwrap(), ..days.clone() };
    leaf.shape = Shape::Plain;
    leaf.partition_of = Some(days.name.clone());
    let listed = "[[table]]\nname = \"days\"\n";
    let findings = judged("hash(bid, 8)", listed, server(), vec![days.clone(), leaf.clone()]);
    assert_eq!(wrong(&findings), ["generated_in_key"]);
    days.unique_indexes[0].columns = vec!["bid".into()];
    let findings = judged("hash(bid, 8)", listed, server(), vec![days, leaf]);
    assert_eq!(wrong(&findings), ["generated_in_key"]);
    assert_eq!(findings[0].object, "table \"public.days_1\"");
}

#[test]
fn keys_that_are_equal_have_one_spelling() {
    let mut accounts = table("accounts", &[("bid", "text")]);
    let listed = "[[table]]\nname = \"accounts\"\n";
    let with = |partition: &str, accounts: &Table| {
        judged(partition, listed, server(), vec![accounts.clone()])
    };
    assert_eq!(wrong(&with("hash(bid, 8)", &accounts)), [""; 0]);
    accounts.columns[0].nondeterministic = true;
    for partition in ["hash(bid, 8)", "home(bid)"] {
        let findings = with(partition, &accounts);
        assert_eq!(wrong(&findings), ["key_collation"]);
        assert_eq!(findings[0].level, Level::Blocker);
    }
    assert_eq!(wrong(&with("whole", &accounts)), [""; 0], "one owner has all rows");
}

#[test]
fn a_parent_tells_of_children_that_its_writes_reach_here_alone() {
    let mut animals = table("animals", &[("bid", "integer")]);
    let (cats, dogs) = (table("cats", &[("bid", "integer")]), table("dogs", &[("bid", "integer")]));
    animals.heirs = vec![cats.name.clone(), dogs.name.clone()];
    let with = |more: &str| {
        let listed = format!("[[table]]\nname = \"animals\"\n{more}");
        let tables = vec![animals.clone(), cats.clone(), dogs.clone()];
        let mut findings = judged("hash(bid, 8)", &listed, server(), tables);
        findings.retain(|finding| finding.name == "heirs_not_listed");
        findings.into_iter().map(|f| (f.level, f.object, f.what)).collect::<Vec<_>>()
    };
    let local = "[[table]]\nname = \"cats\"\nkind = \"local\"\n";
    for more in ["", local] {
        let found = with(more);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.as_str()), (Level::Warn, "table \"public.animals\""));
        assert!(found[0].2.contains("public.cats, public.dogs;"), "{}", found[0].2);
    }
    let found = with("[[table]]\nname = \"dogs\"\n");
    assert!(found[0].2.contains("not replicated: public.cats;"), "{}", found[0].2);
    let listed = "[[table]]\nname = \"dogs\"\n[[table]]\nname = \"cats\"\n";
    assert_eq!(with(listed), []);
}

#[test]
fn what_two_owners_may_both_take_is_not_deferrable() {
    let unique = |table: &mut Table, columns: &[&str]| {
        let mut index = table.unique_indexes[0].clone();
        (index.primary, index.immediate) = (false, false);
        index.name = "once".into();
        index.columns = columns.iter().map(|name| name.to_string()).collect();
        table.unique_indexes.push(index);
    };
    let found = |partition: &str, listed: &str, tables: Vec<Table>| {
        let findings = judged(partition, listed, server(), tables);
        let wrong = findings.into_iter().filter(|f| f.level != Level::Ok);
        wrong.map(|f| (f.level, f.name)).collect::<Vec<_>>()
    };
    use Level::{Blocker, Warn};
    let listed = "[[table]]\nname = \"orders\"\n";
    let by = |columns: &[&str], partition: &str, kind: &str| {
        let columns_all = [("bid", "integer"), ("code", "integer"), ("id", "uuid")];
        let mut orders = table("orders", &columns_all);
        unique(&mut orders, columns);
        found(partition, &format!("{listed}{kind}"), vec![orders])
    };
    assert_eq!(by(&["code"], "hash(bid, 8)", ""), [(Blocker, "deferrable_unique")]);
    assert_eq!(by(&["bid", "code"], "hash(bid, 8)", ""), [(Warn, "deferrable_unique")]);
    assert_eq!(by(&["id"], "hash(bid, 8)", ""), [(Warn, "deferrable_unique")]);
    assert_eq!(by(&["code"], "whole", ""), [(Warn, "deferrable_unique")]);
    let reference = "kind = \"reference\"\n";
    assert_eq!(by(&["code"], "hash(bid, 8)", reference), [(Warn, "deferrable_unique")]);

    let orders = table("orders", &[("bid", "integer")]);
    let mut lines = table("lines", &[("order_bid", "integer"), ("n", "integer")]);
    lines.foreign_keys.push(foreign_key(&["order_bid"], "orders", &["bid"]));
    unique(&mut lines, &["n"]);
    let child = "[[table]]\nname = \"lines\"\n\
                 parent = { table = \"orders\", columns = \"order_bid\", references = \"bid\" }\n";
    let listed = format!("{listed}{child}");
    let both = vec![orders, lines];
    assert_eq!(found("hash(bid, 8)", &listed, both), [(Blocker, "deferrable_unique")]);
}

#[test]
fn an_unlogged_leaf_spoils_its_partitioned_table() {
    let mut days = table("days", &[("bid", "integer"), ("day", "date")]);
    days.shape = Shape::Partitioned;
    let mut leaf = table("days_1", &[("bid", "integer"), ("day", "date")]);
    leaf.partition_of = Some(days.name.clone());
    leaf.persistence = Persistence::Unlogged;
    let listed = "[[table]]\nname = \"days\"\n";
    let findings = judged("hash(bid, 8)", listed, server(), vec![days.clone(), leaf.clone()]);
    assert_eq!(wrong(&findings), ["not_logged"]);

    leaf.persistence = Persistence::Permanent;
    let listed = "[[table]]\nname = \"days_1\"\n";
    let findings = judged("hash(bid, 8)", listed, server(), vec![days, leaf]);
    assert_eq!(wrong(&findings), ["table_partition", "not_listed"]);
}
