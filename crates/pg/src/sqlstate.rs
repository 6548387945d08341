//! Which SQLSTATE says what? The codes that Domicile sends, or looks for, by name.
//!
//! The five characters are PostgreSQL's; drivers already know what to do with each.

use std::fmt;

/// Five characters that tell a driver what kind of thing happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SqlState(pub &'static str);

impl SqlState {
    /// Returns whether `code`, as read from a message, is this one.
    pub fn is(self, code: &str) -> bool {
        self.0 == code
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        $($(#[$doc])* pub const $name: SqlState = SqlState($code);)*

        #[cfg(test)]
        const ALL: &[SqlState] = &[$($name),*];
    };
}

states! {
    /// The message says nothing special: everything went well.
    SUCCESSFUL_COMPLETION = "00000";
    /// Nothing failed, and somebody should know.
    WARNING = "01000";
    /// The connection broke; what was in flight may or may not have happened.
    CONNECTION_FAILURE = "08006";
    /// The outcome of the transaction cannot be known.
    TRANSACTION_RESOLUTION_UNKNOWN = "08007";
    /// The bytes do not follow the protocol.
    PROTOCOL_VIOLATION = "08P01";
    /// The request is understood and not offered, as an old protocol version.
    FEATURE_NOT_SUPPORTED = "0A000";
    /// A setting cannot have this value.
    INVALID_PARAMETER_VALUE = "22023";
    /// A write where only reads are allowed: on a standby, or in a region that is not the owner.
    READ_ONLY_SQL_TRANSACTION = "25006";
    /// What is asked for is there only in a transaction, and none is open.
    NO_ACTIVE_SQL_TRANSACTION = "25P01";
    /// An earlier statement failed; the transaction waits for its ROLLBACK.
    IN_FAILED_SQL_TRANSACTION = "25P02";
    /// No such prepared statement.
    INVALID_SQL_STATEMENT_NAME = "26000";
    /// The role may not log in this way.
    INVALID_AUTHORIZATION_SPECIFICATION = "28000";
    /// The password is wrong.
    INVALID_PASSWORD = "28P01";
    /// No such database.
    INVALID_CATALOG_NAME = "3D000";
    /// The transaction met another one; the same transaction may succeed when it is tried again.
    SERIALIZATION_FAILURE = "40001";
    /// A statement finished or not: nobody can say.
    STATEMENT_COMPLETION_UNKNOWN = "40003";
    /// Two transactions waited for each other; one of them was ended.
    DEADLOCK_DETECTED = "40P01";
    /// The object that the statement names exists already.
    DUPLICATE_OBJECT = "42710";
    /// The role may not do this.
    INSUFFICIENT_PRIVILEGE = "42501";
    /// The text is no statement.
    SYNTAX_ERROR = "42601";
    /// No such table.
    UNDEFINED_TABLE = "42P01";
    /// No such object.
    UNDEFINED_OBJECT = "42704";
    /// No more connections are taken.
    TOO_MANY_CONNECTIONS = "53300";
    /// A named limit of the configuration is reached.
    CONFIGURATION_LIMIT_EXCEEDED = "53400";
    /// More of something than there may be.
    PROGRAM_LIMIT_EXCEEDED = "54000";
    /// What is asked for is not so yet, or not any more.
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000";
    /// The object is in use, as a slot that another connection reads.
    OBJECT_IN_USE = "55006";
    /// A lock was not free in time.
    LOCK_NOT_AVAILABLE = "55P03";
    /// The statement was cancelled, or took longer than it may.
    QUERY_CANCELED = "57014";
    /// The server ends the connection in an orderly way.
    ADMIN_SHUTDOWN = "57P01";
    /// The server ends the connection because another of its processes crashed.
    CRASH_SHUTDOWN = "57P02";
    /// Nobody can serve the connection now; later somebody can.
    CANNOT_CONNECT_NOW = "57P03";
    /// A bug, or a state that should not be.
    INTERNAL_ERROR = "XX000";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_five_digits_or_capital_letters_and_one_name() {
        for state in ALL {
            let fits = |b: u8| b.is_ascii_digit() || b.is_ascii_uppercase();
            assert!(state.0.len() == 5 && state.0.bytes().all(fits), "{state}");
            assert_eq!(ALL.iter().filter(|other| *other == state).count(), 1, "{state}");
        }
    }

    #[test]
    fn a_code_from_a_message_is_compared_by_its_text() {
        assert!(READ_ONLY_SQL_TRANSACTION.is("25006"));
        assert!(!READ_ONLY_SQL_TRANSACTION.is("25P02"));
    }
}
