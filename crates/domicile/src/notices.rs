//! Which named states hold right now, as each part of the agent tells?

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::status::Condition;

/// A board on which each part keeps what it has to say. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    board: Arc<Mutex<BTreeMap<String, Condition>>>,
}

impl Notices {
    /// Says that `name` holds, in the place of whatever `part` said before.
    pub fn post(&self, part: &str, name: &str, detail: impl Into<String>) {
        let condition = Condition { name: name.to_owned(), detail: detail.into() };
        let before = self.lock().insert(part.to_owned(), condition.clone());
        if before.as_ref().is_none_or(|before| before.name != name) {
            tracing::warn!("{name}: {}", condition.detail);
        }
    }

    /// `part` has nothing to say any more.
    pub fn clear(&self, part: &str) {
        if let Some(before) = self.lock().remove(part) {
            tracing::info!("{} is over", before.name);
        }
    }

    /// Has `part` anything to say?
    pub fn speaks(&self, part: &str) -> bool {
        self.lock().contains_key(part)
    }

    pub fn all(&self) -> Vec<Condition> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Condition>> {
        // Every change leaves the board whole.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
