//! What does a new connection want: encryption, to cancel something, or a session?

use std::net::SocketAddr;

use domicile_core::route::Caller;
use domicile_pg::startup::{self, CancelRequest, FirstPacket, PROTOCOL_MAJOR, Startup};
use tokio::net::TcpStream;

use super::link::Link;
use super::refusals::{self, End};
use super::rewound::Rewound;
use super::secure::{Accepted, Other, Secure};
use super::session::{self, Session};
use super::sessions::{Kind, Who};
use super::{Config, STARTUP_WAIT_MAX, Shared};

/// Another region's gateway says so with this startup parameter.
pub const HOP_PARAMETER: &str = "domicile.hop";
/// The value of [`HOP_PARAMETER`] that counts.
pub const HOP: &str = "1";
/// A client may ask for TLS and for GSS, each once, and then has to begin.
const ENCRYPTION_REQUESTS_MAX: usize = 2;

/// The first byte of a TLS handshake; of a first packet it would be the length of 370 MB.
const TLS_HANDSHAKE: u8 = 0x16;

enum Wish {
    Cancel(CancelRequest),
    Session(Startup),
}

/// Somebody who came in, and has not said much yet.
struct Visitor {
    link: Link,
    address: SocketAddr,
    is: Other,
}

/// Serves one connection to its end.
pub async fn serve(stream: TcpStream, address: SocketAddr, shared: Shared) {
    let visitor = Visitor { link: Link::new(stream), address, is: Other::Clear };
    // What it takes to come in is gone while a session lasts, which is mostly long.
    let session = Box::pin(visitor.come_in(shared)).await;
    if let Some(session) = session {
        session.serve().await;
    }
}

impl Visitor {
    /// Returns its session, if it wants one and may have it.
    async fn come_in(mut self, shared: Shared) -> Option<Box<Session>> {
        let wish = tokio::time::timeout(STARTUP_WAIT_MAX, self.wish(&shared.secure));
        let wish = tokio::select! {
            wish = wish => wish.unwrap_or_else(|_| Err(refusals::startup_too_slow())),
            () = shared.shutdown.cancelled() => Err(refusals::shutting_down()),
        };
        match wish {
            Ok(Wish::Cancel(request)) => shared.cancels.forward(&request, &shared.secure).await,
            Ok(Wish::Session(startup)) => return self.begin(startup, shared).await,
            Err(end) => say(&mut self.link, end).await,
        }
        None
    }

    async fn begin(mut self, mut startup: Startup, shared: Shared) -> Option<Box<Session>> {
        if !shared.secure.admits(self.is) {
            say(&mut self.link, refusals::encryption_required()).await;
            return None;
        }
        let hop = startup.remove(HOP_PARAMETER);
        let is_hop = hop.as_deref() == Some(HOP) && shared.secure.believes(self.is);
        let caller = if is_hop { Caller::Peer } else { Caller::Client };
        if let Some(negotiation) = startup.settle() {
            negotiation.put(&mut self.link.outgoing);
        }
        let who = self.who(caller, &startup, &shared.config);
        match shared.sessions.enter(who.clone(), &shared.config.admission, shared.clock) {
            Ok(recorder) => {
                session::begin((self.link, self.is), caller, startup, recorder, shared).await
            }
            Err(why) => {
                tracing::debug!(applicant = %who.applicant(), ?why, "a client is not let in");
                say(&mut self.link, refusals::not_admitted(&who.applicant(), why)).await;
                None
            }
        }
    }

    fn who(&self, caller: Caller, startup: &Startup, config: &Config) -> Who {
        let user = startup.get("user").unwrap_or_default();
        let database = startup.database();
        let kind = match caller {
            Caller::Peer => Kind::Peer,
            Caller::Client if config.has_console(database) => Kind::Console,
            Caller::Client => Kind::Client,
        };
        Who {
            kind,
            user: user.to_owned(),
            database: database.to_owned(),
            application: startup.get("application_name").unwrap_or_default().to_owned(),
            address: self.address,
            other: self.is,
        }
    }

    async fn wish(&mut self, secure: &Secure) -> Result<Wish, End> {
        let mut encryption_requests = 0;
        loop {
            let may_encrypt = secure.can_encrypt() && self.is == Other::Clear;
            if may_encrypt && self.link.incoming.first() == Some(&TLS_HANDSHAKE) {
                self.encrypt(secure).await?;
                continue;
            }
            let packet = startup::take(&mut self.link.incoming);
            match packet.map_err(|e| refusals::protocol(&e))? {
                Some(FirstPacket::SslRequest) if may_encrypt => {
                    // Somebody on the way may have put it there, to be read as if it came encrypted.
                    if !self.link.incoming.is_empty() {
                        return Err(refusals::protocol(&"data came before encryption began"));
                    }
                    self.link.outgoing.extend_from_slice(&[startup::ENCRYPTION_ACCEPTED]);
                    self.encrypt(secure).await?;
                }
                Some(FirstPacket::SslRequest | FirstPacket::GssEncRequest) => {
                    encryption_requests += 1;
                    if encryption_requests > ENCRYPTION_REQUESTS_MAX {
                        return Err(refusals::protocol(&"encryption was asked for again"));
                    }
                    self.link.outgoing.extend_from_slice(&[startup::ENCRYPTION_REFUSED]);
                }
                Some(FirstPacket::Cancel(request)) => return Ok(Wish::Cancel(request)),
                Some(FirstPacket::Startup(startup)) if startup.major == PROTOCOL_MAJOR => {
                    return Ok(Wish::Session(startup));
                }
                Some(FirstPacket::Startup(startup)) => {
                    return Err(refusals::unsupported_version(startup.major, startup.minor));
                }
                None if self.link.has_ended() => return Err(End::Quietly),
                None => self.link.moved().await,
            }
        }
    }

    /// Takes the handshake that comes now; what has come in already is its beginning.
    async fn encrypt(&mut self, secure: &Secure) -> Result<(), End> {
        let socket = self.link.take_socket().await.map_err(|_| End::Quietly)?;
        let begun = self.link.incoming.split().freeze();
        match secure.accept(Rewound::new(begun, socket)).await {
            Ok(Accepted { socket, other, certificate }) => {
                self.link.put_socket(socket);
                self.link.certificate = certificate;
                self.is = other;
                Ok(())
            }
            Err(error) => {
                // There is no connection any more on which it could be said.
                tracing::debug!("a handshake of the gateway failed: {error}");
                Err(End::Quietly)
            }
        }
    }
}

/// Says the last words to a client and closes.
pub async fn say(client: &mut Link, end: End) {
    if let End::Saying(report) = end {
        report.put_error(&mut client.outgoing);
    }
    client.farewell().await;
}
