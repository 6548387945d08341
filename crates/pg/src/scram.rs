//! How does who saw a client log in log in elsewhere as that client, without its password? And how does who keeps
//! its verifier let it in?
//!
//! SCRAM-SHA-256 (RFC 5802, RFC 7677). What a client proves is that it knows the key which is hidden in
//! its proof behind a signature. Who reads along and has what the server keeps of that client, its
//! verifier, can make the signature, and so has the key. That opens every server that keeps the
//! same verifier, salt and iterations included, and no other.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

mod server;

pub use server::{NotLetIn, Server};

/// The mechanism that is spoken here, as SASL names it.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// The same, bound to the connection.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

const KEY_BYTES: usize = 32;
/// SCRAM's messages, of which these are read, are short; PostgreSQL takes none that is longer.
const MESSAGE_BYTES_MAX: usize = 1024;
/// No binding to the connection, which is not asked for either; nobody else to be.
const NO_BINDING: &str = "n,,";

type Key = Zeroizing<[u8; KEY_BYTES]>;

/// What PostgreSQL keeps of a password (`pg_authid.rolpassword`).
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored: Key,
    server: Key,
}

/// It is not of the form `SCRAM-SHA-256$iterations:salt$stored:server`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it is no verifier of SCRAM-SHA-256")]
pub struct NoVerifier;

impl FromStr for Verifier {
    type Err = NoVerifier;

    fn from_str(text: &str) -> Result<Self, NoVerifier> {
        let read = || {
            let (mechanism, rest) = text.split_once('$')?;
            let (how, keys) = rest.split_once('$')?;
            let (iterations, salt) = how.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            let verifier = Self {
                iterations: iterations.parse().ok()?,
                salt: BASE64.decode(salt).ok()?,
                stored: read_key(stored.as_bytes())?,
                server: read_key(server.as_bytes())?,
            };
            (mechanism == MECHANISM).then_some(verifier)
        };
        read().ok_or(NoVerifier)
    }
}

impl fmt::Debug for Verifier {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// What a client and its server said to each other while it logged in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Overheard {
    client_first: Vec<u8>,
    server_first: Vec<u8>,
    client_final: Vec<u8>,
}

impl Overheard {
    /// The client said this: the body of a SASLInitialResponse, or of a SASLResponse.
    pub fn client_says(&mut self, body: &[u8]) {
        if self.client_first.is_empty() {
            let end = body.iter().position(|byte| *byte == 0);
            // Behind the name of the mechanism stands how long the message is.
            let message = end.and_then(|end| body.get(end + 1 + 4..)).unwrap_or_default();
            self.client_first = short(message);
        } else if self.client_final.is_empty() {
            self.client_final = short(body);
        }
    }

    /// The server said this, in an AuthenticationSASLContinue.
    pub fn server_says(&mut self, message: &[u8]) {
        if self.server_first.is_empty() {
            self.server_first = short(message);
        }
    }

    /// Was this a login by `verifier`, as far as the server told?
    pub fn is_by(&self, verifier: &Verifier) -> bool {
        ServerFirst::read(&self.server_first).is_some_and(|said| said.asks_for(verifier))
    }

    /// Returns the keys of a client that has logged in; `None` when it did so otherwise than by this
    /// verifier.
    pub fn keys(&self, verifier: &Verifier) -> Option<Keys> {
        let (signed, proof) = self.signed_and_proof()?;
        let client = xor(&read_key(proof)?, &sign(&verifier.stored, &signed));
        let is_theirs = hash(&client) == verifier.stored && self.is_by(verifier);
        is_theirs.then(|| Keys { client, verifier: verifier.clone() })
    }

    /// What both sign, and what the client proves by that.
    fn signed_and_proof(&self) -> Option<(Vec<u8>, &[u8])> {
        // Behind two commas stands what SCRAM signs.
        let bare = self.client_first.splitn(3, |byte| *byte == b',').nth(2)?;
        let proof_at = find(&self.client_final, b",p=")?;
        let (unproved, proof) = self.client_final.split_at(proof_at);
        Some(([bare, &self.server_first, unproved].join(&b','), &proof[3..]))
    }
}

impl fmt::Debug for Overheard {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overheard").finish_non_exhaustive()
    }
}

/// A message, or nothing of one that is none of SCRAM.
fn short(message: &[u8]) -> Vec<u8> {
    if message.len() <= MESSAGE_BYTES_MAX { message.to_vec() } else { Vec::new() }
}

/// What opens servers that keep the same verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    client: Key,
    verifier: Verifier,
}

impl Keys {
    /// Returns whether they open servers that keep `verifier`.
    pub fn are_of(&self, verifier: &Verifier) -> bool {
        self.verifier == *verifier
    }
}

impl fmt::Debug for Keys {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// Why a login did not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LoginError {
    #[error("what the server says is not SCRAM")]
    Malformed,
    /// Its salt, or its iterations, are not those of the keys.
    #[error("the server keeps another verifier of this password")]
    OtherVerifier,
    #[error("the server does not know the verifier itself")]
    NotTheServer,
}

