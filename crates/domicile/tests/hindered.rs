//! Does an agent go on when its role, its sessions or its locks are in its way, and does it say what is?
//!
//! The agents' role is no superuser here: it owns the tables and has what `domicile check` asks for,
//! with as many sessions as that says, and with time limits shorter than anything it does. One world
//! for all sections.

use std::process::Command;

use domicile::lab::regions::Regions;
use serde_json::Value as Json;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

mod regions;
use regions::{assert_alike, config, eventually, settle, start};

/// What `domicile check` wants for three regions and shared tables.
const SEED: &str = "
    CREATE ROLE keeper LOGIN REPLICATION CONNECTION LIMIT 24;
    GRANT CREATE ON DATABASE postgres TO keeper;
    GRANT pg_read_all_stats TO keeper;
    DO $$
    DECLARE f regprocedure;
    BEGIN
        IF current_setting('server_version_num')::int < 150000 THEN
            ALTER ROLE keeper SUPERUSER;
        ELSE
            EXECUTE 'GRANT SET ON PARAMETER session_replication_role TO keeper';
        END IF;
        FOR f IN SELECT oid FROM pg_proc WHERE proname LIKE 'pg\\_replication\\_origin\\_%' LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO keeper', f);
        END LOOP;
        IF current_setting('server_version_num')::int >= 170000 THEN
            ALTER ROLE keeper SET transaction_timeout = 300;
        END IF;
    END $$;
    ALTER ROLE keeper SET statement_timeout = 20;
    ALTER ROLE keeper SET lock_timeout = 20;
    ALTER ROLE keeper SET idle_session_timeout = 20;
    ALTER ROLE keeper SET idle_in_transaction_session_timeout = 1;
    -- Longer than a client needs to close a circle.
    ALTER ROLE keeper SET deadlock_timeout = '3s';
    CREATE TABLE item (id int PRIMARY KEY, n int, note text);
    CREATE TABLE part (id int PRIMARY KEY, n int);
    CREATE TABLE hits (id int PRIMARY KEY, n bigint);
    ALTER TABLE item OWNER TO keeper;
    ALTER TABLE part OWNER TO keeper;
    ALTER TABLE hits OWNER TO keeper;";
const TABLES: &str = "[[table]]\nname = \"item\"\n[[table]]\nname = \"part\"\n\
                      [[table]]\nname = \"hits\"\nkind = \"shared\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_whatever_is_in_its_way_and_says_what_it_is() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 6)", 6);
    config.rpo = "none".to_owned();
    config.links = false;
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.postgres = vec![("max_prepared_transactions".to_owned(), "2".to_owned())];
    let mut regions = Regions::create(config).await.unwrap();
    for region in regions.names() {
        let file = regions.config_file(region);
        let text = std::fs::read_to_string(file).unwrap();
        std::fs::write(file, text.replace("user=postgres", "user=keeper")).unwrap();
    }
    start(&mut regions).await;
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        for sql in [
            "INSERT INTO item SELECT id, 0, repeat('long ', 100) FROM generate_series(1, 20000) id
             WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1",
            "INSERT INTO part SELECT id, 0 FROM item
             WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1",
        ] {
            assert!(client.execute(sql, &[region]).await.unwrap() > 1000);
        }
    }
    let sql = "INSERT INTO hits SELECT id, 1 FROM generate_series(1, 500) id";
    regions.connect("eu").await.unwrap().batch_execute(sql).await.unwrap();
    settle(&regions, "first").await;

    apply_that_waits_names_who_holds_it_up(&regions).await;
    a_deadlock_costs_one_side_a_retry_and_nobody_a_row(&regions).await;
    ddl_of_two_regions_waits_for_each_other(&regions).await;
    a_publication_of_another_role_is_told(&regions).await;
    limits_of_its_role_are_not_its_own(&mut regions).await;
    assert_alike(&regions, &["part", "hits"]).await;
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let lost = client.query("SELECT FROM domicile.journal", &[]).await.unwrap();
        assert!(lost.is_empty(), "{region} journals");
    }
}

