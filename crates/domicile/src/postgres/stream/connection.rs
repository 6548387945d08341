//! How is a walsender connection opened, and its messages moved?
//!
//! Speaks protocol 3.0, encrypted where the settings ask for it, and logs in by trust, cleartext, MD5 or
//! SCRAM-SHA-256, which it binds to the encrypted connection where the server offers that.
//! Exactly one authentication exchange is answered, so a server cannot ask for the password in
//! the clear after it has failed to prove that it knows it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use domicile_pg::frame::{self, Message};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{self, Config, Host};

use super::{ServerError, StreamError};
use crate::postgres::database::Database;
use crate::postgres::encryption::{Encryption, Secured};
use crate::postgres::session::{LIFT_TRANSACTION_TIMEOUT, pinned_options};

const PROTOCOL_3_0: i32 = 0x3_0000;
const PORT_DEFAULT: u16 = 5432;
const READ_BYTES: usize = 64 * 1024;

/// Until the server has proved itself, it may not make us hold more than this.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Returns how connections are made, before anything is sent.
pub fn encryption(database: &Database) -> Result<Encryption, StreamError> {
    database.encryption().map_err(|error| StreamError::Files(format!("{error:#}")))
}

/// Where a server may listen.
pub enum Address {
    Tcp {
        /// Where to connect to.
        to: String,
        port: u16,
        /// What its certificate names.
        name: String,
    },
    Unix(PathBuf),
}

