//! What does the gateway itself say to a client when things cannot go on?

use domicile_core::admission::{Applicant, Full, Refusal};
use domicile_core::config::Console;
use domicile_core::freshness::Freshness;
use domicile_core::id::{Epoch, RegionId};
use domicile_core::lsn::Cut;
use domicile_core::route::Refusal as Refused;
use domicile_core::time::Millis;
use domicile_pg::backend::{Report, Severity, field};
use domicile_pg::scram::{LoginError, NotLetIn};
use domicile_pg::sqlstate::{self, SqlState};
use std::borrow::Cow;
use std::time::Duration;

use super::backend::OpenError;
use super::console;

const ENCRYPT: &str =
    "Connect with TLS: sslmode=require, or better sslmode=verify-full with sslrootcert.";

/// Why a session ends.
#[derive(Debug)]
pub enum End {
    /// Everything was said already, or nobody listens.
    Quietly,
    /// These are the last words.
    Saying(Report<'static>),
}

impl End {
    fn saying(code: SqlState, message: impl Into<String>) -> Self {
        Self::Saying(Report::new(Severity::Fatal, code, message.into()))
    }

    fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        match self {
            Self::Quietly => Self::Quietly,
            Self::Saying(report) => Self::Saying(report.hint(hint)),
        }
    }
}

/// The bytes of the client, or of a server, are not PostgreSQL's protocol.
pub fn protocol(error: &impl ToString) -> End {
    End::saying(sqlstate::PROTOCOL_VIOLATION, error.to_string())
}

pub fn unsupported_version(major: u16, minor: u16) -> End {
    let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0");
    End::saying(sqlstate::FEATURE_NOT_SUPPORTED, message)
}

pub fn startup_too_slow() -> End {
    End::saying(sqlstate::PROTOCOL_VIOLATION, "startup packet did not arrive in time")
}

pub fn encryption_required() -> End {
    let message = "the gateway takes no session that is not encrypted";
    End::saying(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message).hint(ENCRYPT)
}

pub fn password_in_the_clear() -> End {
    let message = "the server asks for the password itself, and the connection is not encrypted";
    End::saying(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message)
        .hint("Connect with TLS, or have pg_hba.conf ask for scram-sha-256.")
}

/// In PostgreSQL's words.
pub fn not_let_in(why: NotLetIn, role: &str) -> End {
    match why {
        NotLetIn::WrongPassword => {
            let message = format!("password authentication failed for user \"{role}\"");
            End::saying(sqlstate::INVALID_PASSWORD, message)
        }
        NotLetIn::Malformed | NotLetIn::NotOffered => protocol(&why),
    }
}

/// While its client took its time.
pub fn role_changed(role: &str) -> End {
    let message = format!("role \"{role}\", or who may log in, was changed meanwhile");
    End::saying(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message).hint("Log in again.")
}

pub fn cannot_be_bound() -> End {
    let message =
        "the client would bind its login to this connection, but PostgreSQL's is another one";
    End::saying(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message).hint(
        "Connect with channel_binding=disable, or give the gateway the certificate of PostgreSQL.",
    )
}

/// A client may not come in, or not now.
pub fn not_admitted(applicant: &Applicant<'_>, why: Refusal) -> End {
    let forbidden = |message| End::saying(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message);
    let full = |message| End::saying(sqlstate::TOO_MANY_CONNECTIONS, message);
    match why {
        Refusal::NoRule => forbidden(format!("no gateway.allow entry for {applicant}")),
        Refusal::NotEncrypted => {
            forbidden(format!("gateway.allow rejects connection for {applicant}")).hint(ENCRYPT)
        }
        Refusal::Full(Full::All) => full("gateway has too many connections already".to_owned()),
        Refusal::Full(Full::User) => {
            full(format!("too many connections for role \"{}\"", applicant.user))
        }
        Refusal::Full(Full::Database) => {
            full(format!("too many connections for database \"{}\"", applicant.database))
        }
    }
}

/// Of another gateway, which comes again.
pub fn paused() -> End {
    End::saying(sqlstate::CANNOT_CONNECT_NOW, "the database is paused at its gateway")
}