async fn a_publication_of_another_role_is_told(regions: &Regions) {
    let eu = regions.connect("eu").await.unwrap();
    let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = 'keeper'";
    if eu.query_one(superuser, &[]).await.unwrap().get(0) {
        return;
    }
    let told = async || {
        let status = regions.status("eu").await.map_err(|e| e.to_string())?;
        let said = status.conditions.into_iter().filter(|said| said.name == "changes_passed_over");
        Ok::<_, String>(said.map(|said| said.detail).collect::<Vec<_>>().join("; "))
    };
    eu.batch_execute("ALTER PUBLICATION domicile OWNER TO postgres").await.unwrap();
    eu.batch_execute("ALTER PUBLICATION domicile DROP TABLE part").await.unwrap();
    eventually("PostgreSQL's refusal is told", async || {
        let told = told().await?;
        if told.contains("must be owner of publication domicile") { Ok(()) } else { Err(told) }
    })
    .await;
    eu.batch_execute("ALTER PUBLICATION domicile OWNER TO keeper").await.unwrap();
    eventually("the publication is put back and every region is alike", async || {
        let sql = "SELECT count(*), (SELECT count(*) FROM domicile.passed_over)
                   FROM pg_publication_tables WHERE tablename = 'part'";
        let row = eu.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        let found: (i64, i64, String) = (row.get(0), row.get(1), told().await?);
        if found == (1, 0, String::new()) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Copying a region, comparing and moving need the most sessions and the longest waits.
async fn limits_of_its_role_are_not_its_own(regions: &mut Regions) {
    let (report, code) = run(regions, &["check", "--json"]);
    let blockers = report["blockers"].as_u64();
    assert_eq!((blockers, code), (Some(0), 0), "{report:#}");
    let (report, code) = run(regions, &["switchover", "--from", "ap", "--to", "us", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    regions.kill_agent("ap");
    let (report, code) = run(regions, &["region", "remove", "ap", "--comes-back", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    let folder = regions.folder().join("ap");
    std::fs::rename(folder.join("agent"), folder.join("earlier life")).unwrap();
    regions.start_agent("ap").unwrap();
    // The snapshot waits for it longer than any limit of the role.
    let eu = regions.connect("eu").await.unwrap();
    eu.batch_execute("BEGIN; CREATE TABLE held ()").await.unwrap();
    let mut adding =
        command(regions, &["region", "add", "ap", "--replace", "--from", "eu", "--json"]);
    let adding = adding.spawn().unwrap();
    let looks = regions.connect("eu").await.unwrap();
    shows(
        &looks,
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted
             AND waitstart < clock_timestamp() - interval '300 ms')",
    )
    .await;
    eu.batch_execute("ROLLBACK").await.unwrap();
    let added = adding.wait_with_output().unwrap();
    assert_eq!(added.status.code(), Some(0), "{added:?}");
    let (report, code) = run(regions, &["switchover", "--partitions", "0", "--to", "ap", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    let (report, code) = run(regions, &["verify", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    for region in regions.names() {
        let said = std::fs::read_to_string(regions.agent_log(region)).unwrap();
        let server = regions.folder().join(region).join("postgres/postgres.log");
        let said = said + &std::fs::read_to_string(server).unwrap();
        let hit = [
            "too many connections",
            "statement timeout",
            "lock timeout",
            "idle-session",
            "idle-in-",
        ];
        let lines = said.lines().filter(|line| hit.iter().any(|word| line.contains(word)));
        assert_eq!(lines.collect::<Vec<_>>(), [""; 0], "{region}");
    }
}

async fn apply_that_waits_names_who_holds_it_up(regions: &Regions) {
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
    let operator = regions.connect("us").await.unwrap();
    us.batch_execute("SET application_name = 'night report'").await.unwrap();
    let id = owned_by(&us, "eu").await;
    let lock = format!("BEGIN; SELECT FROM item WHERE id = {id} FOR UPDATE");
    let pid: i32 = us.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let terminate = format!("SELECT pg_terminate_backend({pid})");
    let by_a_session =
        ["from eu-1", "\"night report\"", "role \"postgres\", idle in transaction)", &terminate];
    let by_none = ["from eu-1", "of a prepared transaction"];
    for (more, says, way_out) in [
        ("; PREPARE TRANSACTION 'forgotten'", &by_none[..], "ROLLBACK PREPARED 'forgotten'"),
        ("", &by_a_session[..], &terminate),
    ] {
        us.batch_execute(&format!("{lock}{more}")).await.unwrap();
        let sql = "UPDATE item SET n = n + 1 WHERE id = $1 RETURNING n";
        let n: i32 = eu.query_one(sql, &[&id]).await.unwrap().get(0);
        says_of(regions, "us", "apply_blocked", says).await;
        operator.batch_execute(way_out).await.unwrap();
        shows(&operator, &format!("SELECT n = {n} FROM item WHERE id = {id}")).await;
        eventually("nobody holds it up any more", async || {
            let status = regions.status("us").await.map_err(|e| e.to_string())?;
            let none = status.conditions.is_empty();
            if none { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
    }
}

async fn a_deadlock_costs_one_side_a_retry_and_nobody_a_row(regions: &Regions) {
    let eu = regions.connect("eu").await.unwrap();
    let us = regions.connect("us").await.unwrap();
    let id = owned_by(&us, "eu").await;
    let looks = regions.connect("us").await.unwrap();
    let by_eu = format!(
        "BEGIN; UPDATE item SET n = n + 1 WHERE id = {id};
         UPDATE part SET n = n + 1 WHERE id = {id}; COMMIT"
    );
    let both = format!("SELECT item.n + part.n FROM item JOIN part USING (id) WHERE id = {id}");
    let shows_both = async |n: i32| {
        let shown = both.replace("SELECT", &format!("SELECT {n} ="));
        shows(&looks, &shown).await;
    };
    // Rows that were changed together before are changed in the order of their statements.
    let before: i32 = eu.query_one(&both, &[]).await.unwrap().get(0);
    eu.batch_execute(&by_eu).await.unwrap();
    shows_both(before + 2).await;
    // Who looks for a circle first is the one to give way.
    for (patience, client_gives_way) in [("20s", false), ("10ms", true)] {
        let before: i32 = us.query_one(&both, &[]).await.unwrap().get(0);
        let sql = format!(
            "SET deadlock_timeout = '{patience}'; BEGIN; SELECT FROM part WHERE id = {id} FOR UPDATE"
        );
        us.batch_execute(&sql).await.unwrap();
        eu.batch_execute(&by_eu).await.unwrap();
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                     WHERE application_name = 'domicile apply eu-1' AND wait_event_type = 'Lock')";
        shows(&looks, waits).await;
        let closed = us.execute("SELECT FROM item WHERE id = $1 FOR UPDATE", &[&id]).await;
        match &closed {
            Ok(rows) => assert_eq!((*rows, client_gives_way), (1, false)),
            Err(error) => {
                let deadlock = error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED);
                assert!(deadlock && client_gives_way, "{error:?}");
            }
        }
        us.batch_execute(if client_gives_way { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
        shows_both(before + 2).await;
        let said = std::fs::read_to_string(regions.agent_log("us")).unwrap();
        assert!(said.contains("deadlock detected"), "the applier was never the victim");
    }
}

/// Nothing says which of the two is right: what each one's rows need is run in the other.
async fn ddl_of_two_regions_waits_for_each_other(regions: &Regions) {
    let (eu, us, ap) = (
        regions.connect("eu").await.unwrap(),
        regions.connect("us").await.unwrap(),
        regions.connect("ap").await.unwrap(),
    );
    let (of_eu, of_us) = (owned_by(&eu, "eu").await, owned_by(&eu, "us").await);
    let alter = |what: &str| format!("ALTER TABLE item {what}");
    let (by_eu, by_us) = (
        alter("ADD COLUMN size int, ADD COLUMN code int"),
        alter("ADD COLUMN colour text, ADD COLUMN code text"),
    );
    let (eu_done, us_done) = tokio::join!(eu.batch_execute(&by_eu), us.batch_execute(&by_us));
    eu_done.and(us_done).unwrap();
    let at_eu = format!("UPDATE item SET size = 7, code = 7 WHERE id = {of_eu}");
    let at_us = format!("UPDATE item SET colour = 'red', code = 'seven' WHERE id = {of_us}");
    eu.batch_execute(&at_eu).await.unwrap();
    us.batch_execute(&at_us).await.unwrap();
    says_of(regions, "eu", "schema_behind", &["column \"colour\"", "region us is ahead"]).await;
    says_of(regions, "us", "schema_behind", &["column \"size\"", "region eu is ahead"]).await;
    let mut plan = Command::new(regions.binary());
    let plan = plan.args(["plan", "switchover", "--from", "eu", "--to", "us", "--config"]);
    let refused = plan.arg(regions.config_file("ap")).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success() && said.contains("us\" cannot apply"), "{refused:?}");
    // Each has the other's columns: only the type of one of them is still in the way.
    eu.batch_execute(&alter("ADD COLUMN colour text")).await.unwrap();
    us.batch_execute(&alter("ADD COLUMN size int")).await.unwrap();
    ap.batch_execute(&alter("ADD COLUMN size int, ADD COLUMN colour text, ADD COLUMN code text"))
        .await
        .unwrap();
    shows(&us, &format!("SELECT code = '7' AND size = 7 FROM item WHERE id = {of_eu}")).await;
    says_of(regions, "eu", "schema_behind", &["item is not defined here as there", "seven"]).await;
    eu.batch_execute(&alter("ALTER COLUMN code TYPE text")).await.unwrap();
    shows(&eu, &format!("SELECT code = 'seven' AND colour = 'red' FROM item WHERE id = {of_us}"))
        .await;
    shows(&ap, &format!("SELECT code = 'seven' AND colour = 'red' FROM item WHERE id = {of_us}"))
        .await;
}

async fn says_of(regions: &Regions, region: &str, name: &str, parts: &[&str]) {
    eventually(&format!("{region} says {parts:?}"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        let told = |detail: &str| parts.iter().all(|part| detail.contains(part));
        let mut holds = status.conditions.iter().filter(|c| c.name == name);
        match holds.any(|condition| told(&condition.detail)) {
            true => Ok(()),
            false => Err(format!("{:?}", status.conditions)),
        }
    })
    .await;
}

async fn owned_by(client: &Client, region: &str) -> i32 {
    let sql = "SELECT min(id) FROM item
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1";
    client.query_one(sql, &[&region]).await.unwrap().get(0)
}

async fn shows(client: &Client, sql: &str) {
    eventually(sql, async || {
        let row = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        if row.get::<_, Option<bool>>(0) == Some(true) { Ok(()) } else { Err("no".to_owned()) }
    })
    .await;
}

fn command(regions: &Regions, arguments: &[&str]) -> Command {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("eu"));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

fn run(regions: &Regions, arguments: &[&str]) -> (Json, i32) {
    let output = command(regions, arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (report.unwrap_or_else(|_| Json::String(format!("{output:?}"))), output.status.code().unwrap())
}
