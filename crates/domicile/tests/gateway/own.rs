//! Are the gateway's own settings set and shown in the extended protocol, as PostgreSQL's are?

use bytes::BytesMut;
use domicile_pg::frame::{self, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::*;

/// One connection, message by message.
pub struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    pub async fn connect(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(&hostile::startup(3 << 16)).await.unwrap();
        let mut wire = Self { stream, buffer: BytesMut::new() };
        wire.until_ready(1).await;
        wire
    }

    /// Sends all at once, and returns all answers.
    pub async fn ask(&mut self, messages: &[Vec<u8>]) -> Vec<Message> {
        let ends = messages.iter().filter(|m| matches!(m[0], b'S' | b'Q')).count();
        self.stream.write_all(&messages.concat()).await.unwrap();
        self.until_ready(ends).await
    }

    async fn until_ready(&mut self, mut times: usize) -> Vec<Message> {
        let mut all = Vec::new();
        while times > 0 {
            let Some(message) = frame::take(&mut self.buffer, 1 << 20).unwrap() else {
                assert!(within(self.stream.read_buf(&mut self.buffer)).await.unwrap() > 0);
                continue;
            };
            times -= usize::from(message.tag == b'Z');
            all.push(message);
        }
        all
    }
}

fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put(&mut out, tag, |body| parts.iter().for_each(|part| body.extend_from_slice(part)));
    out.to_vec()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"])
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"])
}

/// Asks for results in this format: 0 is text, 1 binary.
pub fn bind(portal: &str, statement: &str, format: u8) -> Vec<u8> {
    let (portal, statement) = (portal.as_bytes(), statement.as_bytes());
    message(b'B', &[portal, b"\0", statement, b"\0\0\0\0\0\0\x01\0", &[format]])
}

fn describe(kind: &str, name: &str) -> Vec<u8> {
    message(b'D', &[kind.as_bytes(), name.as_bytes(), b"\0"])
}

pub fn execute(portal: &str, rows_max: u8) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0\0\0\0", &[rows_max]])
}

fn close(kind: &str, name: &str) -> Vec<u8> {
    message(b'C', &[kind.as_bytes(), name.as_bytes(), b"\0"])
}

fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// A statement by the extended protocol, as drivers send it that prepare nothing.
pub fn at_once(sql: &str) -> [Vec<u8>; 4] {
    [parse("", sql), bind("", "", 0), describe("P", ""), execute("", 0)]
}