/// Somebody in the console wants it so.
pub fn killed() -> End {
    let message = "terminating connection due to administrator command";
    End::saying(sqlstate::ADMIN_SHUTDOWN, message)
}

pub fn shutting_down() -> End {
    End::saying(sqlstate::ADMIN_SHUTDOWN, "terminating connection because the gateway stops")
}

/// The session waited for an owner until its budget was over.
pub fn no_owner() -> End {
    End::saying(sqlstate::CANNOT_CONNECT_NOW, "no region may take this session now")
        .hint("A hand-over or a failover is under way. Connect again in a moment.")
}

/// Somebody is the owner, and cannot be reached.
pub fn unreachable() -> End {
    End::saying(sqlstate::CANNOT_CONNECT_NOW, "the server for this session cannot be reached")
        .hint("It may be starting, or the network to it is down. Connect again in a moment.")
}

/// The local server went away under an idle session and did not come back.
pub fn server_gone() -> End {
    End::saying(
        sqlstate::ADMIN_SHUTDOWN,
        "terminating connection because the server of this session is gone",
    )
    .hint("Connect again in a moment.")
}

/// The session would have to move and cannot.
pub fn cannot_move(region: &RegionId, why: &OpenError) -> End {
    let message = format!(
        "terminating connection because the session must move to region \"{region}\": {why}"
    );
    let end = End::saying(sqlstate::ADMIN_SHUTDOWN, message);
    end.hint(way_in(why).unwrap_or("Connect again: a new session can be used at once."))
}

/// A statement is not tried where it could be taken. Comes before the refusal.
pub fn not_sent_on(region: &RegionId, why: &OpenError) -> Report<'static> {
    let message = format!("the statement was not sent on to region \"{region}\": {why}");
    let report = Report::new(Severity::Notice, sqlstate::WARNING, message);
    match way_in(why) {
        Some(hint) => report.hint(hint),
        None => report,
    }
}

/// PostgreSQL has refused to write where a session only reads.
pub fn only_read<'a>(report: Report<'a>, here: &RegionId, refusal: &Refused) -> Report<'a> {
    report.detail(refusal.to_string()).hint(format!(
        "The session reads in region \"{here}\", where it writes nothing. Let the transaction begin with what writes, or with \
         BEGIN READ WRITE, or ask for domicile.freshness = 'strong'."
    ))
}

/// A transaction is to write, and cannot get to where it may.
pub fn cannot_write(here: &RegionId) -> Report<'static> {
    let message = "the owner cannot be reached, and the session writes nothing where it reads";
    Report::new(Severity::Error, sqlstate::READ_ONLY_SQL_TRANSACTION, message)
        .hint(format!("The session reads in region \"{here}\". Try again in a moment."))
}

/// The same in the middle of what is under way.
pub const CHOSEN_TOO_LATE: &str = "a transaction that has begun to read where its session writes nothing cannot be made to write: begin it with READ WRITE";

/// What a person can do so that sessions get there.
fn way_in(why: &OpenError) -> Option<&'static str> {
    match why {
        OpenError::Password => Some(
            "Log in with a password that is kept as scram-sha-256, and have the agent's role read pg_authid.",
        ),
        OpenError::Login(LoginError::OtherVerifier) => Some(
            "Have the role there, with what pg_authid.rolpassword is here: ALTER ROLE ... PASSWORD 'SCRAM-SHA-256$...'.",
        ),
        _ => None,
    }
}

/// A transaction that was begun anew does not go as before.
pub fn answers_otherwise(region: &RegionId) -> End {
    let message = format!(
        "terminating connection because region \"{region}\" answers otherwise than the one before it: their \
         schemas may differ"
    );
    End::saying(sqlstate::CONNECTION_FAILURE, message)
        .hint("The open transaction was rolled back. domicile check compares schemas.")
}

/// A statement was sent and no answer came.
pub fn outcome_unknown(token: Option<&str>) -> End {
    const LOOK: &str =
        "Connect again and look whether the statement took effect before repeating it.";
    End::saying(
        sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
        "connection to the owner was lost; the outcome of the statement is unknown",
    )
    .hint(find_out(token).unwrap_or_else(|| LOOK.to_owned()))
}

