//! Which TCP port is free, and stays so until it is used?

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpSocket;

/// Below these are well-known services.
const PORT_MIN: u16 = 10_000;
/// From 32768 on the system hands out ports to outgoing connections: a port there may be taken
/// between our look and our use.
const PORT_END: u16 = 32_768;

/// Returns a port of 127.0.0.1 that nothing listens on and that this process has not given out
/// in its last 20,000 calls: a caller uses it only later, and another may ask meanwhile.
///
/// Starts at a random place, so that processes that ask at the same time get different ones.
///
/// # Panics
///
/// When all of the more than 20,000 ports are taken.
pub fn free_port() -> u16 {
    // The low bits of such an id are random.
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(uuid::Uuid::now_v7().as_u128() as u64));
    let span = PORT_END - PORT_MIN;
    (0..span)
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed))
        .map(|next| PORT_MIN + (next % u64::from(span)) as u16)
        .find(|port| is_free(*port))
        .expect("a machine has a free port")
}

/// Binds without listening: a process that another thread starts just now inherits the socket
/// until its exec, and one that listens would keep the port taken for the caller.
fn is_free(port: u16) -> bool {
    let bind = |socket: TcpSocket| {
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    TcpSocket::new_v4().and_then(bind).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_never_given_out() {
        let taken: Vec<TcpListener> = (0..50)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap())
            .collect();
        assert!(taken.iter().all(|socket| {
            let port = socket.local_addr().unwrap().port();
            (PORT_MIN..PORT_END).contains(&port)
        }));
    }

    #[test]
    fn a_port_that_was_given_out_and_is_not_used_yet_is_not_given_out_again() {
        let ports: BTreeSet<u16> = (0..1000).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 1000);
    }
}
