//! Where does the conversation with the server stand: what was asked and is not answered yet?
//!
//! Every message that has an answer of its own stands in a queue until that answer comes, so the
//! session knows when it is idle, which is the only moment when it may move to another server.

use std::collections::VecDeque;

use bytes::Bytes;
use domicile_pg::backend::{self, TransactionStatus};
use domicile_pg::frontend::{self, Frontend, Named, tag as client};

use super::cut;
use super::memory::{Change, Memory};

/// No more is taken from the client while so much is unanswered. More than a server answers
/// before it sends anything, so that nobody waits for each other.
const UNANSWERED_MAX: usize = 16_384;
/// Changes of so many bytes may wait for the server's word; beyond, the session is bound.
const HELD_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug)]
enum Asked {
    /// A simple query, a function call or the startup: answered by ReadyForQuery.
    Simple(Option<Change>),
    /// Answered by ReadyForQuery.
    Sync,
    /// Answered by ParseComplete.
    Parse(Option<Change>),
    /// Answered by BindComplete.
    Bind(Option<Change>),
    /// Answered by CloseComplete.
    Close(Option<Change>),
    /// The gateway's own: answered by a message of this kind, of which the client hears nothing.
    Quiet(u8),
}

impl Asked {
    /// Is it skipped after an error?
    fn is_extended(&self) -> bool {
        matches!(self, Self::Parse(_) | Self::Bind(_) | Self::Close(_) | Self::Quiet(_))
    }
}

/// The state of one conversation.
#[derive(Debug)]
pub struct Track {
    status: TransactionStatus,
    asked: VecDeque<Asked>,
    held_bytes: usize,
    /// Extended messages were sent since the last Sync.
    unsynced: bool,
    /// The server reads COPY data.
    copying: bool,
    /// An error came since the last ReadyForQuery.
    failed: bool,
    /// The last statement that completed was a ROLLBACK, or a COMMIT that could only roll back.
    rolled_back: bool,
    committed: bool,
    /// Something that was to be prepared was passed over behind an error.
    skipped: bool,
}

impl Track {
    /// Begins a conversation whose startup is under way.
    pub fn starting() -> Self {
        Self {
            status: TransactionStatus::Idle,
            asked: VecDeque::from([Asked::Simple(None)]),
            held_bytes: 0,
            unsynced: false,
            copying: false,
            failed: false,
            rolled_back: false,
            committed: false,
            skipped: false,
        }
    }

    /// What was asked is to be asked anew, of another server.
    pub fn restart(&mut self) {
        *self = Self { asked: VecDeque::new(), ..Self::starting() };
    }

    /// Returns whether nothing was asked that is not answered.
    pub fn is_quiet(&self) -> bool {
        self.asked.is_empty() && !self.unsynced
    }

    /// Returns whether a transaction is open, as the server said last.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Returns whether the server has to answer before it is known if a transaction is open.
    pub fn awaits_end(&self) -> bool {
        !self.asked.is_empty() && !self.unsynced && !self.copying
    }

    /// Returns whether the session may move: nothing is asked and no transaction is open.
    pub fn is_idle(&self) -> bool {
        self.is_quiet() && self.status == TransactionStatus::Idle
    }

    pub fn is_full(&self) -> bool {
        self.asked.len() >= UNANSWERED_MAX
    }

    /// Returns whether the server waits for the client rather than the client for the server.
    pub fn needs_client(&self) -> bool {
        self.copying || self.unsynced || self.asked.is_empty()
    }

