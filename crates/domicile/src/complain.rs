//! How is a failure that repeats told only once?

/// Remembers the last complaint, so that the same one is not logged at every retry.
#[derive(Default)]
pub struct Complaint {
    last: Option<String>,
}

impl Complaint {
    /// Logs `error` as a warning unless it is what was logged last.
    pub fn warn(&mut self, what: &str, error: &anyhow::Error) {
        let text = format!("{what}: {error:#}");
        if self.last.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            self.last = Some(text);
        }
    }

    /// Whatever it was has passed: the next failure is told again.
    pub fn settled(&mut self) {
        self.last = None;
    }
}
