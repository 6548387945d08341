//! What would this link do with the bytes, if it were long, narrow or cut?
//!
//! A relay stands between a client and a server on this machine and hands bytes over as a link
//! between two regions would:
//!
//! ```text
//! client --> read --> [(deliver at, bytes), ...] --> wait, write --> server
//!            stamps    at most IN_FLIGHT_BYTES_MAX    one at a time
//! ```
//!
//! The delay is a stamp on each piece, not a pause between pieces: a long link holds many pieces
//! in flight at once, so it answers late and still moves as much as a short one.
//!
//! Invariant: bytes are never lost, changed or reordered. A cut link keeps what is in flight and
//! delivers it after [`RelayControl::heal`], as TCP does by sending again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

/// How much one direction of one connection holds before its sender has to wait.
const IN_FLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is read at a time; also the largest piece.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// What a piece costs beside its bytes, so that many tiny ones are bounded too.
const PIECE_OVERHEAD_BYTES: usize = 64;
/// Shorter waits than the timer can measure are saved up.
const PACE_MIN: Duration = Duration::from_millis(2);
/// How long a connection through the relay tries to reach its target.
const DIAL_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long to leave a listener alone that could not accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// A TCP relay in this process; its connections end when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    control: RelayControl,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Listens on a port of 127.0.0.1 that the system chooses; the link starts whole and fast.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (link, _) = watch::channel(Link {
            target,
            delay: Duration::ZERO,
            bandwidth: None,
            state: State::Whole,
        });
        let control = RelayControl { link: Arc::new(link) };
        let accepting = tokio::spawn(accept(listener, control.clone()));
        Ok(Self { address, control, accepting })
    }

    /// Returns where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the handle that changes the link; it may be cloned and kept.
    pub fn control(&self) -> &RelayControl {
        &self.control
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The task owns the connections, so they go with it.
        self.accepting.abort();
    }
}

/// What the link is like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    target: SocketAddr,
    /// One way.
    delay: Duration,
    /// Bytes per second, each way.
    bandwidth: Option<u64>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    /// Nothing arrives and nobody is told.
    Silent,
    /// Connections end, and new ones end at once.
    Refusing,
}

/// Changes a relay's link while connections run through it.
#[derive(Clone, Debug)]
pub struct RelayControl {
    link: Arc<watch::Sender<Link>>,
}

impl RelayControl {
    /// Delays all bytes sent from now on by this much, one way. A new connection pays two ways
    /// for its handshake before its first byte leaves.
    pub fn set_delay(&self, one_way: Duration) {
        self.link.send_modify(|link| link.delay = one_way);
    }

    /// Limits each direction to this many bytes per second, shared by its connections.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        self.link.send_modify(|link| link.bandwidth = bytes_per_second);
    }

    /// Sends new connections elsewhere, as after a restart on another port; old ones stay.
    pub fn set_target(&self, target: SocketAddr) {
        self.link.send_modify(|link| link.target = target);
    }

    /// Splits the network: connections stall without an error, new ones hang.
    ///
    /// The kernel still accepts a new connection; it carries nothing until the link heals.
    pub fn cut(&self) {
        self.link.send_modify(|link| link.state = State::Silent);
    }

    /// Cuts so that everybody notices: connections are closed, new ones too.
    pub fn cut_and_reset(&self) {
        self.link.send_modify(|link| link.state = State::Refusing);
    }

    /// Makes the link whole; what was in flight arrives.
    pub fn heal(&self) {
        self.link.send_modify(|link| link.state = State::Whole);
    }

    pub fn is_cut(&self) -> bool {
        self.link.borrow().state != State::Whole
    }

    /// Returns the link once it is in a state that the caller accepts.
    async fn wait_for(&self, accepts: impl Fn(State) -> bool) -> Link {
        let mut watcher = self.link.subscribe();
        let found = watcher.wait_for(|link| accepts(link.state)).await.map(|link| *link);
        found.expect("the sender lives in this handle")
    }

    async fn whole(&self) -> Link {
        self.wait_for(|state| state == State::Whole).await
    }
}

/// When the wire of one direction is free again; shared by all connections.
type Wire = Arc<Mutex<Instant>>;

