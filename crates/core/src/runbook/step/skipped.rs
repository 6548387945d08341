//! A flag leaves this step out of the run.
//!
//! It keeps its place: the numbers of those after it are the same in every run, and so are their tokens.

use super::{Blocker, Effect, Facts};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Of the step that is left out.
    pub name: &'static str,
    /// As in `urgent is true`.
    pub because: String,
}

impl Skipped {
    pub fn explain(&self) -> String {
        format!("skipped: {}", self.because)
    }

    pub fn done(&self, _: &Facts) -> bool {
        true
    }

    pub fn blocked(&self, _: &Facts) -> Option<Blocker> {
        None
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        None
    }
}