/// A login that goes on.
#[derive(Debug)]
pub struct Login<'k> {
    keys: &'k Keys,
    bare: String,
    /// What the server has to say at the end.
    signature: Option<Hmac<Sha256>>,
}

impl<'k> Login<'k> {
    /// Begins one. `nonce` is chosen at random for this one and has no comma.
    pub fn new(keys: &'k Keys, nonce: &str) -> Self {
        // PostgreSQL goes by the name in the startup packet.
        Self { keys, bare: format!("n=,r={nonce}"), signature: None }
    }

    /// The client's first message.
    pub fn first(&self) -> String {
        format!("{NO_BINDING}{}", self.bare)
    }

    /// Returns the client's answer to the server's first message.
    pub fn answer(&mut self, server_first: &[u8]) -> Result<String, LoginError> {
        let said = ServerFirst::read(server_first).ok_or(LoginError::Malformed)?;
        let ours = self.bare.split_once("r=").map_or("", |(_, nonce)| nonce);
        if !said.nonce.starts_with(ours) || said.nonce.len() == ours.len() {
            return Err(LoginError::Malformed);
        }
        let Keys { client, verifier } = self.keys;
        if !said.asks_for(verifier) {
            return Err(LoginError::OtherVerifier);
        }
        let unproved = format!("c={},r={}", BASE64.encode(NO_BINDING), said.nonce);
        let signed = [self.bare.as_bytes(), server_first, unproved.as_bytes()].join(&b',');
        let proof = xor(client, &sign(&verifier.stored, &signed));
        self.signature = Some(mac(&verifier.server, &signed));
        Ok(format!("{unproved},p={}", BASE64.encode(*proof)))
    }

    /// Holds the server's last message against what only a server with this verifier can say.
    pub fn finish(self, server_final: &[u8]) -> Result<(), LoginError> {
        let signature = server_final.strip_prefix(b"v=").and_then(|text| BASE64.decode(text).ok());
        let signature = signature.ok_or(LoginError::Malformed)?;
        let expected = self.signature.ok_or(LoginError::Malformed)?;
        expected.verify_slice(&signature).map_err(|_| LoginError::NotTheServer)
    }
}

/// The server's first message.
struct ServerFirst<'m> {
    nonce: &'m str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'m> ServerFirst<'m> {
    fn read(message: &'m [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(message).ok()?.split(',');
        let nonce = parts.next()?.strip_prefix("r=")?;
        let salt = BASE64.decode(parts.next()?.strip_prefix("s=")?).ok()?;
        let iterations = parts.next()?.strip_prefix("i=")?.parse().ok()?;
        Some(Self { nonce, salt, iterations })
    }

    fn asks_for(&self, verifier: &Verifier) -> bool {
        self.salt == verifier.salt && self.iterations == verifier.iterations
    }
}