async fn accept(listener: TcpListener, control: RelayControl) {
    let [out, back]: [Wire; 2] = std::array::from_fn(|_| Arc::new(Mutex::new(Instant::now())));
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let wires = [out.clone(), back.clone()];
                connections.spawn(carry(client, control.clone(), wires));
            }
            Err(error) => {
                tracing::debug!(%error, "a relay could not accept a connection");
                // Out of file descriptors, say: others have to end first.
                sleep_until(Instant::now() + ACCEPT_AGAIN).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection until both sides are done or the link refuses.
async fn carry(client: TcpStream, control: RelayControl, wires: [Wire; 2]) {
    let carried = async {
        let link = control.whole().await;
        // What the handshake would have cost; the kernel did it in no time.
        sleep_until(Instant::now() + 2 * link.delay).await;
        let dialled = timeout(DIAL_WAIT_MAX, TcpStream::connect(control.whole().await.target));
        let server = dialled.await.map_err(|_| io::ErrorKind::TimedOut)??;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let [out, back] = wires;
        tokio::try_join!(
            carry_one_way(client_read, server_write, &control, out),
            carry_one_way(server_read, client_write, &control, back),
        )
    };
    tokio::select! {
        ended = carried => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a relayed connection ended");
            }
        }
        _ = control.wait_for(|state| state == State::Refusing) => {}
    }
}

/// What one side sent, and when the other side may see it.
struct Piece {
    deliver_at: Instant,
    event: Event,
    /// Given back when the piece was delivered.
    _room: Option<OwnedSemaphorePermit>,
}

enum Event {
    Bytes(Bytes),
    /// The sender will send no more, and may still read.
    End,
    /// The sender is gone.
    Broken(io::Error),
}

async fn carry_one_way(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    control: &RelayControl,
    wire: Wire,
) -> io::Result<()> {
    // Bounded by the room in flight rather than by the number of pieces.
    let (pieces, arriving) = mpsc::unbounded_channel();
    let sending = async {
        send(from, pieces, control, wire).await;
        Ok(())
    };
    tokio::try_join!(sending, deliver(to, arriving, control)).map(drop)
}

async fn send(
    mut from: OwnedReadHalf,
    pieces: mpsc::UnboundedSender<Piece>,
    control: &RelayControl,
    wire: Wire,
) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX));
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    let mut last = Instant::now();
    loop {
        let event = match from.read(&mut buffer).await {
            Ok(0) => Event::End,
            Ok(length) => Event::Bytes(Bytes::copy_from_slice(&buffer[..length])),
            Err(error) => Event::Broken(error),
        };
        let length = if let Event::Bytes(bytes) = &event { bytes.len() } else { 0 };
        let link = *control.link.borrow();
        let leaves_at = occupy(&wire, link.bandwidth, length);
        // A delay that was shortened must not let bytes overtake those before them.
        last = last.max(leaves_at + link.delay);
        let is_last = !matches!(event, Event::Bytes(_));
        let size = (length + PIECE_OVERHEAD_BYTES) as u32;
        let room = room.clone().acquire_many_owned(size).await.ok();
        let piece = Piece { deliver_at: last, event, _room: room };
        if pieces.send(piece).is_err() || is_last {
            return;
        }
        // What a narrow link cannot carry yet waits with its sender, not in the link.
        if leaves_at > Instant::now() + PACE_MIN {
            sleep_until(leaves_at).await;
        }
    }
}

/// Takes the wire for as long as these bytes need, and returns when they have left.
fn occupy(wire: &Wire, bandwidth: Option<u64>, length: usize) -> Instant {
    let now = Instant::now();
    let Some(bandwidth) = bandwidth else { return now };
    let needed = Duration::from_secs_f64(length as f64 / bandwidth.max(1) as f64);
    let mut free_at = wire.lock().unwrap_or_else(PoisonError::into_inner);
    *free_at = now.max(*free_at) + needed;
    *free_at
}

async fn deliver(
    mut to: OwnedWriteHalf,
    mut arriving: mpsc::UnboundedReceiver<Piece>,
    control: &RelayControl,
) -> io::Result<()> {
    while let Some(piece) = arriving.recv().await {
        sleep_until(piece.deliver_at).await;
        control.whole().await;
        match piece.event {
            // That the receiver is gone has to travel back as its own event, after the delay.
            Event::Bytes(bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    return Ok(());
                }
            }
            Event::End => return to.shutdown().await.or(Ok(())),
            Event::Broken(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
