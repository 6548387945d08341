//! How is a body sent on as it comes, and yet sent again when nobody has done anything with it?
//!
//! What went through is kept up to a limit. A second reader begins with that and goes on with what is still to come;
//! the first one has lost the body then.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Of all bodies together, this is kept; those that come when there is no room are not.
const KEPT_BYTES_MAX: usize = 256 << 20;

/// How many bytes of bodies are kept.
#[derive(Clone, Debug, Default)]
pub struct Room(Arc<AtomicUsize>);

/// A reader of a body; the last one that was made reads on.
pub struct Kept {
    source: Arc<Mutex<Source>>,
    /// How many of the bytes that are kept it has given out.
    given: usize,
    /// Which reader it is.
    turn: u64,
}

struct Source {
    body: Incoming,
    /// What has come, in one piece: a client may send it byte by byte.
    kept: BytesMut,
    limit: usize,
    room: Room,
    /// Nothing that has come is missing from `kept`.
    whole: bool,
    turn: u64,
    /// Grows with everything that comes, and at the end.
    progress: u64,
}

/// Looks after a body that somebody else reads.
#[derive(Clone)]
pub struct Keeper(Arc<Mutex<Source>>);

/// Returns the first reader of a body, of which up to `limit` bytes are kept.
pub fn keep(body: Incoming, limit: usize, room: &Room) -> (Keeper, Kept) {
    let (kept, room) = (BytesMut::new(), room.clone());
    let source = Source { body, kept, limit, room, whole: true, turn: 0, progress: 0 };
    let source = Arc::new(Mutex::new(source));
    (Keeper(source.clone()), Kept { source, given: 0, turn: 0 })
}

impl Keeper {
    /// Returns a reader that begins anew; `None` when that is not possible any more.
    pub fn anew(&self) -> Option<Kept> {
        let mut source = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        source.turn += 1;
        let turn = source.turn;
        source.whole.then(|| Kept { source: self.0.clone(), given: 0, turn })
    }

    /// Says something else whenever more of the body has been read.
    pub fn progress(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).progress
    }
}

impl Room {
    fn take(&self, bytes: usize) -> bool {
        let fits = |taken: usize| taken.checked_add(bytes).filter(|all| *all <= KEPT_BYTES_MAX);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Source {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let fits = frame.data_ref().filter(|data| {
            self.whole && self.kept.len() + data.len() <= self.limit && self.room.take(data.len())
        });
        match fits {
            Some(data) => self.kept.extend_from_slice(data),
            None => self.forget(),
        }
    }

    fn forget(&mut self) {
        self.whole = false;
        self.room.give_back(std::mem::take(&mut self.kept).len());
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Body for Kept {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut source = this.source.lock().unwrap_or_else(PoisonError::into_inner);
        if source.turn != this.turn {
            return Poll::Ready(Some(Err("the body is read by somebody else".into())));
        }
        if this.given < source.kept.len() {
            let rest = Bytes::copy_from_slice(&source.kept[this.given..]);
            this.given = source.kept.len();
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        let polled = std::task::ready!(Pin::new(&mut source.body).poll_frame(cx));
        source.progress += 1;
        if let Some(Ok(frame)) = &polled {
            source.keep(frame);
        }
        this.given = source.kept.len();
        Poll::Ready(polled.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        self.given >= source.kept.len() && source.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let again = (source.kept.len().saturating_sub(self.given)) as u64;
        let mut hint = source.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + again);
        }
        hint.set_lower(hint.lower() + again);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bodies_together_take_no_more_memory_than_is_there_for_them() {
        let room = Room::default();
        assert!(room.take(KEPT_BYTES_MAX - 1));
        assert!(!room.take(2) && !room.take(usize::MAX));
        assert!(room.take(1) && !room.take(1));
        room.give_back(KEPT_BYTES_MAX);
        assert!(room.take(KEPT_BYTES_MAX));
    }
}
