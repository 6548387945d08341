//! When does a command that serves have to stop?
//!
//! At SIGTERM or SIGINT, and without waiting for anybody at the second one; and, where it is asked to, when its standard
//! input ends: whoever started it with a pipe is gone then, however that happened.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long stopping may take when nobody watches it.
const GRACE: Duration = Duration::from_secs(5);

/// Whether to end with the one who started us.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Lifetime {
    /// End when standard input does
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

impl Lifetime {
    /// Returns a token that is cancelled when it is time to stop.
    pub(crate) fn token(self) -> anyhow::Result<CancellationToken> {
        let token = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        let signalled = token.clone();
        tokio::spawn(async move {
            let mut told = async || {
                tokio::select! {
                    _ = terminate.recv() => (),
                    _ = interrupt.recv() => (),
                }
            };
            told().await;
            signalled.cancel();
            told().await;
            tracing::warn!("told to stop once more: ending at once");
            std::process::exit(1);
        });
        if self.exit_with_stdin {
            let ended = token.clone();
            // Not a task of the runtime: it would wait for this read when it shuts down.
            std::thread::Builder::new()
                .name("stdin".to_owned())
                .spawn(move || {
                    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                    ended.cancel();
                    // Nobody is left who would kill one that does not manage to stop.
                    std::thread::sleep(GRACE);
                    std::process::exit(1);
                })
                .context("watch standard input")?;
        }
        Ok(token)
    }
}
