//! May what a client has said since its session was idle be said again elsewhere?
//!
//! Nothing of a refused statement has happened, so its transaction may begin anew on another server; its
//! client must not notice. That is so as long as it has seen no more than any server would have
//! answered: that the transaction has begun, what a statement returns, but no row and no
//! result. All it said is kept that long, within bounds.

use std::collections::VecDeque;

use bytes::Bytes;
use domicile_core::route::{Redirect, Refusal};
use domicile_pg::backend::{self, tag};
use domicile_pg::frontend::tag as from_client;

use super::cut;
use super::memory::Remembered;
use super::moving::Wait;

/// Beyond this a refusal is the client's answer.
const BYTES_MAX: usize = 256 * 1024;
/// The same in messages.
const MESSAGES_MAX: usize = 1024;

/// A transaction, as long as it can begin anew.
pub struct Attempt {
    said: Vec<(u8, Bytes)>,
    bytes: usize,
    /// Ends of answers for which the client waits.
    owed: usize,
    /// What the client has been given of the answers: their tags, in order.
    given: Vec<u8>,
    /// What it has been given already, and the server is still to answer again.
    again: VecDeque<u8>,
    /// It stays where it is; there may be answers to come that the client has.
    settled: bool,
    /// Kept from the client until the server is ready.
    refusal: Option<(Refusal, Bytes)>,
    /// How it has been sent on so far.
    pub way: Option<(Redirect, Wait)>,
    /// What the session had made of itself before.
    pub before: Remembered,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is the client's.
    Given,
    /// The client has it, or is not to have it yet.
    Kept,
    /// It is the client's, and from now on the transaction stays where it is. What was kept comes first.
    Settles,
    /// Another server would have said something else before: it cannot go on.
    Differs,
}

impl Attempt {
    pub fn new(before: Remembered) -> Self {
        Self {
            said: Vec::new(),
            bytes: 0,
            owed: 0,
            given: Vec::new(),
            again: VecDeque::new(),
            settled: false,
            refusal: None,
            way: None,
            before,
        }
    }

    /// The client says one more thing. Returns whether all of it can still be said again.
    pub fn say(&mut self, tag: u8, raw: &Bytes, whole: bool) -> bool {
        if self.settled {
            return true;
        }
        self.said.push((tag, raw.clone()));
        self.bytes += raw.len();
        let ends =
            matches!(tag, from_client::QUERY | from_client::SYNC | from_client::FUNCTION_CALL);
        self.owed += usize::from(ends);
        // Who asks for what there is, before the end, has to get it.
        let asks = tag == from_client::FLUSH && self.refusal.is_some();
        whole && !asks && self.bytes <= BYTES_MAX && self.said.len() <= MESSAGES_MAX
    }

    /// Returns whether the server still owes the end of an answer. What comes behind waits for that: it
    /// must not be done before.
    pub fn is_owed(&self) -> bool {
        self.owed > 0 && !self.settled
    }

    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Nothing of it will be said again. Returns whether it is of no use any more.
    pub fn settle(&mut self) -> bool {
        self.settled = true;
        self.said.clear();
        self.again.is_empty()
    }

    /// The server has answered. `refusal` is what it says when a guard has refused.
    pub fn answer(&mut self, tag: u8, raw: &Bytes, refusal: Option<Refusal>) -> Answer {
        // These may come at any time and are no answer.
        if matches!(tag, tag::PARAMETER_STATUS | tag::NOTIFICATION_RESPONSE | tag::NOTICE_RESPONSE)
        {
            return Answer::Given;
        }
        if tag == tag::ERROR_RESPONSE {
            self.again.clear();
        }
        if let Some(expected) = self.again.pop_front() {
            return if expected == tag { Answer::Kept } else { Answer::Differs };
        }
        match (tag, refusal) {
            _ if self.settled => Answer::Settles,
            (tag::READY_FOR_QUERY, _) if self.refusal.is_some() => Answer::Kept,
            _ if self.refusal.is_some() => Answer::Settles,
            (tag::ERROR_RESPONSE, Some(refusal)) if !self.asks_for_what_there_is() => {
                self.refusal = Some((refusal, raw.clone()));
                Answer::Kept
            }
            _ if is_the_same_everywhere(tag, raw) => {
                self.owed = self.owed.saturating_sub(usize::from(tag == tag::READY_FOR_QUERY));
                self.given.push(tag);
                Answer::Given
            }
            _ => Answer::Settles,
        }
    }

    /// What was refused, once the server is ready for something else.
    pub fn take_refusal(&mut self) -> Option<(Refusal, Bytes)> {
        self.refusal.take()
    }

    /// All that was said.
    pub fn said(&self) -> &[(u8, Bytes)] {
        &self.said
    }

    /// All that was said, to be said again. What the client has been given will be kept from it.
    pub fn again(&mut self) -> &[(u8, Bytes)] {
        self.again = self.given.iter().copied().collect();
        &self.said
    }

    /// Does the client believe that it is in a transaction?
    pub fn has_begun(&self) -> bool {
        self.given.contains(&tag::READY_FOR_QUERY)
    }

    fn asks_for_what_there_is(&self) -> bool {
        self.said.last().is_some_and(|(tag, _)| *tag == from_client::FLUSH)
    }
}

