//! How is one message posted, and what comes back?
//!
//! One connection for each, in HTTP/1.1: a run sends a few. Redirects are not followed: what is shown to
//! one host is not for another.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tokio_util::task::AbortOnDropHandle;

use super::target::{Address, IDEMPOTENCY_KEY, Target};

/// Who is not reached by then is tried anew: another way may lead there, or to another machine.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Who has begun to answer is listened to no longer than this.
const LINE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Of an answer, its beginning is read.
const ANSWER_BYTES_MAX: usize = 4096;
/// Of its first line, this is kept: a run's journal stands in the directory.
const LINE_CHARACTERS_MAX: usize = 200;

/// What somebody answers.
pub struct Answer {
    pub status: StatusCode,
    body: Incoming,
    /// Ends with it.
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    #[error("connect: {0}")]
    Connect(io::Error),
    /// It is not who it should be, or speaks something else: it will be the same again.
    #[error("encrypt the connection: {0}")]
    Encrypt(io::Error),
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    #[error("the token is no header: {0}")]
    Token(#[from] hyper::http::Error),
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// Returns as an answer begins, which may take as long as `patience`.
pub async fn post(
    target: &Target,
    token: &str,
    body: Bytes,
    patience: Duration,
) -> Result<Answer, PostError> {
    let request = request(target, token, body)?;
    let connected = timeout(CONNECT_WAIT_MAX, connect(target)).await;
    let late = |_| Err(PostError::Connect(io::ErrorKind::TimedOut.into()));
    let stream = connected.unwrap_or_else(late)?;
    let answered = timeout(patience, exchange(stream, request)).await;
    answered.unwrap_or(Err(PostError::Silent(patience)))
}

async fn connect(target: &Target) -> Result<Either<TcpStream, TlsStream<TcpStream>>, PostError> {
    let Address { host, port, .. } = &target.address;
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(PostError::Connect)?;
    let Some(tls) = &target.tls else { return Ok(Either::Left(stream)) };
    let name = ServerName::try_from(host.clone());
    let name = name.map_err(|error| PostError::Encrypt(io::Error::other(error)))?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
    stream.map(Either::Right).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => PostError::Encrypt(error),
        _ => PostError::Connect(error),
    })
}

fn request(
    target: &Target,
    token: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let mut request = Request::post(&target.address.path)
        .header(HOST, &target.address.host_and_port)
        .header(USER_AGENT, concat!("domicile/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(IDEMPOTENCY_KEY, token)
        .body(Full::new(body))?;
    request.headers_mut().extend(target.headers.clone());
    Ok(request)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, PostError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with this call, also where nobody waits for the answer any more.
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await?;
    Ok(Answer { status: answer.status(), body: answer.into_body(), _connection: connection })
}

impl Answer {
    /// Of the body; empty where there is none. Whoever has sent a status has answered: a body that breaks off, or
    /// does not come, changes nothing about it.
    pub async fn first_line(mut self) -> String {
        let mut read = Vec::new();
        let reading = async {
            while read.len() < ANSWER_BYTES_MAX
                && !read.contains(&b'\n')
                && let Some(Ok(frame)) = self.body.frame().await
            {
                read.extend(frame.into_data().unwrap_or_default());
            }
        };
        let _ = timeout(LINE_WAIT_MAX, reading).await;
        let text = String::from_utf8_lossy(&read);
        let line = text.trim_start().lines().next().unwrap_or_default();
        line.chars().filter(|c| !c.is_control()).take(LINE_CHARACTERS_MAX).collect()
    }
}
