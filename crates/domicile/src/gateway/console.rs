//! What is a session in the console: whom does it let in, and how does it answer?
//!
//! Who asks for the database [`CONSOLE`](super::CONSOLE) logs in at the region's own PostgreSQL, in the region's
//! database, and with nothing but his password: the way in is that of every session. Then the connection to
//! PostgreSQL is closed, and the gateway answers, in the simple protocol and in the extended one.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use domicile_core::config::Right;
use domicile_pg::backend::{self, Report, TransactionStatus, tag};
use domicile_pg::frontend::{self, Formats, Frontend, Named, tag as from_client};
use domicile_pg::startup::Startup;
use tokio::time::timeout;

use super::backend::Backend;
use super::cut::{self, Piece};
use super::link::Link;
use super::moving::OPEN_WAIT_MAX;
use super::refusals::{self, End};
use super::session::Session;
use super::sessions::{Kind, Who};
use super::{Console, Shared};

mod command;
mod doing;
mod show;
mod table;

use command::Command;
pub use command::HELP;

/// So many prepared statements, and portals, one visitor may have.
const PREPARED_MAX: usize = 100;

/// What somebody logs in with who asked for the console with `asked`.
pub fn startup(asked: &Startup, console: &Console) -> Startup {
    let mut parameters = vec![("database".to_owned(), console.database.clone())];
    for name in ["user", "application_name"] {
        parameters.extend(asked.get(name).map(|value| (name.to_owned(), value.to_owned())));
    }
    Startup { parameters, ..*asked }
}

/// Connects to the PostgreSQL at which a visitor logs in, if it is one that may come.
pub async fn home(shared: &Shared, who: &Who, startup: &Startup) -> Result<Backend, End> {
    let roles = &shared.config.console.roles;
    if roles.right(&who.user).is_none() {
        return Err(refusals::no_console(roles, &who.user));
    }
    let dialing = async {
        let mut home = Backend::dial(shared, &shared.config.region, startup).await?;
        home.first_answer().await.map(|()| home)
    };
    match timeout(OPEN_WAIT_MAX, dialing).await {
        Ok(Ok(home)) => Ok(home),
        Ok(Err(_)) | Err(_) => Err(refusals::unreachable()),
    }
}

/// What fails is told, and the session goes on.
type Done = Result<(), Report<'static>>;

/// Somebody in the console.
struct Visit<'a> {
    session: &'a mut Session,
    right: Right,
    /// Nothing where a statement has no words.
    prepared: BTreeMap<Bytes, Option<Command>>,
    portals: BTreeMap<Bytes, Portal>,
}

#[derive(Clone)]
struct Portal {
    command: Option<Command>,
    formats: Formats,
}

impl Session {
    /// Before the login is over a visitor says who it is and nothing else: what it says goes to PostgreSQL.
    pub fn check_console(&self, tag: u8) -> Result<(), End> {
        if self.recorder.record.who.kind == Kind::Console && tag != from_client::PASSWORD {
            return Err(refusals::protocol(&"a login is not over, and something else came"));
        }
        Ok(())
    }

    /// Serves the console until the session ends, and returns how.
    pub async fn serve_console(&mut self) -> Result<Infallible, End> {
        self.log_in_to_console().await?;
        frontend::put_terminate(&mut self.home.link.outgoing);
        self.home.link.farewell().await;
        self.home.link = Link::closed();
        self.record_servers();
        let roles = &self.shared.config.console.roles;
        let user = &self.recorder.record.who.user;
        let right = roles.right(user).ok_or_else(|| refusals::no_console(roles, user))?;
        let visit =
            Visit { session: self, right, prepared: BTreeMap::new(), portals: BTreeMap::new() };
        visit.run().await
    }

    async fn log_in_to_console(&mut self) -> Result<(), End> {
        loop {
            self.relay_to_client().await?;
            if self.begun {
                return Ok(());
            }
            self.relay_to_server().await?;
            if self.is_abandoned() {
                return Err(End::Quietly);
            }
            if self.shared.shutdown.is_cancelled() {
                return Err(refusals::shutting_down());
            }
            self.anything_moved().await;
        }
    }
}