/// How to find out what became of a transaction that has a token.
pub fn find_out(token: Option<&str>) -> Option<String> {
    token.map(|token| {
        format!("Before repeating it, ask what became of the transaction: domicile outcome {token}")
    })
}

/// Whoever asks for the token of his transaction has none open.
pub fn no_transaction() -> Report<'static> {
    let message = "SHOW domicile.transaction can only be used in transaction blocks";
    Report::new(Severity::Error, sqlstate::NO_ACTIVE_SQL_TRANSACTION, message)
        .hint("Say BEGIN first, write, and ask before COMMIT.")
}

/// A transaction block was open and no statement was under way.
pub fn transaction_lost() -> End {
    End::saying(
        sqlstate::CONNECTION_FAILURE,
        "connection to the owner was lost; the open transaction was rolled back",
    )
    .hint("Connect again and repeat the transaction.")
}

/// The server waits for rows of a client that was told an error.
pub fn unconfirmed_copy() -> End {
    End::saying(
        sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
        "terminating connection because COPY comes behind a commit that is not known to be held elsewhere",
    )
    .hint("Connect again: a new session can be used at once.")
}

/// A setting of the gateway's own was given a value that it does not have.
pub fn invalid_value(why: String) -> Report<'static> {
    Report::new(Severity::Error, sqlstate::INVALID_PARAMETER_VALUE, why)
}

/// More prepared statements set something of the gateway's own than it remembers of one session.
pub fn too_many_setters() -> End {
    let message = "too many prepared statements set what only the gateway goes by";
    End::saying(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
        .hint("Close those that are not used any more, or send such settings as simple queries.")
}

/// What a role begins with has such a value, and counts for nothing.
pub fn ignored(why: String) -> Report<'static> {
    Report::new(Severity::Notice, sqlstate::INVALID_PARAMETER_VALUE, why)
}

/// The same where the statement cannot be refused alone.
pub fn invalid_for_session(why: String) -> End {
    End::saying(sqlstate::INVALID_PARAMETER_VALUE, why)
}

/// What the session reads here is not as new as it asks for, and did not become so in time.
pub fn not_fresh(asked: Freshness, age: Option<Millis>, wait: Millis) -> Report<'static> {
    let message = format!("what this region shows is not known to be {asked}, after {}ms", wait.0);
    let detail = match age {
        Some(age) => format!("All that was committed {}ms ago is shown here.", age.0),
        None => "Not all owners have said how far they are.".to_owned(),
    };
    Report::new(Severity::Error, sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .detail(detail)
        .hint("Ask for less with domicile.freshness, or wait longer with domicile.freshness_wait.")
}

/// The session ends with what would have answered a statement.
pub fn ended_by(report: Report<'static>) -> End {
    let message = report.get(field::MESSAGE).unwrap_or_default().to_owned();
    End::saying(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

/// What the session has to find again will never be here.
pub fn seen_is_lost(place: &Cut) -> Report<'static> {
    let message = format!("what this session has seen was lost in a failover: {place}");
    Report::new(Severity::Error, sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .hint("Connect again, without its token: the conflict journal has what was lost.")
}

/// How far the regions are in which the session was is not known.
pub fn no_token(error: &anyhow::Error) -> Report<'static> {
    let message = format!("there is no token now: {error:#}");
    Report::new(Severity::Error, sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

/// All servers that the session shares are in use, and stayed so.
pub fn no_server_free(wait: Duration) -> Report<'static> {
    let message = format!("no server became free within {}ms", wait.as_millis());
    Report::new(Severity::Error, sqlstate::TOO_MANY_CONNECTIONS, message)
        .detail("All servers that clients of this role and database share are in use.")
        .hint("Have transactions be shorter, or let the gateway have more servers: gateway.servers_max.")
}

/// The same where the statement cannot be refused alone.
pub fn servers_busy() -> End {
    End::saying(sqlstate::TOO_MANY_CONNECTIONS, "no server became free in time")
}

/// Nothing was done of what a peer's session asks, and it may be asked again: in the words of a guard, which every
/// gateway knows what to make of.
pub fn no_server_now(here: &RegionId) -> Report<'static> {
    let refusal = Refused { owner: None, epoch: Epoch(0) };
    let message = format!("region \"{here}\" has no server for this session now");
    Report::new(Severity::Error, sqlstate::READ_ONLY_SQL_TRANSACTION, message)
        .detail(refusal.to_string())
        .hint(
            "Its PostgreSQL, or its gateway, is about to stop or to start. Try again in a moment.",
        )
}

/// A cancel request came while the statement waited in the gateway.
pub fn cancelled() -> Report<'static> {
    Report::new(
        Severity::Error,
        sqlstate::QUERY_CANCELED,
        "canceling statement due to user request",
    )
    .detail("The statement was waiting in the gateway and had not begun.")
}

