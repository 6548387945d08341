//! Do clients that share servers notice nothing of each other?

use domicile::gateway::Counts;
use futures_util::future;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::types::Type;

use crate::*;

/// Returns which process of PostgreSQL serves a statement.
pub async fn server(client: &Client) -> String {
    simple(client, "SELECT pg_backend_pid()").await.unwrap()
}

pub fn counts(region: &Region) -> Counts {
    let pools = region.pools.counts();
    pools.values().copied().next().unwrap_or_default()
}

/// Waits until the pool is used like this.
pub async fn until_counted(region: &Region, is_so: impl Fn(Counts) -> bool) {
    within(async {
        while !is_so(counts(region)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_shows_the_next_client_nothing_of_the_one_before() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    shows_nothing_of_others(&eu, &eu).await;
}

/// Clients come in by one region, and the only server of another, or the same one, works for all of them.
pub async fn shows_nothing_of_others(by: &Region, at: &Region) {
    at.run("CREATE ROLE other; CREATE SCHEMA hidden; CREATE SEQUENCE number").await;
    let fresh = "SELECT concat_ws(' ', session_user, current_user, current_setting('search_path'),
        current_setting('work_mem'), current_setting('TimeZone'), nullif(current_setting('app.tenant', true), ''),
        current_setting('default_transaction_read_only'),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
        (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors),
        to_regclass('pg_temp.leak'))";
    let (one, two) = (by.connect().await, by.connect().await);
    let before = simple(&two, fresh).await.unwrap();
    let used = server(&one).await;
    for sql in [
        "SET ROLE other",
        "SET SESSION AUTHORIZATION other",
        "SET search_path = hidden",
        "SET work_mem = '77MB'",
        "SET TimeZone = 'Asia/Kathmandu'",
        "SET app.tenant = 'one'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        // What is not seen is lost, but shown to nobody.
        "DO $$ BEGIN SET search_path = hidden; EXECUTE 'SET ROLE other'; END $$",
        "DO $$ BEGIN EXECUTE 'LISTEN' || ' news'; EXECUTE 'CREATE TE' || 'MP TABLE leak ()'; END $$",
        "DO $$ BEGIN EXECUTE 'SELECT pg_advisory_' || 'lock(7)'; END $$",
        "DO $$ BEGIN EXECUTE 'SELECT set_' || 'config(''app.tenant'', ''two'', false)'; END $$",
    ] {
        let dirty = by.connect().await;
        dirty.batch_execute(sql).await.unwrap();
        let shown = simple(&two, fresh).await.unwrap();
        assert_eq!(shown.trim_end(), before.trim_end(), "{sql}");
        assert_eq!(server(&two).await, used, "{sql}");
    }
    simple(&one, "SELECT nextval('number')").await.unwrap();
    let error = simple(&two, "SELECT lastval()").await.unwrap_err();
    assert_eq!(code(&error), "55000");
}

#[tokio::test]
async fn settings_and_prepared_statements_come_along() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    has_all_come_along(&eu).await;
}

/// Clients come in by this region, and one server works for all of them.
pub async fn has_all_come_along(by: &Region) {
    let (one, two) = (by.connect().await, by.connect().await);
    one.batch_execute("SET app.tenant = 'one'").await.unwrap();
    two.batch_execute("SET app.tenant = 'two'").await.unwrap();
    // Both call it the same, as drivers do that count.
    let first = one.prepare("SELECT current_setting('app.tenant') || $1").await.unwrap();
    let second = two.prepare_typed("SELECT $1 + 1", &[Type::INT4]).await.unwrap();
    for number in 0..3 {
        let row = one.query_one(&first, &[&"!"]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "one!");
        let row = two.query_one(&second, &[&number]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), number + 1);
        assert_eq!(simple(&two, "SELECT current_setting('app.tenant')").await.unwrap(), "two");
    }
    assert_eq!(server(&one).await, server(&two).await);
    one.batch_execute("DISCARD ALL").await.unwrap();
    let row = two.query_one(&second, &[&1]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 2);
    assert!(one.query_one(&first, &[&"!"]).await.is_err());
}

