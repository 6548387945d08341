//! Does a client that speaks nonsense hurt nobody but itself?

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::*;

/// Sends `bytes`, says no more, and returns all that comes back.
async fn answer_to(eu: &Region, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(eu.address).await.unwrap();
    // The gateway may have closed already: then the answer is what counts.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    answer
}

fn has(answer: &[u8], text: &str) -> bool {
    answer.windows(text.len()).any(|window| window == text.as_bytes())
}

pub fn startup(version: u32) -> Vec<u8> {
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(8 + parameters.len()).unwrap();
    [&length.to_be_bytes()[..], &version.to_be_bytes(), parameters].concat()
}

#[tokio::test]
async fn nonsense_is_answered_with_an_error_and_the_gateway_serves_on() {
    let eu = Wanted::new(Mode::Local).region().await;
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x00\x00\x09\x00\x03\x00\x00x",
        b"\x00\x00\x27\x11\x00\x03\x00\x00",
        b"\x00\x00\x00\x0b\x04\xd2\x16\x2ekey",
    ] {
        let answer = answer_to(&eu, nonsense).await;
        assert!(answer.first() == Some(&b'E') && has(&answer, "C08P01"), "{nonsense:?} {answer:?}");
    }
    assert_eq!(place(&eu.connect().await).await, "eu");
}

#[tokio::test]
async fn an_old_protocol_is_refused_and_a_newer_one_is_told_what_there_is() {
    let eu = Wanted::new(Mode::Local).region().await;
    assert!(has(&answer_to(&eu, &startup(2 << 16)).await, "C0A000"));
    let goodbye = b"X\x00\x00\x00\x04";
    let newer = [&startup(3 << 16 | 9999)[..], goodbye].concat();
    let answer = answer_to(&eu, &newer).await;
    assert_eq!(&answer[..13], b"v\x00\x00\x00\x0c\x00\x03\x00\x00\x00\x00\x00\x00");
}

#[tokio::test]
async fn a_hostile_length_after_the_login_ends_that_session_only() {
    let eu = Wanted::new(Mode::Local).region().await;
    let bystander = eu.connect().await;
    for hostile in [&b"Q\xff\xff\xff\xff"[..], b"Q\x00\x00\x00\x03", b"d\x7f\xff\xff\xff"] {
        let mut stream = TcpStream::connect(eu.address).await.unwrap();
        stream.write_all(&startup(3 << 16)).await.unwrap();
        let mut answer = Vec::new();
        while !has(&answer, "Z\0\0\0\x05I") {
            assert!(within(stream.read_buf(&mut answer)).await.unwrap() > 0);
        }
        stream.write_all(hostile).await.unwrap();
        answer.clear();
        let _ = within(stream.read_to_end(&mut answer)).await;
        assert!(has(&answer, "C08P01"), "{answer:?}");
    }
    assert_eq!(place(&bystander).await, "eu");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_its_server_and_not_the_gateways_memory() {
    const ROWS: usize = 100_000;
    let eu = Wanted::new(Mode::Local).region().await;
    let mut stream = TcpStream::connect(eu.address).await.unwrap();
    stream.write_all(&startup(3 << 16)).await.unwrap();
    let sql = format!("SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})\0");
    let length = u32::try_from(4 + sql.len()).unwrap().to_be_bytes();
    stream.write_all(&[b"Q", &length[..], sql.as_bytes()].concat()).await.unwrap();
    until(&eu, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'ClientWrite')")
        .await;
    let goodbye = b"X\x00\x00\x00\x04";
    stream.write_all(goodbye).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.len() > ROWS * 1000);
    assert!(answer.ends_with(b"Z\0\0\0\x05I"));
}

#[tokio::test]
async fn a_message_of_no_known_kind_is_for_the_server_to_refuse() {
    let eu = Wanted::new(Mode::Local).region().await;
    let unknown = [&startup(3 << 16)[..], b"\x07\x00\x00\x00\x04"].concat();
    let answer = answer_to(&eu, &unknown).await;
    assert!(answer.first() == Some(&b'R'));
    assert_eq!(place(&eu.connect().await).await, "eu");
}

#[tokio::test]
async fn a_cancel_request_for_nobody_is_ignored() {
    let eu = Wanted::new(Mode::Local).region().await;
    let request = b"\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\xde\xad\xbe\xef";
    assert!(answer_to(&eu, request).await.is_empty());
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_no_session_behind() {
    let eu = Wanted::new(Mode::Local).region().await;
    let client = eu.connect().await;
    client.batch_execute("SET application_name = 'vanishing'; BEGIN").await.unwrap();
    let there = "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'vanishing')";
    until(&eu, &format!("SELECT {there}")).await;
    drop(client);
    until(&eu, &format!("SELECT NOT {there}")).await;
}
