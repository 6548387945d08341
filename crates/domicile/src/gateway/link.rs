//! How do bytes move over one socket in both directions without either waiting for the other?
//!
//! A relay that writes to one side and waits must still read that side, or both ends may wait for
//! each other for ever. So a link has a buffer each way, one call moves whatever can move, and
//! the caller bounds the buffers by not reading from one side what the other has no room for.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// No more is read while this much lies unprocessed, none is processed while this much lies
/// unsent.
pub const BUFFER_BYTES_MAX: usize = 512 * 1024;
const READ_BYTES: usize = 8 * 1024;
/// With less room than this another buffer is taken.
const READ_BYTES_MIN: usize = 1024;
/// How long the last words to somebody may take.
const FAREWELL_WAIT_MAX: Duration = Duration::from_secs(5);

/// A socket of any kind.
pub trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// One side of a session.
pub struct Link {
    socket: Box<dyn Socket>,
    /// What the server of this side, which may be us, has shown where it is encrypted.
    pub certificate: Option<CertificateDer<'static>>,
    pub incoming: BytesMut,
    pub outgoing: BytesMut,
    /// How much has come in so far, and gone out.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Nothing comes in any more.
    ended: bool,
    /// What was written may still lie in the socket's own buffer, as with TLS.
    unflushed: bool,
    /// Nothing can be sent any more; what is put in `outgoing` is forgotten.
    mute: bool,
    /// Nothing more will be put in `outgoing`: the other side is to hear that behind what is there.
    finished: bool,
}

impl Link {
    pub fn new(socket: impl Socket + 'static) -> Self {
        Self {
            socket: Box::new(socket),
            certificate: None,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            received_bytes: 0,
            sent_bytes: 0,
            ended: false,
            unflushed: false,
            mute: false,
            finished: false,
        }
    }

    /// The other side is gone.
    pub fn closed() -> Self {
        Self { ended: true, mute: true, ..Self::new(tokio::io::empty()) }
    }

    /// Sends what is to be sent, and takes the socket for something else. Fails when the other side is gone;
    /// what has come in stays.
    pub async fn take_socket(&mut self) -> io::Result<Box<dyn Socket>> {
        while !self.outgoing.is_empty() {
            poll_fn(|cx| self.poll_write(cx)).await;
        }
        if self.mute {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(std::mem::replace(&mut self.socket, Box::new(tokio::io::empty())))
    }

    /// Goes on over another socket.
    pub fn put_socket(&mut self, socket: impl Socket + 'static) {
        self.socket = Box::new(socket);
    }

    /// Returns whether nothing comes in any more, except what is in `incoming`.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Returns whether nothing that is put in `outgoing` can arrive.
    pub fn is_mute(&self) -> bool {
        self.mute || self.finished
    }

    /// Returns whether more may be put in `outgoing`.
    pub fn has_room(&self) -> bool {
        self.outgoing.len() < BUFFER_BYTES_MAX
    }

    /// Nothing more will be sent. What comes in is heard on.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Waits until bytes moved in either direction, or the other side ended.
    ///
    /// Never returns when the link has ended and nothing waits to be sent. May be dropped at any
    /// moment without loss.
    pub async fn moved(&mut self) {
        poll_fn(|cx| self.poll_moved(cx)).await;
    }

    fn poll_moved(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wrote = self.poll_write(cx).is_ready();
        let read = self.poll_read(cx).is_ready();
        if wrote || read { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.mute {
            self.outgoing.clear();
        }
        if self.outgoing.is_empty() && self.finished && !self.mute {
            if Pin::new(&mut self.socket).poll_shutdown(cx).is_ready() {
                self.mute = true;
            }
            return Poll::Pending;
        }
        if self.outgoing.is_empty() {
            // To be heard sooner is no news to anybody here.
            if self.unflushed && Pin::new(&mut self.socket).poll_flush(cx).is_ready() {
                self.unflushed = false;
            }
            return Poll::Pending;
        }
        self.unflushed = true;
        match Pin::new(&mut self.socket).poll_write(cx, &self.outgoing) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(sent)) if sent > 0 => {
                self.outgoing.advance(sent);
                self.sent_bytes += sent as u64;
                // Who is idle keeps no buffer.
                if self.outgoing.is_empty() {
                    self.outgoing = BytesMut::new();
                }
            }
            // What the other side still had to say can be read; the end comes from there.
            Poll::Ready(Ok(_) | Err(_)) => {
                self.mute = true;
                self.outgoing.clear();
            }
        }
        Poll::Ready(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended || self.incoming.len() >= BUFFER_BYTES_MAX {
            return Poll::Pending;
        }
        // What was read may be kept for a while, and then there is no room before it either.
        if self.incoming.capacity() - self.incoming.len() < READ_BYTES_MIN {
            self.incoming.reserve(READ_BYTES);
        }
        let read = pin!(self.socket.read_buf(&mut self.incoming)).poll(cx);
        match read {
            Poll::Pending => {
                if self.incoming.is_empty() {
                    self.incoming = BytesMut::new();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(received)) => {
                self.ended = received == 0;
                self.received_bytes += received as u64;
                Poll::Ready(())
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "a connection of the gateway broke");
                self.ended = true;
                Poll::Ready(())
            }
        }
    }

    /// Sends what is left to send, within bounds.
    pub async fn farewell(&mut self) {
        let flush = async {
            while !self.outgoing.is_empty() {
                poll_fn(|cx| self.poll_write(cx)).await;
            }
            poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await
        };
        if !matches!(tokio::time::timeout(FAREWELL_WAIT_MAX, flush).await, Ok(Ok(()))) {
            tracing::debug!("last words of the gateway were not heard");
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("incoming", &self.incoming.len())
            .field("outgoing", &self.outgoing.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
