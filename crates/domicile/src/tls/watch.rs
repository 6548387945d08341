//! Does anybody know before a certificate ends, or when new files cannot be used?

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Ends, Files};
use crate::notices::Notices;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long before its end a certificate is spoken of.
const TOLD_BEFORE: time::Duration = time::Duration::days(30);

/// Says what is wrong with the certificate for `whom`, and what soon will be, until `shutdown`.
pub async fn watch<T: Clone + Ends>(
    files: Arc<Files<T>>,
    whom: &'static str,
    notices: Notices,
    shutdown: CancellationToken,
) {
    let mut turn = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = turn.tick() => {}
        }
        let (loaded, fault) = files.tried_again();
        let left = loaded.ends().map(|ends| ends - OffsetDateTime::now_utc());
        let part = format!("certificate for {whom}");
        match fault {
            Some(fault) => {
                let detail = format!("{fault}; what was read before still holds");
                notices.post(&part, "certificate_unusable", detail);
            }
            None => match left.filter(|left| *left < TOLD_BEFORE) {
                Some(left) => {
                    notices.post(&part, "certificate_ends", format!("for {whom}: {}", told(left)));
                }
                None => notices.clear(&part),
            },
        }
    }
}

fn told(left: time::Duration) -> String {
    let when = match left.is_positive() {
        true => format!("it ends in {} days", left.whole_days()),
        false => "it has ended, and nobody believes it".to_owned(),
    };
    format!("{when}: put a new one in its place, which is taken up without a restart")
}
