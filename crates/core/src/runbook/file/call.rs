//! Which runbook is meant, and what is it told?
//!
//! This is what a run keeps of how it was asked for: everything else follows from it.

use thiserror::Error;

use super::{ArgumentError, Arguments, Mistake, Runbook};
use crate::id::{RegionId, RunId};
use crate::runbook::{Intent, Plan, drill, ready};

/// A runbook's text with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub text: String,
    pub arguments: Arguments,
}

/// Why a call comes to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    #[error("the runbook has mistakes: {}", list(.0))]
    Runbook(Vec<Mistake>),
    #[error("{}", list(.0))]
    Arguments(Vec<ArgumentError>),
}

fn list(errors: &[impl ToString]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Call {
    /// Returns the call of the ready-made runbook for an intent.
    pub fn ready(intent: &Intent) -> Self {
        let (name, arguments) = ready::of(intent);
        let text = ready::text(name).expect("a runbook of this name comes with Domicile");
        Self { text: text.to_owned(), arguments }
    }

    /// Returns the call of the ready-made drill.
    pub fn drill(to: &RegionId) -> Self {
        let text = ready::text(drill::RUNBOOK).expect("a runbook of this name comes with Domicile");
        Self { text: text.to_owned(), arguments: [("to".to_owned(), to.to_string())].into() }
    }

    /// Returns what `run` would do.
    pub fn plan(&self, run: &RunId) -> Result<Plan, CallError> {
        let runbook = Runbook::parse(&self.text).map_err(CallError::Runbook)?;
        runbook.plan(run, &self.arguments).map_err(CallError::Arguments)
    }
}
