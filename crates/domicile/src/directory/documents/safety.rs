//! What does the directory know of the rules of safety, and of what they count?
//!
//! Two documents under one prefix, so that they are read at one moment: the rules, which a person changes, and
//! the hand-overs that have begun lately, which whoever begins one writes down.

use bytes::Bytes;
use domicile_core::id::RunId;
use domicile_core::runbook::safety::{Begun, Freeze, Frozen, Override, Policy, Safety};
use domicile_core::time::{Millis, Wall};
use serde::{Deserialize, Serialize};

use super::json;

pub const SAFETY_PREFIX: &str = "safety/";
pub const POLICY_KEY: &str = "safety/policy";
pub const BEGUN_KEY: &str = "safety/begun";

/// Hand-overs that are remembered, the latest of them: as many as are begun in a minute, and more.
const BEGUN_MAX: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<FreezeDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loss_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_interval_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_partitions_per_minute: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeDocument {
    pub of: FrozenDocument,
    pub by: String,
    pub reason: String,
    /// Unix time in milliseconds by the wall clock of whoever wanted it: for people.
    #[serde(default)]
    pub since_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrozenDocument {
    Planned,
    All,
}

/// Who has something begin although the rules are against it, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideDocument {
    pub by: String,
    pub reason: String,
    /// What the rules said against it when it was started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct BegunDocument {
    hand_overs: Vec<HandOverDocument>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HandOverDocument {
    run: String,
    range: String,
    at_ms: u64,
}

/// Lifts the rules, and what has begun lately. `None` where there is no such document.
///
/// Rules that cannot be read forbid what can wait, and no more: somebody has set them, and nobody's outage is to
/// last longer for it.
pub fn lift_safety(policy: Option<&[u8]>, begun: Option<&[u8]>, now: Wall) -> Safety {
    let policy = match policy.map(serde_json::from_slice).transpose() {
        Ok(document) => lift_policy(&document.unwrap_or_default()),
        Err(error) => unreadable(&error),
    };
    let begun = begun.map(serde_json::from_slice).transpose().unwrap_or_else(|error| {
        tracing::error!("which hand-overs have begun lately is unreadable: {error}");
        None
    });
    Safety { policy, begun: lift_begun(begun.unwrap_or_default()), now }
}

fn unreadable(error: &serde_json::Error) -> Policy {
    let reason = format!("the rules in the directory are unreadable: {error}");
    let by = "whoever has written them".to_owned();
    Policy { freeze: Some(Freeze { of: Frozen::Planned, by, reason }), ..Policy::default() }
}

fn lift_policy(document: &PolicyDocument) -> Policy {
    let freeze = document.freeze.as_ref().map(|freeze| Freeze {
        of: match freeze.of {
            FrozenDocument::Planned => Frozen::Planned,
            FrozenDocument::All => Frozen::All,
        },
        by: freeze.by.clone(),
        reason: freeze.reason.clone(),
    });
    Policy {
        freeze,
        loss_max: document.max_loss_ms.map(Millis),
        interval_min: document.min_interval_ms.map(Millis),
        partitions_per_minute_max: document.max_partitions_per_minute,
    }
}

/// One whose range is none counts nothing.
fn lift_begun(document: BegunDocument) -> Vec<Begun> {
    let lift = |hand_over: HandOverDocument| {
        let range = hand_over.range.parse().ok()?;
        Some(Begun { run: RunId(hand_over.run), range, at: Wall(hand_over.at_ms) })
    };
    document.hand_overs.into_iter().filter_map(lift).collect()
}

pub fn lower_begun(begun: &[Begun]) -> Bytes {
    let latest = &begun[begun.len().saturating_sub(BEGUN_MAX)..];
    let lower = |begun: &Begun| HandOverDocument {
        run: begun.run.to_string(),
        range: begun.range.to_string(),
        at_ms: begun.at.0,
    };
    json(&BegunDocument { hand_overs: latest.iter().map(lower).collect() })
}

pub fn lift_override(document: &OverrideDocument) -> Override {
    Override { by: document.by.clone(), reason: document.reason.clone() }
}

/// `against` is what the rules say.
pub fn lower_override(overridden: &Override, against: Vec<String>) -> OverrideDocument {
    let Override { by, reason } = overridden.clone();
    OverrideDocument { by, reason, against }
}

#[cfg(test)]
mod tests {
    use domicile_core::id::PartitionRange;

    use super::*;

    const NOW: Wall = Wall(1000);

    #[test]
    fn what_has_begun_survives_the_directory_and_the_oldest_is_forgotten_first() {
        let at = |at| {
            let range = PartitionRange::new(4, 7);
            Begun { run: RunId(format!("{at}")), range, at: Wall(at) }
        };
        let begun: Vec<Begun> = (0..BEGUN_MAX as u64 + 2).map(at).collect();
        let stored = lower_begun(&begun);
        assert!(stored.len() < crate::directory::VALUE_BYTES_MAX / 2, "{}", stored.len());
        let lifted = lift_safety(None, Some(&stored), NOW);
        assert_eq!(lifted, Safety { begun: begun[2..].to_vec(), now: NOW, ..Safety::default() });
    }

    #[test]
    fn rules_that_cannot_be_read_forbid_what_can_wait() {
        for (text, of) in [
            ("{}", None),
            (r#"{"freeze":{"of":"all","by":"ada","reason":"x"},"later":1}"#, Some(Frozen::All)),
            (r#"{"freeze":{"of":"some","by":"ada","reason":"x"}}"#, Some(Frozen::Planned)),
            ("none", Some(Frozen::Planned)),
        ] {
            let lifted = lift_safety(Some(text.as_bytes()), Some(b"none"), NOW);
            assert_eq!(lifted.policy.freeze.map(|freeze| freeze.of), of, "{text}");
        }
    }
}
