//! What do the calls to either directory have in common? Deadlines, connections, and what a failed
//! one means.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tonic::transport::{Endpoint, Uri};
use tonic::{Code, ConnectError, Status};

use super::client::DirectoryError;

/// Longest wait for the answer to one call.
pub const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the directory is asked for a sign of life.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long that sign may take before the connection counts as lost.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes in flight towards us, on one call and on all: a large read takes few round trips.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Returns how to connect to `address`, a `host:port` and nothing else.
pub(super) fn endpoint(scheme: &str, address: &str) -> Result<Endpoint, DirectoryError> {
    let wrong = || DirectoryError::Address { address: address.to_owned() };
    let uri: Uri = format!("{scheme}://{address}").parse().map_err(|_| wrong())?;
    let whole = uri.authority().is_some_and(|authority| authority.as_str() == address);
    if !whole || uri.port_u16().is_none() {
        return Err(wrong());
    }
    Ok(Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

pub(super) async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("no answer within {deadline:?}")))
    })
}

pub(super) fn lift_error(address: &str, status: &Status) -> DirectoryError {
    let (address, reason) = (address.to_owned(), reason(status));
    match is_refusal(status) {
        true => DirectoryError::Refused { address, reason },
        false => DirectoryError::Unreachable { address, reason },
    }
}

/// Returns whether this is an answer, and asking again gets the same one.
///
/// That a server has too much to do, or no room left, is none: it says nothing of what was asked, and whoever
/// owns something may go on without it.
pub(super) fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
    )
}

/// Returns whether there was no connection, so that nobody can have heard of the call.
pub(super) fn was_never_sent(status: &Status) -> bool {
    causes(status).iter().any(|error| error.is::<ConnectError>())
}

/// The whole story: "transport error" alone helps nobody.
fn reason(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    for error in causes(status) {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
    }
    reason
}

fn causes(status: &Status) -> Vec<&(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_and_nothing_else() {
        for address in ["", "host", "host:", "host:99999", "a:1/path", "user@a:1/", "a b:1"] {
            let error = endpoint("http", address).err();
            assert!(matches!(error, Some(DirectoryError::Address { .. })), "{address:?}");
        }
        for address in ["127.0.0.1:7000", "directory.internal:7000", "[::1]:7000"] {
            assert!(endpoint("http", address).is_ok(), "{address:?}");
        }
    }

    #[test]
    fn a_server_without_room_has_not_answered() {
        let full = Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        let lifted = lift_error("etcd-1", &full);
        assert!(matches!(lifted, DirectoryError::Unreachable { .. }), "{lifted:?}");
        let refused = lift_error("etcd-1", &Status::permission_denied("etcdserver: no"));
        assert!(matches!(refused, DirectoryError::Refused { .. }), "{refused:?}");
    }
}
