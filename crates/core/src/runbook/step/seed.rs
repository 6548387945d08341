//! A region that waits to be added is given what the cluster shows, under writes, and becomes a member.
//!
//! Its own agent does that, once it is asked to; this asks and waits. Nobody waits for the region before it is
//! a member, so a run that is aborted takes back what was asked, and leaves what was copied.

use super::{Blocker, Effect, Facts};
use crate::id::RegionId;
use crate::membership::addable;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    pub region: RegionId,
    /// Rows that its tables have already go.
    pub replace: bool,
}

impl Seed {
    pub fn explain(&self) -> String {
        let replace = if self.replace { ", in place of the rows that it has" } else { "" };
        format!(
            "have region {} copy what the cluster shows{replace}, and make it a member",
            self.region
        )
    }

    pub fn done(&self, facts: &Facts) -> bool {
        facts.ownership.members().contains(&self.region)
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let region = self.region.clone();
        if let Some(seeding) = self.asked(facts) {
            return Some(Blocker::Seeding { region, seeding });
        }
        let obstacles = addable(&self.region, None, facts).err()?;
        Some(Blocker::NotAddable { region, obstacles })
    }

    pub fn effect(&self, facts: &Facts) -> Option<Effect> {
        let from = addable(&self.region, None, facts).ok()?;
        Some(Effect::Seed { region: self.region.clone(), from, replace: self.replace })
    }

    /// What takes back what may have been asked: what its agent says of that may be old.
    pub fn undo(&self, facts: &Facts) -> Option<Effect> {
        let open = !self.done(facts) && !facts.seed_given_up;
        open.then(|| Effect::GiveUpSeed { region: self.region.clone() })
    }

    fn asked(&self, facts: &Facts) -> Option<super::Seeding> {
        facts.regions.get(&self.region)?.seeding.clone()
    }
}
