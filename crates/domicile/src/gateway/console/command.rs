//! Which command of the console is this?
//!
//! The words are PgBouncer's, in upper or lower case, with semicolons or without. A name that is not all lower
//! case is quoted, as in SQL.

use domicile_pg::backend::Report;
use domicile_pg::script::{self, Kind, Statement};

use super::show::View;
use crate::gateway::refusals;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Show(View),
    /// Of one database, or of all.
    Pause(Option<String>),
    Resume(Option<String>),
    /// No new clients are to be led here.
    Drain,
    Undrain,
    /// The session of this number.
    Kill(u64),
}

/// Each command, with what it does.
pub const HELP: &[(&str, &str)] = &[
    ("SHOW CLIENTS", "who is in, and what everybody is doing"),
    ("SHOW SERVERS", "the connections that sessions hold, to PostgreSQL and to other gateways"),
    ("SHOW POOLS", "both, counted by database and user"),
    ("SHOW DATABASES", "databases, how many use each, and which are paused"),
    ("SHOW STATS", "what was done in each database since the gateway began; times in microseconds"),
    ("SHOW STATS_TOTALS", "the same, under the names that PgBouncer has for it here"),
    ("SHOW PARTITIONS", "who owns what, as this gateway knows it"),
    ("SHOW LAG", "how far each other region is with what was committed here"),
    ("SHOW STATE", "whether clients are held (PAUSE), and whether new ones are led here (DRAIN)"),
    ("SHOW CONFIG", "what the gateway goes by"),
    ("SHOW VERSION", "the version"),
    ("SHOW HELP", "this"),
    (
        "PAUSE [database]",
        "lets transactions end and begins none, until RESUME; returns when none runs",
    ),
    ("RESUME [database]", "lets transactions begin again"),
    ("DRAIN", "has names and load balancers lead no new clients here, until UNDRAIN"),
    ("UNDRAIN", "has them lead clients here again"),
    ("KILL_CLIENT id", "ends a session, by its id in SHOW CLIENTS; KILL id is the same"),
];

impl Command {
    /// Is it for admins only?
    pub fn changes(&self) -> bool {
        match self {
            Self::Show(_) => false,
            Self::Pause(_) | Self::Resume(_) | Self::Drain | Self::Undrain | Self::Kill(_) => true,
        }
    }

    /// As it stands in the answer to the command.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Show(_) => "SHOW",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Drain => "DRAIN",
            Self::Undrain => "UNDRAIN",
            Self::Kill(_) => "KILL_CLIENT",
        }
    }
}

/// Reads all commands of a text. Comments are passed over.
pub fn read_all(text: &[u8]) -> Result<Vec<Command>, Report<'static>> {
    let text = std::str::from_utf8(text).map_err(|_| refusals::no_command("what is not UTF-8"))?;
    let statements = script::statements(text);
    let statements = statements.map_err(|error| refusals::no_command(&error.to_string()))?;
    statements.iter().map(read).collect()
}

fn read(statement: &Statement<'_>) -> Result<Command, Report<'static>> {
    let command = match statement.tokens.as_slice() {
        [first, rest @ ..] => match (&first.kind, rest) {
            (Kind::Word(word), rest) => command(word, rest),
            _ => None,
        },
        [] => None,
    };
    command.ok_or_else(|| refusals::no_command(&format!("\"{}\"", statement.text.trim())))
}

fn command(word: &str, rest: &[script::Token]) -> Option<Command> {
    let name = match rest {
        [] => None,
        [token] => match &token.kind {
            Kind::Word(name) | Kind::Name(name) => Some(name.clone()),
            Kind::Text(_) | Kind::Symbol(_) => return None,
        },
        _ => return None,
    };
    match (word, name) {
        ("show", Some(view)) => View::named(&view).map(Command::Show),
        ("pause", database) => Some(Command::Pause(database)),
        ("resume", database) => Some(Command::Resume(database)),
        ("drain", None) => Some(Command::Drain),
        ("undrain", None) => Some(Command::Undrain),
        ("kill" | "kill_client", Some(id)) => id.parse().ok().map(Command::Kill),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case_with_semicolons_and_comments() {
        let database = |name: &str| Some(name.to_owned());
        for (text, expected) in [
            ("SHOW POOLS", vec![Command::Show(View::Pools)]),
            ("show pools;", vec![Command::Show(View::Pools)]),
            ("Show Stats_Totals ; ", vec![Command::Show(View::StatsTotals)]),
            (
                "/* tool */ PAUSE; -- all\nRESUME shop;",
                vec![Command::Pause(None), Command::Resume(database("shop"))],
            ),
            ("PAUSE Shop", vec![Command::Pause(database("shop"))]),
            ("PAUSE \"My Shop\"", vec![Command::Pause(database("My Shop"))]),
            ("DRAIN; undrain", vec![Command::Drain, Command::Undrain]),
            ("KILL_CLIENT 17", vec![Command::Kill(17)]),
            ("kill 17", vec![Command::Kill(17)]),
            (" ; -- nothing", vec![]),
        ] {
            assert_eq!(read_all(text.as_bytes()).ok(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_with_those_that_there_are() {
        for text in [
            "SELECT 1",
            "SHOW",
            "SHOW FDS",
            "PAUSE a b",
            "PAUSE my-shop",
            "DRAIN shop",
            "KILL",
            "KILL shop",
            "\"SHOW\" POOLS",
            "SHOW 'POOLS'",
            "PAUSE \"shop",
        ] {
            let report = read_all(text.as_bytes()).unwrap_err();
            assert_eq!(report.code(), "42601", "{text}");
            let hint = report.get(domicile_pg::backend::field::HINT).unwrap();
            assert!(hint.contains("SHOW POOLS") && hint.contains("KILL_CLIENT id"), "{hint}");
        }
    }

    #[test]
    fn help_tells_of_every_view() {
        for view in View::ALL {
            let shown = format!("SHOW {}", view.name().to_uppercase());
            assert!(HELP.iter().any(|(command, _)| *command == shown), "{shown}");
        }
    }
}