#[tokio::test]
async fn what_lives_on_a_server_keeps_its_client_there() {
    for sql in KEEPS {
        let eu = Wanted::new(Mode::Local).shared(2).region().await;
        is_kept_by(sql, &eu, &eu).await;
    }
}

/// What exists on one server alone.
pub const KEEPS: [&str; 8] = [
    "LISTEN news",
    "CREATE TEMP TABLE own (a int)",
    "SELECT 1 AS a INTO TEMP own",
    "SELECT pg_advisory_lock(7)",
    "SELECT set_config('app.tenant', 'one', false)",
    "PREPARE own AS SELECT 1",
    "BEGIN; DECLARE own CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "BEGIN",
];

/// Of two servers for all who come in by one region, one is kept for who says this.
pub async fn is_kept_by(sql: &str, by: &Region, at: &Region) {
    let (one, two) = (by.connect().await, by.connect().await);
    let shared = server(&one).await;
    until_counted(at, |counts| counts.in_use == 0).await;
    assert_eq!(server(&two).await, shared, "{sql}");
    until_counted(at, |counts| counts.in_use == 0).await;
    one.batch_execute(sql).await.unwrap();
    let kept = server(&one).await;
    assert_ne!(server(&two).await, kept, "{sql}");
    assert_eq!(server(&one).await, kept, "{sql}");
    drop(one);
    until_counted(at, |counts| counts.in_use == 0).await;
    assert_ne!(server(&two).await, kept, "{sql}");
}

#[tokio::test]
async fn more_clients_than_servers_wait_for_each_other() {
    let eu = Wanted::new(Mode::Local).shared(2).region().await;
    let clients = future::join_all((0..20).map(|_| eu.connect())).await;
    let busy = future::join_all(clients.iter().map(|c| simple(c, "SELECT pg_sleep(0.01), 1")));
    assert!(within(busy).await.iter().all(Result::is_ok));
    until_counted(&eu, |counts| counts == Counts { idle: 2, in_use: 0, waiting: 0 }).await;
}

#[tokio::test]
async fn who_waits_in_vain_is_told_and_goes_on() {
    let eu = Wanted::new(Mode::Local).budget(300).shared(1).region().await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    one.batch_execute("BEGIN").await.unwrap();
    let error = simple(&two, "SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    let error = two.prepare("SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    assert_eq!(counts(&eu), Counts { idle: 0, in_use: 1, waiting: 0 });
    one.batch_execute("COMMIT").await.unwrap();
    until_counted(&eu, |counts| counts.in_use == 0).await;
    assert_eq!(place(&two).await, "eu");
    let error = two.prepare("SELEKT").await.unwrap_err();
    assert_eq!(code(&error), "42601");
    assert_eq!(place(&two).await, "eu");
}

/// Runs pgbench through the gateway; it must succeed.
pub async fn pgbench(region: &Region, arguments: &[&str]) {
    let mut pgbench = tokio::process::Command::new(region.cluster.bin().program("pgbench"));
    pgbench.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &region.address.port().to_string()]);
    let output = within(pgbench.args(arguments).arg("postgres").output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[tokio::test]
async fn pgbench_runs_with_more_clients_than_servers_in_all_three_protocols() {
    let eu = Wanted::new(Mode::Local).shared(4).region().await;
    pgbench(&eu, &["-i", "-q", "-s", "1"]).await;
    for protocol in ["simple", "extended", "prepared"] {
        // It waits for what it prepares with all clients of a thread.
        pgbench(&eu, &["-n", "-c", "20", "-j", "20", "-t", "50", "-M", protocol]).await;
    }
    assert_eq!(eu.count("SELECT count(*) FROM pgbench_history").await, 3000);
    until_counted(&eu, |counts| counts.in_use == 0 && counts.idle > 0).await;
    assert!(counts(&eu).idle <= 4);
}

#[tokio::test]
async fn a_setting_of_a_prepared_statement_comes_along() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    one.execute("SET app.tenant = 'one'", &[]).await.unwrap();
    let shown = "SELECT coalesce(current_setting('app.tenant', true), '')";
    assert_eq!(simple(&two, shown).await.unwrap(), "");
    assert_eq!(simple(&one, shown).await.unwrap(), "one");
    assert_eq!(server(&one).await, server(&two).await);
}