    /// A message went to the server; `raw` is all of it or, for a large one, its beginning.
    pub fn sent(&mut self, tag: u8, raw: &Bytes, memory: &mut Memory) {
        let body = cut::body(raw);
        match frontend::read(tag, &body) {
            Ok(Frontend::Query(sql)) => {
                let change = Change::of_query(sql, raw);
                self.ask(memory, change, Asked::Simple);
            }
            Ok(Frontend::Parse { statement, sql }) => {
                self.unsynced = true;
                let name = body.slice_ref(statement);
                memory.prepares(name.clone(), Change::of_prepared(sql));
                let named = !name.is_empty();
                let change = named.then(|| Change::Prepare { name, raw: raw.clone() });
                self.ask(memory, change, Asked::Parse);
            }
            Ok(Frontend::Close(closed)) => {
                self.unsynced = true;
                let change = match closed {
                    Named::Statement(name) => {
                        let name = body.slice_ref(name);
                        memory.prepares(name.clone(), None);
                        Some(Change::Forget { name })
                    }
                    Named::Portal(_) => None,
                };
                self.ask(memory, change, Asked::Close);
            }
            // Of a large message only the beginning is here: what the rest sets is not known.
            Err(_) if tag == client::QUERY => {
                memory.bind();
                self.ask(memory, None, Asked::Simple);
            }
            Err(_) if tag == client::PARSE => {
                self.unsynced = true;
                memory.bind();
                self.ask(memory, None, Asked::Parse);
            }
            Ok(Frontend::FunctionCall) => self.ask(memory, None, Asked::Simple),
            // In the middle of COPY the server skips it, for drivers that send it at once.
            Ok(Frontend::Sync) if self.copying => {}
            Ok(Frontend::Sync) => {
                self.unsynced = false;
                self.asked.push_back(Asked::Sync);
            }
            Ok(Frontend::CopyDone | Frontend::CopyFail) => self.copying = false,
            Ok(Frontend::Bind { statement, .. }) => {
                self.unsynced = true;
                self.ask(memory, memory.sets(statement), Asked::Bind);
            }
            Ok(Frontend::Execute { .. } | Frontend::Describe(_)) => self.unsynced = true,
            Ok(Frontend::Flush | Frontend::CopyData | Frontend::Password | Frontend::Terminate) => {
            }
            Err(_) => self.unsynced |= matches!(tag, client::BIND | client::EXECUTE),
        }
    }

    /// The gateway asks something for itself, which is answered by a message of this kind.
    pub fn sent_quietly(&mut self, answer: u8) {
        self.asked.push_back(Asked::Quiet(answer));
    }

    /// Returns whether a message from the server answers what the gateway asked for itself.
    pub fn answers_quietly(&mut self, tag: u8) -> bool {
        let answers = matches!(self.asked.front(), Some(Asked::Quiet(answer)) if *answer == tag);
        if answers {
            self.asked.pop_front();
        }
        answers
    }

    /// Returns whether something is to be prepared that may fail.
    pub fn is_preparing(&self) -> bool {
        let prepares = |asked: &Asked| matches!(asked, Asked::Parse(_) | Asked::Quiet(_));
        self.asked.iter().any(prepares)
    }

    /// Returns what the name of a prepared statement will mean once all that was asked is answered: its Parse,
    /// whole as on the wire.
    pub fn prepared<'a>(&'a self, name: &[u8], memory: &'a Memory) -> Option<&'a Bytes> {
        let asked = self.asked.iter().rev().find_map(|asked| match asked {
            Asked::Parse(Some(Change::Prepare { name: prepared, raw })) if prepared == name => {
                Some(Some(raw))
            }
            Asked::Close(Some(Change::Forget { name: closed })) if closed == name => Some(None),
            _ => None,
        });
        asked.unwrap_or_else(|| memory.prepared().get(name))
    }

