//! How does a connection that goes over to another protocol, as WebSocket does, go on?

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

/// Passes bytes on both ways until one side ends, or the agent; `held` is given back then.
pub async fn run(
    client: OnUpgrade,
    server: OnUpgrade,
    held: impl Send,
    shutdown: CancellationToken,
) {
    let passed = async {
        let (client, server) = tokio::try_join!(client, server)?;
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        anyhow::Ok(())
    };
    tokio::select! {
        ended = passed => if let Err(error) = ended {
            tracing::debug!("a tunnel broke off: {error:#}");
        },
        () = shutdown.cancelled() => {}
    }
    drop(held);
}
