//! Does a relay behave as a link between regions, and lose nothing?

use super::*;

const BOUND: Duration = Duration::from_secs(60);

/// A relay, and both ends of one connection through it.
struct Pair {
    relay: Relay,
    client: TcpStream,
    server: TcpStream,
}

async fn pair() -> Pair {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let relay = Relay::start(listener.local_addr().unwrap()).await.unwrap();
    let client = TcpStream::connect(relay.address()).await.unwrap();
    let (server, _) = bounded(listener.accept()).await.unwrap();
    Pair { relay, client, server }
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("it does not hang")
}

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8 ^ at as u8).collect()
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bounded(stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

async fn nothing_arrives(stream: &mut TcpStream) {
    let mut byte = [0];
    let waited = timeout(Duration::from_millis(100), stream.read(&mut byte)).await;
    assert!(waited.is_err(), "{waited:?}");
}

async fn is_closed(stream: &mut TcpStream) {
    let mut byte = [0];
    let ended = bounded(stream.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_round_trip_takes_twice_the_delay() {
    let mut pair = pair().await;
    pair.relay.control().set_delay(Duration::from_millis(20));
    let begin = Instant::now();
    pair.client.write_all(b"question").await.unwrap();
    assert_eq!(read(&mut pair.server, 8).await, b"question");
    pair.server.write_all(b"answer").await.unwrap();
    assert_eq!(read(&mut pair.client, 6).await, b"answer");
    assert!(begin.elapsed() >= Duration::from_millis(40));
}

#[tokio::test]
async fn a_long_link_holds_many_pieces_in_flight() {
    let mut pair = pair().await;
    pair.relay.control().set_delay(Duration::from_secs(3600));
    // More than all socket buffers hold: it only fits because pieces wait side by side.
    let bytes = pattern(IN_FLIGHT_BYTES_MAX - 1024 * 1024);
    bounded(pair.client.write_all(&bytes)).await.unwrap();
    nothing_arrives(&mut pair.server).await;
}

#[tokio::test]
async fn large_transfers_arrive_whole_and_in_order_while_the_delay_changes() {
    let Pair { relay, mut client, mut server } = pair().await;
    let bytes = pattern(40 * 1024 * 1024);
    let sent = bytes.clone();
    let sender = tokio::spawn(async move {
        for (round, part) in sent.chunks(1024 * 1024).enumerate() {
            relay.control().set_delay(Duration::from_millis(if round % 2 == 0 { 20 } else { 1 }));
            client.write_all(part).await.unwrap();
        }
        (relay, client)
    });
    assert!(read(&mut server, bytes.len()).await == bytes);
    sender.await.unwrap();
}

#[tokio::test]
async fn a_narrow_link_takes_its_time() {
    let mut pair = pair().await;
    pair.relay.control().set_bandwidth(Some(1024 * 1024));
    let bytes = pattern(256 * 1024);
    let begin = Instant::now();
    pair.client.write_all(&bytes).await.unwrap();
    assert!(read(&mut pair.server, bytes.len()).await == bytes);
    assert!(begin.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_cut_link_stalls_silently_and_delivers_after_it_heals() {
    let mut pair = pair().await;
    pair.relay.control().cut();
    pair.client.write_all(b"during").await.unwrap();
    nothing_arrives(&mut pair.server).await;
    nothing_arrives(&mut pair.client).await;
    pair.relay.control().heal();
    assert_eq!(read(&mut pair.server, 6).await, b"during");
}

#[tokio::test]
async fn nobody_learns_across_a_cut_that_the_other_side_is_gone() {
    let mut pair = pair().await;
    pair.relay.control().cut();
    drop(pair.server);
    nothing_arrives(&mut pair.client).await;
    pair.relay.control().heal();
    let mut byte = [0];
    assert_eq!(bounded(pair.client.read(&mut byte)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_new_connection_over_a_cut_link_hangs_until_it_heals() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let relay = Relay::start(listener.local_addr().unwrap()).await.unwrap();
    relay.control().cut();
    let mut client = TcpStream::connect(relay.address()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    nothing_arrives(&mut client).await;
    assert!(relay.control().is_cut());
    relay.control().heal();
    let (mut server, _) = bounded(listener.accept()).await.unwrap();
    assert_eq!(read(&mut server, 5).await, b"hello");
}

#[tokio::test]
async fn a_reset_ends_connections_and_new_ones_until_it_heals() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let relay = Relay::start(listener.local_addr().unwrap()).await.unwrap();
    let mut old = TcpStream::connect(relay.address()).await.unwrap();
    let _server = bounded(listener.accept()).await.unwrap();
    relay.control().cut_and_reset();
    is_closed(&mut old).await;
    let mut refused = TcpStream::connect(relay.address()).await.unwrap();
    is_closed(&mut refused).await;
    relay.control().heal();
    let mut client = TcpStream::connect(relay.address()).await.unwrap();
    let (mut server, _) = bounded(listener.accept()).await.unwrap();
    client.write_all(b"again").await.unwrap();
    assert_eq!(read(&mut server, 5).await, b"again");
}

#[tokio::test]
async fn new_connections_follow_the_target() {
    let Pair { relay, mut client, mut server } = pair().await;
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    relay.control().set_target(elsewhere.local_addr().unwrap());
    let mut second = TcpStream::connect(relay.address()).await.unwrap();
    let (mut other, _) = bounded(elsewhere.accept()).await.unwrap();
    second.write_all(b"new").await.unwrap();
    client.write_all(b"old").await.unwrap();
    assert_eq!(read(&mut other, 3).await, b"new");
    assert_eq!(read(&mut server, 3).await, b"old");
}

#[tokio::test]
async fn a_dropped_relay_ends_its_connections() {
    let Pair { relay, mut client, mut server } = pair().await;
    drop(relay);
    is_closed(&mut client).await;
    is_closed(&mut server).await;
}
