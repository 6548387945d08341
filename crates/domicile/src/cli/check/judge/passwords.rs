//! Can a session that logs in with a password get to every region?

use std::collections::BTreeSet;

use domicile_core::id::RegionId;

use super::server::role;
use super::{Findings, quoted_name, warn};
use crate::cli::check::survey::Reached;

pub fn judge(reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    if reached.len() < 2 {
        return;
    }
    for (region, facts) in reached.iter().filter(|(_, facts)| facts.passwords.is_none()) {
        let what = "may not read pg_authid: sessions that log in with a password get from this region's \
                    gateway to no other region that asks for it";
        let way_out = format!(
            "GRANT SELECT (rolname, rolpassword) ON pg_authid TO {}, as a superuser. Where nobody is one, \
             connect clients to the owner's gateway.",
            quoted_name(&facts.server.role)
        );
        findings.add(Some(region), warn("passwords_unread", role(&facts.server), what, way_out));
    }
    let told = reached.iter();
    let told: Vec<_> =
        told.filter_map(|(region, facts)| Some((region, facts.passwords.as_ref()?))).collect();
    let Some(((first, here), others)) = told.split_first() else { return };
    for (other, there) in others {
        let roles: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        for name in roles {
            let (has, wanting, having) = match (here.get(name), there.get(name)) {
                (Some(a), Some(b)) if a == b => continue,
                // The same password has another verifier each time that it is set.
                (Some(_), Some(_)) => ("another verifier of its password", other, first),
                (Some(_), None) => ("no password", other, first),
                (None, _) => ("no password", first, other),
            };
            let what = format!(
                "in {wanting} it has {has}, unlike in {having}: its sessions do not get from one to the other"
            );
            let way_out = format!(
                "In {wanting}: ALTER ROLE {} PASSWORD, with what {having} keeps in pg_authid.rolpassword.",
                quoted_name(name)
            );
            findings.add(None, warn("password_differs", format!("role \"{name}\""), what, way_out));
        }
    }
}
