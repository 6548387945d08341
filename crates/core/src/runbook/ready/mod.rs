//! Which runbooks come with Domicile?
//!
//! They are files like anybody else's, part of the program: the only place where their steps stand.

use super::Intent;
use super::file::Arguments;

/// Name and text of each, in the order in which they are listed.
pub const READY: &[(&str, &str)] = &[
    ("failover", include_str!("failover.toml")),
    ("switchover", include_str!("switchover.toml")),
    ("failback", include_str!("failback.toml")),
    ("evacuate-region", include_str!("evacuate-region.toml")),
    ("drill", include_str!("drill.toml")),
    ("forced-drill", include_str!("forced-drill.toml")),
    ("add-region", include_str!("add-region.toml")),
];

/// Returns the text of the ready-made runbook of this name.
pub fn text(name: &str) -> Option<&'static str> {
    READY.iter().find(|(of, _)| *of == name).map(|(_, text)| *text)
}

/// Returns the ready-made runbook for an intent, and what it is to be called with.
pub fn of(intent: &Intent) -> (&'static str, Arguments) {
    let arguments = |list: &[(&str, String)]| -> Arguments {
        list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    };
    match intent {
        Intent::Failover { from, to, attested } => (
            "failover",
            arguments(&[
                ("from", from.to_string()),
                ("to", to.to_string()),
                ("attest", attested.to_string()),
            ]),
        ),
        Intent::Switchover { range, to } => {
            ("switchover", arguments(&[("partitions", range.to_string()), ("to", to.to_string())]))
        }
        Intent::ForcedDrill { from, to } => {
            ("forced-drill", arguments(&[("from", from.to_string()), ("to", to.to_string())]))
        }
        Intent::Addition { region } => ("add-region", arguments(&[("region", region.to_string())])),
        Intent::Evacuation { from, to } => {
            ("evacuate-region", arguments(&[("from", from.to_string()), ("to", to.to_string())]))
        }
    }
}