/// What was answered, in short: tags, values and error codes.
pub fn told(answers: &[Message]) -> String {
    let tell = |message: &Message| match message.tag {
        b'D' => format!("D({})", String::from_utf8_lossy(&message.body[6..])),
        b'E' => {
            let report = domicile_pg::backend::Report::read(&message.body).unwrap();
            format!("E({})", report.code())
        }
        b'C' | b'Z' => {
            let text = String::from_utf8_lossy(&message.body);
            format!("{}({})", char::from(message.tag), text.trim_end_matches('\0'))
        }
        tag => char::from(tag).to_string(),
    };
    answers.iter().map(tell).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_is_set_is_shown_byte_by_byte_as_postgres_shows_it() {
    let eu = Wanted::new(Mode::Local).region().await;
    // PostgreSQL shows what was set, too; what nobody has set it does not know.
    let mut through = Wire::connect(eu.address.port()).await;
    let mut direct = Wire::connect(eu.cluster.port()).await;
    let show = "SHOW domicile.key";
    let pipelines = [
        vec![query("SET domicile.key = '1'"), query(show)],
        [&at_once(show)[..], &[sync()]].concat(),
        // Among others, in one pipeline.
        [
            &at_once("SELECT 1")[..],
            &at_once("SET domicile.key = '2'"),
            &at_once(show),
            &at_once("SELECT 2"),
            &[sync()],
        ]
        .concat(),
        // Prepared once, and bound in both formats.
        vec![parse("show", show), describe("S", "show"), sync()],
        vec![
            bind("", "show", 1),
            execute("", 0),
            bind("one", "show", 1),
            describe("P", "one"),
            flush(),
            execute("one", 0),
            close("P", "one"),
            sync(),
        ],
        // One row is all there is: what comes behind is something else.
        vec![bind("", "show", 0), execute("", 1), parse("", "SELECT 1"), bind("", "", 0)],
        vec![execute("", 0), sync()],
        // Several at once.
        vec![
            query("SET domicile.key = '3'"),
            query(show),
            query("SELECT 1"),
            bind("", "show", 0),
            execute("", 0),
            sync(),
            query(show),
        ],
        // In a transaction, with what is its own.
        [
            &at_once("BEGIN")[..],
            &at_once("SET LOCAL domicile.key = '4'"),
            &[bind("", "show", 0), execute("", 0), sync(), query("COMMIT")],
        ]
        .concat(),
        vec![query(show), bind("", "show", 0), execute("", 0), sync()],
        // After an error.
        [
            &at_once("BEGIN")[..],
            &at_once("SHOW domicile.nothing"),
            &[bind("", "show", 0), execute("", 0), sync()],
            &at_once(show),
            &[sync(), query(show), query("ROLLBACK"), query(show)],
        ]
        .concat(),
        vec![close("S", "show"), bind("", "show", 0), execute("", 0), sync()],
        [&at_once("RESET domicile.key")[..], &[sync()]].concat(),
    ];
    let mut asked = Vec::new();
    for messages in pipelines {
        asked.extend(messages);
        if asked.last().is_some_and(|last| matches!(last[0], b'S' | b'Q')) {
            let (gateways, postgres) = (through.ask(&asked).await, direct.ask(&asked).await);
            assert_eq!(told(&gateways), told(&postgres));
            assert_eq!(gateways, postgres);
            asked.clear();
        }
    }
}

#[tokio::test]
async fn a_value_that_a_setting_cannot_have_fails_as_postgres_lets_it() {
    let eu = Wanted::new(Mode::Local).region().await;
    let mut through = Wire::connect(eu.address.port()).await;
    let wrong = r"SET domicile.freshness = 'so''on\'";
    let before = [parse("wrong", wrong), sync()];
    assert_eq!(told(&through.ask(&before).await), "1 Z(I)");
    for (asked, expected) in [
        (vec![bind("", "wrong", 0), execute("", 0), sync()], "E(22023) Z(I)"),
        ([&at_once(wrong)[..], &[sync()]].concat(), "1 E(22023) Z(I)"),
        // What was asked before is answered before, and what comes behind is skipped.
        (
            [&at_once("SELECT 1")[..], &at_once(wrong), &at_once("SELECT 2"), &[sync()]].concat(),
            "1 2 T D(1) C(SELECT 1) 1 E(22023) Z(I)",
        ),
        (
            vec![query("BEGIN"), bind("", "wrong", 0), execute("", 0), sync(), query("COMMIT")],
            "C(BEGIN) Z(T) E(22023) Z(E) C(ROLLBACK) Z(I)",
        ),
        (
            vec![query("BEGIN"), query(wrong), query("SELECT 1"), query("COMMIT")],
            "C(BEGIN) Z(T) E(22023) Z(E) E(25P02) Z(E) C(ROLLBACK) Z(I)",
        ),
    ] {
        let answers = through.ask(&asked).await;
        assert_eq!(told(&answers), expected);
        let report = answers.iter().find(|answer| answer.tag == b'E').unwrap();
        let report = domicile_pg::backend::Report::read(&report.body).unwrap();
        let message = report.get(domicile_pg::backend::field::MESSAGE).unwrap();
        let says = r#"invalid value for parameter "domicile.freshness": "so'on\" is not"#;
        assert!(message.starts_with(says), "{message}");
    }
    assert_eq!(told(&through.ask(&[query("SHOW domicile.freshness")]).await), "T D() C(SHOW) Z(I)");
}

#[tokio::test]
async fn a_prepared_statement_sets_and_shows_whenever_it_is_executed() {
    let eu = Wanted::new(Mode::Local).region().await;
    let mut client = eu.connect().await;
    let show = client.prepare("SHOW domicile.freshness").await.unwrap();
    let strong = client.prepare("SET domicile.freshness = 'strong'").await.unwrap();
    let eventual = client.prepare("SET domicile.freshness TO eventual").await.unwrap();
    let reset = client.prepare("RESET domicile.freshness").await.unwrap();
    let shown = async |client: &Client| {
        within(client.query_one(&show, &[])).await.unwrap().get::<_, String>(0)
    };
    assert_eq!(show.columns()[0].name(), "domicile.freshness");
    assert_eq!(shown(&client).await, "", "nothing was executed yet");
    for _ in 0..2 {
        client.execute(&eventual, &[]).await.unwrap();
        assert_eq!(shown(&client).await, "eventual");
        client.execute(&reset, &[]).await.unwrap();
        assert_eq!(shown(&client).await, "");
    }
    let transaction = client.transaction().await.unwrap();
    transaction.execute(&strong, &[]).await.unwrap();
    let row = within(transaction.query_one(&show, &[])).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "strong");
    transaction.execute(&reset, &[]).await.unwrap();
    transaction.commit().await.unwrap();
    for (name, value) in
        [("freshness_wait", "1000ms"), ("staleness", "unknown"), ("key", ""), ("freshness", "")]
    {
        let row = within(client.query_one(&format!("SHOW domicile.{name}"), &[])).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value, "{name}");
    }
}

