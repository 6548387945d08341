//! How are the few small pages of an agent served, to whoever reaches them?
//!
//! One connection for each, within limits: who holds them all keeps others from these pages, and from nothing else.

use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

/// How many are served at once; others wait.
const CONNECTIONS_MAX: usize = 256;
/// From the connection to the last byte of the answer.
const TAKES_MAX: Duration = Duration::from_secs(10);
/// After a failed accept (no file descriptors left, say) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves for as long as it is polled.
pub async fn serve(listener: TcpListener, pages: Router) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(tokio::time::timeout(TAKES_MAX, answer(stream, pages.clone())));
                }
                Err(error) => {
                    tracing::warn!(%error, "a page cannot be asked for");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn answer(stream: TcpStream, pages: Router) {
    let service = service_fn(|request: Request<Incoming>| pages.clone().oneshot(request));
    let served =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!("a page was not read to its end: {error}");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn who_does_not_ask_makes_others_wait_and_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let pages = Router::new().route("/", get(async || "here"));
        let _served =
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(serve(listener, pages)));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(at).await.unwrap());
        }
        let mut asking = TcpStream::connect(at).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = asking.read_to_string(&mut answer);
        tokio::time::timeout(2 * TAKES_MAX, read).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("here"), "{answer}");
        let first = tokio::time::timeout(TAKES_MAX, silent[0].read_u8()).await;
        assert!(first.unwrap().is_err(), "it is closed");
    }
}