    /// A message came from the server.
    pub fn received(&mut self, tag: u8, raw: &Bytes, memory: &mut Memory) {
        match tag {
            backend::tag::READY_FOR_QUERY => self.ready(&cut::body(raw), memory),
            backend::tag::ERROR_RESPONSE => self.error(),
            backend::tag::COMMAND_COMPLETE => {
                let body = cut::body(raw);
                let tag = backend::command_complete(&body);
                self.rolled_back = matches!(tag, Ok(b"ROLLBACK"));
                self.committed = matches!(tag, Ok(b"COMMIT"));
            }
            backend::tag::COPY_IN_RESPONSE => {
                self.copying = true;
                match self.asked.front() {
                    Some(Asked::Simple(_)) => {}
                    // The server skips the Sync that is on its way and wants another one.
                    Some(Asked::Sync) => {
                        self.asked.pop_front();
                        self.unsynced = true;
                    }
                    Some(Asked::Parse(_) | Asked::Bind(_) | Asked::Close(_) | Asked::Quiet(_))
                    | None => self.unsynced = true,
                }
            }
            backend::tag::PARSE_COMPLETE if matches!(self.asked.front(), Some(Asked::Parse(_))) => {
                self.answered(memory);
            }
            backend::tag::BIND_COMPLETE if matches!(self.asked.front(), Some(Asked::Bind(_))) => {
                self.answered(memory);
            }
            backend::tag::CLOSE_COMPLETE if matches!(self.asked.front(), Some(Asked::Close(_))) => {
                self.answered(memory);
            }
            _ => {}
        }
    }

    fn ask(
        &mut self,
        memory: &mut Memory,
        change: Option<Change>,
        asked: impl FnOnce(Option<Change>) -> Asked,
    ) {
        let bytes = change.as_ref().map_or(0, Change::bytes);
        let held_bytes = self.held_bytes + bytes;
        let fits = held_bytes <= HELD_BYTES_MAX && memory.has_room(held_bytes);
        if fits {
            self.held_bytes += bytes;
        } else {
            memory.bind();
        }
        self.asked.push_back(asked(change.filter(|_| fits)));
    }

    fn take(&mut self) -> Option<Asked> {
        let asked = self.asked.pop_front()?;
        if let Asked::Simple(Some(change))
        | Asked::Parse(Some(change))
        | Asked::Bind(Some(change))
        | Asked::Close(Some(change)) = &asked
        {
            self.held_bytes -= change.bytes();
        }
        Some(asked)
    }

    fn answered(&mut self, memory: &mut Memory) {
        if let Some(
            Asked::Parse(Some(change)) | Asked::Bind(Some(change)) | Asked::Close(Some(change)),
        ) = self.take()
        {
            memory.agreed(change);
        }
    }

    /// After an error the server skips everything up to the next Sync.
    fn error(&mut self) {
        (self.failed, self.copying) = (true, false);
        self.skip();
    }

    fn skip(&mut self) {
        while self.asked.front().is_some_and(Asked::is_extended) {
            let asked = self.take();
            let prepares = matches!(asked, Some(Asked::Parse(_) | Asked::Quiet(_)));
            self.skipped |= self.failed && prepares;
        }
    }

    /// Returns whether something that was to be prepared was passed over since this was asked last.
    pub fn takes_skipped(&mut self) -> bool {
        std::mem::take(&mut self.skipped)
    }

