//! How is a socket read again from where its first bytes were?

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket of which something has been read already, and is to be read once more.
pub struct Rewound<S> {
    /// None once it was read: an empty one would keep the buffer that it lay in, for as long as the socket is open.
    head: Option<Bytes>,
    socket: S,
}

impl<S> Rewound<S> {
    pub fn new(head: Bytes, socket: S) -> Self {
        Self { head: Some(head).filter(|head| !head.is_empty()), socket }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(head) = &mut self.head else {
            return Pin::new(&mut self.socket).poll_read(cx, into);
        };
        let length = head.len().min(into.remaining());
        into.put_slice(&head[..length]);
        head.advance(length);
        if head.is_empty() {
            self.head = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first_and_then_the_rest() {
        let mut rewound = Rewound::new(Bytes::from_static(b"abc"), &b"def"[..]);
        let mut two = [0; 2];
        rewound.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ab");
        let mut rest = Vec::new();
        rewound.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"cdef");
    }

    #[tokio::test]
    async fn what_was_read_is_not_kept() {
        for head in [&b""[..], b"abc"] {
            let mut buffer = BytesMut::with_capacity(8192);
            buffer.extend_from_slice(head);
            let mut rewound = Rewound::new(buffer.split().freeze(), &b"def"[..]);
            rewound.read_exact(&mut vec![0; head.len() + 1]).await.unwrap();
            // Somebody else who holds the buffer keeps this from it.
            assert!(buffer.try_reclaim(8192), "{head:?}");
        }
    }
}
