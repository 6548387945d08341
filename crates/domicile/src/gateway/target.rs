//! Where does a server listen, and how does one connect to it?

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use domicile_pg::startup;
use tokio::net::{TcpStream, UnixStream};

use super::link::{Link, Socket};
use super::secure::Secure;
use crate::keepalive;

/// A server that does not answer a connection request for so long is as good as gone.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);

/// An address of PostgreSQL, of an application, or of another region's gateway or door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Tcp {
        host: String,
        port: u16,
    },
    /// Another region's gateway or door.
    Gateway {
        host: String,
        port: u16,
        /// The host that its certificate names.
        named: String,
    },
    /// The socket `<dir>/.s.PGSQL.<port>`.
    Unix {
        dir: PathBuf,
        port: u16,
    },
}

impl Target {
    /// Encrypts what goes to another region, where the cluster has certificates, and what goes to PostgreSQL
    /// as its connection string says.
    pub(super) async fn connect(&self, secure: &Secure) -> io::Result<Link> {
        let connecting = async {
            Ok(match self {
                Self::Tcp { host, port } => secure.reach(tcp(host, *port).await?, host).await?,
                Self::Gateway { host, port, named } => {
                    secure.connect(tcp(host, *port).await?, named).await?
                }
                Self::Unix { dir, port } => {
                    Link::new(UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await?)
                }
            })
        };
        tokio::time::timeout(CONNECT_WAIT_MAX, connecting).await?
    }

    /// The same for whoever speaks something else than PostgreSQL over it.
    pub async fn socket(&self, secure: &Secure) -> io::Result<Box<dyn Socket>> {
        self.connect(secure).await?.take_socket().await
    }

    /// Asks for encryption, which is answered at once: by a gateway itself, by PostgreSQL before
    /// anybody logs in.
    pub async fn ask(&self) -> io::Result<()> {
        let mut link = self.connect(&Secure::default()).await?;
        startup::put_ssl_request(&mut link.outgoing);
        while link.incoming.is_empty() {
            if link.has_ended() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            link.moved().await;
        }
        Ok(())
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    keepalive::set(&stream)?;
    Ok(stream)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } | Self::Gateway { host, port, .. } => {
                write!(f, "{host}:{port}")
            }
            Self::Unix { dir, port } => write!(f, "{}:{port}", dir.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn whoever_is_connected_to_is_asked_after_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(keepalive::is_set(&tcp("127.0.0.1", port).await.unwrap()));
    }
}
