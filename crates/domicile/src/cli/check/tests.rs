//! Are planted problems found in real databases, and is nothing left behind?

use std::collections::BTreeSet;

use super::*;
use crate::lab::cluster::{Cluster, temporary_cluster};
use crate::settings;

const SCHEMA: &str = "
CREATE TABLE branches (bid int PRIMARY KEY);
CREATE TABLE accounts (
    aid bigint GENERATED ALWAYS AS IDENTITY (CYCLE) PRIMARY KEY,
    bid int NOT NULL REFERENCES branches
);
CREATE TABLE history (bid int, note text);
CREATE TABLE orders (id uuid PRIMARY KEY, bid int NOT NULL REFERENCES branches);
CREATE TABLE lines (
    id uuid PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES orders,
    account_id bigint REFERENCES accounts
);
CREATE TABLE loose (id uuid PRIMARY KEY, order_id uuid NOT NULL);
CREATE TABLE amounts (id uuid PRIMARY KEY, bid numeric NOT NULL);
CREATE UNLOGGED TABLE cached (id uuid PRIMARY KEY, bid int NOT NULL);
CREATE TABLE swapped (
    id uuid PRIMARY KEY,
    bid int NOT NULL,
    place int,
    UNIQUE (bid, place) DEFERRABLE
);
CREATE TABLE booked (
    id uuid PRIMARY KEY,
    bid int NOT NULL,
    during int4range,
    EXCLUDE USING gist (during WITH &&)
);
CREATE TABLE hidden (id uuid PRIMARY KEY, bid int NOT NULL);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE TABLE mute (id uuid PRIMARY KEY, bid int NOT NULL);
ALTER TABLE mute REPLICA IDENTITY NOTHING;
CREATE TABLE forgotten (id int PRIMARY KEY);
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM accounts;
SELECT lo_create(0);
";

const TABLES: [&str; 12] = [
    "branches", "accounts", "history", "orders", "amounts", "cached", "swapped", "booked",
    "hidden", "mute", "totals", "absent",
];

