//! Whose code would run with the rights of the agent's role?
//!
//! An applier writes rows as the agent's role. What a table has run for each row that is written runs
//! with its rights then, and who may change that has them too.

use std::collections::BTreeMap;

use domicile_core::config::Config;

use super::server::role;
use super::table::parts;
use super::{Finding, blocker, object, quoted, quoted_name, replicated, warn};
use crate::cli::check::survey::{Reached, Server};
use crate::postgres::catalog::{Fires, Table};

/// So many tables are named in one line.
const NAMED_MAX: usize = 5;

/// Triggers and rules that fire for applied rows, and are another's to change.
pub fn judge(table: &Table, facts: &Reached, add: &mut impl FnMut(Finding)) {
    for part in parts(table, &facts.catalog) {
        for fires in &part.fires {
            let Some(stranger) = stranger(part, fires, &facts.server) else { continue };
            let runs =
                fires.function.as_ref().map_or_else(String::new, |f| format!(" {}()", f.name));
            let what = format!(
                "{} \"{}\" runs{runs} for applied rows with the rights of {}, and role \"{stranger}\" \
                 may have it do anything",
                fires.kind,
                fires.name,
                role(&facts.server)
            );
            let (table, name) = (quoted(&part.name), quoted_name(&fires.name));
            let safe = match &fires.function {
                Some(f) => {
                    format!("ALTER FUNCTION {}() SECURITY DEFINER, for its owner's rights", f.name)
                }
                None => format!("have the table be \"{}\"'s", facts.server.role),
            };
            let way_out = format!(
                "ALTER TABLE {table} ENABLE {} {name}, which leaves applied rows alone; or {safe}.",
                fires.kind.to_uppercase()
            );
            add(blocker("runs_as_agent", object(&part.name), what, way_out));
        }
    }
}

/// Who may change what runs, without having the agent's rights already.
fn stranger<'a>(table: &'a Table, fires: &'a Fires, server: &Server) -> Option<&'a str> {
    let trusted = |name: &str, superuser: bool| superuser || name == server.role;
    if let Some(function) = &fires.function {
        if function.security_definer {
            return None;
        }
        if !trusted(&function.owner, function.owner_is_superuser) {
            return Some(&function.owner);
        }
    }
    let owner = &table.owner;
    (!trusted(&owner.name, owner.superuser)).then_some(owner.name.as_str())
}

/// Owners who could give a superuser's session code to run at any time, not only by triggers.
pub fn judge_owners(config: &Config, facts: &Reached, add: &mut impl FnMut(Finding)) {
    if !facts.server.superuser {
        return;
    }
    let mut owned: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for name in replicated(config) {
        let Some(table) = facts.catalog.table(name) else { continue };
        for part in parts(table, &facts.catalog).filter(|part| !part.owner.superuser) {
            owned.entry(&part.owner.name).or_default().push(part.name.to_string());
        }
    }
    for (owner, tables) in owned {
        let more = match tables.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let what = format!(
            "owns {}{more}: what these have run when rows are written (triggers ENABLE ALWAYS, CHECK \
             constraints, generated columns, indexes over expressions) runs with the rights of {}, a \
             superuser",
            tables[..tables.len().min(NAMED_MAX)].join(", "),
            role(&facts.server)
        );
        let way_out = "Have the agent use a role that is no superuser and owns the tables \
                       (docs/operating/install.md), unless this one is trusted as much.";
        add(warn("owner_not_trusted", format!("role \"{owner}\""), what, way_out));
    }
}
