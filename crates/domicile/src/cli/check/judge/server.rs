//! Can this server and this role carry an agent?

use domicile_core::config::Config;
use domicile_core::progress::Rpo;
use domicile_core::standby::StandbyNames;

use super::{Finding, blocker, ok, room, warn};
use crate::cli::check::survey::{Probes, Reached, Server};

const VERSION_NUM_MIN: i32 = 140_000;
/// The first version that was never tried.
const VERSION_NUM_END: i32 = 190_000;
/// How the capture connection is known as a synchronous standby.
const STANDBY_NAME: &str = crate::capture::APPLICATION_NAME;

pub fn judge(config: &Config, facts: &Reached, add: &mut impl FnMut(Finding)) {
    let server = &facts.server;
    version(server, add);
    settings(server, add);
    room::judge(config, server, add);
    rights(server, &facts.probes, add);
    ack_fence(config.rpo, server, add);
    if !facts.is_local && !server.encrypted {
        let what = "is on another machine, and what is said to it goes unencrypted";
        let way_out = "Switch ssl on in PostgreSQL, and put sslmode=verify-full and sslrootcert into \
                       region[].postgres (docs/operating/encryption.md).";
        add(warn("database_in_the_clear", object(server), what, way_out));
    }
    if server.large_objects > 0 {
        let what = format!("{} large objects are not replicated", server.large_objects);
        let way_out = "Keep such data in bytea columns or outside the database.";
        add(warn("large_objects", object(server), what, way_out));
    }
}

pub fn object(server: &Server) -> String {
    format!("database \"{}\"", server.database)
}

pub fn parameter(name: &str) -> String {
    format!("parameter \"{name}\"")
}

pub fn role(server: &Server) -> String {
    format!("role \"{}\"", server.role)
}

fn version(server: &Server, add: &mut impl FnMut(Finding)) {
    let object = format!("PostgreSQL {}", server.version);
    if server.version_num < VERSION_NUM_MIN {
        add(blocker("version", object, "is too old", "Upgrade to 14 or newer."));
    } else if server.version_num >= VERSION_NUM_END {
        let way_out = "Use 14 to 18, or try it well before you rely on it.";
        add(warn("version", object, "is newer than any version that was tried", way_out));
    } else {
        let what = format!("answers as role \"{}\"", server.role);
        add(ok("reachable", object, what));
    }
    if server.in_recovery {
        let way_out = "Name the primary's address, or one that follows it.";
        let what = "is a standby: it takes no writes and no slot of ours";
        add(blocker("standby", self::object(server), what, way_out));
    }
    if server.encoding != "UTF8" {
        let what = format!("has encoding {}", server.encoding);
        let way_out = "Dump it and restore it into a database with ENCODING 'UTF8'.";
        add(blocker("encoding", self::object(server), what, way_out));
    }
}

fn settings(server: &Server, add: &mut impl FnMut(Finding)) {
    if server.wal_level != "logical" {
        let what = format!("is {}, but changes can only be read at logical", server.wal_level);
        let way_out = "ALTER SYSTEM SET wal_level = 'logical', then restart PostgreSQL.";
        add(blocker("wal_level", parameter("wal_level"), what, way_out));
    }
    if server.prepared_transactions_max > 0 {
        let what = format!(
            "is {}: a transaction prepared before a switchover can still commit after it",
            server.prepared_transactions_max
        );
        let way_out = "Set it to 0 unless an application needs two-phase commit.";
        let name = "max_prepared_transactions";
        add(warn(name, parameter(name), what, way_out));
    }
    if server.slot_keep_size != "-1" {
        let name = "max_slot_wal_keep_size";
        let what = format!(
            "is {}: an agent that is away for longer loses its slot, and its region is seeded again",
            server.slot_keep_size
        );
        let way_out = "Leave it at -1 and watch the disk, or make it hold the longest absence.";
        add(warn(name, parameter(name), what, way_out));
    }
}