#[tokio::test]
async fn a_statement_whose_table_was_changed_is_prepared_again() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    eu.run("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    let (first, second) =
        (one.prepare("TABLE t").await.unwrap(), two.prepare("TABLE t").await.unwrap());
    one.query_one(&first, &[]).await.unwrap();
    two.query_one(&second, &[]).await.unwrap();
    eu.run("ALTER TABLE t ADD b int DEFAULT 2").await;
    let error = one.query(&first, &[]).await.unwrap_err();
    assert_eq!(code(&error), "0A000");
    let again = one.prepare("TABLE t").await.unwrap();
    assert_eq!(one.query_one(&again, &[]).await.unwrap().get::<_, i32>(1), 2);
}

#[tokio::test]
async fn what_one_psql_leaves_behind_another_does_not_find() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    let psql = async |commands: &[&str]| {
        let mut psql = tokio::process::Command::new(eu.cluster.bin().program("psql"));
        psql.arg(eu.connection_string()).args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
        psql.args(commands.iter().flat_map(|command| ["-c", command]));
        let output = within(psql.output()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown =
        "SELECT current_setting('search_path'), current_setting('work_mem'), pg_backend_pid()";
    let before = psql(&[shown]).await;
    let between = psql(&["SET search_path = pg_catalog", "SET work_mem = '77MB'", shown]).await;
    assert!(between.starts_with("pg_catalog|77MB|"), "{between}");
    assert_eq!(psql(&[shown]).await, before);
}

#[tokio::test]
async fn connections_for_replication_are_not_shared() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    let mut psql = tokio::process::Command::new(eu.cluster.bin().program("psql"));
    psql.arg(format!("{} replication=database", eu.connection_string()));
    let output = within(psql.args(["-XAtqc", "IDENTIFY_SYSTEM"]).output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(eu.pools.counts().is_empty());
}

#[tokio::test]
async fn servers_that_nobody_uses_are_closed() {
    let mut wanted = Wanted::new(Mode::Local);
    wanted.sharing =
        Some(Sharing { mode: PoolMode::Transaction, servers_max: 2, idle_max: Millis(1) });
    let eu = wanted.region().await;
    let client = eu.connect().await;
    let used = server(&client).await;
    until_counted(&eu, |counts| counts == Counts::default()).await;
    assert_ne!(server(&client).await, used);
    drop(client);
    within(async {
        while !eu.pools.counts().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_cancel_request_meets_nobody_but_its_client() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    meets_nobody_else(&eu, &eu).await;
}

/// Clients come in by one region, and the only server of another, or the same one, works for all of them.
pub async fn meets_nobody_else(by: &Region, at: &Region) {
    let (one, two) = (by.connect().await, by.connect().await);
    let cancel = one.cancel_token();
    // Both come to the same server, and the client whose key it was is not there now.
    assert_eq!(server(&one).await, server(&two).await);
    let sleeping =
        tokio::spawn(async move { two.batch_execute("SELECT pg_sleep(0.3)").await.map(|()| two) });
    until(at, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").await;
    cancel.cancel_query(NoTls).await.unwrap();
    let two = within(sleeping).await.unwrap().unwrap();
    let sleeping = tokio::spawn(async move { one.batch_execute("SELECT pg_sleep(600)").await });
    until(at, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").await;
    // Who waits for a server can be cancelled, too.
    let waiting_cancel = two.cancel_token();
    let waiting = tokio::spawn(async move { (two.batch_execute("SELECT 1").await, two) });
    until_counted(at, |counts| counts.waiting == 1).await;
    waiting_cancel.cancel_query(NoTls).await.unwrap();
    let (waited, two) = within(waiting).await.unwrap();
    assert_eq!(code(&waited.unwrap_err()), "57014");
    cancel.cancel_query(NoTls).await.unwrap();
    assert_eq!(code(&within(sleeping).await.unwrap().unwrap_err()), "57014");
    for _ in 0..50 {
        simple(&two, "SELECT 1").await.unwrap();
    }
}

#[tokio::test]
async fn cancel_requests_at_any_time_end_no_statement_of_others() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    ends_nothing_of_others(&eu).await;
}

/// Clients come in by this region, and one server works for all of them.
pub async fn ends_nothing_of_others(by: &Region) {
    let (one, two) = (by.connect().await, by.connect().await);
    assert_eq!(server(&one).await, server(&two).await);
    let cancel = one.cancel_token();
    let cancelling = async {
        for _ in 0..100 {
            cancel.cancel_query(NoTls).await.unwrap();
        }
    };
    let cancelled = async {
        for _ in 0..200 {
            if let Err(error) = simple(&one, "SELECT pg_sleep(0.001)").await {
                assert_eq!(code(&error), "57014");
            }
        }
    };
    let others = async {
        for _ in 0..200 {
            simple(&two, "SELECT pg_sleep(0.001)").await.unwrap();
        }
    };
    within(future::join3(cancelling, cancelled, others)).await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_no_transaction_to_the_next() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    eu.run("CREATE TABLE t (a int)").await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    one.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let left = server(&one).await;
    drop(one);
    assert_eq!(simple(&two, "SELECT count(*) FROM t").await.unwrap(), "0");
    assert_ne!(server(&two).await, left);
    let copying = eu.connect().await;
    let sink = copying.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap();
    drop((sink, copying));
    assert_eq!(simple(&two, "SELECT count(*) FROM t").await.unwrap(), "0");
}

#[tokio::test]
async fn a_server_in_the_middle_of_a_message_is_nobody_elses() {
    let eu = Wanted::new(Mode::Local).budget(100).shared(1).region().await;
    // In one pool are those that begin alike.
    let come = async || {
        let mut stream = TcpStream::connect(eu.address).await.unwrap();
        talk(&mut stream, &hostile::startup(3 << 16)).await;
        stream
    };
    let ask = said(&[(b'Q', b"SELECT pg_backend_pid()\0")]);
    let (mut one, mut two) = (come().await, come().await);
    let before = talk(&mut one, &ask).await;
    let beginning = [&b"Q"[..], &(1_u32 << 20).to_be_bytes(), &[b' '; 300 * 1024]].concat();
    one.write_all(&beginning).await.unwrap();
    let refused = async {
        // Until that has come to the server.
        while !String::from_utf8_lossy(&talk(&mut two, &ask).await).contains("53300") {}
    };
    within(refused).await;
    drop(one);
    until_counted(&eu, |counts| counts.in_use == 0).await;
    assert_ne!(talk(&mut two, &ask).await, before);
}

#[tokio::test]
async fn a_client_that_goes_frees_its_server_whatever_the_server_still_owes_it() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    eu.run("CREATE TABLE t (a int)").await;
    const COPY: (u8, &[u8]) = (b'Q', b"COPY t FROM STDIN\0");
    for messages in [
        // In the middle of COPY the server answers none of these.
        &[COPY, (b'S', b""), (b'c', b"")][..],
        &[COPY, (b'Q', b"SELECT 1\0")],
        &[COPY, (b'P', b"\0SELECT 1\0\0\0"), (b'S', b"")],
        &[COPY, (b'S', b""), (b'f', b"no\0")],
    ] {
        let mut stream = TcpStream::connect(eu.address).await.unwrap();
        talk(&mut stream, &hostile::startup(3 << 16)).await;
        stream.write_all(&said(messages)).await.unwrap();
        within(stream.read_u8()).await.unwrap();
        drop(stream);
        until_counted(&eu, |counts| counts.in_use == 0).await;
    }
}

#[tokio::test]
async fn what_is_left_of_a_failed_copy_begins_nothing() {
    let eu = Wanted::new(Mode::Local).budget(100).shared(1).region().await;
    eu.run("CREATE TABLE t (a int)").await;
    let come = async || {
        let mut stream = TcpStream::connect(eu.address).await.unwrap();
        talk(&mut stream, &hostile::startup(3 << 16)).await;
        stream
    };
    let (mut one, mut two) = (come().await, come().await);
    let failing = [(b'Q', &b"COPY t FROM STDIN\0"[..]), (b'd', b"no number\n"), (b'd', b"1\n")];
    let failed = talk(&mut one, &said(&failing)).await;
    assert!(String::from_utf8_lossy(&failed).contains("22P02"), "{failed:?}");
    // It has the only server: whatever begins a transaction waits for that, and is refused.
    talk(&mut two, &said(&[(b'Q', b"BEGIN\0")])).await;
    let large = vec![b'7'; 300 * 1024];
    one.write_all(&said(&[(b'd', b"2\n"), (b'd', &large), (b'c', b"")])).await.unwrap();
    let ask = said(&[(b'Q', b"SELECT 'it goes on'\0")]);
    // Had something been refused before it, this would be passed over.
    let refused = talk(&mut one, &ask).await;
    assert_eq!(String::from_utf8_lossy(&refused).matches("53300").count(), 1, "{refused:?}");
    talk(&mut two, &said(&[(b'Q', b"COMMIT\0")])).await;
    let answer = talk(&mut one, &ask).await;
    assert!(String::from_utf8_lossy(&answer).contains("it goes on"), "{answer:?}");
    assert_eq!(simple(&eu.connect().await, "SELECT count(*) FROM t").await.unwrap(), "0");
}

#[tokio::test]
async fn what_is_prepared_under_settings_of_one_transaction_is_that_transactions() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    // PostgreSQL reads the day when it reads the statement.
    let text = "SELECT extract(epoch FROM timestamptz '2024-01-01')::int";
    let ours = one.prepare(text).await.unwrap();
    let day = async || one.query_one(&ours, &[]).await.unwrap().get::<_, i32>(0);
    let before = day().await;
    for local in
        ["SET LOCAL TimeZone = 'Asia/Tokyo'", "SELECT set_config('TimeZone', 'Asia/Tokyo', true)"]
    {
        two.batch_execute(&format!("BEGIN; {local}")).await.unwrap();
        let theirs = two.prepare(text).await.unwrap();
        let there: i32 = two.query_one(&theirs, &[]).await.unwrap().get(0);
        assert_ne!(there, before);
        two.batch_execute("COMMIT").await.unwrap();
        assert_eq!(day().await, before, "{local}");
    }
}

#[tokio::test]
async fn what_was_to_be_prepared_behind_an_error_is_not_there() {
    let eu = Wanted::new(Mode::Local).shared(1).region().await;
    let come = async || {
        let mut stream = TcpStream::connect(eu.address).await.unwrap();
        talk(&mut stream, &hostile::startup(3 << 16)).await;
        stream
    };
    let (mut one, mut two) = (come().await, come().await);
    let prepare = |name: &str| [name.as_bytes(), b"\0SELECT 'is there'\0\0\0"].concat();
    talk(&mut one, &said(&[(b'P', &prepare("x")), (b'S', b"")])).await;
    // So that the server has it no more, and is asked for it again.
    talk(&mut two, &said(&[(b'Q', b"DISCARD ALL\0")])).await;
    two.write_all(&said(&[(b'P', b"\0SELECT 1/\0\0\0"), (b'H', b"")])).await.unwrap();
    // The error is here before the next is said.
    assert_eq!(within(two.read_u8()).await.unwrap(), b'E');
    let left = within(two.read_u32()).await.unwrap() as usize - 4;
    within(two.read_exact(&mut vec![0; left])).await.unwrap();
    talk(&mut two, &said(&[(b'P', &prepare("y")), (b'S', b"")])).await;
    let bind = [&b"\0x\0"[..], &[0; 6]].concat();
    let answer = talk(&mut one, &said(&[(b'B', &bind), (b'E', &[0; 5]), (b'S', b"")])).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("is there"), "{answer}");
}

#[tokio::test]
async fn a_client_that_only_says_no_more_gets_all_answers() {
    for wanted in [Wanted::new(Mode::Local), Wanted::new(Mode::Local).shared(1)] {
        let eu = wanted.region().await;
        let mut stream = TcpStream::connect(eu.address).await.unwrap();
        talk(&mut stream, &hostile::startup(3 << 16)).await;
        let ask = said(&[(b'Q', b"SELECT pg_sleep(0.2), 'late'\0"), (b'Q', b"SELECT 'later'\0")]);
        stream.write_all(&ask).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("late") && answer.contains("later"), "{answer}");
    }
}

