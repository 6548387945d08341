//! How is a walsender connection opened, and its messages moved?
//!
//! Speaks protocol 3.0 in plain bytes and logs in by trust, cleartext, MD5 or SCRAM-SHA-256.
//! Exactly one authentication exchange is answered, so a server cannot ask for the password in
//! the clear after it has failed to prove that it knows it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use domicile_pg::frame::{self, Message};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{self, Config, Host, SslMode};

use super::{ServerError, StreamError};
use crate::postgres::session::{LIFT_TRANSACTION_TIMEOUT, pinned_options};

const PROTOCOL_3_0: i32 = 0x3_0000;
const PORT_DEFAULT: u16 = 5432;
const READ_BYTES: usize = 64 * 1024;

/// Until the server has proved itself, it may not make us hold more than this.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Refuses what a configuration demands and this client cannot give, before anything is sent.
pub fn check(config: &Config) -> Result<(), StreamError> {
    if config.get_ssl_mode() == SslMode::Require {
        return Err(StreamError::Settings("sslmode=require, but replication speaks no TLS"));
    }
    if config.get_channel_binding() == config::ChannelBinding::Require {
        return Err(StreamError::Settings("channel_binding=require needs TLS"));
    }
    Ok(())
}

/// Where a server may listen.
pub enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Address {
    /// The addresses that `config` names, in its order.
    pub fn all(config: &Config) -> Result<Vec<Self>, StreamError> {
        let ports = config.get_ports();
        let port = |i: usize| match ports {
            [] => PORT_DEFAULT,
            [one] => *one,
            many => many.get(i).copied().unwrap_or(PORT_DEFAULT),
        };
        let host = |(i, host): (usize, &Host)| match host {
            Host::Tcp(name) => Self::Tcp(name.clone(), port(i)),
            Host::Unix(folder) => Self::Unix(folder.join(format!(".s.PGSQL.{}", port(i)))),
        };
        let address = |(i, ip): (usize, &IpAddr)| Self::Tcp(ip.to_string(), port(i));
        let numbers = config.get_hostaddrs();
        if numbers.is_empty() {
            Ok(config.get_hosts().iter().enumerate().map(host).collect())
        } else {
            Ok(numbers.iter().enumerate().map(address).collect())
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// A socket with what was read and not taken, and what was put and not sent.
pub struct Connection {
    socket: Box<dyn Socket>,
    inbox: BytesMut,
    outbox: BytesMut,
    message_bytes_max: usize,
}

impl Connection {
    pub async fn open(address: &Address) -> Result<Self, StreamError> {
        let failed = |source| StreamError::Connect { address: address.to_string(), source };
        let socket: Box<dyn Socket> = match address {
            Address::Tcp(host, port) => {
                let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                // A confirmation is tiny and commits wait for it.
                socket.set_nodelay(true).map_err(failed)?;
                Box::new(socket)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
        };
        let message_bytes_max = LOGIN_MESSAGE_BYTES_MAX;
        Ok(Self { socket, inbox: BytesMut::new(), outbox: BytesMut::new(), message_bytes_max })
    }

    /// Changes how long a message of the server may be.
    pub fn limit(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    /// What [`Self::flush`] will send.
    pub fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    /// Sends the outbox. Cancel-safe: what is not sent stays in it.
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        Ok(self.socket.write_all_buf(&mut self.outbox).await?)
    }

    /// Reads what the server has sent, at least one byte. Cancel-safe.
    pub async fn receive(&mut self) -> Result<(), StreamError> {
        self.inbox.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.inbox).await? {
            0 => Err(StreamError::Closed),
            _ => Ok(()),
        }
    }

    /// Takes the next message that says something about the stream, if it is here already.
    pub fn take(&mut self) -> Result<Option<Message>, StreamError> {
        while let Some(message) = frame::take(&mut self.inbox, self.message_bytes_max)? {
            match message.tag {
                b'E' => return Err(StreamError::Server(server_error(&message.body))),
                b'N' => tracing::debug!(notice = %server_error(&message.body), "server notice"),
                // A setting's value: those that matter are pinned.
                b'S' => {}
                _ => return Ok(Some(message)),
            }
        }
        Ok(None)
    }

    pub async fn read(&mut self) -> Result<Message, StreamError> {
        loop {
            match self.take()? {
                Some(message) => return Ok(message),
                None => self.receive().await?,
            }
        }
    }

    /// Starts a session in which the server takes replication commands.
    pub async fn log_in(
        &mut self,
        config: &Config,
        name: &str,
        decoding_memory: Option<&str>,
    ) -> Result<(), StreamError> {
        let user = config.get_user().ok_or(StreamError::Settings("no user is named"))?;
        let mut options = pinned_options(config);
        if let Some(memory) = decoding_memory {
            options += &format!(" -c logical_decoding_work_mem={memory}");
        }
        self.put_startup(&[
            ("user", user),
            ("database", config.get_dbname().unwrap_or(user)),
            ("replication", "database"),
            ("application_name", name),
            ("client_encoding", "UTF8"),
            ("options", &options),
        ])?;
        self.flush().await?;
        self.authenticate(user, config.get_password()).await?;
        loop {
            match self.read().await?.tag {
                b'K' => {}
                b'Z' => break,
                tag => return Err(StreamError::Unexpected(tag)),
            }
        }
        // Decoding a transaction is one here, however long it takes.
        self.query(LIFT_TRANSACTION_TIMEOUT).await?;
        Ok(())
    }

    /// Puts a command, or a statement, into the outbox.
    pub fn put_query(&mut self, query: &str) {
        frame::put(&mut self.outbox, b'Q', |body| {
            body.put_slice(query.as_bytes());
            body.put_u8(0);
        });
    }

    /// Runs a statement and returns the last row that it answers with, as the message's body.
    pub async fn query(&mut self, sql: &str) -> Result<Option<Bytes>, StreamError> {
        self.put_query(sql);
        self.flush().await?;
        let mut row = None;
        loop {
            let Message { tag, body } = self.read().await?;
            match tag {
                b'T' | b'C' => {}
                b'D' => row = Some(body),
                b'Z' => return Ok(row),
                tag => return Err(StreamError::Unexpected(tag)),
            }
        }
    }

    fn put_startup(&mut self, parameters: &[(&str, &str)]) -> Result<(), StreamError> {
        let mut body = BytesMut::new();
        body.put_i32(PROTOCOL_3_0);
        for text in parameters.iter().flat_map(|(name, value)| [name, value]) {
            if text.contains('\0') {
                return Err(StreamError::Settings("a value contains a zero byte"));
            }
            body.put_slice(text.as_bytes());
            body.put_u8(0);
        }
        body.put_u8(0);
        let length = u32::try_from(body.len() + 4)
            .map_err(|_| StreamError::Settings("a value is longer than a message may be"))?;
        self.outbox.put_u32(length);
        self.outbox.put(body);
        Ok(())
    }

    async fn authenticate(
        &mut self,
        user: &str,
        password: Option<&[u8]>,
    ) -> Result<(), StreamError> {
        let (method, mut details) = self.authentication().await?;
        let password =
            || password.ok_or_else(|| refused("server asks for a password, none is set"));
        match method {
            AUTHENTICATION_OK => return Ok(()),
            CLEARTEXT => self.put_password(password()?),
            MD5 if details.len() == 4 => {
                let salt = details.get_u32().to_be_bytes();
                self.put_password(md5_hash(user.as_bytes(), password()?, salt).as_bytes());
            }
            SASL => self.prove(password()?, &details).await?,
            _ => return Err(refused(&format!("authentication method {method} is not supported"))),
        }
        self.flush().await?;
        match self.authentication().await? {
            (AUTHENTICATION_OK, _) => Ok(()),
            (method, _) => Err(refused(&format!("server asked for method {method} after all"))),
        }
    }

    /// Shows the server that we know the password, and has it show the same.
    async fn prove(&mut self, password: &[u8], mechanisms: &[u8]) -> Result<(), StreamError> {
        if !mechanisms.split(|b| *b == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
            return Err(refused("server offers no SCRAM-SHA-256"));
        }
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let first = scram.message();
        frame::put(&mut self.outbox, b'p', |body| {
            body.put_slice(SCRAM_SHA_256.as_bytes());
            body.put_u8(0);
            // A nonce and a few letters.
            body.put_u32(first.len() as u32);
            body.put_slice(first);
        });
        self.flush().await?;
        let (SASL_CONTINUE, challenge) = self.authentication().await? else {
            return Err(refused("server broke off the SCRAM exchange"));
        };
        scram.update(&challenge).map_err(|error| refused(&error.to_string()))?;
        frame::put(&mut self.outbox, b'p', |body| body.put_slice(scram.message()));
        self.flush().await?;
        let (SASL_FINAL, signature) = self.authentication().await? else {
            return Err(refused("server did not prove that it knows the password"));
        };
        scram.finish(&signature).map_err(|error| refused(&error.to_string()))
    }

    fn put_password(&mut self, password: &[u8]) {
        frame::put(&mut self.outbox, b'p', |body| {
            body.put_slice(password);
            body.put_u8(0);
        });
    }

    /// Reads what the server wants next, and the details that go with it.
    async fn authentication(&mut self) -> Result<(u32, Bytes), StreamError> {
        let Message { tag, mut body } = self.read().await?;
        if tag != b'R' || body.len() < 4 {
            return Err(StreamError::Unexpected(tag));
        }
        Ok((body.get_u32(), body))
    }
}

const AUTHENTICATION_OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

fn refused(reason: &str) -> StreamError {
    StreamError::Login(reason.to_owned())
}

/// Reads an ErrorResponse or a notice; a field that is not there is empty.
fn server_error(body: &[u8]) -> ServerError {
    let field = |code: u8| {
        let mut fields = body.split(|b| *b == 0);
        let found = fields.find_map(|field| field.strip_prefix(&[code]));
        String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
    };
    ServerError {
        // 'V' is the one that is never translated.
        severity: field(b'V'),
        sqlstate: field(b'C'),
        message: field(b'M'),
        detail: field(b'D'),
        hint: field(b'H'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cluster::temporary_cluster;

    #[tokio::test]
    async fn a_walsender_outlives_the_transaction_timeout_of_its_role() {
        let (cluster, _folder) = temporary_cluster("walsender", &[]).await.unwrap();
        let role = cluster.connect().await.unwrap();
        let timeout = "DO $$ BEGIN
            IF current_setting('server_version_num')::int >= 170000 THEN
                EXECUTE format('ALTER ROLE %I SET transaction_timeout = 60000', current_user);
            END IF;
        END $$";
        role.batch_execute(timeout).await.unwrap();
        let config: Config = cluster.connection_string().parse().unwrap();
        let address = Address::all(&config).unwrap().remove(0);
        let mut connection = Connection::open(&address).await.unwrap();
        connection.log_in(&config, "test", None).await.unwrap();
        let sql = "SELECT coalesce(current_setting('transaction_timeout', true), '0')";
        let row = connection.query(sql).await.unwrap();
        assert_eq!(row.unwrap(), b"\0\x01\0\0\0\x010"[..]);
    }

    #[test]
    fn a_server_error_is_read_by_its_field_codes() {
        let body = b"SFEHLER\0VERROR\0C55006\0Mslot is active\0Ptail\0\0";
        let expected = "ERROR: slot is active (SQLSTATE 55006)";
        assert_eq!(server_error(body).to_string(), expected);
        assert_eq!(server_error(b"").sqlstate, "");
    }

    #[test]
    fn each_host_goes_with_its_port() {
        let config: Config = "host=a,/run/pg port=1,2".parse().unwrap();
        let all = Address::all(&config).unwrap();
        let all: Vec<_> = all.iter().map(Address::to_string).collect();
        assert_eq!(all, ["a:1", "/run/pg/.s.PGSQL.2"]);
    }
}