fn rights(server: &Server, probes: &Probes, add: &mut impl FnMut(Finding)) {
    let role = || role(server);
    if let Err(said) = &probes.slot
        && server.wal_level == "logical"
        && !server.in_recovery
    {
        let what = format!("cannot make a logical replication slot: {said}");
        let way_out = format!(
            "ALTER ROLE {} REPLICATION, or what your provider has in its place \
             (rds_replication, cloudsqlsuperuser, azure_pg_admin).",
            super::quoted_name(&server.role)
        );
        add(blocker("may_not_replicate", role(), what, way_out));
    }
    if let Err(said) = &probes.origin {
        let what = format!("cannot use replication origins: {said}");
        let way_out = "Use a superuser, or grant EXECUTE on the pg_replication_origin_* functions.";
        add(blocker("may_not_use_origins", role(), what, way_out));
    }
    if let Err(said) = &probes.replica_role {
        let what = format!("cannot apply changes without firing triggers again: {said}");
        let way_out = "Use a superuser, or (15 and newer) GRANT SET ON PARAMETER \
                       session_replication_role.";
        add(blocker("may_not_set_replica_role", role(), what, way_out));
    }
    if !server.may_create_schema {
        let what = format!("may not create schema \"domicile\" in {}", object(server));
        let way_out = format!(
            "GRANT CREATE ON DATABASE {} TO {}.",
            super::quoted_name(&server.database),
            super::quoted_name(&server.role)
        );
        add(blocker("may_not_create_schema", role(), what, way_out));
    }
}

/// With an RPO a commit waits for the capture connection, which is a synchronous standby. Without
/// one it is still good to know whether this server would allow it.
fn ack_fence(rpo: Rpo, server: &Server, add: &mut impl FnMut(Finding)) {
    let name = "synchronous_standby_names";
    let names = StandbyNames::read(&server.standby_names);
    let named = names.as_ref().is_some_and(|names| names.always_waits_for(STANDBY_NAME));
    if !rpo.waits_for_capture() {
        return match (named, server.may_set_standby_names) {
            (true, _) => {
                let what = "names the agent: commits wait for it, for nothing at rpo = \"none\"";
                let way_out = "ALTER SYSTEM RESET synchronous_standby_names; SELECT \
                               pg_reload_conf();, or set an rpo.";
                add(warn("ack_fence_unused", parameter(name), what, way_out));
            }
            (false, true) => {
                let what = "may be set: rpo = \"0\" or a bound, as in \"250ms\", would hold here";
                add(ok("ack_fence", parameter(name), what));
            }
            (false, false) => {
                let what = "may not be set: only rpo = \"none\" holds here";
                add(ok("ack_fence", parameter(name), what));
            }
        };
    }
    if named {
        let what = format!("names the agent: rpo = \"{rpo}\" holds");
        return add(ok("ack_fence", parameter(name), what));
    }
    if !server.may_set_standby_names {
        let what = format!(
            "may not be set by role \"{}\", so commits cannot wait for other regions",
            server.role
        );
        let way_out = "Use a superuser, or (15 and newer) GRANT ALTER SYSTEM ON PARAMETER \
                       synchronous_standby_names and EXECUTE ON FUNCTION pg_reload_conf(), or \
                       set rpo = \"none\".";
        return add(blocker("ack_fence", parameter(name), what, way_out));
    }
    let what = format!(
        "is \"{}\": commits may return without the agent, so rpo = \"{rpo}\" does not hold yet",
        server.standby_names
    );
    let wanted = names.map_or(STANDBY_NAME.to_owned(), |names| names.with(STANDBY_NAME));
    // Set earlier, every commit would wait for an agent that is not there.
    let way_out = format!(
        "Once this region's agent runs: ALTER SYSTEM SET {name} = '{wanted}'; SELECT \
         pg_reload_conf();"
    );
    add(warn("ack_fence_not_set", parameter(name), what, way_out));
}
