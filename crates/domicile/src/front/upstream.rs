//! How is a request sent to the application here, or to another region's door?

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use domicile_core::front::journey::Failure;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tower::Service;

use super::body::Kept;
use crate::gateway::{Secure, Socket, Target};

/// An idle connection to an application is used no longer than this: fewer than any server keeps one open for, so that
/// no request is sent as it is closed.
const APP_IDLE_MAX: Duration = Duration::from_secs(1);
/// Doors keep theirs open for longer.
const DOOR_IDLE_MAX: Duration = Duration::from_secs(20);
/// Idle connections that are kept.
const IDLE_MAX: usize = 64;

/// Somebody who answers requests, and connections to it.
#[derive(Clone)]
pub struct Upstream(Client<Connector, Kept>);

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError {
    pub failure: Failure,
    cause: hyper_util::client::legacy::Error,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        let mut source = std::error::Error::source(&self.cause);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl Upstream {
    /// The application of this region.
    pub fn app(target: Target) -> Self {
        Self::new(target, Secure::default(), APP_IDLE_MAX)
    }

    /// Another region's door.
    pub fn door(target: Target, secure: Secure) -> Self {
        Self::new(target, secure, DOOR_IDLE_MAX)
    }

    fn new(target: Target, secure: Secure, idle: Duration) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(idle);
        builder.pool_max_idle_per_host(IDLE_MAX);
        Self(builder.build(Connector { target, secure }))
    }

    /// Sends a request in HTTP/1.1, again only while nothing of it has left, and returns as its answer begins.
    pub async fn send(&self, request: Request<Kept>) -> Result<Response<Incoming>, SendError> {
        self.0.request(request).await.map_err(|cause| {
            let failure = if cause.is_connect() { Failure::Unreachable } else { Failure::BrokeOff };
            SendError { failure, cause }
        })
    }
}

/// Connects to one place, whatever a request's address says.
#[derive(Clone)]
struct Connector {
    target: Target,
    secure: Secure,
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { target, secure } = self.clone();
        Box::pin(async move { Ok(Wire(TokioIo::new(target.socket(&secure).await?))) })
    }
}

/// A connection as the client of HTTP wants it.
struct Wire(TokioIo<Box<dyn Socket>>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
