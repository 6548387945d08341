//! What does one region's door tell another's about a request that it sends on?
//!
//! `from=eu;partition=12`: the owner of partition 12 is wanted, as far as region eu knows. `from=eu`: whoever gets it
//! answers. The partition travels and not the key, so that the doors need not agree on rules.

use std::fmt;
use std::str::FromStr;

use super::Wanted;
use crate::id::{PartitionId, RegionId};

/// A request's way from one door to another: there is only one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    pub from: RegionId,
    /// Answer only as its owner.
    pub partition: Option<PartitionId>,
}

impl Hop {
    pub fn new(from: RegionId, wanted: &Wanted) -> Self {
        let partition = match wanted {
            Wanted::Owner(partition) => Some(*partition),
            Wanted::Anywhere | Wanted::Here | Wanted::Region(_) => None,
        };
        Self { from, partition }
    }

    /// What a request that comes over it wants.
    pub fn wanted(&self) -> Wanted {
        self.partition.map_or(Wanted::Here, Wanted::Owner)
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from={}", self.from)?;
        self.partition.map_or(Ok(()), |partition| write!(f, ";partition={}", partition.0))
    }
}

impl FromStr for Hop {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.strip_prefix("from=").ok_or(())?;
        let (from, partition) = match text.split_once(";partition=") {
            Some((from, number)) => (from, Some(PartitionId(number.parse().map_err(drop)?))),
            None => (text, None),
        };
        Ok(Self { from: from.parse().map_err(drop)?, partition })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_says_whether_the_owner_is_wanted() {
        for (text, wanted) in [
            ("from=eu", Wanted::Here),
            ("from=us-east;partition=12", Wanted::Owner(PartitionId(12))),
        ] {
            let hop: Hop = text.parse().unwrap();
            assert_eq!(hop.wanted(), wanted);
            assert_eq!(hop.to_string(), text);
            assert_eq!(Hop::new(hop.from.clone(), &wanted), hop);
        }
        for wrong in ["", "from=", "eu", "from=EU", "from=eu;partition=x", "from=eu;partition=-1"] {
            assert_eq!(wrong.parse::<Hop>(), Err(()), "{wrong}");
        }
    }
}
