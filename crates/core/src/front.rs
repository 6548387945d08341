//! Which region answers a request of HTTP, and what may be tried when one does not?
//!
//! ```text
//!   request --rule--> wanted --journey--> here, another region's door, or a wait for an owner
//!                       ^                          |
//!                       └───────── replay ─────────┘  the application says that it belongs elsewhere
//! ```
//!
//! A door never decides who may write: the guard in PostgreSQL does. A door that is wrong costs time. What it
//! must not do is have a request executed twice, nor send it in circles.

use crate::id::{PartitionId, RegionId};

pub mod hop;
pub mod journey;
pub mod replay;
pub mod rule;

/// Who may answer a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any region, the one where it arrived best.
    Anywhere,
    /// The region where it arrived, and no other.
    Here,
    /// Whoever owns this partition.
    Owner(PartitionId),
    Region(RegionId),
}

/// Why a door answers a request itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("region \"{region}\" owns this now, and a request is sent on only once")]
    NotOwner { region: RegionId },
    #[error("no region may write this at the moment")]
    NoOwner,
    #[error("region \"{region}\" does not answer")]
    RegionUnreachable { region: RegionId },
    #[error("the application of region \"{region}\" takes no connection")]
    AppUnreachable { region: RegionId },
    #[error("region \"{region}\" broke off; whether it did what was asked is not known")]
    BrokeOff { region: RegionId },
    #[error(
        "region \"{region}\" did not answer in time; whether it does what was asked is not known"
    )]
    Late { region: RegionId },
    #[error("the application asks for a second replay, and there is one")]
    ReplayedTwice,
    #[error("this request goes in a circle: the application's address leads back to the door")]
    Circle,
    #[error("the body is too long, or gone already, to be sent to another region")]
    BodyNotKept,
    #[error("the application asks for a replay that is not understood: {said}")]
    NoReplay { said: String },
    #[error("\"{value}\" is the key of no region")]
    NoHome { value: String },
    #[error("{what}")]
    Refused { what: &'static str },
}

impl Why {
    /// Returns the status of HTTP.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoHome { .. } | Self::Refused { .. } => 400,
            Self::BodyNotKept => 413,
            Self::AppUnreachable { .. } | Self::BrokeOff { .. } | Self::NoReplay { .. } => 502,
            Self::NoOwner | Self::RegionUnreachable { .. } => 503,
            Self::Late { .. } => 504,
            Self::NotOwner { .. } | Self::ReplayedTwice | Self::Circle => 508,
        }
    }

    /// Will it be different in a moment, and is it certain that nothing was done?
    pub fn is_passing(&self) -> bool {
        self.status() == 503
    }

    /// By which programs, and other doors, know it.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::NotOwner { .. } => "not-owner",
            Self::NoOwner => "no-owner",
            Self::RegionUnreachable { .. } => "region-unreachable",
            Self::AppUnreachable { .. } => "app-unreachable",
            Self::BrokeOff { .. } => "broke-off",
            Self::Late { .. } => "late",
            Self::ReplayedTwice => "replayed-twice",
            Self::Circle => "circle",
            Self::BodyNotKept => "body-not-kept",
            Self::NoReplay { .. } => "no-replay",
            Self::NoHome { .. } => "no-home",
            Self::Refused { .. } => "refused",
        }
    }
}
