//! By which names does a shared server know what its clients have prepared?
//!
//! Clients give the same name to different texts, and the same text different names. So a shared server
//! knows a text by a name of the gateway's, which is never given twice: whatever became of a statement, a name that
//! is in use means one text.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// So many are kept from one transaction to the next on each server.
const KEPT_MAX: usize = 500;

/// A text with the types of its parameters and the settings under which it was read, as good as itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text([u8; 32]);

impl Text {
    /// Of what stands in a Parse behind its name, for a session that has made `settings`.
    pub fn new<'a>(parsed: &[u8], settings: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for setting in settings {
            // Each is a whole message, which says itself where it ends.
            hash.update(setting);
        }
        // None of them begins like this.
        hash.update([0]);
        hash.update(parsed);
        Self(hash.finalize().into())
    }
}

#[derive(Clone, Copy, Debug)]
struct Named {
    number: u64,
    used: u64,
}

/// What is prepared on one server.
#[derive(Debug, Default)]
pub struct Statements {
    by_text: BTreeMap<Text, Named>,
    /// So many names were given.
    named: u64,
    /// Grows with every use.
    now: u64,
    /// Numbers that are not used any more, and not closed yet.
    retired: Vec<u64>,
}

impl Statements {
    /// Returns the name of what is prepared.
    pub fn find(&mut self, text: Text) -> Option<String> {
        let named = self.by_text.get_mut(&text)?;
        self.now += 1;
        named.used = self.now;
        Some(name(named.number))
    }

    /// Returns the name under which `text` is to be prepared now. What there was has to be closed.
    pub fn prepare(&mut self, text: Text) -> String {
        (self.named, self.now) = (self.named + 1, self.now + 1);
        self.by_text.insert(text, Named { number: self.named, used: self.now });
        name(self.named)
    }

    /// Returns the name of what is prepared, to be closed.
    pub fn close(&mut self, text: Text) -> Option<String> {
        Some(name(self.by_text.remove(&text)?.number))
    }

    /// What is prepared may be gone, or of no use.
    pub fn retire_all(&mut self) {
        self.retired.extend(self.by_text.values().map(|named| named.number));
        self.by_text.clear();
    }

    /// Returns the names of what is to be closed between two transactions: what was not used for longest, beyond
    /// what is kept, and what is of no use.
    pub fn surplus(&mut self) -> Vec<String> {
        let surplus = self.by_text.len().saturating_sub(KEPT_MAX);
        if surplus > 0 {
            let mut uses: Vec<u64> = self.by_text.values().map(|named| named.used).collect();
            uses.sort_unstable();
            let kept_since = uses[surplus];
            let retired = &mut self.retired;
            self.by_text.retain(|_, named| {
                let stays = named.used >= kept_since;
                if !stays {
                    retired.push(named.number);
                }
                stays
            });
        }
        self.retired.sort_unstable();
        std::mem::take(&mut self.retired).into_iter().map(name).collect()
    }
}

fn name(number: u64) -> String {
    format!("domicile_{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: usize) -> Text {
        Text::new(format!("SELECT {number}\0\0\0").as_bytes(), std::iter::empty())
    }

    #[test]
    fn a_text_has_one_name_until_it_is_prepared_again() {
        let mut statements = Statements::default();
        assert_eq!(statements.find(text(1)), None);
        let first = statements.prepare(text(1));
        assert_eq!(statements.find(text(1)), Some(first.clone()));
        assert_eq!(statements.close(text(1)), Some(first.clone()));
        let second = statements.prepare(text(1));
        assert_ne!(first, second);
        assert_eq!(statements.find(text(1)), Some(second));
    }

    #[test]
    fn the_same_text_under_other_settings_is_another_one() {
        let plain = text(1);
        let settings: [&[u8]; 1] = [b"Q\0\0\0\x13SET a = 1\0"];
        assert_ne!(Text::new(b"SELECT 1\0\0\0", settings.into_iter()), plain);
    }

    #[test]
    fn what_was_not_used_for_longest_is_closed() {
        let mut statements = Statements::default();
        let names: Vec<String> = (0..KEPT_MAX + 2).map(|i| statements.prepare(text(i))).collect();
        statements.find(text(0));
        assert_eq!(statements.surplus(), names[1..=2]);
        assert_eq!(statements.find(text(0)).as_ref(), Some(&names[0]));
        assert_eq!(statements.find(text(1)), None);
        assert_eq!(statements.surplus(), Vec::<String>::new());
    }

    #[test]
    fn what_may_be_gone_gets_new_names() {
        let mut statements = Statements::default();
        let first = statements.prepare(text(1));
        statements.retire_all();
        assert_eq!(statements.find(text(1)), None);
        assert_ne!(statements.prepare(text(1)), first);
        assert_eq!(statements.surplus(), [first]);
    }
}