#[tokio::test]
async fn a_large_statement_sets_nothing_by_the_name_of_one_that_did() {
    let eu = Wanted::new(Mode::Local).region().await;
    let mut wire = Wire::connect(eu.address.port()).await;
    let large = format!("SELECT length('{}')", "x".repeat(1024 * 1024));
    let set = [&at_once("SET domicile.key = '1'")[..], &[sync()]].concat();
    assert_eq!(told(&wire.ask(&set).await), "1 2 n C(SET) Z(I)");
    wire.ask(&[query("RESET domicile.key")]).await;
    let large = [&at_once(&large)[..], &[sync()]].concat();
    assert_eq!(told(&wire.ask(&large).await), "1 2 T D(1048576) C(SELECT 1) Z(I)");
    let shown = wire.ask(&[query("SHOW domicile.key")]).await;
    assert_eq!(told(&shown), "T D() C(SHOW) Z(I)");
}

#[tokio::test]
async fn a_prepared_show_goes_where_its_session_goes() {
    let (eu, us) = Wanted::new(Mode::FollowOwner).owner("us").two_regions().await;
    let client = eu.connect().await;
    let show = client.prepare("SHOW domicile.freshness_wait").await.unwrap();
    for (version, owner) in (2..).zip(["eu", "us", "eu"]) {
        for region in [&eu, &us] {
            region.publish(owned_by(version, Some(owner)));
        }
        let wait = format!("{version}s");
        client.execute(&format!("SET domicile.freshness_wait = '{wait}'"), &[]).await.unwrap();
        let row = within(client.query_one(&show, &[])).await.unwrap();
        assert_eq!(row.get::<_, String>(0), format!("{version}000ms"));
        assert_eq!(place(&client).await, owner);
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_had_ends_a_session_that_was_promised_it() {
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    let error = simple(&client, "SHOW domicile.token").await.unwrap_err();
    assert_eq!(code(&error), "55000", "nothing was asked of PostgreSQL");
    assert_eq!(place(&client).await, "eu");
    let error = within(client.query_one("SHOW domicile.token", &[])).await.unwrap_err();
    assert_eq!(code(&error), "55000");
    assert!(within(client.query_one("SELECT 1", &[])).await.is_err());
}

#[tokio::test]
async fn a_token_is_reported_when_it_changes_to_who_asks_for_that() {
    let eu = Wanted::new(Mode::Local).region().await;
    let mut wire = Wire::connect(eu.address.port()).await;
    // Nobody knows it here, which is told, too.
    for (asked, expected) in [
        ("SELECT 1", "T D(1) C(SELECT 1) Z(I)"),
        ("SET domicile.report_token = on", "C(SET) S Z(I)"),
        ("SHOW domicile.report_token", "T D(on) C(SHOW) Z(I)"),
        ("SELECT 1", "T D(1) C(SELECT 1) Z(I)"),
        ("SET domicile.report_token = maybe", "E(22023) Z(I)"),
        ("RESET domicile.report_token", "C(RESET) Z(I)"),
    ] {
        assert_eq!(told(&wire.ask(&[query(asked)]).await), expected, "{asked}");
    }
}

#[tokio::test]
async fn a_session_that_prepares_more_settings_than_are_remembered_is_ended() {
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    let set = format!("SET domicile.key = '{}'", "x".repeat(200_000));
    for _ in 0..20 {
        // Closed each time.
        within(client.prepare(&set)).await.unwrap();
    }
    let mut kept = Vec::new();
    let error = within(async {
        loop {
            match client.prepare(&set).await {
                Ok(statement) => kept.push(statement),
                Err(error) => return error,
            }
        }
    });
    assert_eq!(code(&error.await), "54000");
    assert_eq!(kept.len(), 5);
    assert_eq!(place(&eu.connect().await).await, "eu");
}
