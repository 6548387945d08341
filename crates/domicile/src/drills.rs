//! Which drills have there been, as the runs in the directory say?

use std::sync::Arc;

use domicile_core::runbook::drill::PastDrill;
use tokio::sync::watch;

use crate::directory::View;
use crate::directory::documents::{RunDocument, lift_drill};

/// Those that are known here, read again when there is news.
pub struct Drills {
    runs: watch::Receiver<Arc<View>>,
    past: Vec<PastDrill>,
}

impl Drills {
    pub fn new(mut runs: watch::Receiver<Arc<View>>) -> Self {
        runs.mark_changed();
        Self { runs, past: Vec::new() }
    }

    pub fn past(&mut self) -> &[PastDrill] {
        if self.runs.has_changed().unwrap_or(false) {
            let view = self.runs.borrow_and_update().clone();
            self.past = among(view.documents.values().map(|(value, _)| value.as_ref()));
        }
        &self.past
    }
}

/// Returns the drills among the documents of runs.
pub fn among<'a>(runs: impl Iterator<Item = &'a [u8]>) -> Vec<PastDrill> {
    // Whoever performs runs says which of them cannot be read.
    let runs = runs.filter_map(|value| serde_json::from_slice::<RunDocument>(value).ok());
    runs.filter_map(|run| lift_drill(&run)).collect()
}