fn read_key(text: &[u8]) -> Option<Key> {
    let bytes = Zeroizing::new(BASE64.decode(text).ok()?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

fn mac(key: &Key, said: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.as_slice()).expect("a key of any length will do");
    mac.update(said);
    mac
}

fn sign(key: &Key, said: &[u8]) -> Key {
    Zeroizing::new(mac(key, said).finalize().into_bytes().into())
}

fn hash(key: &Key) -> Key {
    Zeroizing::new(Sha256::digest(key.as_slice()).into())
}

fn xor(one: &Key, other: &Key) -> Key {
    let mut both = one.clone();
    both.iter_mut().zip(other.iter()).for_each(|(byte, other)| *byte ^= other);
    both
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).rposition(|window| window == part)
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use postgres_protocol::password::scram_sha_256;
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    /// The exchange of RFC 7677, section 3; its password is "pencil".
    const CLIENT_FIRST: &[u8] = b"SCRAM-SHA-256\0\0\0\0\x20n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                  s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                  p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    /// As PostgreSQL keeps "pencil" with that salt: made by its own algorithm, not by this file's.
    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                            WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                            wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn overheard(client_first: &[u8], server_first: &[u8], client_final: &[u8]) -> Overheard {
        let mut overheard = Overheard::default();
        overheard.client_says(client_first);
        overheard.server_says(server_first);
        overheard.client_says(client_final);
        overheard
    }

    fn pencil() -> Keys {
        let verifier = VERIFIER.parse().unwrap();
        overheard(CLIENT_FIRST, SERVER_FIRST, CLIENT_FINAL).keys(&verifier).unwrap()
    }

    #[test]
    fn the_exchange_of_the_standard_yields_the_keys_of_its_password() {
        let keys = pencil();
        let mut client = ScramSha256::new(b"pencil", ChannelBinding::unsupported());
        let first = String::from_utf8(client.message().to_vec()).unwrap();
        let nonce = first.split_once("r=").unwrap().1;
        let mut login = Login::new(&keys, nonce);
        assert_eq!(login.first(), first);
        let server = format!("r={nonce}more,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        client.update(server.as_bytes()).unwrap();
        assert_eq!(login.answer(server.as_bytes()).unwrap().as_bytes(), client.message());
    }

    #[test]
    fn a_server_must_know_the_verifier_too() {
        let keys = pencil();
        let login = || {
            let mut login = Login::new(&keys, NONCE);
            login.answer(SERVER_FIRST).unwrap();
            login
        };
        let Keys { verifier, .. } = &keys;
        let unproved = format!(
            "c=biws,{}",
            std::str::from_utf8(SERVER_FIRST).unwrap().split(',').next().unwrap()
        );
        let said = [b"n=,r=rOprNGfwEbeRWgbNEkqO", SERVER_FIRST, unproved.as_bytes()].join(&b',');
        let right = format!("v={}", BASE64.encode(*sign(&verifier.server, &said)));
        assert_eq!(login().finish(right.as_bytes()), Ok(()));
        let wrong = format!("v={}", BASE64.encode([7; KEY_BYTES]));
        assert_eq!(login().finish(wrong.as_bytes()), Err(LoginError::NotTheServer));
        assert_eq!(login().finish(b"v=AAAA"), Err(LoginError::NotTheServer));
        assert_eq!(login().finish(b"e=other-error"), Err(LoginError::Malformed));
        let unasked = Login::new(&keys, NONCE);
        assert_eq!(unasked.finish(right.as_bytes()), Err(LoginError::Malformed));
    }

    #[test]
    fn keys_open_no_server_with_another_verifier() {
        let keys = pencil();
        for (server, error) in [
            ("r=rOprNGfwEbeRWgbNEkqO%,s=AAAA,i=4096", LoginError::OtherVerifier),
            (
                "r=rOprNGfwEbeRWgbNEkqO%,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=8192",
                LoginError::OtherVerifier,
            ),
            ("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", LoginError::Malformed),
            ("r=other%,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", LoginError::Malformed),
            ("e=unknown-user", LoginError::Malformed),
            ("", LoginError::Malformed),
        ] {
            let answer = Login::new(&keys, NONCE).answer(server.as_bytes());
            assert_eq!(answer, Err(error), "{server}");
        }
    }

    #[test]
    fn who_logs_in_otherwise_has_no_keys() {
        let verifier: Verifier = VERIFIER.parse().unwrap();
        let forged = CLIENT_FINAL.to_ascii_uppercase();
        assert_eq!(overheard(CLIENT_FIRST, SERVER_FIRST, &forged).keys(&verifier), None);
        assert_eq!(overheard(CLIENT_FIRST, SERVER_FIRST, b"").keys(&verifier), None);
        // A password in the clear, as a client sends it.
        assert_eq!(overheard(b"pencil\0", b"", b"").keys(&verifier), None);
        let other: Verifier = VERIFIER.replace("4096", "4097").parse().unwrap();
        let exchange = overheard(CLIENT_FIRST, SERVER_FIRST, CLIENT_FINAL);
        assert!(exchange.is_by(&verifier) && !exchange.is_by(&other));
        assert_eq!(exchange.keys(&other), None);
    }

    #[test]
    fn only_what_postgresql_keeps_is_a_verifier() {
        for text in [
            "",
            "md5c3b2f4f4e1f1d5a1e1e1e1e1e1e1e1e1",
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==",
            "SCRAM-SHA-256$x:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
            &VERIFIER.replace("256", "512"),
        ] {
            assert_eq!(text.parse::<Verifier>(), Err(NoVerifier), "{text}");
        }
        let shown = format!("{:?} {:?}", VERIFIER.parse::<Verifier>().unwrap(), pencil());
        assert_eq!(shown, "Verifier { iterations: 4096, .. } Keys { .. }");
    }

    proptest! {
        // Each derives keys from a password twice, which is meant to take long.
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// The library's client, and the library's verifier.
        #[test]
        fn keys_answer_as_the_password_would(password in "[ -~]{1,20}", nonce in "[!-+--~]{1,30}") {
            let kept = scram_sha_256(password.as_bytes());
            let verifier: Verifier = kept.parse().unwrap();
            let salt = BASE64.encode(&verifier.salt);
            let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
            let first = client.message().to_vec();
            let theirs = std::str::from_utf8(&first).unwrap().split_once("r=").unwrap().1.to_owned();
            let server = format!("r={theirs}{nonce},s={salt},i={}", verifier.iterations);
            client.update(server.as_bytes()).unwrap();

            let initial = [b"SCRAM-SHA-256\0\0\0\0\x20", first.as_slice()].concat();
            let keys = overheard(&initial, server.as_bytes(), client.message());
            let keys = keys.keys(&verifier).unwrap();
            let mut login = Login::new(&keys, &theirs);
            prop_assert_eq!(login.answer(server.as_bytes()).unwrap().into_bytes(), client.message());
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(one: Vec<u8>, two: Vec<u8>, three: Vec<u8>) {
            let verifier: Verifier = VERIFIER.parse().unwrap();
            prop_assert_eq!(overheard(&one, &two, &three).keys(&verifier), None);
            let keys = pencil();
            let mut login = Login::new(&keys, NONCE);
            prop_assert!(login.answer(&two).is_err());
            prop_assert!(login.finish(&three).is_err());
        }
    }
}