#[tokio::test]
async fn servers_that_died_in_the_pool_are_not_noticed() {
    let mut eu = Wanted::new(Mode::Local).shared(2).region().await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    let select = one.prepare("SELECT current_setting('app.tenant')").await.unwrap();
    one.batch_execute("SET app.tenant = 'one'").await.unwrap();
    server(&two).await;
    eu.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
        .await;
    until(&eu, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")
        .await;
    let row = within(one.query_one(&select, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "one");
    eu.cluster.kill();
    eu.cluster.start().await.unwrap();
    for client in [&two, &one] {
        assert_eq!(place(client).await, "eu");
    }
    let row = within(one.query_one(&select, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "one");
}

#[tokio::test]
async fn a_transaction_of_another_region_takes_no_shared_server_along() {
    let (eu, us) = {
        let mut regions =
            Wanted::new(Mode::Local).shared(1).regions(["eu", "us"]).await.into_iter();
        (regions.next().unwrap(), regions.next().unwrap())
    };
    eu.guard("us", 1, false).await;
    us.guard("us", 1, true).await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    let insert = one.prepare("INSERT INTO note VALUES ($1)").await.unwrap();
    for id in 0..5 {
        one.execute(&insert, &[&id]).await.unwrap();
        assert_eq!(place(&two).await, "eu");
    }
    assert_eq!(us.count("SELECT count(*) FROM note").await, 5);
}

/// Says something in the protocol itself and returns all that comes back up to the next ReadyForQuery.
pub async fn talk(stream: &mut TcpStream, said: &[u8]) -> Vec<u8> {
    stream.write_all(said).await.unwrap();
    let (mut answer, mut at) = (Vec::new(), 0);
    loop {
        while let Some(&[tag, a, b, c, d]) = answer[at..].first_chunk::<5>() {
            let end = at + 1 + u32::from_be_bytes([a, b, c, d]) as usize;
            if answer.len() < end {
                break;
            }
            if tag == b'Z' {
                return answer;
            }
            at = end;
        }
        let read = within(stream.read_buf(&mut answer)).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
    }
}

/// Messages of the extended protocol, one after the other.
pub fn said(messages: &[(u8, &[u8])]) -> Vec<u8> {
    let message = |(tag, body): &(u8, &[u8])| {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[*tag][..], &length.to_be_bytes(), body].concat()
    };
    messages.iter().flat_map(message).collect()
}

/// The tags of messages, in order.
fn tags(answer: &[u8]) -> String {
    let (mut tags, mut rest) = (String::new(), answer);
    while let Some(&[tag, a, b, c, d]) = rest.first_chunk::<5>() {
        tags.push(char::from(tag));
        rest = &rest[1 + u32::from_be_bytes([a, b, c, d]) as usize..];
    }
    tags
}

#[tokio::test]
async fn statements_are_what_they_are_without_sharing_in_every_order_of_messages() {
    const SYNC: (u8, &[u8]) = (b'S', b"");
    const BIND_S: (u8, &[u8]) = (b'B', b"\0s\0\0\0\0\0\0\0");
    const BIND: (u8, &[u8]) = (b'B', b"\0\0\0\0\0\0\0\0");
    const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
    const PARSE_S: (u8, &[u8]) = (b'P', b"s\0SELECT 1\0\0\0");
    const CLOSE_S: (u8, &[u8]) = (b'C', b"Ss\0");
    const DESCRIBE_S: (u8, &[u8]) = (b'D', b"Ss\0");
    const FAIL: (u8, &[u8]) = (b'P', b"s\0SELEKT\0\0\0");
    let alone = Wanted::new(Mode::Local).region().await;
    let shared = Wanted::new(Mode::Local).shared(1).region().await;
    let bystander = shared.connect().await;
    let (mut expected, mut found) = (String::new(), String::new());
    for (region, answers) in [(&alone, &mut expected), (&shared, &mut found)] {
        let mut stream = TcpStream::connect(region.address).await.unwrap();
        talk(&mut stream, &hostile::startup(3 << 16)).await;
        for messages in [
            &[(b'P', &b"\0SELECT 7\0\0\0"[..]), SYNC][..],
            &[BIND, EXECUTE, SYNC],
            &[PARSE_S, BIND_S, EXECUTE, DESCRIBE_S, CLOSE_S, SYNC],
            &[BIND_S, EXECUTE, SYNC],
            &[PARSE_S, SYNC],
            &[BIND, EXECUTE, SYNC],
            &[PARSE_S, BIND_S, SYNC],
            &[DESCRIBE_S, BIND_S, EXECUTE, SYNC],
            &[CLOSE_S, FAIL, BIND_S, SYNC],
            &[BIND_S, SYNC],
            &[PARSE_S, CLOSE_S, PARSE_S, BIND_S, EXECUTE, SYNC],
            &[(b'Q', b"SELECT 1\0")],
            &[BIND, SYNC],
            &[BIND_S, EXECUTE, SYNC],
            &[(b'Q', b"DEALLOCATE PREPARE s\0")],
            &[BIND_S, SYNC],
            &[PARSE_S, SYNC],
            &[(b'Q', b"BEGIN\0")],
            &[(b'Q', b"DEALLOCATE \"s\"\0")],
            &[PARSE_S, BIND_S, EXECUTE, SYNC],
            &[(b'Q', b"COMMIT\0")],
            &[(b'Q', b"DEALLOCATE ALL\0")],
            &[BIND_S, SYNC],
        ] {
            let answer = talk(&mut stream, &said(messages)).await;
            answers.push_str(&tags(&answer));
            answers.push(' ');
            // Outside of transactions somebody else comes between.
            if answer.ends_with(b"I") {
                assert_eq!(place(&bystander).await, "eu");
            }
        }
    }
    assert_eq!(expected, found);
}

#[tokio::test]
async fn large_values_reach_a_statement_that_was_prepared_elsewhere() {
    let eu = Wanted::new(Mode::Local).budget(300).shared(1).region().await;
    let (one, two) = (eu.connect().await, eu.connect().await);
    let select = one.prepare("SELECT length($1::text)").await.unwrap();
    assert_eq!(place(&two).await, "eu");
    two.batch_execute("DISCARD ALL").await.unwrap();
    let large = "x".repeat(1 << 20);
    let row = within(one.query_one(&select, &[&large])).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1 << 20);
    // What is too long to be remembered stays on its server, and its client with it.
    let text = format!("SELECT 1 /* {large} */");
    let long = one.prepare(&text).await.unwrap();
    two.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(one.query_one(&long, &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test]
async fn who_shares_servers_follows_the_owner() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let wanted = Wanted::new(Mode::FollowOwner).owner("us").pooled(mode, 2);
        let (eu, us) = wanted.two_regions().await;
        let clients = [eu.connect().await, eu.connect().await, us.connect().await];
        for (client, mood) in clients.iter().zip(["calm", "glad", "wild"]) {
            client.batch_execute(&format!("SET domicile.mood = '{mood}'")).await.unwrap();
        }
        for (version, owner) in [(2, "eu"), (3, "us"), (4, "eu")] {
            for region in [&eu, &us] {
                region.publish(owned_by(version, Some(owner)));
            }
            for (client, mood) in clients.iter().zip(["calm", "glad", "wild"]) {
                let shown =
                    "SELECT current_setting('cluster_name') || current_setting('domicile.mood')";
                assert_eq!(within(simple(client, shown)).await.unwrap(), format!("{owner}{mood}"));
            }
        }
    }
}
