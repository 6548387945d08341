//! Which prepared statements set something of the gateway's own, or say it of themselves, whenever they are executed?

use std::collections::BTreeMap;

use super::comment::Comment;
use super::setting::{Assignment, is_heard};

/// So much may be remembered of one session.
pub const BYTES_MAX: usize = 1024 * 1024;

/// What prepared statements set, by their names; the unnamed one has an empty name.
///
/// The last statement of a name counts, whether or not PostgreSQL agrees to prepare it.
#[derive(Debug, Default)]
pub struct Setters {
    by_name: BTreeMap<Vec<u8>, Assignment>,
    /// In their comments.
    said: BTreeMap<Vec<u8>, Comment>,
    bytes: usize,
}

impl Setters {
    /// The client prepares a statement with these assignments, and this comment. Returns whether there is room for
    /// what has to be remembered of it.
    pub fn prepare(
        &mut self,
        name: &[u8],
        mut assignments: Vec<Assignment>,
        comment: Option<Comment>,
    ) -> bool {
        self.forget(name);
        if let Some(comment) = comment {
            self.bytes += bytes_of_comment(name, &comment);
            self.said.insert(name.to_vec(), comment);
        }
        // PostgreSQL prepares no text of several statements.
        let (Some(assignment), true) = (assignments.pop(), assignments.is_empty()) else {
            return self.bytes <= BYTES_MAX;
        };
        if is_heard(&assignment.name) {
            self.bytes += bytes_of(name, &assignment);
            self.by_name.insert(name.to_vec(), assignment);
        }
        self.bytes <= BYTES_MAX
    }

    pub fn forget(&mut self, name: &[u8]) {
        if let Some(assignment) = self.by_name.remove(name) {
            self.bytes -= bytes_of(name, &assignment);
        }
        if let Some(comment) = self.said.remove(name) {
            self.bytes -= bytes_of_comment(name, &comment);
        }
    }

    /// Returns what is set when the statement is executed.
    pub fn get(&self, name: &[u8]) -> Option<&Assignment> {
        self.by_name.get(name)
    }

    /// Returns what the statement says of itself.
    pub fn comment(&self, name: &[u8]) -> Option<&Comment> {
        self.said.get(name)
    }
}

fn bytes_of(name: &[u8], assignment: &Assignment) -> usize {
    let value = assignment.value.as_ref().map_or(0, String::len);
    size_of::<Assignment>() + name.len() + assignment.name.len() + value
}

fn bytes_of_comment(name: &[u8], comment: &Comment) -> usize {
    let said = match comment {
        Ok(said) => said.key.as_ref().map_or(0, String::len),
        Err(why) => why.len(),
    };
    size_of::<Comment>() + name.len() + said
}

#[cfg(test)]
mod tests {
    use super::super::comment;
    use super::super::setting::assignments;
    use super::*;

    fn prepare(setters: &mut Setters, name: &str, sql: &str) -> bool {
        let sql = sql.as_bytes();
        setters.prepare(name.as_bytes(), assignments(sql), comment::read(sql))
    }

    #[test]
    fn the_last_statement_of_a_name_counts_until_it_is_closed() {
        let mut setters = Setters::default();
        for sql in
            ["SELECT 1", "SET work_mem = '1MB'", "SET domicile.key = '1'; RESET domicile.key"]
        {
            assert!(prepare(&mut setters, "", sql));
            assert_eq!(setters.get(b""), None, "{sql}");
        }
        for sql in ["SET domicile.key = '1'", "RESET domicile.key", "RESET ALL", "DISCARD ALL"] {
            assert!(prepare(&mut setters, "s", sql));
            assert_eq!(setters.get(b"s"), assignments(sql.as_bytes()).first(), "{sql}");
        }
        prepare(&mut setters, "t", "SET domicile.key = '2'");
        prepare(&mut setters, "s", "SELECT 1");
        setters.forget(b"t");
        assert_eq!((setters.get(b"s"), setters.get(b"t"), setters.bytes), (None, None, 0));
    }

    #[test]
    fn a_statement_says_of_itself_what_its_last_text_said() {
        let mut setters = Setters::default();
        assert!(prepare(&mut setters, "s", "/* domicile.key=7 */ SELECT 1"));
        assert!(prepare(&mut setters, "s", "/* domicile.key=8 */ SELECT 1"));
        let said = setters.comment(b"s").unwrap().clone().unwrap();
        assert_eq!(said.key.as_deref(), Some("8"));
        prepare(&mut setters, "t", "/* domicile.freshness=soon */ SELECT 1");
        assert!(setters.comment(b"t").unwrap().is_err());
        prepare(&mut setters, "s", "SELECT 1");
        setters.forget(b"t");
        assert_eq!((setters.comment(b"s"), setters.comment(b"t"), setters.bytes), (None, None, 0));
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let mut setters = Setters::default();
        let large = format!("SET domicile.key = '{}'", "x".repeat(BYTES_MAX / 2));
        assert!(prepare(&mut setters, "a", &large));
        assert!(prepare(&mut setters, "a", &large), "it replaces itself");
        assert!(!prepare(&mut setters, "b", &large));
    }
}
