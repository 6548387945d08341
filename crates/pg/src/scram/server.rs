//! How does a server let a client in by the verifier that it keeps of its password?

use base64::Engine as _;
use hmac::Mac as _;
use thiserror::Error;

use super::{BASE64, MECHANISM, Overheard, Verifier, mac};

/// A login, from the client's first message on.
#[derive(Debug)]
pub struct Server<'v> {
    verifier: &'v Verifier,
    said: Overheard,
    /// What the client has said of a binding, and has to say again.
    header: &'static str,
    nonce: String,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotLetIn {
    #[error("malformed SCRAM message")]
    Malformed,
    /// To bind the login to its connection, or to be somebody else.
    #[error("the client wants what this server does not offer")]
    NotOffered,
    #[error("the client does not know the password")]
    WrongPassword,
}

impl<'v> Server<'v> {
    /// Begins with the body of a SASLInitialResponse. `nonce` is chosen at random for this login and has no comma.
    /// Returns what the server says first, too.
    pub fn begin(
        verifier: &'v Verifier,
        initial: &[u8],
        nonce: &str,
    ) -> Result<(Self, String), NotLetIn> {
        let end = initial.iter().position(|byte| *byte == 0).ok_or(NotLetIn::Malformed)?;
        let (mechanism, rest) = (&initial[..end], &initial[end + 1..]);
        if mechanism != MECHANISM.as_bytes() {
            return Err(NotLetIn::NotOffered);
        }
        let (length, message) = rest.split_first_chunk::<4>().ok_or(NotLetIn::Malformed)?;
        if usize::try_from(u32::from_be_bytes(*length)) != Ok(message.len()) {
            return Err(NotLetIn::Malformed);
        }
        let message = std::str::from_utf8(message).map_err(|_| NotLetIn::Malformed)?;
        let mut parts = message.splitn(3, ',');
        let (binding, other) = (parts.next(), parts.next());
        let bare = parts.next().ok_or(NotLetIn::Malformed)?;
        let header = match (binding, other) {
            (Some("n"), Some("")) => "n,,",
            // It could bind its login, and knows that it is not asked to.
            (Some("y"), Some("")) => "y,,",
            _ => return Err(NotLetIn::NotOffered),
        };
        // PostgreSQL goes by the name in the startup packet.
        let (_, theirs) = bare.split_once(",r=").ok_or(NotLetIn::Malformed)?;
        let theirs = theirs.split(',').next().unwrap_or_default();
        if !bare.starts_with("n=") || theirs.is_empty() || !theirs.chars().all(is_printable) {
            return Err(NotLetIn::Malformed);
        }
        let nonce = format!("{theirs}{nonce}");
        let (salt, iterations) = (BASE64.encode(&verifier.salt), verifier.iterations);
        let first = format!("r={nonce},s={salt},i={iterations}");
        let mut said = Overheard::default();
        said.client_says(initial);
        said.server_says(first.as_bytes());
        Ok((Self { verifier, said, header, nonce }, first))
    }

    /// Hears the body of the client's SASLResponse. Returns what the server says last where it lets the client in.
    pub fn finish(mut self, response: &[u8]) -> Result<String, NotLetIn> {
        let text = std::str::from_utf8(response).map_err(|_| NotLetIn::Malformed)?;
        let mut parts = text.split(',');
        let (bound, nonce) = (parts.next(), parts.next());
        let bound = bound.and_then(|part| part.strip_prefix("c=")).ok_or(NotLetIn::Malformed)?;
        let nonce = nonce.and_then(|part| part.strip_prefix("r=")).ok_or(NotLetIn::Malformed)?;
        if bound != BASE64.encode(self.header) || nonce != self.nonce {
            return Err(NotLetIn::Malformed);
        }
        self.said.client_says(response);
        self.said.keys(self.verifier).ok_or(NotLetIn::WrongPassword)?;
        let (signed, _) = self.said.signed_and_proof().ok_or(NotLetIn::Malformed)?;
        let signature = mac(&self.verifier.server, &signed).finalize().into_bytes();
        Ok(format!("v={}", BASE64.encode(signature)))
    }
}