/// Nobody may come to the console, or not as this role.
pub fn no_console(roles: &Console, role: &str) -> End {
    let message = match roles.is_closed() {
        true => "no role may come to the gateway's console".to_owned(),
        false => format!("role \"{role}\" may not come to the gateway's console"),
    };
    End::saying(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message)
        .hint("Roles that may stand in domicile.toml, under gateway.admins and gateway.viewers.")
}

/// What somebody in the console says is none of its commands.
pub fn no_command(said: &str) -> Report<'static> {
    let commands: Vec<&str> = console::HELP.iter().map(|(command, _)| *command).collect();
    Report::new(
        Severity::Error,
        sqlstate::SYNTAX_ERROR,
        format!("{said} is no command of the console"),
    )
    .hint(format!("There are: {}.", commands.join(", ")))
}

/// More than one command in a statement that is prepared.
pub fn one_command_at_a_time() -> Report<'static> {
    let message = "cannot insert multiple commands into a prepared statement";
    Report::new(Severity::Error, sqlstate::SYNTAX_ERROR, message)
}

/// Somebody in the console has prepared as much as one may.
pub fn too_much_prepared() -> Report<'static> {
    let message = "too many prepared statements or portals for the console";
    Report::new(Severity::Error, sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
}

/// What is bound, described or executed is not there.
pub fn not_prepared(why: &impl ToString) -> Report<'static> {
    Report::new(Severity::Error, sqlstate::PROTOCOL_VIOLATION, why.to_string())
}

/// A viewer wants to change something.
pub fn only_looks(command: &str) -> Report<'static> {
    let message = format!("permission denied for {command}: the role is among gateway.viewers");
    Report::new(Severity::Error, sqlstate::INSUFFICIENT_PRIVILEGE, message)
        .hint("Roles that may do it stand in domicile.toml, under gateway.admins.")
}

/// Nobody uses a database of this name, which may be misspelt.
pub fn no_such_database(name: &str) -> Report<'static> {
    let message = format!("no client of this gateway uses a database \"{name}\"");
    Report::new(Severity::Error, sqlstate::INVALID_CATALOG_NAME, message)
        .hint("SHOW DATABASES lists them. A name that is not all lower case is quoted.")
}

/// A pause was cancelled before everything had ended.
pub fn pause_cancelled() -> Report<'static> {
    let message = "canceling statement due to user request";
    Report::new(Severity::Error, sqlstate::QUERY_CANCELED, message)
        .detail("Transactions were running still. They begin again as before.")
}

/// Somebody else has resumed what was to be paused.
pub fn resumed_meanwhile() -> Report<'static> {
    let message = "what was to be paused was resumed meanwhile";
    Report::new(Severity::Error, sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

/// There is nothing to resume.
pub fn not_paused(database: Option<&str>, all_are: bool) -> Report<'static> {
    let message = match database {
        Some(name) => format!("database \"{name}\" is not paused by itself"),
        None => "nothing is paused".to_owned(),
    };
    let code = sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;
    let report = Report::new(Severity::Error, code, message);
    if all_are { report.hint("All databases are: RESUME lets them go.") } else { report }
}

/// There is nothing to take back.
pub fn not_drained() -> Report<'static> {
    let code = sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;
    Report::new(Severity::Error, code, "the region is not drained")
}

/// No session has this number.
pub fn no_such_client(id: u64) -> Report<'static> {
    Report::new(Severity::Error, sqlstate::UNDEFINED_OBJECT, format!("no client has the id {id}"))
        .hint("SHOW CLIENTS lists them.")
}
