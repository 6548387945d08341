//! Does PostgreSQL itself refuse every write that is not this region's to make, whoever asks and
//! however, and does what slips past all the same leave the history untouched?
//!
//! Two regions, RPO 0, a superuser past the gateway. One world for all sections: they follow each
//! other in the order of the file.

use std::process::Command;

use bytes::Bytes;
use domicile::lab::regions::Regions;
use domicile::log::{LOG_SEGMENT_BYTES, Logs};
use domicile::postgres::{guard, session};
use domicile_core::record;
use futures_util::SinkExt as _;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, IsolationLevel};

mod regions;
use regions::{assert_alike, config, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE account (branch int, id int, note text, PRIMARY KEY (branch, id));
    CREATE TABLE entry (
        id int PRIMARY KEY, branch int NOT NULL, account int NOT NULL, note text,
        FOREIGN KEY (branch, account) REFERENCES account ON DELETE CASCADE);
    CREATE TABLE event (branch int, day int, note text, PRIMARY KEY (branch, day))
        PARTITION BY LIST (day);
    CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
    CREATE TABLE event_rest PARTITION OF event DEFAULT;
    CREATE TABLE currency (code text PRIMARY KEY, rate numeric);
    INSERT INTO account SELECT b, i, 'seed' FROM generate_series(1, 40) b, generate_series(1, 3) i;
    INSERT INTO entry SELECT b * 10 + i, b, i, 'seed'
        FROM generate_series(1, 40) b, generate_series(1, 2) i;
    INSERT INTO event SELECT b, d, 'seed' FROM generate_series(1, 40) b, generate_series(1, 3) d;
    INSERT INTO currency VALUES ('EUR', 1);
    CREATE FUNCTION note_all(b int) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN UPDATE account SET note = 'function' WHERE branch = b; END $$;";

const TABLES: &str = "
[[table]]
name = \"account\"
key = \"branch\"

[[table]]
name = \"entry\"
parent = { table = \"account\", columns = [\"branch\", \"account\"], references = [\"branch\", \"id\"] }

[[table]]
name = \"event\"
key = \"branch\"

[[table]]
name = \"currency\"
kind = \"reference\"
";

/// One branch of this region, one of the other, and a session at this region.
struct Here {
    client: Client,
    ours: i32,
    theirs: i32,
}

impl Here {
    fn sql(&self, sql: &str) -> String {
        sql.replace("{ours}", &self.ours.to_string()).replace("{theirs}", &self.theirs.to_string())
    }

    async fn passes(&self, sql: &str) {
        self.client.batch_execute(&self.sql(sql)).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// The owner region must be named.
    async fn refused(&self, sql: &str, owner: &str) {
        let sql = self.sql(sql);
        let error = self.client.batch_execute(&sql).await.expect_err(&sql);
        self.client.batch_execute("ROLLBACK").await.unwrap();
        names_owner(&sql, error.as_db_error().unwrap(), owner);
    }

    async fn one(&self, sql: &str) -> String {
        self.client.query_one(&self.sql(sql), &[]).await.unwrap().get(0)
    }
}

fn names_owner(what: &str, error: &DbError, owner: &str) {
    assert_eq!(*error.code(), SqlState::READ_ONLY_SQL_TRANSACTION, "{what}: {error:?}");
    let detail = error.detail().unwrap_or_default();
    assert!(detail.starts_with(&format!("Owner region: {owner},")), "{what}: {error:?}");
}

async fn here(regions: &Regions, region: &str) -> Here {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT min(b) FILTER (WHERE domicile.partition_of(b::text) < 6),
                      min(b) FILTER (WHERE domicile.partition_of(b::text) >= 6)
               FROM generate_series(1, 40) b";
    let row = client.query_one(sql, &[]).await.unwrap();
    let (eu, us) = (row.get(0), row.get(1));
    let (ours, theirs) = if region == "eu" { (eu, us) } else { (us, eu) };
    Here { client, ours, theirs }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_not_ours_is_refused_on_every_way_and_none_enters_the_history() {
    let mut config = config(&["eu", "us"], "hash(branch, 12)", 13);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let eu = here(&regions, "eu").await;

    owned_writes_pass(&eu).await;
    plain_statements_are_refused(&eu).await;
    copy_is_refused(&eu).await;
    a_cascade_belongs_to_the_owner_of_the_parent(&eu).await;
    truncate_is_refused(&eu, &here(&regions, "us").await).await;
    table_partitions_are_guarded(&regions, &eu).await;
    a_reference_table_has_one_owner(&here(&regions, "us").await).await;
    replica_role_passes_no_guard(&eu).await;
    the_client_cannot_commit_without_a_peer(&regions, &eu).await;
    an_unstamped_write_is_journaled_and_repaired(&regions, &eu).await;
    an_old_snapshot_sees_the_new_owner(&regions, &eu).await;
    a_procedure_that_has_committed_is_not_called_again(&regions, &eu).await;
    settle(&regions, "before the agent stops").await;
    assert_alike(&regions, &["account", "entry", "event", "currency"]).await;

    a_lease_may_end_before_the_commit(&mut regions, &eu).await;
    a_renewal_ends_no_lease(&regions, &eu).await;
    a_lease_ends_with_its_postmaster(&mut regions, &eu).await;
    regions.start_agent("eu").unwrap();
    regions.wait_until_ready().await.unwrap();
    let eu = here(&regions, "eu").await;
    nothing_is_prepared_for_two_phases(&eu).await;
    settle(&regions, "at the end").await;
    assert_alike(&regions, &["account", "entry", "event", "currency"]).await;
    every_record_is_stamped(&mut regions).await;
}

async fn owned_writes_pass(eu: &Here) {
    eu.passes(
        "INSERT INTO account VALUES ({ours}, 100, 'ours');
         UPDATE account SET note = 'stamped' WHERE branch = {ours} AND id = 100;
         INSERT INTO entry VALUES (9000, {ours}, 100, 'ours');
         INSERT INTO event VALUES ({ours}, 1000, 'ours');
         UPDATE event SET day = 1 WHERE branch = {ours} AND day = 1000 AND false;
         INSERT INTO currency VALUES ('USD', 1.1)",
    )
    .await;
}

async fn plain_statements_are_refused(eu: &Here) {
    for sql in [
        "INSERT INTO account VALUES ({theirs}, 100, 'x')",
        "UPDATE account SET note = 'x' WHERE branch = {theirs}",
        "DELETE FROM entry WHERE branch = {theirs}",
        "DELETE FROM account WHERE branch = {theirs}",
        "UPDATE account SET note = 'x'",
        "INSERT INTO account VALUES ({theirs}, 1, 'x') ON CONFLICT (branch, id) DO UPDATE SET note = 'x'",
        "INSERT INTO account VALUES ({ours}, 101, 'x'), ({theirs}, 101, 'x')",
        "WITH gone AS (UPDATE account SET note = 'x' WHERE branch = {theirs} RETURNING id) SELECT * FROM gone",
        "WITH moved AS (DELETE FROM event WHERE branch = {theirs} RETURNING day)
         INSERT INTO event SELECT {ours}, day + 50, 'x' FROM moved",
        "SELECT note_all({theirs})",
        "DO $$ BEGIN PERFORM note_all({theirs}); END $$",
        "INSERT INTO entry VALUES (9001, {theirs}, 1, 'x')",
        "UPDATE account SET branch = {theirs}, id = 200 WHERE branch = {ours} AND id = 3",
        "UPDATE account SET branch = {ours}, id = 201 WHERE branch = {theirs} AND id = 3",
        "UPDATE entry SET branch = {theirs}, account = 1 WHERE id = 9000",
        "UPDATE event SET branch = {theirs}, day = 99 WHERE branch = {ours} AND day = 1",
        "BEGIN; UPDATE account SET note = 'ours' WHERE branch = {ours} AND id = 100;
         UPDATE account SET note = 'x' WHERE branch = {theirs}; COMMIT",
    ] {
        eu.refused(sql, "us").await;
    }
    if eu.one("SHOW server_version_num").await.as_str() >= "150000" {
        let sql = "MERGE INTO account USING (VALUES (1)) v (id)
                   ON account.branch = {theirs} AND account.id = v.id
                   WHEN MATCHED THEN UPDATE SET note = 'x'";
        eu.refused(sql, "us").await;
    }
}

async fn copy_is_refused(eu: &Here) {
    let sink = eu.client.copy_in("COPY account FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let rows = eu.sql("{ours}\t300\tcopied\n{theirs}\t300\tcopied\n");
    sink.send(Bytes::from(rows)).await.unwrap();
    let error = sink.finish().await.unwrap_err();
    names_owner("COPY", error.as_db_error().unwrap(), "us");
}

async fn a_cascade_belongs_to_the_owner_of_the_parent(eu: &Here) {
    eu.refused("DELETE FROM account WHERE branch = {theirs} AND id = 2", "us").await;
    let sql = "SELECT count(*)::text FROM entry WHERE branch = {theirs} AND account = 2";
    assert_eq!(eu.one(sql).await, "1");
    eu.passes("DELETE FROM account WHERE branch = {ours} AND id = 2").await;
    let sql = "SELECT count(*)::text FROM entry WHERE branch = {ours} AND account = 2";
    assert_eq!(eu.one(sql).await, "0");
}

async fn truncate_is_refused(eu: &Here, us: &Here) {
    for sql in [
        "TRUNCATE account CASCADE",
        "TRUNCATE entry",
        "TRUNCATE event",
        "TRUNCATE ONLY event_1",
        "TRUNCATE event_rest",
    ] {
        eu.refused(sql, "us").await;
    }
    us.refused("TRUNCATE currency", "eu").await;
}

async fn table_partitions_are_guarded(regions: &Regions, eu: &Here) {
    eu.refused("DELETE FROM event_1 WHERE branch = {theirs}", "us").await;
    eu.refused("INSERT INTO event_rest VALUES ({theirs}, 77, 'x')", "us").await;
    eu.refused("UPDATE event_rest SET note = 'x' WHERE branch = {theirs}", "us").await;
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        client
            .batch_execute("CREATE TABLE event_50 PARTITION OF event FOR VALUES IN (50)")
            .await
            .unwrap();
        eventually("a new table partition is guarded", async || {
            let sql = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'event_50'::regclass
                       AND tgname LIKE 'domicile%' AND tgenabled = 'A'";
            let guards: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
            if guards == 4 { Ok(()) } else { Err(format!("{guards} triggers")) }
        })
        .await;
    }
    eu.refused("INSERT INTO event_50 VALUES ({theirs}, 50, 'x')", "us").await;
    eu.refused("INSERT INTO event VALUES ({theirs}, 50, 'x')", "us").await;
    eu.refused("TRUNCATE event_50", "us").await;
    eu.passes("INSERT INTO event_50 VALUES ({ours}, 50, 'direct')").await;
    // Across table partitions: a deletion and an insertion for PostgreSQL.
    eu.passes("UPDATE event SET day = 51 WHERE branch = {ours} AND day = 50").await;
}

async fn a_reference_table_has_one_owner(us: &Here) {
    us.refused("INSERT INTO currency VALUES ('GBP', 2)", "eu").await;
    us.refused("DELETE FROM currency", "eu").await;
}

async fn replica_role_passes_no_guard(eu: &Here) {
    eu.passes("SET session_replication_role = replica").await;
    eu.refused("UPDATE account SET note = 'x' WHERE branch = {theirs}", "us").await;
    eu.refused("TRUNCATE event_1", "us").await;
    eu.passes("RESET session_replication_role").await;
}

/// RPO 0 is the cluster's word, not the client's.
async fn the_client_cannot_commit_without_a_peer(regions: &Regions, eu: &Here) {
    let writer = regions.connect("eu").await.unwrap();
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    regions.links().stop_shipping("eu");
    let sql = eu.sql(
        "SET synchronous_commit = off; UPDATE account SET note = 'waits' WHERE branch = {ours}",
    );
    let write = tokio::spawn(async move { writer.batch_execute(&sql).await });
    eventually("the commit waits for a peer", async || {
        let sql = "SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = $1";
        let waits: String = eu.client.query_one(sql, &[&pid]).await.unwrap().get(0);
        if waits == "SyncRep" { Ok(()) } else { Err(waits) }
    })
    .await;
    assert!(!write.is_finished());
    regions.links().resume_shipping("eu");
    write.await.unwrap().unwrap();
}

async fn an_unstamped_write_is_journaled_and_repaired(regions: &Regions, eu: &Here) {
    let theirs = "SELECT note FROM account WHERE branch = {theirs} AND id = 1";
    let before = eu.one(theirs).await;
    let slipping = eu.sql(
        "BEGIN;
         ALTER TABLE account DISABLE TRIGGER domicile_guard_update;
         ALTER TABLE account DISABLE TRIGGER domicile_guard_insert;
         UPDATE account SET note = 'slipped past' WHERE branch = {theirs} AND id = 1;
         INSERT INTO account VALUES ({theirs}, 400, 'slipped in');
         COMMIT",
    );
    let client = regions.connect("eu").await.unwrap();
    client.batch_execute(&slipping).await.expect_err("it is not told that it committed");
    eventually("what slipped past is in the journal", async || {
        let sql = "SELECT count(*) FROM domicile.journal WHERE conflict = 'unstamped'
                   AND new ->> 'note' LIKE 'slipped%'";
        let entries: i64 = eu.client.query_one(sql, &[]).await.unwrap().get(0);
        if entries == 2 { Ok(()) } else { Err(format!("{entries} entries")) }
    })
    .await;
    eventually("the rows are right again", async || {
        let sql = "SELECT count(*)::text FROM account WHERE note LIKE 'slipped%'";
        let wrong = eu.one(sql).await;
        if wrong == "0" { Ok(()) } else { Err(format!("{wrong} rows are wrong")) }
    })
    .await;
    assert_eq!(eu.one(theirs).await, before);
    let us = here(regions, "us").await;
    assert_eq!(us.one("SELECT count(*)::text FROM account WHERE note LIKE 'slipped%'").await, "0");
    eventually("the guard is in force again", async || {
        let sql = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'account'::regclass
                   AND tgname LIKE 'domicile%' AND tgenabled = 'A'";
        let guards: i64 = eu.client.query_one(sql, &[]).await.unwrap().get(0);
        if guards == 4 { Ok(()) } else { Err(format!("{guards} triggers")) }
    })
    .await;
}

async fn an_old_snapshot_sees_the_new_owner(regions: &Regions, eu: &Here) {
    let mut old = regions.connect("eu").await.unwrap();
    let old = old
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()
        .await
        .unwrap();
    old.query_one("SELECT count(*) FROM account", &[]).await.unwrap();
    let partition = eu.one("SELECT domicile.partition_of('{ours}')::text").await;
    switchover(regions, &partition, "us");
    let write = eu.sql("UPDATE account SET note = 'x' WHERE branch = {ours}");
    let error = old.batch_execute(&write).await.unwrap_err();
    names_owner("after the switchover", error.as_db_error().unwrap(), "us");
    old.rollback().await.unwrap();
    let us = regions.connect("us").await.unwrap();
    us.batch_execute(&write.replace("'x'", "'written in us'")).await.unwrap();
    switchover(regions, &partition, "eu");
    eu.passes("UPDATE account SET note = 'written in eu' WHERE branch = {ours} AND id = 1").await;
}

fn switchover(regions: &Regions, partition: &str, to: &str) {
    let output = Command::new(regions.binary())
        .args(["switchover", "--partitions", partition, "--to", to, "--config"])
        .arg(regions.config_file("eu"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A gateway sends on what was refused; of this, the first part would be done twice.
async fn a_procedure_that_has_committed_is_not_called_again(regions: &Regions, eu: &Here) {
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let procedure =
            "CREATE PROCEDURE in_two_parts(first int, second int) LANGUAGE plpgsql AS $$
            BEGIN
                UPDATE account SET note = note || '+' WHERE branch = first AND id = 1;
                COMMIT;
                UPDATE account SET note = note || '+' WHERE branch = second AND id = 1;
            END $$";
        client.batch_execute(procedure).await.unwrap();
    }
    eu.passes("UPDATE account SET note = '' WHERE branch = {ours}").await;
    let address = regions.gateway("eu");
    let gateway =
        format!("host={} port={} user=postgres dbname=postgres", address.ip(), address.port());
    let (client, driver) = tokio_postgres::connect(&gateway, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(driver);
    let error = client.batch_execute(&eu.sql("CALL in_two_parts({ours}, {theirs})")).await;
    let error = error.unwrap_err();
    let told = error.as_db_error().unwrap();
    assert_eq!(*told.code(), SqlState::READ_ONLY_SQL_TRANSACTION, "{error:?}");
    assert!(told.detail().unwrap().starts_with("An earlier part of this statement is committed."));
    let note = "SELECT note FROM account WHERE branch = {ours} AND id = 1";
    assert_eq!(eu.one(note).await, "+", "once");
}

async fn a_lease_may_end_before_the_commit(regions: &mut Regions, eu: &Here) {
    eu.passes("BEGIN; UPDATE account SET note = 'late' WHERE branch = {ours}").await;
    regions.kill_agent("eu");
    let agent = session::connect(&regions.postgres("eu"), "test").await.unwrap();
    guard::revoke_lease(&agent).await.unwrap();
    let error = eu.client.batch_execute("COMMIT").await.unwrap_err();
    names_owner("COMMIT", error.as_db_error().unwrap(), "eu");
    let sql = "SELECT count(*)::text FROM account WHERE note = 'late'";
    assert_eq!(eu.one(sql).await, "0");
}

/// The agent is down, so that nobody but this test renews the lease: as soon as somebody has read the clock.
async fn a_renewal_ends_no_lease(regions: &Regions, eu: &Here) {
    let agent = session::connect(&regions.postgres("eu"), "test").await.unwrap();
    let now = guard::read_clock(&agent).await.unwrap();
    guard::set_lease(&agent, now, now + 3_600_000_000).await.unwrap();
    let clock = "SELECT pg_get_functiondef('domicile.now_us()'::regprocedure)";
    let clock: String = agent.query_one(clock, &[]).await.unwrap().get(0);
    let renewing =
        "CREATE OR REPLACE FUNCTION domicile.now_us() RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE
            read bigint := date_part('epoch', clock_timestamp()) * 1000000;
        BEGIN
            PERFORM setval('domicile.granted_at', read + 1),
                    setval('domicile.deadline', read + 3600000000);
            RETURN read;
        END $$";
    agent.batch_execute(renewing).await.unwrap();
    eu.passes("BEGIN; UPDATE account SET note = 'x' WHERE branch = {ours}; ROLLBACK").await;
    agent.batch_execute(&clock).await.unwrap();
}

/// The agent is down: only what stands in PostgreSQL itself decides.
async fn a_lease_ends_with_its_postmaster(regions: &mut Regions, eu: &Here) {
    let write = eu.sql("BEGIN; UPDATE account SET note = 'x' WHERE branch = {ours}; ROLLBACK");
    let agent = session::connect(&regions.postgres("eu"), "test").await.unwrap();
    let now = guard::read_clock(&agent).await.unwrap();
    guard::set_lease(&agent, now, now + 3_600_000_000).await.unwrap();
    eu.passes(&write).await;
    agent.batch_execute("ALTER SYSTEM SET max_prepared_transactions = 4").await.unwrap();
    agent.batch_execute("CHECKPOINT").await.unwrap();
    regions.kill_postgres("eu");
    regions.start_postgres("eu").await.unwrap();
    let client = regions.connect("eu").await.unwrap();
    let sql = "SELECT pg_sequence_last_value('domicile.deadline') > domicile.now_us()";
    let still_ahead: bool = client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(still_ahead, "the deadline itself has not passed");
    let error = client.batch_execute(&write).await.unwrap_err();
    names_owner("after a restart", error.as_db_error().unwrap(), "eu");
}

/// A prepared transaction could be committed long after the lease, past every check.
async fn nothing_is_prepared_for_two_phases(eu: &Here) {
    let sql = eu.sql("BEGIN; UPDATE account SET note = 'two' WHERE branch = {ours}");
    eu.client.batch_execute(&sql).await.unwrap();
    let error = eu.client.batch_execute("PREPARE TRANSACTION 'later'").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    for name in
        ["'later' /* c */", "'it''s' -- c", "E'it\\'s';", "$a$later$a$", "U&'l' UESCAPE '!'"]
    {
        eu.client.batch_execute(&sql).await.unwrap();
        let prepare = format!("PREPARE TRANSACTION {name}");
        let error = eu.client.batch_execute(&prepare).await.expect_err(name);
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    }
    eu.passes("UPDATE account SET note = '; prepare transaction x' WHERE branch = {ours}").await;
    eu.passes("UPDATE account SET note = '; prepare transaction ''x''' WHERE branch = {ours}")
        .await;
    let last = "UPDATE account SET branch = branch WHERE branch = {ours} AND note <> '; prepare transaction ''x'''";
    eu.passes(last).await;
    assert_eq!(eu.one("SELECT count(*)::text FROM pg_prepared_xacts").await, "0");
    assert_eq!(eu.one("SELECT count(*)::text FROM account WHERE note = 'two'").await, "0");
}

async fn every_record_is_stamped(regions: &mut Regions) {
    regions.kill_agent("eu");
    let (logs, _) = Logs::open(&regions.folder().join("eu/agent"), LOG_SEGMENT_BYTES).unwrap();
    let log = logs.get(&"eu-1".parse().unwrap()).unwrap();
    let mut reader = log.read(domicile_core::lsn::Lsn::ZERO);
    let mut records = 0;
    while let Some(frames) = reader.next_batch(1 << 20).await.unwrap() {
        for frame in frames {
            let transaction = record::decode(&frame.payload).unwrap();
            let rows = !transaction.changes.is_empty();
            assert!(!rows || !transaction.stamps.is_empty(), "{transaction:?}");
            assert!(transaction.stamps.iter().all(|s| s.partition.0 < 13 && s.epoch.0 >= 1));
            records += 1;
        }
    }
    assert!(records > 5, "{records} records");
}
