//! What does a new connection want: encryption, to cancel something, or a session?

use domicile_core::route::Caller;
use domicile_pg::startup::{self, CancelRequest, FirstPacket, PROTOCOL_MAJOR, Startup};

use super::link::Link;
use super::refusals::{self, End};
use super::{STARTUP_WAIT_MAX, Shared, session};

/// Another region's gateway says so with this startup parameter.
pub const HOP_PARAMETER: &str = "domicile.hop";
/// The value of [`HOP_PARAMETER`] that counts.
pub const HOP: &str = "1";
/// A client may ask for TLS and for GSS, each once, and then has to begin.
const ENCRYPTION_REQUESTS_MAX: usize = 2;

enum Wish {
    Cancel(CancelRequest),
    Session(Startup),
}

/// Serves one connection to its end.
pub async fn serve(mut client: Link, shared: Shared) {
    let wish = tokio::time::timeout(STARTUP_WAIT_MAX, wish(&mut client));
    let wish = tokio::select! {
        wish = wish => wish.unwrap_or_else(|_| Err(refusals::startup_too_slow())),
        () = shared.shutdown.cancelled() => Err(refusals::shutting_down()),
    };
    match wish {
        Ok(Wish::Cancel(request)) => shared.cancels.forward(&request).await,
        Ok(Wish::Session(startup)) => begin(client, startup, shared).await,
        Err(end) => say(&mut client, end).await,
    }
}

/// Tells a connection that there are too many.
pub async fn refuse(mut client: Link) {
    let wish = tokio::time::timeout(STARTUP_WAIT_MAX, wish(&mut client)).await;
    if matches!(wish, Ok(Ok(Wish::Session(_)))) {
        say(&mut client, refusals::too_many_connections()).await;
    }
}

async fn begin(mut client: Link, mut startup: Startup, shared: Shared) {
    let hop = startup.remove(HOP_PARAMETER);
    let caller = if hop.as_deref() == Some(HOP) { Caller::Peer } else { Caller::Client };
    if let Some(negotiation) = startup.settle() {
        negotiation.put(&mut client.outgoing);
    }
    session::serve(client, caller, startup, shared).await;
}

async fn wish(client: &mut Link) -> Result<Wish, End> {
    let mut encryption_requests = 0;
    loop {
        let packet = startup::take(&mut client.incoming).map_err(|e| refusals::protocol(&e))?;
        match packet {
            Some(FirstPacket::SslRequest | FirstPacket::GssEncRequest) => {
                encryption_requests += 1;
                if encryption_requests > ENCRYPTION_REQUESTS_MAX {
                    return Err(refusals::protocol(&"encryption was asked for again"));
                }
                client.outgoing.extend_from_slice(&[startup::ENCRYPTION_REFUSED]);
            }
            Some(FirstPacket::Cancel(request)) => return Ok(Wish::Cancel(request)),
            Some(FirstPacket::Startup(startup)) if startup.major == PROTOCOL_MAJOR => {
                return Ok(Wish::Session(startup));
            }
            Some(FirstPacket::Startup(startup)) => {
                return Err(refusals::unsupported_version(startup.major, startup.minor));
            }
            None if client.has_ended() => return Err(End::Quietly),
            None => client.moved().await,
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
