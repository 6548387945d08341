//! Do the server, the database and the role leave room for what an agent opens?

use domicile_core::config::{Config, TableKind};

use super::server::{object, parameter, role};
use super::{Finding, blocker, quoted_name, warn};
use crate::cli::check::survey::{Room, Server};

/// One for capture.
const SLOTS_KEPT: i64 = 1;
/// One while another region is added and copies this one.
const SLOTS_PASSING: i64 = 1;
/// One for capture, and one while a slot is being read again after a lost connection.
const SENDERS_NEEDED: i64 = 2;
/// For lease and guard, the door, the journal, durability, the status, the canary and the pulse;
/// beside them is one for each other region's changes.
const SESSIONS_KEPT: i64 = 7;
/// Two that look after shared tables.
const SESSIONS_FOR_SHARED: i64 = 2;
/// For guards, repairs, tails, comparisons, commands, and a region that copies this one; beside them
/// is a second one for each other region's changes while there are many.
const SESSIONS_PASSING: i64 = 10;
/// One for repairs; beside it is one for each other region's changes.
const ORIGINS_KEPT: i64 = 1;
const ORIGINS_FOR_SHARED: i64 = 1;
/// While this region itself is seeded, and applies nothing yet.
const ORIGINS_OF_SEEDING: i64 = crate::seed::ORIGINS as i64;
/// From here on replication origins have a limit of their own.
const OWN_LIMIT_SINCE: i32 = 180_000;

/// More than is needed, so that nobody has to restart PostgreSQL again soon.
const SPARE: i64 = 4;

pub fn judge(config: &Config, server: &Server, add: &mut impl FnMut(Finding)) {
    slots_and_senders(server, add);
    let others = i64::try_from(config.regions.len()).unwrap_or(i64::MAX).saturating_sub(1);
    let shared = config.tables.values().any(|kind| matches!(kind, TableKind::Shared(_)));
    let for_shared = |count: i64| if shared { count } else { 0 };
    let kept = others + SESSIONS_KEPT + for_shared(SESSIONS_FOR_SHARED);
    sessions(server, kept, others + SESSIONS_PASSING, add);
    let kept = others + ORIGINS_KEPT + for_shared(ORIGINS_FOR_SHARED);
    // Those second sessions each take one.
    origins(server, kept, others, add);
}

fn slots_and_senders(server: &Server, add: &mut impl FnMut(Finding)) {
    let set = |name: &str, room: Room, needed: i64| {
        let value = room.used + needed + SPARE;
        format!("ALTER SYSTEM SET {name} = {value}, then restart PostgreSQL.")
    };
    let name = "max_replication_slots";
    let needed = SLOTS_KEPT + SLOTS_PASSING;
    let way_out = set(name, server.slots, needed);
    if server.slots.left() < SLOTS_KEPT {
        let what = short(server.slots, "slots", SLOTS_KEPT);
        add(blocker(name, parameter(name), what, way_out));
    } else if server.slots.left() < needed {
        let what = format!(
            "{}: no other region can be added from this one",
            short(server.slots, "slots", needed)
        );
        add(warn(name, parameter(name), what, way_out));
    }
    let name = "max_wal_senders";
    if server.senders.left() < SENDERS_NEEDED {
        let what = short(server.senders, "WAL senders", SENDERS_NEEDED);
        let way_out = set(name, server.senders, SENDERS_NEEDED);
        add(blocker(name, parameter(name), what, way_out));
    }
}

/// Three limits on the same sessions, each with a way out of its own. WAL senders count as sessions
/// of their role and their database, and have a limit of their own in the server.
fn sessions(server: &Server, kept: i64, passing: i64, add: &mut impl FnMut(Finding)) {
    let mut limited = |name, object: String, room: Room, kept: i64, set: &dyn Fn(i64) -> String| {
        let needed = kept + passing;
        let way_out = set(room.used + needed);
        if room.left() < kept {
            let what = format!(
                "{}: the agent cannot keep its sessions open",
                short(room, "sessions", needed)
            );
            add(blocker(name, object, what, way_out));
        } else if room.left() < needed {
            let what = format!(
                "{}: the agent runs, and repairs, comparisons or a region that is added may fail",
                short(room, "sessions", needed)
            );
            add(warn(name, object, what, way_out));
        }
    };
    let name = "max_connections";
    limited(name, parameter(name), server.sessions, kept, &|value| {
        // As much is kept back for superusers as before.
        let value = value + server.sessions_reserved + SPARE;
        format!("ALTER SYSTEM SET max_connections = {value}, then restart PostgreSQL.")
    });
    if let Some(room) = server.role_sessions {
        let kept = kept + SENDERS_NEEDED;
        limited("connection_limit", role(server), room, kept, &|value| {
            format!("ALTER ROLE {} CONNECTION LIMIT {value}.", quoted_name(&server.role))
        });
    }
    if let Some(room) = server.database_sessions {
        let kept = kept + SENDERS_NEEDED;
        limited("connection_limit", object(server), room, kept, &|value| {
            format!("ALTER DATABASE {} CONNECTION LIMIT {value}.", quoted_name(&server.database))
        });
    }
}

/// PostgreSQL remembers up to where each origin was applied, in as many places as it has at its
/// start. Those of earlier incarnations stay.
fn origins(server: &Server, kept: i64, passing: i64, add: &mut impl FnMut(Finding)) {
    let name = match server.version_num < OWN_LIMIT_SINCE {
        true => "max_replication_slots",
        false => "max_active_replication_origins",
    };
    let needed = (kept + passing).max(server.origins_ours).max(ORIGINS_OF_SEEDING);
    let kept = kept.max(server.origins_ours);
    let room = server.origins;
    let way_out = format!(
        "ALTER SYSTEM SET {name} = {}, then restart PostgreSQL.",
        room.used + needed + SPARE
    );
    if room.left() < kept {
        let what = format!(
            "{}: other regions' changes cannot be applied",
            short(room, "replication origins", kept)
        );
        add(blocker("replication_origins", parameter(name), what, way_out));
    } else if room.left() < needed {
        let without = match room.left() < ORIGINS_OF_SEEDING {
            true => "this region cannot be seeded",
            false => "it may apply what has gathered only one batch at a time",
        };
        let what = format!("{}: {without}", short(room, "replication origins", needed));
        add(warn("replication_origins", parameter(name), what, way_out));
    }
}

fn short(room: Room, what: &str, needed: i64) -> String {
    format!("leaves {} of {} {what}, {needed} needed", room.left(), room.max)
}