/// Would every server answer this, where nothing has been refused?
fn is_the_same_everywhere(tag: u8, raw: &Bytes) -> bool {
    match tag {
        tag::PARSE_COMPLETE
        | tag::BIND_COMPLETE
        | tag::CLOSE_COMPLETE
        | tag::NO_DATA
        | tag::PARAMETER_DESCRIPTION
        | tag::ROW_DESCRIPTION
        | tag::EMPTY_QUERY_RESPONSE
        | tag::READY_FOR_QUERY => true,
        tag::COMMAND_COMPLETE => matches!(
            backend::command_complete(&cut::body(raw)),
            Ok(b"BEGIN" | b"START TRANSACTION" | b"SAVEPOINT" | b"SET")
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;

    fn raw(body: &[u8]) -> Bytes {
        [&[0; cut::HEADER_BYTES][..], body].concat().into()
    }

    fn begun(said: &[u8]) -> Attempt {
        let mut attempt = Attempt::new(Memory::default().remembered());
        for tag in said {
            assert!(attempt.say(*tag, &raw(b""), true));
        }
        attempt
    }

    fn refusal() -> Option<Refusal> {
        Refusal::read("Owner region: us, epoch: 4.")
    }

    #[test]
    fn what_every_server_answers_is_given_once() {
        let mut attempt = begun(b"Q");
        assert_eq!(attempt.answer(b'C', &raw(b"BEGIN\0"), None), Answer::Given);
        assert!(attempt.is_owed());
        assert_eq!(attempt.answer(b'Z', &raw(b"T"), None), Answer::Given);
        assert!(!attempt.is_owed() && attempt.has_begun());
        assert!(attempt.say(b'P', &raw(b""), true) && attempt.say(b'S', &raw(b""), true));
        assert_eq!(attempt.answer(b'1', &raw(b""), None), Answer::Given);
        assert_eq!(attempt.answer(b'E', &raw(b""), refusal()), Answer::Kept);
        assert_eq!(attempt.answer(b'Z', &raw(b"E"), None), Answer::Kept);
        assert!(attempt.take_refusal().is_some());
        assert_eq!(attempt.again().len(), 3);
        for (tag, body) in [(b'C', &b"BEGIN\0"[..]), (b'Z', b"T"), (b'1', b"")] {
            assert_eq!(attempt.answer(tag, &raw(body), None), Answer::Kept);
        }
        assert_eq!(attempt.answer(b'n', &raw(b""), None), Answer::Given);
        assert_eq!(attempt.answer(b'C', &raw(b"INSERT 0 1\0"), None), Answer::Settles);
    }

    #[test]
    fn a_transaction_whose_client_has_seen_something_stays() {
        for (tag, body) in [
            (b'D', &b"\0\0"[..]),
            (b'C', b"SELECT 0\0"),
            (b'C', b"INSERT 0 1\0"),
            (b'G', b""),
            (b'E', b""),
        ] {
            let mut attempt = begun(b"Q");
            assert_eq!(attempt.answer(b'T', &raw(b""), None), Answer::Given);
            assert_eq!(attempt.answer(tag, &raw(body), None), Answer::Settles, "{tag}");
        }
    }

    #[test]
    fn who_asks_for_what_there_is_gets_the_refusal() {
        let mut attempt = begun(b"PBEH");
        assert_eq!(attempt.answer(b'E', &raw(b""), refusal()), Answer::Settles);
        let mut attempt = begun(b"PBE");
        assert_eq!(attempt.answer(b'E', &raw(b""), refusal()), Answer::Kept);
        assert!(!attempt.say(b'H', &raw(b""), true));
    }

    #[test]
    fn a_server_that_answers_otherwise_is_noticed_and_one_that_refuses_too_is_heard() {
        let mut attempt = begun(b"PDS");
        assert_eq!(attempt.answer(b'1', &raw(b""), None), Answer::Given);
        assert_eq!(attempt.answer(b'T', &raw(b""), None), Answer::Given);
        assert_eq!(attempt.answer(b'E', &raw(b""), refusal()), Answer::Kept);
        assert_eq!(attempt.answer(b'Z', &raw(b"I"), None), Answer::Kept);
        attempt.take_refusal();
        attempt.again();
        assert_eq!(attempt.answer(b'1', &raw(b""), None), Answer::Kept);
        assert_eq!(attempt.answer(b'E', &raw(b""), refusal()), Answer::Kept);
        attempt.take_refusal();
        attempt.again();
        assert_eq!(attempt.answer(b'1', &raw(b""), None), Answer::Kept);
        assert_eq!(attempt.answer(b'n', &raw(b""), None), Answer::Differs);
    }

    #[test]
    fn what_is_settled_while_it_is_said_again_is_not_given_twice() {
        let mut attempt = begun(b"Q");
        attempt.answer(b'C', &raw(b"BEGIN\0"), None);
        attempt.answer(b'Z', &raw(b"T"), None);
        attempt.again();
        assert!(!attempt.settle(), "two answers are to come");
        assert!(attempt.say(b'B', &raw(b""), false) && !attempt.is_owed());
        assert_eq!(attempt.answer(b'C', &raw(b"BEGIN\0"), None), Answer::Kept);
        assert_eq!(attempt.answer(b'Z', &raw(b"T"), None), Answer::Kept);
        assert_eq!(attempt.answer(b'E', &raw(b""), refusal()), Answer::Settles);
        assert!(attempt.settle());
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut attempt = begun(b"P");
        assert!(!attempt.say(b'B', &raw(&vec![0; BYTES_MAX]), true));
        assert!(!begun(b"P").say(b'B', &raw(b""), false));
    }
}
