//! What may stand after an equals sign of a step: a value, or a parameter that will have one?

use std::fmt;

use crate::id::{PartitionRange, RegionId};

/// What a value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Region,
    Partitions,
    Flag,
}

impl Kind {
    pub const ALL: &[Self] = &[Self::Region, Self::Partitions, Self::Flag];

    /// As a parameter's `type` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Partitions => "partitions",
            Self::Flag => "flag",
        }
    }

    /// With an example, for whoever wrote something else.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Region => "the name of a region, as in \"eu\"",
            Self::Partitions => "partitions, as in \"4\" or \"4-7\"",
            Self::Flag => "true or false",
        }
    }

    /// Returns what is wrong with a text that is to be of this kind.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Region => RegionId::read(text).map(drop),
            Self::Partitions => PartitionRange::read(text).map(drop),
            Self::Flag => bool::read(text).map(drop),
        }
    }
}

/// Something that a step can be told.
pub trait Argument: Clone + Sized {
    const KIND: Kind;

    /// Reads what a person wrote.
    fn read(text: &str) -> Result<Self, String>;
}

impl Argument for RegionId {
    const KIND: Kind = Kind::Region;

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::id::RegionNameError| error.to_string())
    }
}

impl Argument for PartitionRange {
    const KIND: Kind = Kind::Partitions;

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::id::PartitionRangeError| error.to_string())
    }
}

impl Argument for bool {
    const KIND: Kind = Kind::Flag;

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("\"{text}\" is neither true nor false"))
    }
}

/// What a step was told in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<T> {
    Given(T),
    /// The parameter of this name says it.
    Parameter(String),
}

impl<T: fmt::Display> fmt::Display for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(value) => write!(f, "{value}"),
            Self::Parameter(name) => write!(f, "{{{name}}}"),
        }
    }
}
