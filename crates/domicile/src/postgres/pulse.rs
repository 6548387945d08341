//! Does this region's PostgreSQL answer those who connect now, and those who are connected?
//!
//! Beside all else that the agent does there: what takes long elsewhere is no silence here. They are
//! two facts, because a postmaster that hangs leaves the sessions that stand as they are.

use std::time::Duration;

use domicile_core::pulse::{Pulse, answer_wait};
use domicile_core::time::Millis;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::session;
use crate::clock::Clock;
use crate::gateway::Target;

const BEAT: Duration = Duration::from_secs(1);
/// While nobody answers: that somebody does again is to be known soon.
const SILENT_BEAT: Duration = Duration::from_millis(100);

/// What is silent now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// Nobody who connects is answered.
    pub connecting: bool,
    /// Who is connected is not answered.
    pub connected: bool,
}

/// Who asked.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Connecting,
    Connected,
}

/// Asks again and again.
pub struct Listener {
    pub postgres: String,
    pub target: Target,
    pub clock: Clock,
    pub suspect_after: Millis,
    pub silence: watch::Sender<Silence>,
}

impl Listener {
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = futures_util::future::join(self.follow_connecting(), self.follow_connected()) => {}
        }
    }

    async fn follow_connecting(&self) {
        let mut pulse = Pulse::begin(self.clock.now());
        loop {
            // Answered before anybody logs in, by a process that the postmaster starts for it: no
            // limit on sessions is in the way, and no password.
            let asked = timeout(self.wait(), self.target.ask()).await;
            let pause = self.note(&mut pulse, matches!(asked, Ok(Ok(()))), Asked::Connecting);
            tokio::time::sleep(pause).await;
        }
    }

    async fn follow_connected(&self) {
        let (mut pulse, mut kept) = (Pulse::begin(self.clock.now()), None);
        loop {
            let answered = match timeout(self.wait(), self.ask_session(&mut kept)).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => is_refusal(&error),
                Err(_) => false,
            };
            let pause = self.note(&mut pulse, answered, Asked::Connected);
            tokio::time::sleep(pause).await;
        }
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(answer_wait(self.suspect_after).0)
    }

    /// Returns how long to wait before asking again.
    fn note(&self, pulse: &mut Pulse, answered: bool, asked: Asked) -> Duration {
        let now = self.clock.now();
        if answered {
            pulse.answered(now);
        } else {
            pulse.missed();
        }
        let is_silent = pulse.is_silent(now, self.suspect_after);
        let changed = self.silence.send_if_modified(|silence| {
            let known = match asked {
                Asked::Connecting => &mut silence.connecting,
                Asked::Connected => &mut silence.connected,
            };
            std::mem::replace(known, is_silent) != is_silent
        });
        match (changed, is_silent) {
            (true, true) => tracing::warn!(?asked, "PostgreSQL is silent"),
            (true, false) => tracing::info!(?asked, "PostgreSQL answers again"),
            (false, _) => {}
        }
        if is_silent { SILENT_BEAT } else { BEAT }
    }

    /// A session that does not answer is kept: when it does, it was not gone.
    async fn ask_session(&self, kept: &mut Option<Client>) -> anyhow::Result<()> {
        if kept.as_ref().is_none_or(Client::is_closed) {
            *kept = Some(session::connect(&self.postgres, "domicile pulse").await?);
        }
        if let Some(client) = kept {
            client.batch_execute("SELECT 1").await?;
        }
        Ok(())
    }
}

/// A server that has too many sessions, or that starts, says so: that is an answer.
fn is_refusal(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<tokio_postgres::Error>();
    error.is_some_and(|error| error.as_db_error().is_some())
}
