//! Where does an application want a request that it does not answer itself?
//!
//! `region=eu`, or several of which the first known one counts (`region="fra,eu"`); `region=owner`; `key=42`, once for
//! each column of a key. `state=...` comes back with the request. Other fields are somebody else's and are passed over.

use super::{Wanted, Why};
use crate::id::{PartitionId, RegionId};
use crate::partition::{Layout, Scheme};

const STATE_BYTES_MAX: usize = 256;
const SHOWN_CHARACTERS: usize = 100;

/// What an application answers instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    pub wanted: Wanted,
    /// For the application that gets it, as in `state=after-write`.
    pub state: Option<String>,
}

impl Replay {
    /// Reads the value of `domicile-replay` or `fly-replay`.
    pub fn read(text: &str, layout: &Layout, regions: &[RegionId]) -> Result<Self, Why> {
        let fields = text.split(';').filter_map(|field| {
            let (name, value) = field.split_once('=')?;
            Some((name.trim(), value.trim().trim_matches('"')))
        });
        let (mut named, mut keys, mut state) = (None, Vec::new(), None);
        for (name, value) in fields {
            match name {
                "region" => named = Some(value),
                "key" => keys.push(value.as_bytes()),
                "state" if value.len() <= STATE_BYTES_MAX => state = Some(value.to_owned()),
                _ => {}
            }
        }
        let wanted = match named {
            Some(names) if names != "owner" => {
                let known =
                    |name: &str| regions.iter().find(|region| region.as_str() == name.trim());
                names.split(',').find_map(known).cloned().map(Wanted::Region)
            }
            Some(_) if layout.scheme == Scheme::Whole => Some(Wanted::Owner(PartitionId(0))),
            _ if keys.is_empty() => None,
            _ => layout.partition_of(&keys).ok().map(Wanted::Owner),
        };
        let said = || text.chars().take(SHOWN_CHARACTERS).collect();
        let wanted = wanted.ok_or_else(|| Why::NoReplay { said: said() })?;
        Ok(Self { wanted, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, scheme: Scheme) -> Option<Wanted> {
        let regions = ["eu", "us"].map(|name| name.parse().unwrap());
        Replay::read(text, &Layout { scheme, has_reference: false }, &regions)
            .ok()
            .map(|replay| replay.wanted)
    }

    #[test]
    fn a_replay_names_a_region_or_a_key() {
        let hash = || Scheme::Hash { count: 1000 };
        let us = Some(Wanted::Region("us".parse().unwrap()));
        assert_eq!(read("region=us", hash()), us);
        assert_eq!(read("region=\"fra, us,eu\";state=x", hash()), us);
        assert_eq!(read("app=shop; region=us ;elsewhere=true", hash()), us);
        let layout = Layout { scheme: hash(), has_reference: false };
        let owner = |key: &[&[u8]]| Some(Wanted::Owner(layout.partition_of(key).unwrap()));
        assert_eq!(read("key=42", hash()), owner(&[b"42"]));
        assert_eq!(read("key=a;key=7;region=owner", hash()), owner(&[b"a", b"7"]));
        assert_eq!(read("region=owner", Scheme::Whole), Some(Wanted::Owner(PartitionId(0))));
        for wrong in ["", "region", "region=", "region=fra", "region=owner", "state=x", "key"] {
            assert_eq!(read(wrong, hash()), None, "{wrong}");
        }
    }

    #[test]
    fn a_state_comes_back_unless_it_is_long() {
        let state = |text: &str| {
            let layout = Layout { scheme: Scheme::Whole, has_reference: false };
            Replay::read(&format!("region=owner;state={text}"), &layout, &[]).unwrap().state
        };
        assert_eq!(state("after-write").as_deref(), Some("after-write"));
        assert_eq!(state(&"x".repeat(257)), None);
    }
}