fn config(regions: &[(&str, &str)], tables: &str) -> Config {
    let regions: String = regions
        .iter()
        .enumerate()
        .map(|(i, (name, postgres))| {
            format!(
                "[[region]]\nname = \"{name}\"\npostgres = \"{postgres}\"\n\
                 peer = \"127.0.0.1:{}\"\ngateway = \"127.0.0.1:{}\"\ndata = \"/{name}\"\n",
                7401 + i,
                6432 + i
            )
        })
        .collect();
    let text = format!(
        "cluster = \"shop\"\npartition = \"hash(bid, 48)\"\n\
         [directory]\naddress = \"127.0.0.1:7400\"\ndata = \"/directory\"\n{regions}\
         [[witness]]\nname = \"metro\"\npeer = \"127.0.0.1:7399\"\ndata = \"/metro\"\n{tables}"
    );
    settings::parse(&text).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

fn listed() -> String {
    let plain: String =
        TABLES.iter().map(|name| format!("[[table]]\nname = \"{name}\"\n")).collect();
    let children: String = ["lines", "loose"]
        .iter()
        .map(|name| {
            format!(
                "[[table]]\nname = \"{name}\"\nparent = {{ table = \"orders\", \
                 columns = \"order_id\", references = \"id\" }}\n"
            )
        })
        .collect();
    plain + &children
}

async fn check(config: &Config) -> Vec<Finding> {
    let regions: Vec<&Region> = config.regions.iter().collect();
    look(Output::new(true), config, &regions).await
}

fn has(findings: &[Finding], level: Level, name: &str, object: &str) -> bool {
    let mut found = findings.iter().filter(|f| f.level == level && f.name == name);
    found.any(|finding| finding.object.contains(object))
}

async fn start(settings: &[(&str, &str)]) -> (Cluster, impl Sized) {
    let settings: Vec<(&str, &str)> = [("fsync", "off")].iter().chain(settings).copied().collect();
    temporary_cluster("check", &settings).await.unwrap()
}

#[tokio::test]
async fn planted_problems_are_found() {
    let (cluster, _folder) = start(&[("max_prepared_transactions", "5")]).await;
    let client = cluster.connect().await.unwrap();
    client.batch_execute(SCHEMA).await.unwrap();
    let port = crate::lab::cluster::free_port();
    let gone = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let config = config(&[("eu", &cluster.connection_string()), ("us", &gone)], &listed());

    let findings = check(&config).await;
    use Level::{Blocker, Ok, Warn};
    for (level, name, object) in [
        (Blocker, "unreachable", "us"),
        (Blocker, "table_missing", "absent"),
        (Blocker, "not_a_table", "totals"),
        (Blocker, "not_logged", "cached"),
        (Blocker, "key_type", "amounts"),
        (Blocker, "no_replica_identity", "mute"),
        (Warn, "no_primary_key", "history"),
        (Warn, "key_nullable", "history"),
        (Warn, "deferrable_unique", "swapped"),
        (Warn, "exclusion", "booked"),
        (Warn, "row_security", "hidden"),
        (Warn, "parent_without_foreign_key", "loose"),
        (Warn, "foreign_key_across_owners", "lines"),
        (Warn, "unique_per_owner", "accounts"),
        (Blocker, "sequence_cycles", "accounts"),
        (Warn, "max_prepared_transactions", ""),
        (Warn, "large_objects", ""),
        (Warn, "not_listed", ""),
        (Ok, "reachable", "PostgreSQL"),
        (Ok, "table_ready", "orders"),
        (Ok, "table_ready", "branches"),
    ] {
        assert!(has(&findings, level, name, object), "{name} {object}: {findings:#?}");
    }
    let blockers = findings.iter().filter(|finding| finding.level == Blocker).count();
    assert_eq!(blockers, 7, "and nothing else: {findings:#?}");
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots)
                     + (SELECT count(*) FROM pg_replication_origin)";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn functions_that_cannot_decide_conflicts_are_found() {
    let (cluster, _folder) = start(&[]).await;
    let client = cluster.connect().await.unwrap();
    let takes = "(mine jsonb, theirs jsonb, old jsonb)";
    let schema = format!(
        "CREATE FUNCTION sound{takes} RETURNS jsonb IMMUTABLE LANGUAGE sql AS 'SELECT mine';
         CREATE FUNCTION fickle{takes} RETURNS jsonb LANGUAGE sql AS 'SELECT mine';
         CREATE FUNCTION wordy{takes} RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $$text$$';"
    );
    client.batch_execute(&schema).await.unwrap();
    let mut tables = String::new();
    for function in ["sound", "fickle", "wordy", "missing"] {
        client
            .batch_execute(&format!("CREATE TABLE of_{function} (id int PRIMARY KEY)"))
            .await
            .unwrap();
        tables += &format!(
            "[[table]]\nname = \"of_{function}\"\nkind = \"shared\"\npolicy = \"sql\"\n\
             function = \"public.{function}\"\n"
        );
    }
    let config =
        config(&[("eu", &cluster.connection_string()), ("us", "host=10.255.255.1")], &tables);
    let regions = [&config.regions[0]];
    let findings = look(Output::new(true), &config, &regions).await;
    let told = |finding: &&Finding| finding.name == "shared_function";
    let found = findings.iter().filter(told).map(|f| format!("{}: {}", f.object, f.what));
    let found: BTreeSet<String> = found.collect();
    let meant = [
        ("fickle", "is not immutable: regions could end differently"),
        ("missing", "does not exist"),
        ("wordy", "does not return jsonb"),
    ]
    .map(|(name, why)| {
        format!(
            "table \"public.of_{name}\": \
             function \"public\".\"{name}\"(jsonb, jsonb, jsonb) {why}"
        )
    });
    assert_eq!(found, BTreeSet::from(meant), "{findings:#?}");
}

#[tokio::test]
async fn a_unique_index_of_a_shared_tables_partition_alone_is_found() {
    let (cluster, _folder) = start(&[]).await;
    let client = cluster.connect().await.unwrap();
    let schema =
        "CREATE TABLE stock (id int PRIMARY KEY, place int, code int) PARTITION BY RANGE (id);
                  CREATE UNIQUE INDEX ON stock (id, place);
                  CREATE TABLE stock_1 PARTITION OF stock FOR VALUES FROM (0) TO (9);
                  CREATE UNIQUE INDEX of_one ON stock_1 (code)";
    client.batch_execute(schema).await.unwrap();
    let table = "[[table]]\nname = \"stock\"\nkind = \"shared\"\n";
    let config =
        config(&[("eu", &cluster.connection_string()), ("us", "host=10.255.255.1")], table);
    let findings = look(Output::new(true), &config, &[&config.regions[0]]).await;
    let told = findings.iter().filter(|finding| finding.name == "shared_unique_of_part");
    let told: Vec<String> = told.map(|f| format!("{} {}", f.object, f.what)).collect();
    let meant =
        "table \"public.stock_1\" has a unique index that the whole table lacks, \"of_one\"";
    assert_eq!(told, [meant], "{findings:#?}");
}