impl Visit<'_> {
    async fn run(mut self) -> Result<Infallible, End> {
        loop {
            while self.session.client.has_room() {
                let piece = self.session.client_cutter.next(&mut self.session.client.incoming);
                match piece.map_err(|error| refusals::protocol(&error))? {
                    Some(Piece::Whole { tag, raw }) => self.hear(tag, &cut::body(&raw)).await?,
                    Some(Piece::Head { .. } | Piece::Rest { .. }) => {
                        return Err(refusals::protocol(&"no command is so long"));
                    }
                    None => break,
                }
            }
            let client = &mut self.session.client;
            if client.has_ended() {
                return Err(End::Quietly);
            }
            tokio::select! {
                biased;
                () = self.session.shared.shutdown.cancelled() => return Err(refusals::shutting_down()),
                () = client.moved() => {}
            }
        }
    }

    async fn hear(&mut self, tag: u8, body: &Bytes) -> Result<(), End> {
        let message = frontend::read(tag, body).map_err(|error| refusals::protocol(&error))?;
        let done = match message {
            Frontend::Terminate => return Err(End::Quietly),
            Frontend::Sync => {
                self.session.skipping = false;
                self.put_ready();
                return Ok(());
            }
            _ if self.session.skipping => return Ok(()),
            Frontend::Query(text) => {
                if let Err(report) = self.answer_all(text).await? {
                    report.put_error(&mut self.session.client.outgoing);
                }
                self.put_ready();
                return Ok(());
            }
            Frontend::Parse { statement, sql } => self.prepare(body.slice_ref(statement), sql),
            Frontend::Bind { portal, statement } => {
                self.bind(body.slice_ref(portal), statement, body)
            }
            Frontend::Describe(named) => self.describe(named),
            Frontend::Execute { portal } => match self.portal(portal) {
                Ok(portal) => self.answer(portal.command.as_ref(), &portal.formats).await?,
                Err(report) => Err(report),
            },
            Frontend::Close(named) => {
                match named {
                    Named::Statement(name) => drop(self.prepared.remove(name)),
                    Named::Portal(name) => drop(self.portals.remove(name)),
                }
                self.put_bare(tag::CLOSE_COMPLETE)
            }
            Frontend::Flush => return Ok(()),
            Frontend::FunctionCall
            | Frontend::CopyData
            | Frontend::CopyDone
            | Frontend::CopyFail
            | Frontend::Password => {
                return Err(refusals::protocol(&"the console takes commands only"));
            }
        };
        if let Err(report) = done {
            report.put_error(&mut self.session.client.outgoing);
            self.session.skipping = true;
        }
        Ok(())
    }

    /// Answers a text in the simple protocol, up to the first command that fails.
    async fn answer_all(&mut self, text: &[u8]) -> Result<Done, End> {
        let commands = match command::read_all(text) {
            Ok(commands) => commands,
            Err(report) => return Ok(Err(report)),
        };
        if commands.is_empty() {
            return self.answer(None, &Formats::default()).await;
        }
        for command in commands {
            if let Command::Show(view) = command {
                view.describe(&mut self.session.client.outgoing, &Formats::default());
            }
            if let Err(report) = self.answer(Some(&command), &Formats::default()).await? {
                return Ok(Err(report));
            }
        }
        Ok(Ok(()))
    }

    /// Does what a command says and puts its answer, without the description of its rows.
    async fn answer(&mut self, command: Option<&Command>, formats: &Formats) -> Result<Done, End> {
        let Some(command) = command else {
            return Ok(self.put_bare(tag::EMPTY_QUERY_RESPONSE));
        };
        if command.changes() && self.right == Right::Look {
            return Ok(Err(refusals::only_looks(command.word())));
        }
        let done = match command {
            Command::Show(view) => {
                let rows = view.rows(&self.session.shared);
                table::put_rows(&mut self.session.client.outgoing, &rows, formats);
                Ok(())
            }
            Command::Pause(database) => self.pause(database.as_deref()).await?,
            Command::Resume(database) => self.resume(database.as_deref()),
            Command::Drain => self.drain(),
            Command::Undrain => self.undrain(),
            Command::Kill(id) => self.kill(*id),
        };
        if done.is_ok() {
            let word = command.word().as_bytes();
            backend::put_command_complete(&mut self.session.client.outgoing, word);
        }
        Ok(done)
    }

    fn prepare(&mut self, name: Bytes, text: &[u8]) -> Done {
        let mut commands = command::read_all(text)?;
        if commands.len() > 1 {
            return Err(refusals::one_command_at_a_time());
        }
        if self.prepared.len() >= PREPARED_MAX && !self.prepared.contains_key(&name) {
            return Err(refusals::too_much_prepared());
        }
        self.prepared.insert(name, commands.pop());
        self.put_bare(tag::PARSE_COMPLETE)
    }

    fn bind(&mut self, name: Bytes, statement: &[u8], body: &[u8]) -> Done {
        let formats = frontend::result_formats(body).map_err(|e| refusals::not_prepared(&e))?;
        let command = self.command(statement)?.clone();
        if self.portals.len() >= PREPARED_MAX && !self.portals.contains_key(&name) {
            return Err(refusals::too_much_prepared());
        }
        self.portals.insert(name, Portal { command, formats });
        self.put_bare(tag::BIND_COMPLETE)
    }

    fn describe(&mut self, named: Named<'_>) -> Done {
        let (command, formats) = match named {
            Named::Statement(name) => {
                let command = self.command(name)?.clone();
                backend::put_no_parameters(&mut self.session.client.outgoing);
                (command, Formats::default())
            }
            Named::Portal(name) => {
                let Portal { command, formats } = self.portal(name)?;
                (command, formats)
            }
        };
        match command {
            Some(Command::Show(view)) => {
                view.describe(&mut self.session.client.outgoing, &formats);
                Ok(())
            }
            _ => self.put_bare(tag::NO_DATA),
        }
    }

    fn command(&self, name: &[u8]) -> Result<&Option<Command>, Report<'static>> {
        self.prepared.get(name).ok_or_else(|| refusals::not_prepared(&"there is no such statement"))
    }

    fn portal(&self, name: &[u8]) -> Result<Portal, Report<'static>> {
        let portal = self.portals.get(name).cloned();
        portal.ok_or_else(|| refusals::not_prepared(&"there is no such portal"))
    }

    fn put_bare(&mut self, tag: u8) -> Done {
        backend::put_bare(&mut self.session.client.outgoing, tag);
        Ok(())
    }

    fn put_ready(&mut self) {
        backend::put_ready_for_query(&mut self.session.client.outgoing, TransactionStatus::Idle);
    }
}
