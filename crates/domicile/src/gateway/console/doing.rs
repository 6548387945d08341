//! What does the console do: have clients wait, let them go, have no new ones come, end a session?

use std::time::Duration;

use domicile_core::health::DRAINED;
use domicile_pg::frontend::tag as from_client;

use super::{Done, Visit};
use crate::gateway::Console;
use crate::gateway::gate::{Gate, Paused};
use crate::gateway::refusals::{self, End};
use crate::gateway::sessions::{Doing, Kind, Record, Sessions};

/// So often it is looked at whether anything runs still. Sessions tell nobody: it would cost each transaction something.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Under which its notice stands.
pub(super) const PART: &str = "console";

/// Takes a pause back when this is dropped before it is complete.
struct Pausing {
    gate: Gate,
    database: Option<String>,
    /// It was paused already, or nothing runs any more.
    stays: bool,
}

impl Visit<'_> {
    /// Begins no transaction any more, and returns once none runs. Takes that back when it is cancelled before.
    pub async fn pause(&mut self, database: Option<&str>) -> Result<Done, End> {
        let shared = self.session.shared.clone();
        let is_known = |name: &str| {
            name == shared.config.console.database || shared.sessions.figures().contains_key(name)
        };
        if let Some(name) = database.filter(|name| !is_known(name)) {
            return Ok(Err(refusals::no_such_database(name)));
        }
        let is_new = shared.gate.change(|paused| paused.add(database));
        let database = database.map(str::to_owned);
        let mut pausing = Pausing { gate: shared.gate.clone(), database, stays: !is_new };
        self.tell("paused", pausing.database.as_deref());
        loop {
            let paused = shared.gate.paused();
            if !paused.says(pausing.database.as_deref()) {
                return Ok(Err(refusals::resumed_meanwhile()));
            }
            if !anything_runs(&shared.sessions, &paused) {
                pausing.stays = true;
                return Ok(Ok(()));
            }
            let client = &mut self.session.client;
            if client.has_ended() || client.incoming.first() == Some(&from_client::TERMINATE) {
                return Err(End::Quietly);
            }
            tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => return Err(refusals::shutting_down()),
                () = self.session.cancellable.called() => return Ok(Err(refusals::pause_cancelled())),
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = client.moved() => {}
            }
        }
    }

    /// Lets transactions of one database begin again, or all.
    pub fn resume(&mut self, database: Option<&str>) -> Done {
        let gate = &self.session.shared.gate;
        let resumed = gate.change(|paused| match database {
            Some(_) => paused.take_back(database),
            None => *paused = Paused::default(),
        });
        if !resumed {
            return Err(refusals::not_paused(database, gate.paused().all));
        }
        self.tell("resumed", database);
        Ok(())
    }

    /// Has the region say of itself that no new clients are to come. Those who are here go on.
    pub fn drain(&self) -> Done {
        let Console { notices, .. } = &self.session.shared.config.console;
        let by = &self.session.recorder.record.who.user;
        let detail = format!(
            "\"{by}\" wants no new clients to be led to this region: /readiness says no, and its name is \
             not in the answer. UNDRAIN in the gateway's console ends that, and so does a start of the agent"
        );
        notices.post(PART, DRAINED, detail);
        Ok(())
    }

    /// Takes that back.
    pub fn undrain(&self) -> Done {
        let Console { notices, .. } = &self.session.shared.config.console;
        if !notices.speaks(PART) {
            return Err(refusals::not_drained());
        }
        notices.clear(PART);
        Ok(())
    }

    /// Ends the session of this number.
    pub fn kill(&mut self, id: u64) -> Done {
        let record = self.session.shared.sessions.find(id);
        let record = record.ok_or_else(|| refusals::no_such_client(id))?;
        record.ended.cancel();
        let (user, by) = (&record.who.user, &self.session.recorder.record.who.user);
        tracing::info!(id, user, by, "a session is ended from the console");
        Ok(())
    }

    fn tell(&self, what: &str, database: Option<&str>) {
        let by = &self.session.recorder.record.who.user;
        let database = database.unwrap_or("all databases");
        tracing::info!(database, by, "{what} from the console");
    }
}

impl Drop for Pausing {
    fn drop(&mut self) {
        if !self.stays {
            self.gate.change(|paused| paused.take_back(self.database.as_deref()));
        }
    }
}

/// Looks whether a server works for any session of what is paused. Sessions of other gateways are sent away while they
/// ask nothing: those wait for this one to be there again.
fn anything_runs(sessions: &Sessions, paused: &Paused) -> bool {
    let concerned = |record: &Record| paused.holds(&record.who.database);
    let mut runs = false;
    for record in sessions.present().iter().filter(|record| concerned(record)) {
        match (record.who.kind, record.doing()) {
            (Kind::Console, _) | (Kind::Client, Doing::Idle | Doing::Paused) => {}
            (Kind::Peer, Doing::Idle) => {
                record.ended.cancel();
                runs = true;
            }
            (
                Kind::Client | Kind::Peer,
                Doing::Login | Doing::IdleInTransaction | Doing::Active | Doing::Waiting,
            )
            | (Kind::Peer, Doing::Paused) => runs = true,
        }
    }
    runs
}