#[tokio::test]
async fn keys_that_mean_another_row_elsewhere_and_children_left_out_are_found() {
    let (cluster, _folder) = start(&[]).await;
    let client = cluster.connect().await.unwrap();
    let schema = "
        CREATE COLLATION folded (
            provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE spelt (bid text COLLATE folded PRIMARY KEY);
        CREATE TABLE doubled (
            bid int NOT NULL, key int GENERATED ALWAYS AS (bid * 2) STORED PRIMARY KEY);
        CREATE TABLE numbered (bid int NOT NULL, id uuid PRIMARY KEY, code int UNIQUE DEFERRABLE);
        CREATE TABLE animals (bid int PRIMARY KEY);
        CREATE TABLE cats (PRIMARY KEY (bid)) INHERITS (animals);
        CREATE TABLE lions (PRIMARY KEY (bid)) INHERITS (cats);
        CREATE TABLE days (bid int PRIMARY KEY) PARTITION BY RANGE (bid);
        CREATE TABLE days_1 PARTITION OF days DEFAULT";
    client.batch_execute(schema).await.unwrap();
    let tables: String = ["spelt", "doubled", "numbered", "animals", "days"]
        .iter()
        .map(|name| format!("[[table]]\nname = \"{name}\"\n"))
        .collect();
    let config =
        config(&[("eu", &cluster.connection_string()), ("us", "host=10.255.255.1")], &tables);
    let findings = look(Output::new(true), &config, &[&config.regions[0]]).await;
    use Level::{Blocker, Ok, Warn};
    for (level, name, object) in [
        (Blocker, "key_collation", "spelt"),
        (Blocker, "generated_in_key", "doubled"),
        (Blocker, "deferrable_unique", "numbered"),
        (Warn, "heirs_not_listed", "animals"),
        (Ok, "table_ready", "days"),
    ] {
        assert!(has(&findings, level, name, object), "{name} {object}: {findings:#?}");
    }
    let heirs = findings.iter().find(|finding| finding.name == "heirs_not_listed").unwrap();
    assert!(heirs.what.contains("public.cats, public.lions;"), "{heirs:#?}");
}

#[tokio::test]
async fn a_role_without_rights_and_a_server_without_logical_wal_are_refused() {
    let (cluster, _folder) =
        start(&[("wal_level", "replica"), ("max_replication_slots", "0")]).await;
    let client = cluster.connect().await.unwrap();
    let schema = "CREATE TABLE accounts (bid int PRIMARY KEY); CREATE ROLE app LOGIN;";
    client.batch_execute(schema).await.unwrap();
    let app = cluster.connection_string().replace("user=postgres", "user=app");
    let other = "host=10.255.255.1 port=1 user=app dbname=postgres";
    let config = config(&[("eu", &app), ("us", other)], "[[table]]\nname = \"accounts\"\n");
    let regions = [&config.regions[0]];
    let findings = look(Output::new(true), &config, &regions).await;
    for name in [
        "wal_level",
        "max_replication_slots",
        "may_not_use_origins",
        "may_not_set_replica_role",
        "may_not_create_schema",
        "ack_fence",
        "not_ours",
    ] {
        assert!(has(&findings, Level::Blocker, name, ""), "{name}: {findings:#?}");
    }
}

/// What one region has and the other has otherwise, though every column is alike.
const DRIFT: [&str; 2] = [
    "CREATE TYPE mood AS ENUM ('sad', 'glad');
     CREATE TYPE size AS ENUM ('small', 'large');
     CREATE TYPE unused AS ENUM ('one', 'two');
     CREATE EXTENSION hstore VERSION '1.5';
     CREATE TABLE accounts (
        bid int PRIMARY KEY, moods mood[], size size, name text COLLATE spelt,
        doubled int GENERATED ALWAYS AS (bid * 2) STORED);
     CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
     CREATE TRIGGER noting BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION note();
     CREATE TRIGGER alike BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION note();
     ALTER TABLE accounts ENABLE ALWAYS TRIGGER noting, ENABLE ALWAYS TRIGGER alike;
     CREATE RULE watching AS ON DELETE TO accounts DO ALSO NOTIFY gone;
     ALTER TABLE accounts ENABLE REPLICA RULE watching;
     CREATE TABLE days (bid int, day date, PRIMARY KEY (bid, day)) PARTITION BY RANGE (day);
     CREATE TABLE days_1 PARTITION OF days DEFAULT;
     ALTER TABLE days_1 REPLICA IDENTITY FULL;
     ALTER TABLE days ADD CHECK (bid > 0) NOT VALID;
     ALTER TABLE accounts ADD CONSTRAINT named UNIQUE (name, bid)",
    "CREATE TYPE mood AS ENUM ('glad', 'sad', 'so so');
     CREATE TYPE size AS ENUM ('large', 'small');
     CREATE TYPE unused AS ENUM ('one');
     CREATE EXTENSION hstore VERSION '1.4';
     CREATE TABLE accounts (
        bid int PRIMARY KEY, moods mood[], size size, name text COLLATE spelt,
        doubled int GENERATED ALWAYS AS (bid + bid) STORED);
     CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
     CREATE TRIGGER noting BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION note();
     CREATE TRIGGER alike BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION note();
     ALTER TABLE accounts ENABLE REPLICA TRIGGER noting, ENABLE ALWAYS TRIGGER alike;
     CREATE TABLE days (bid int, day date, PRIMARY KEY (bid, day)) PARTITION BY RANGE (day);
     CREATE TABLE days_1 PARTITION OF days DEFAULT;
     ALTER TABLE days ADD CHECK (bid > 0);
     CREATE UNIQUE INDEX ON accounts (name, bid) WHERE bid > 7",
];

#[tokio::test]
async fn what_drifts_apart_between_regions_is_told() {
    let (eu, _eu_folder) = start(&[]).await;
    let (us, _us_folder) = start(&[]).await;
    let mut connections = Vec::new();
    for ((cluster, drift), locale) in [&eu, &us].into_iter().zip(DRIFT).zip(["C", "C.UTF-8"]) {
        let make = format!(
            "CREATE DATABASE shop TEMPLATE template0 LC_COLLATE '{locale}' LC_CTYPE 'C.UTF-8'"
        );
        cluster.connect().await.unwrap().batch_execute(&make).await.unwrap();
        let connection = cluster.connection_string().replace("dbname=postgres", "dbname=shop");
        let client = crate::cli::connect::connect(&connection).await.unwrap();
        let spelt = format!("CREATE COLLATION spelt (locale = '{locale}')");
        client.batch_execute(&spelt).await.unwrap();
        client.batch_execute(drift).await.unwrap();
        connections.push(connection);
    }
    let regions = [("eu", connections[0].as_str()), ("us", connections[1].as_str())];
    let tables = "[[table]]\nname = \"accounts\"\n[[table]]\nname = \"days\"\n";
    let mut findings = check(&config(&regions, tables)).await;
    findings.retain(|f| f.level != Level::Ok && f.name != "ack_fence_not_set");
    let told: Vec<String> = findings
        .iter()
        .map(|f| format!("{:?} {} {}: {}", f.level, f.name, f.object, f.what))
        .collect();
    assert!(findings.iter().all(|finding| !finding.way_out.is_empty()), "{findings:#?}");
    let always = "BEFORE INSERT ON public.accounts FOR EACH ROW EXECUTE FUNCTION note()";
    assert_eq!(
        told,
        [
            "Blocker generated_differs table \"public.accounts\": column \"doubled\" is generated as \
             (bid * 2) in eu, as (bid + bid) in us"
                .to_owned(),
            "Blocker enum_differs type \"public.mood\": has no \"so so\" in eu".to_owned(),
            "Warn demands_differ table \"public.accounts\": UNIQUE btree (name, bid) in eu alone".to_owned(),
            "Warn demands_differ table \"public.accounts\": UNIQUE btree (name, bid) WHERE (bid > 7) in us \
             alone"
                .to_owned(),
            "Warn fires_differ table \"public.accounts\": rule \"watching\" fires for applied rows in \
             eu alone"
                .to_owned(),
            format!(
                "Warn fires_differ table \"public.accounts\": trigger \"noting\" is (CREATE TRIGGER \
                 noting {always}, ENABLE ALWAYS) in eu, (CREATE TRIGGER noting {always}, ENABLE \
                 REPLICA) in us"
            ),
            "Warn identity_differs table \"public.days_1\": has REPLICA IDENTITY FULL in eu, DEFAULT \
             in us"
                .to_owned(),
            "Warn collation_differs databases: sort by libc C in eu, by libc C.UTF-8 in us".to_owned(),
            "Warn collation_differs collation \"public.spelt\": is libc C in eu, libc C.UTF-8 in us".to_owned(),
            "Warn enum_differs type \"public.size\": has its values in another order in us than in eu"
                .to_owned(),
            "Warn enum_differs type \"public.unused\": has no \"two\" in us".to_owned(),
            "Warn extension_differs extension \"hstore\": is 1.5 in eu, 1.4 in us".to_owned(),
        ]
    );
}

#[tokio::test]
async fn code_of_strangers_that_would_run_as_the_agent_is_refused() {
    let (cluster, _folder) = start(&[]).await;
    let client = cluster.connect().await.unwrap();
    // What is refused works: who owns a table or a function may act as whoever applies rows.
    let schema = "
        CREATE ROLE mallory; CREATE ROLE keeper LOGIN IN ROLE mallory;
        GRANT ALL ON SCHEMA public TO mallory;
        SET ROLE mallory;
        CREATE TABLE accounts (bid int PRIMARY KEY);
        CREATE FUNCTION strike() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN ALTER ROLE mallory SUPERUSER; RETURN NULL; END';
        CREATE FUNCTION keep_to_oneself() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER quiet AFTER INSERT ON accounts EXECUTE FUNCTION strike();
        CREATE TRIGGER hostile AFTER INSERT ON accounts EXECUTE FUNCTION strike();
        CREATE TRIGGER modest AFTER INSERT ON accounts EXECUTE FUNCTION keep_to_oneself();
        ALTER TABLE accounts ENABLE ALWAYS TRIGGER hostile, ENABLE REPLICA TRIGGER modest;
        CREATE RULE tell AS ON UPDATE TO accounts DO ALSO SELECT 1;
        ALTER TABLE accounts ENABLE ALWAYS RULE tell;
        RESET ROLE;
        CREATE TABLE ours (bid int, day date, PRIMARY KEY (bid, day)) PARTITION BY RANGE (day);
        CREATE TABLE ours_1 PARTITION OF ours DEFAULT;
        CREATE TRIGGER lent AFTER INSERT ON ours FOR EACH ROW EXECUTE FUNCTION strike();
        ALTER TABLE ours_1 ENABLE REPLICA TRIGGER lent;
        SET session_replication_role = replica; INSERT INTO accounts VALUES (1);";
    client.batch_execute(schema).await.unwrap();
    let became = "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'";
    assert!(client.query_one(became, &[]).await.unwrap().get::<_, bool>(0));
    client.batch_execute("ALTER ROLE mallory NOSUPERUSER").await.unwrap();

    let other = "host=10.255.255.1 port=1 user=app dbname=postgres";
    let tables = "[[table]]\nname = \"accounts\"\n[[table]]\nname = \"ours\"\n";
    let told = async |role: &str| -> Vec<String> {
        let postgres =
            cluster.connection_string().replace("user=postgres", &format!("user={role}"));
        let config = config(&[("eu", &postgres), ("us", other)], tables);
        let mut findings = look(Output::new(true), &config, &[&config.regions[0]]).await;
        findings.retain(|f| ["runs_as_agent", "owner_not_trusted"].contains(&f.name));
        let text = |f: &Finding| format!("{:?} {}: {}. {}", f.level, f.object, f.what, f.way_out);
        findings.iter().map(text).collect()
    };
    let found = told("postgres").await;
    let rights = "for applied rows with the rights of role";
    let or = "which leaves applied rows alone; or ALTER FUNCTION public.strike() SECURITY DEFINER, for its \
              owner's rights.";
    let stranger = "and role \"mallory\" may have it do anything";
    assert_eq!(
        found,
        [
            format!(
                "Blocker table \"public.accounts\": rule \"tell\" runs {rights} \"postgres\", {stranger}. \
                 ALTER TABLE public.accounts ENABLE RULE tell, which leaves applied rows alone; or have \
                 the table be \"postgres\"'s."
            ),
            format!(
                "Blocker table \"public.accounts\": trigger \"hostile\" runs public.strike() {rights} \
                 \"postgres\", {stranger}. ALTER TABLE public.accounts ENABLE TRIGGER hostile, {or}"
            ),
            format!(
                "Blocker table \"public.ours_1\": trigger \"lent\" runs public.strike() {rights} \
                 \"postgres\", {stranger}. ALTER TABLE public.ours_1 ENABLE TRIGGER lent, {or}"
            ),
            "Warn role \"mallory\": owns public.accounts: what these have run when rows are written \
             (triggers ENABLE ALWAYS, CHECK constraints, generated columns, indexes over expressions) \
             runs with the rights of role \"postgres\", a superuser. Have the agent use a role that is no \
             superuser and owns the tables (docs/operating/install.md), unless this one is trusted as \
             much."
                .to_owned(),
        ]
    );
    let found = told("keeper").await;
    assert_eq!(found.len(), 3, "it has more rights than that role: {found:#?}");
    client.batch_execute("ALTER ROLE mallory SUPERUSER").await.unwrap();
    assert_eq!(told("postgres").await, [""; 0]);
}

#[tokio::test]
async fn limits_on_sessions_are_told_with_their_way_out() {
    let (cluster, _folder) = start(&[("max_replication_slots", "4")]).await;
    let client = cluster.connect().await.unwrap();
    let schema = "CREATE ROLE keeper LOGIN CONNECTION LIMIT 12;
                  ALTER DATABASE postgres CONNECTION LIMIT 3;
                  CREATE TABLE accounts (bid int PRIMARY KEY)";
    client.batch_execute(schema).await.unwrap();
    let keeper = cluster.connection_string().replace("user=postgres", "user=keeper");
    let (_one, _two) = (cluster.connect().await.unwrap(), cluster.connect().await.unwrap());
    let other = "host=10.255.255.1 port=1 user=keeper dbname=postgres";
    let tables = "[[table]]\nname = \"accounts\"\n";
    let told = async |postgres: &str| {
        let config = config(&[("eu", postgres), ("us", other)], tables);
        let mut findings = look(Output::new(true), &config, &[&config.regions[0]]).await;
        let of_room = ["connection_limit", "replication_origins", "max_connections"];
        findings.retain(|finding| of_room.contains(&finding.name));
        findings.iter().map(|f| format!("{}: {} {}", f.object, f.what, f.way_out)).collect()
    };
    let origins = "parameter \"max_replication_slots\": leaves 4 of 4 replication origins, 5 needed: \
                   this region cannot be seeded ALTER SYSTEM SET max_replication_slots = 9, then \
                   restart PostgreSQL.";
    // Limits on sessions are not for superusers.
    let as_superuser: Vec<String> = told(&cluster.connection_string()).await;
    let major = "SELECT current_setting('server_version_num')::int / 10000";
    let major: i32 = client.query_one(major, &[]).await.unwrap().get(0);
    // Newer ones have room for ten origins, whatever there is for slots.
    let expected = if major < 18 { vec![origins] } else { Vec::new() };
    assert_eq!(as_superuser, expected);
    client.batch_execute("ALTER DATABASE postgres CONNECTION LIMIT 5").await.unwrap();
    let as_keeper: Vec<String> = told(&keeper).await;
    for expected in [
        "role \"keeper\": leaves 12 of 12 sessions, 21 needed: the agent runs, and repairs, comparisons \
         or a region that is added may fail ALTER ROLE keeper CONNECTION LIMIT 21.",
        "database \"postgres\": leaves 2 of 5 sessions, 21 needed: the agent cannot keep its sessions \
         open ALTER DATABASE postgres CONNECTION LIMIT 24.",
    ] {
        assert!(as_keeper.iter().any(|told| told == expected), "{as_keeper:#?}");
    }
}

#[tokio::test]
async fn regions_with_other_schemas_or_one_database_are_refused() {
    let (eu, _eu_folder) = start(&[]).await;
    let (us, _us_folder) = start(&[]).await;
    let sound = "CREATE TABLE accounts (bid int PRIMARY KEY, note text);";
    eu.connect().await.unwrap().batch_execute(sound).await.unwrap();
    let other = "CREATE TABLE accounts (bid int, extra int, note varchar(9), PRIMARY KEY (bid));";
    let client = us.connect().await.unwrap();
    client.batch_execute(other).await.unwrap();
    let tables = "[[table]]\nname = \"accounts\"\n";
    let (eu, us) = (eu.connection_string(), us.connection_string());

    let two = config(&[("eu", &eu), ("us", &us)], tables);
    let findings = check(&two).await;
    let differences: Vec<&str> =
        findings.iter().filter(|f| f.name == "schema_differs").map(|f| f.what.as_str()).collect();
    assert_eq!(
        differences,
        [
            "column \"extra\" is missing in eu",
            "column \"note\" is text in eu, character varying(9) in us",
        ]
    );

    client.batch_execute("DROP TABLE accounts").await.unwrap();
    client.batch_execute(sound).await.unwrap();
    let mut findings = check(&two).await;
    // No agent runs yet, so this is still to be done.
    findings.retain(|finding| finding.name != "ack_fence_not_set");
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");

    let by_name = eu.replace("127.0.0.1", "0.0.0.0");
    let one = config(&[("eu", &eu), ("us", &by_name)], tables);
    assert!(has(&check(&one).await, Level::Blocker, "same_database", "us"));
}

#[tokio::test]
async fn passwords_that_do_not_get_a_session_to_every_region_are_found() {
    let (eu, _eu_folder) = start(&[]).await;
    let (us, _us_folder) = start(&[]).await;
    let (here, there) = (eu.connect().await.unwrap(), us.connect().await.unwrap());
    let roles = "CREATE ROLE alike LOGIN PASSWORD 'pin'; CREATE ROLE \"Other\" LOGIN PASSWORD 'pin';
                 CREATE ROLE keeper LOGIN; CREATE ROLE silent LOGIN; CREATE ROLE of_all PASSWORD 'pin';
                 CREATE TABLE accounts (bid int PRIMARY KEY)";
    here.batch_execute(roles).await.unwrap();
    here.batch_execute("CREATE ROLE single LOGIN PASSWORD 'pin'").await.unwrap();
    there.batch_execute(roles).await.unwrap();
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'alike'";
    let kept: String = here.query_one(sql, &[]).await.unwrap().get(0);
    there.batch_execute(&format!("ALTER ROLE alike PASSWORD '{kept}'")).await.unwrap();
    let tables = "[[table]]\nname = \"accounts\"\n";
    let told = async |us: &str| -> Vec<String> {
        let config = config(&[("eu", &eu.connection_string()), ("us", us)], tables);
        let mut findings = check(&config).await;
        findings.retain(|finding| finding.name.starts_with("password"));
        let text = |f: &Finding| format!("{} {}. {}", f.object, f.what, f.way_out);
        findings.iter().map(text).collect()
    };
    assert_eq!(
        told(&us.connection_string()).await,
        [
            "role \"Other\" in us it has another verifier of its password, unlike in eu: its sessions do not \
             get from one to the other. In us: ALTER ROLE \"Other\" PASSWORD, with what eu keeps in \
             pg_authid.rolpassword.",
            "role \"single\" in us it has no password, unlike in eu: its sessions do not get from one to the \
             other. In us: ALTER ROLE single PASSWORD, with what eu keeps in pg_authid.rolpassword.",
        ]
    );
    let keeper = us.connection_string().replace("user=postgres", "user=keeper");
    let found = told(&keeper).await;
    assert!(
        found.len() == 1 && found[0].contains("GRANT SELECT (rolname, rolpassword)"),
        "{found:#?}"
    );
    let granted = "GRANT SELECT (rolname, rolpassword) ON pg_authid TO keeper";
    there.batch_execute(granted).await.unwrap();
    assert_eq!(told(&keeper).await.len(), 2);
}
