//! What does a runbook's file say, and is it sound?
//!
//! ```text
//!   text --read--> typed steps --order--> Runbook --plan(arguments)--> Plan
//!          \_________________/                           |
//!                mistakes                          argument mistakes
//! ```
//!
//! A file with mistakes is refused as a whole, with all of them. Nobody has written it with us at
//! his side, and a run keeps its text: so it is read again by whichever agent goes on with the run,
//! and means the same there.

use std::collections::BTreeMap;
use std::fmt;

use super::Objectives;
use crate::id::{PartitionRange, RegionId};
use crate::time::Millis;

mod call;
mod compile;
mod mistake;
mod order;
mod read;
pub mod steps;
mod value;

pub use call::{Call, CallError};
pub use compile::ArgumentError;
pub use mistake::Mistake;
pub use value::{Argument, Kind, Value, written};

/// The longest text of a runbook: a run keeps it in the directory.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// The longest name of a runbook or of a parameter.
pub const NAME_BYTES_MAX: usize = 64;

/// A sound runbook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runbook {
    pub name: String,
    /// One sentence.
    pub about: String,
    /// In the order of the file.
    pub parameters: Vec<Parameter>,
    pub objectives: Objectives,
    pub actions: Vec<Action>,
    /// By the numbers of the steps, from 0: which runs they are part of, where that is not all of them.
    pub conditions: BTreeMap<usize, Condition>,
}

/// A flag says whether a step is part of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The name of the parameter.
    pub flag: String,
    /// What it has to be.
    pub is: bool,
}

/// What a run is told when it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub kind: Kind,
    pub about: String,
    /// Without one it has to be given.
    pub default: Option<String>,
}

/// Parameter -> value, as a person wrote it.
pub type Arguments = BTreeMap<String, String>;

/// A step as the file has it. What is told by one is not repeated by those after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Approve { role: Value<String>, count: Value<u32>, within: Value<Millis> },
    Check { region: Value<RegionId>, lag: Value<Millis> },
    Exec { program: Value<String>, within: Value<Millis>, may_fail: Value<bool> },
    Webhook { webhook: Value<String>, within: Value<Millis> },
    Notify { webhook: Value<String>, within: Value<Millis> },
    ConfirmOutage { attest: Value<bool> },
    WarmUp { within: Value<Millis> },
    HandOver { partitions: Value<PartitionRange>, to: Value<RegionId> },
    Fence { from: Value<RegionId>, to: Value<RegionId> },
    FenceCanary { from: Value<RegionId>, to: Value<RegionId> },
    ForEach { range_of: Value<RegionId>, to: Value<RegionId>, at_once: Value<u32> },
    Seed { region: Value<RegionId>, replace: Value<bool> },
    Seal,
    Cut,
    LateWrite,
    CatchUp,
    Grant,
    Reroute,
    Verify,
    GiveBack,
}

impl Runbook {
    /// Reads a file's text, or returns every mistake in it, in file order.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        read::read(text)
    }
}

/// As in the file.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{{}}}", if self.is { "" } else { "!" }, self.flag)
    }
}

impl Action {
    /// After `do =` in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Approve { .. } => "approve",
            Self::Check { .. } => "check",
            Self::Exec { .. } => "exec",
            Self::Webhook { .. } => "webhook",
            Self::Notify { .. } => "notify",
            Self::ConfirmOutage { .. } => "confirm_outage",
            Self::WarmUp { .. } => "warm_up",
            Self::HandOver { .. } => "hand_over",
            Self::Fence { .. } => "fence",
            Self::FenceCanary { .. } => "fence_canary",
            Self::ForEach { .. } => "for_each",
            Self::Seed { .. } => "seed",
            Self::Seal => "seal",
            Self::Cut => "cut",
            Self::LateWrite => "late_write",
            Self::CatchUp => "catch_up",
            Self::Grant => "grant",
            Self::Reroute => "reroute",
            Self::Verify => "verify",
            Self::GiveBack => "give_back",
        }
    }

    /// Key -> what it is told: a value, or a parameter in braces.
    pub fn told(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Approve { role, count, within } => vec![
                ("role", role.to_string()),
                ("count", count.to_string()),
                ("within", value::told(within)),
            ],
            Self::Check { region, lag } => {
                vec![("region", region.to_string()), ("lag", value::told(lag))]
            }
            Self::Exec { program, within, may_fail } => vec![
                ("program", program.to_string()),
                ("within", value::told(within)),
                ("may_fail", may_fail.to_string()),
            ],
            Self::Webhook { webhook, within } | Self::Notify { webhook, within } => {
                vec![("webhook", webhook.to_string()), ("within", value::told(within))]
            }
            Self::ConfirmOutage { attest } => vec![("attest", attest.to_string())],
            Self::WarmUp { within } => vec![("within", value::told(within))],
            Self::HandOver { partitions, to } => {
                vec![("partitions", partitions.to_string()), ("to", to.to_string())]
            }
            Self::Fence { from, to } | Self::FenceCanary { from, to } => {
                vec![("from", from.to_string()), ("to", to.to_string())]
            }
            Self::ForEach { range_of, to, at_once } => vec![
                ("range_of", range_of.to_string()),
                ("to", to.to_string()),
                ("at_once", at_once.to_string()),
            ],
            Self::Seed { region, replace } => {
                vec![("region", region.to_string()), ("replace", replace.to_string())]
            }
            Self::Seal | Self::Cut | Self::LateWrite | Self::CatchUp => Vec::new(),
            Self::Grant | Self::Reroute | Self::Verify | Self::GiveBack => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