impl Address {
    /// The addresses that `config` names, in its order.
    pub fn all(config: &Config) -> Vec<Self> {
        let (ports, numbers) = (config.get_ports(), config.get_hostaddrs());
        let port = |i: usize| match ports {
            [] => PORT_DEFAULT,
            [one] => *one,
            many => many.get(i).copied().unwrap_or(PORT_DEFAULT),
        };
        let address = |(i, host): (usize, &Host)| match (host, numbers.get(i)) {
            (Host::Tcp(name), number) => Self::Tcp {
                to: number.map_or_else(|| name.clone(), ToString::to_string),
                port: port(i),
                name: name.clone(),
            },
            (Host::Unix(folder), _) => Self::Unix(folder.join(format!(".s.PGSQL.{}", port(i)))),
        };
        config.get_hosts().iter().enumerate().map(address).collect()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { to, port, .. } => write!(f, "{to}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// A socket with what was read and not taken, and what was put and not sent.
pub struct Connection {
    socket: Box<dyn Socket>,
    /// What a login can be bound to, where the connection is encrypted.
    binding: Option<Vec<u8>>,
    inbox: BytesMut,
    outbox: BytesMut,
    message_bytes_max: usize,
}

impl Connection {
    pub async fn open(address: &Address, encryption: &Encryption) -> Result<Self, StreamError> {
        let failed = |source| StreamError::Connect { address: address.to_string(), source };
        let (socket, binding): (Box<dyn Socket>, _) = match address {
            Address::Tcp { to, port, name } => {
                let socket = TcpStream::connect((to.as_str(), *port)).await.map_err(failed)?;
                // A confirmation is tiny and commits wait for it.
                socket.set_nodelay(true).map_err(failed)?;
                match encryption.begin(socket, name).await.map_err(failed)? {
                    Secured::Clear(socket) => (Box::new(socket), None),
                    Secured::Encrypted(socket) => {
                        let binding = socket.binding();
                        (socket, binding)
                    }
                }
            }
            Address::Unix(path) => {
                (Box::new(UnixStream::connect(path).await.map_err(failed)?), None)
            }
        };
        let (inbox, outbox) = (BytesMut::new(), BytesMut::new());
        Ok(Self { socket, binding, inbox, outbox, message_bytes_max: LOGIN_MESSAGE_BYTES_MAX })
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
        self.socket.write_all_buf(&mut self.outbox).await?;
        // What is encrypted may still lie here.
        Ok(self.socket.flush().await?)
    }

    /// Reads what the server has sent, at least one byte. Cancel-safe.
    pub async fn receive(&mut self) -> Result<(), StreamError> {
        self.inbox.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.inbox).await {
            Ok(0) => Err(StreamError::Closed),
            // An encrypted connection of a server that died: it said no goodbye.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(StreamError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
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
        self.authenticate(user, config.get_password(), config.get_channel_binding()).await?;
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
        wanted: config::ChannelBinding,
    ) -> Result<(), StreamError> {
        let (method, mut details) = self.authentication().await?;
        if wanted == config::ChannelBinding::Require && method != SASL {
            return Err(refused("channel_binding=require, and the server asks for no SCRAM"));
        }
        let password =
            || password.ok_or_else(|| refused("server asks for a password, none is set"));
        match method {
            AUTHENTICATION_OK => return Ok(()),
            CLEARTEXT => self.put_password(password()?),
            MD5 if details.len() == 4 => {
                let salt = details.get_u32().to_be_bytes();
                self.put_password(md5_hash(user.as_bytes(), password()?, salt).as_bytes());
            }
            SASL => self.prove(password()?, &details, wanted).await?,
            _ => return Err(refused(&format!("authentication method {method} is not supported"))),
        }
        self.flush().await?;
        match self.authentication().await? {
            (AUTHENTICATION_OK, _) => Ok(()),
            (method, _) => Err(refused(&format!("server asked for method {method} after all"))),
        }
    }

    /// Shows the server that we know the password, and has it show the same.
    async fn prove(
        &mut self,
        password: &[u8],
        mechanisms: &[u8],
        wanted: config::ChannelBinding,
    ) -> Result<(), StreamError> {
        let (mechanism, binding) = choose(mechanisms, self.binding.clone(), wanted)?;
        let mut scram = ScramSha256::new(password, binding);
        let first = scram.message();
        frame::put(&mut self.outbox, b'p', |body| {
            body.put_slice(mechanism.as_bytes());
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

/// Chooses how to prove ourselves, bound to the connection where both sides can do that.
fn choose(
    offered: &[u8],
    binding: Option<Vec<u8>>,
    wanted: config::ChannelBinding,
) -> Result<(&'static str, ChannelBinding), StreamError> {
    let is_offered =
        |mechanism: &str| offered.split(|b| *b == 0).any(|n| n == mechanism.as_bytes());
    let binding = binding.filter(|_| wanted != config::ChannelBinding::Disable);
    match binding {
        Some(binding) if is_offered(SCRAM_SHA_256_PLUS) => {
            Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(binding)))
        }
        _ if wanted == config::ChannelBinding::Require => {
            Err(refused("channel_binding=require, and the server offers none"))
        }
        _ if !is_offered(SCRAM_SHA_256) => Err(refused("server offers no SCRAM-SHA-256")),
        // The server can tell whether somebody on the way has kept its better offer back.
        Some(_) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        None => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
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
        let database: Database = cluster.connection_string().parse().unwrap();
        let address = Address::all(&database.config).remove(0);
        let encryption = encryption(&database).unwrap();
        let mut connection = Connection::open(&address, &encryption).await.unwrap();
        connection.log_in(&database.config, "test", None).await.unwrap();
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
    fn a_login_is_bound_to_the_connection_where_both_sides_can() {
        use config::ChannelBinding::{Disable, Prefer, Require};
        let (both, one) =
            (&b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"[..], &b"SCRAM-SHA-256\0\0"[..]);
        let begins = |offered, binding: Option<&[u8]>, wanted| {
            let (name, binding) = choose(offered, binding.map(<[u8]>::to_vec), wanted).ok()?;
            let first = ScramSha256::new(b"secret", binding).message().to_vec();
            Some((name, String::from_utf8(first).unwrap().split(',').next().unwrap().to_owned()))
        };
        let hash = Some(&b"hash"[..]);
        for (offered, binding, wanted, expected) in [
            (both, hash, Prefer, Some((SCRAM_SHA_256_PLUS, "p=tls-server-end-point"))),
            (both, hash, Require, Some((SCRAM_SHA_256_PLUS, "p=tls-server-end-point"))),
            (both, hash, Disable, Some((SCRAM_SHA_256, "n"))),
            (one, hash, Prefer, Some((SCRAM_SHA_256, "y"))),
            (one, hash, Require, None),
            (both, None, Prefer, Some((SCRAM_SHA_256, "n"))),
            (both, None, Require, None),
            (b"OAUTHBEARER\0\0", hash, Prefer, None),
        ] {
            let expected = expected.map(|(name, flag)| (name, flag.to_owned()));
            assert_eq!(begins(offered, binding, wanted), expected, "{offered:?} {wanted:?}");
        }
    }

    #[test]
    fn each_host_goes_with_its_port() {
        let config: Config = "host=a,/run/pg port=1,2".parse().unwrap();
        let all = Address::all(&config);
        let all: Vec<_> = all.iter().map(Address::to_string).collect();
        assert_eq!(all, ["a:1", "/run/pg/.s.PGSQL.2"]);
        let config: Config = "host=a hostaddr=10.0.0.1".parse().unwrap();
        let named = &Address::all(&config)[0];
        assert_eq!(named.to_string(), "10.0.0.1:5432");
        assert!(matches!(named, Address::Tcp { name, .. } if name == "a"));
    }
}
