//! On which socket does one listen: on a new one, or on one that was there before this process?
//!
//! A service manager can hold listening sockets and hand them to every process that it starts (`sd_listen_fds(3)`, socket
//! units of systemd). They stay open from one process to the next: who connects meanwhile waits, and is not refused.

use std::io;
use std::net::{SocketAddr, TcpListener as Handed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use listenfd::ListenFd;
use tokio::net::TcpListener;

/// What was handed to this process and nobody listens on yet.
static HANDED: Mutex<Vec<Handed>> = Mutex::new(Vec::new());

/// Takes what was handed to this process. To be called before there are other threads: it changes the environment.
pub fn receive() {
    let mut handed = ListenFd::from_env();
    for number in 0..handed.len() {
        // Programs that this process starts inherit what it was handed, but not a copy.
        let taken = handed.take_tcp_listener(number).and_then(|taken| match taken {
            Some(taken) => taken.try_clone().map(Some),
            None => Ok(None),
        });
        match taken {
            Ok(taken) => lock().extend(taken),
            Err(error) => {
                tracing::warn!("socket {number} that the service manager has handed over: {error}");
            }
        }
    }
}

/// Listens on `address`: on the socket that was handed over for it, if there is one.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let handed = take(&mut lock(), address);
    match handed {
        Some(handed) => {
            handed.set_nonblocking(true)?;
            TcpListener::from_std(handed)
        }
        None => TcpListener::bind(address).await,
    }
}

/// Complains of sockets that clients may connect to and nobody will ever serve.
pub fn complain_of_rest() {
    for address in lock().iter().filter_map(|handed| handed.local_addr().ok()) {
        tracing::warn!(%address, "the service manager holds a socket at which nothing listens here");
    }
}

fn take(handed: &mut Vec<Handed>, address: SocketAddr) -> Option<Handed> {
    let serves =
        |at: SocketAddr| at == address || (at.ip().is_unspecified() && at.port() == address.port());
    let found = handed.iter().position(|handed| handed.local_addr().is_ok_and(serves))?;
    Some(handed.swap_remove(found))
}

fn lock() -> MutexGuard<'static, Vec<Handed>> {
    HANDED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_the_address_is_taken_once_and_one_of_all_addresses_too() {
        let [one, all] = ["127.0.0.1:0", "0.0.0.0:0"].map(|at| Handed::bind(at).unwrap());
        let ports = [&one, &all].map(|handed| handed.local_addr().unwrap().port());
        let mut handed = vec![one, all];
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(take(&mut handed, SocketAddr::from(([127, 0, 0, 2], ports[0]))).is_none());
        for port in ports {
            let taken = take(&mut handed, at(port)).unwrap();
            assert_eq!(taken.local_addr().unwrap().port(), port);
            assert!(take(&mut handed, at(port)).is_none());
        }
        assert!(handed.is_empty());
    }
}
