//! When is a connection given up whose other end has gone without a word?
//!
//! Whoever is idle is asked by TCP itself. There is no limit on how long what was sent may lie unread (`TCP_USER_TIMEOUT`):
//! a client that reads a long answer slowly is no client that has gone.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// After so long without a word the other end is asked,
const ASK_AFTER: Duration = Duration::from_secs(15);
/// and so often
const ASK_EVERY: Duration = Duration::from_secs(5);
/// until that many questions were not answered.
const QUESTIONS: u32 = 3;

/// Sends what is written at once, and asks after silence.
pub fn set(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let asking = TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY);
    SockRef::from(stream).set_tcp_keepalive(&asking.with_retries(QUESTIONS))
}

/// Is the other end asked?
#[cfg(test)]
pub fn is_set(stream: &impl std::os::fd::AsFd) -> bool {
    let socket = SockRef::from(stream);
    socket.keepalive().unwrap()
        && socket.tcp_keepalive_time().unwrap() == ASK_AFTER
        && socket.tcp_keepalive_interval().unwrap() == ASK_EVERY
        && socket.tcp_keepalive_retries().unwrap() == QUESTIONS
}