/// As RFC 5802 has it of nonces.
fn is_printable(character: char) -> bool {
    matches!(character, '!'..='~')
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use postgres_protocol::password::scram_sha_256;
    use proptest::prelude::*;

    use super::super::Login;
    use super::*;

    fn initial(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [b"SCRAM-SHA-256\0", &length[..], message].concat()
    }

    fn verifier(password: &str) -> Verifier {
        scram_sha_256(password.as_bytes()).parse().unwrap()
    }

    proptest! {
        // Each derives keys from a password, which is meant to take long.
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// The library's client, and the library's verifier.
        #[test]
        fn who_knows_the_password_is_let_in_and_nobody_else(
            password in "[ -~]{1,20}",
            other in "[ -~]{1,20}",
            nonce in "[!-+--~]{1,30}",
            could_bind: bool,
        ) {
            let kept = verifier(&password);
            for tried in [&password, &other] {
                let binding = match could_bind {
                    true => ChannelBinding::unrequested(),
                    false => ChannelBinding::unsupported(),
                };
                let mut client = ScramSha256::new(tried.as_bytes(), binding);
                let (server, first) =
                    Server::begin(&kept, &initial(client.message()), &nonce).unwrap();
                client.update(first.as_bytes()).unwrap();
                let last = server.finish(client.message());
                if *tried == password {
                    // The client, too, wants to know with whom it speaks.
                    prop_assert!(client.finish(last.unwrap().as_bytes()).is_ok());
                } else {
                    prop_assert_eq!(last, Err(NotLetIn::WrongPassword));
                }
            }
        }
    }

    #[test]
    fn a_proof_is_of_one_login_alone() {
        let kept = verifier("pencil");
        let mut client = ScramSha256::new(b"pencil", ChannelBinding::unsupported());
        let first_of_client = initial(client.message());
        let (server, first) = Server::begin(&kept, &first_of_client, "once").unwrap();
        client.update(first.as_bytes()).unwrap();
        let proof = client.message().to_vec();
        assert!(server.finish(&proof).is_ok());
        let (server, _) = Server::begin(&kept, &first_of_client, "twice").unwrap();
        assert_eq!(server.finish(&proof), Err(NotLetIn::Malformed));
    }

    #[test]
    fn who_has_the_keys_is_let_in() {
        let kept = verifier("pencil");
        let mut client = ScramSha256::new(b"pencil", ChannelBinding::unsupported());
        let first_of_client = initial(client.message());
        let (server, first) = Server::begin(&kept, &first_of_client, "once").unwrap();
        client.update(first.as_bytes()).unwrap();
        let mut heard = Overheard::default();
        heard.client_says(&first_of_client);
        heard.server_says(first.as_bytes());
        heard.client_says(client.message());
        server.finish(client.message()).unwrap();
        let keys = heard.keys(&kept).unwrap();
        let mut login = Login::new(&keys, "nonce");
        let (server, first) =
            Server::begin(&kept, &initial(login.first().as_bytes()), "more").unwrap();
        let last = server.finish(login.answer(first.as_bytes()).unwrap().as_bytes()).unwrap();
        assert_eq!(login.finish(last.as_bytes()), Ok(()));
    }

    #[test]
    fn what_is_not_offered_or_malformed_is_refused() {
        let kept = verifier("pencil");
        for (message, why) in [
            (&b"p=tls-server-end-point,,n=,r=abc"[..], NotLetIn::NotOffered),
            (b"n,a=other,n=,r=abc", NotLetIn::NotOffered),
            (b"n,,m=x,n=,r=abc", NotLetIn::Malformed),
            (b"n,,n=,r=", NotLetIn::Malformed),
            (b"n,,n=,r=a\x07c", NotLetIn::Malformed),
            (b"n,,n=", NotLetIn::Malformed),
            (b"n,", NotLetIn::Malformed),
            (b"n,,n=,r=\xff", NotLetIn::Malformed),
        ] {
            let begun = Server::begin(&kept, &initial(message), "once");
            assert_eq!(begun.err(), Some(why), "{}", String::from_utf8_lossy(message));
        }
        let plus = [b"SCRAM-SHA-256-PLUS\0\0\0\0\x0c", &b"n,,n=,r=abcd"[..]].concat();
        assert_eq!(Server::begin(&kept, &plus, "once").err(), Some(NotLetIn::NotOffered));
        let longer = [b"SCRAM-SHA-256\0\0\0\0\x0d", &b"n,,n=,r=abcd"[..]].concat();
        assert_eq!(Server::begin(&kept, &longer, "once").err(), Some(NotLetIn::Malformed));
        for response in [
            &b""[..],
            b"c=biws,r=abconce",
            b"c=biws,r=abconce,p=AAAA",
            b"c=eSws,r=abconce,p=AAAA",
            b"c=biws,r=abcother,p=AAAA",
        ] {
            let (server, _) = Server::begin(&kept, &initial(b"n,,n=,r=abc"), "once").unwrap();
            assert!(server.finish(response).is_err(), "{}", String::from_utf8_lossy(response));
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(first: Vec<u8>, message in "[ny],,n=,r=.*", response: Vec<u8>) {
            let kept = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                        wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
            let kept: Verifier = kept.parse().unwrap();
            prop_assert!(Server::begin(&kept, &first, "once").is_err());
            if let Ok((server, _)) = Server::begin(&kept, &initial(message.as_bytes()), "once") {
                prop_assert!(server.finish(&response).is_err());
            }
        }
    }
}