    fn ready(&mut self, body: &[u8], memory: &mut Memory) {
        self.copying = false;
        self.status = backend::ready_for_query(body).unwrap_or(TransactionStatus::Failed);
        self.skip();
        if let Some(Asked::Simple(Some(change))) = self.take()
            && !self.failed
        {
            memory.agreed(change);
        }
        if self.status == TransactionStatus::Idle {
            if self.failed || self.rolled_back {
                memory.rolled_back();
            } else {
                memory.committed();
            }
        } else if self.committed && !self.failed {
            // AND CHAIN: the next one has begun.
            memory.committed();
        } else if self.rolled_back && memory.is_open() {
            // To a savepoint, or AND CHAIN: which of the settings are left is not followed.
            memory.bind();
        }
        (self.failed, self.rolled_back, self.committed) = (false, false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Talk {
        track: Track,
        memory: Memory,
    }

    impl Talk {
        fn begun() -> Self {
            let mut talk = Self { track: Track::starting(), memory: Memory::default() };
            assert!(!talk.track.is_idle());
            talk.receive(b'Z', b"I");
            talk
        }

        fn raw(body: &[u8]) -> Bytes {
            [&[0; cut::HEADER_BYTES][..], body].concat().into()
        }

        fn send(&mut self, tag: u8, body: &[u8]) {
            self.track.sent(tag, &Self::raw(body), &mut self.memory);
        }

        fn receive(&mut self, tag: u8, body: &[u8]) {
            self.track.received(tag, &Self::raw(body), &mut self.memory);
        }

        fn prepared(&self) -> usize {
            self.memory.prepared().len()
        }
    }

    /// Settings that are made, or not, by ends of transactions that are none.
    #[test]
    fn what_a_savepoint_or_a_chain_leaves_of_settings_is_known_or_held_to() {
        let set = |talk: &mut Talk| {
            for (sql, tag) in [(&b"BEGIN\0"[..], &b"BEGIN\0"[..]), (b"SET a = 'b'\0", b"SET\0")] {
                talk.send(b'Q', sql);
                talk.receive(b'C', tag);
                talk.receive(b'Z', b"T");
            }
        };
        let mut undone = Talk::begun();
        set(&mut undone);
        undone.send(b'Q', b"ROLLBACK TO s\0");
        undone.receive(b'C', b"ROLLBACK\0");
        undone.receive(b'Z', b"T");
        assert!(undone.memory.is_bound(), "whether it was set behind s is not followed");
        let mut chained = Talk::begun();
        set(&mut chained);
        let before = chained.memory.settings_version();
        chained.send(b'Q', b"COMMIT AND CHAIN\0");
        chained.receive(b'C', b"COMMIT\0");
        chained.receive(b'Z', b"T");
        chained.send(b'Q', b"ROLLBACK\0");
        chained.receive(b'C', b"ROLLBACK\0");
        chained.receive(b'Z', b"I");
        assert!(!chained.memory.is_bound() && chained.memory.settings_version() > before);
    }

    #[test]
    fn a_session_is_idle_when_every_query_has_its_answer() {
        let mut talk = Talk::begun();
        assert!(talk.track.is_idle());
        talk.send(b'Q', b"SELECT 1\0");
        talk.send(b'Q', b"BEGIN\0");
        talk.receive(b'Z', b"I");
        assert!(!talk.track.is_idle());
        talk.receive(b'Z', b"T");
        assert!(talk.track.is_quiet() && !talk.track.is_idle());
    }

    #[test]
    fn extended_messages_without_a_sync_are_unanswered() {
        let mut talk = Talk::begun();
        talk.send(b'B', b"\0\0\0\0\0\0\0\0");
        talk.send(b'E', b"\0\0\0\0\0");
        assert!(!talk.track.is_idle());
        talk.send(b'S', b"");
        assert!(!talk.track.is_idle());
        talk.receive(b'Z', b"I");
        assert!(talk.track.is_idle());
    }

    #[test]
    fn the_sync_that_copy_skips_is_not_waited_for() {
        let mut talk = Talk::begun();
        talk.send(b'B', b"\0\0\0\0\0\0\0\0");
        talk.send(b'E', b"\0\0\0\0\0");
        talk.send(b'S', b"");
        talk.receive(b'2', b"");
        talk.receive(b'G', b"");
        assert!(!talk.track.is_quiet());
        talk.send(b'd', b"1\n");
        talk.send(b'c', b"");
        talk.send(b'S', b"");
        assert!(!talk.track.is_quiet());
        talk.receive(b'Z', b"I");
        assert!(talk.track.is_idle());
    }

    #[test]
    fn a_statement_counts_as_prepared_when_the_server_says_so() {
        let mut talk = Talk::begun();
        talk.send(b'P', b"s1\0SELECT 1\0\0\0");
        talk.send(b'S', b"");
        assert_eq!(talk.prepared(), 0);
        talk.receive(b'1', b"");
        talk.receive(b'Z', b"I");
        assert_eq!(talk.prepared(), 1);
        talk.send(b'C', b"Ss1\0");
        talk.send(b'S', b"");
        talk.receive(b'3', b"");
        talk.receive(b'Z', b"I");
        assert_eq!((talk.prepared(), talk.track.held_bytes), (0, 0));
    }

    #[test]
    fn a_statement_that_failed_to_parse_is_not_prepared() {
        let mut talk = Talk::begun();
        talk.send(b'P', b"s1\0SELEKT\0\0\0");
        talk.send(b'P', b"s2\0SELECT 1\0\0\0");
        talk.send(b'S', b"");
        talk.send(b'P', b"s3\0SELECT 1\0\0\0");
        talk.send(b'S', b"");
        talk.receive(b'E', b"\0");
        talk.receive(b'Z', b"I");
        talk.receive(b'1', b"");
        talk.receive(b'Z', b"I");
        assert_eq!(talk.prepared(), 1);
        assert!(talk.track.is_idle());
    }

    #[test]
    fn a_setting_counts_when_its_transaction_commits() {
        for (end, kept) in [(&b"COMMIT\0"[..], 1), (b"ROLLBACK\0", 0)] {
            let mut talk = Talk::begun();
            for (sql, tag, status) in [
                (&b"BEGIN\0"[..], &b"BEGIN\0"[..], b"T"),
                (b"SET a = 1\0", b"SET\0", b"T"),
                (end, end, b"I"),
            ] {
                talk.send(b'Q', sql);
                talk.receive(b'C', tag);
                talk.receive(b'Z', status);
            }
            assert_eq!(talk.memory.settings().count(), kept);
        }
    }

    #[test]
    fn a_setting_of_a_prepared_statement_counts_whenever_that_is_executed() {
        let mut talk = Talk::begun();
        talk.send(b'P', b"s1\0SET a = 1\0\0\0");
        talk.send(b'S', b"");
        talk.receive(b'1', b"");
        talk.receive(b'Z', b"I");
        assert_eq!((talk.memory.settings().count(), talk.memory.is_bound()), (0, false));
        for (answer, kept) in [(b'E', 0), (b'C', 1)] {
            talk.send(b'B', b"\0s1\0\0\0\0\0\0\0");
            talk.send(b'E', b"\0\0\0\0\0");
            talk.send(b'S', b"");
            talk.receive(b'2', b"");
            talk.receive(answer, b"SET\0");
            talk.receive(b'Z', b"I");
            assert_eq!(talk.memory.settings().count(), kept);
        }
        talk.send(b'P', b"\0LISTEN a\0\0\0");
        assert!(talk.memory.is_bound());
    }

    #[test]
    fn what_the_gateway_asks_for_itself_is_no_answer_to_the_client() {
        let mut talk = Talk::begun();
        talk.track.sent_quietly(b'1');
        talk.send(b'B', b"\0s1\0\0\0\0\0\0\0");
        talk.send(b'S', b"");
        assert!(!talk.track.answers_quietly(b'2') && talk.track.answers_quietly(b'1'));
        assert!(!talk.track.answers_quietly(b'2'));
        talk.receive(b'2', b"");
        talk.receive(b'Z', b"I");
        assert!(talk.track.is_idle());
    }

    #[test]
    fn a_name_means_what_was_asked_last() {
        let mut talk = Talk::begun();
        let meaning = |talk: &Talk| talk.track.prepared(b"s1", &talk.memory).cloned();
        talk.send(b'P', b"s1\0SELECT 1\0\0\0");
        let first = meaning(&talk);
        assert!(first.is_some());
        talk.receive(b'1', b"");
        talk.send(b'C', b"Ss1\0");
        assert_eq!(meaning(&talk), None);
        talk.receive(b'E', b"\0");
        talk.send(b'S', b"");
        talk.receive(b'Z', b"I");
        assert_eq!(meaning(&talk), first);
    }

    #[test]
    fn a_setting_that_was_refused_is_not_repeated() {
        let mut talk = Talk::begun();
        talk.send(b'Q', b"SET a = 1\0");
        talk.receive(b'E', b"\0");
        talk.receive(b'Z', b"I");
        assert_eq!(talk.memory.settings().count(), 0);
    }
}
