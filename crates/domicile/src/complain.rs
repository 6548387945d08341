//! How is a failure that repeats told only once?

/// Remembers the last complaint, so that the same one is not logged at every retry.
#[derive(Default)]
pub struct Complaint {
    last: Option<String>,
}

impl Complaint {
    /// Logs `error` as a warning unless it is what was logged last.
    pub fn warn(&mut self, what: &str, error: &anyhow::Error) {
        if let Some(text) = self.news(what, error) {
            tracing::warn!("{text}");
        }
    }

    /// Logs `error` as what may happen at any time, unless it is what was logged last.
    pub fn info(&mut self, what: &str, error: &anyhow::Error) {
        if let Some(text) = self.news(what, error) {
            tracing::info!("{text}");
        }
    }

    fn news(&mut self, what: &str, error: &anyhow::Error) -> Option<&str> {
        let text = format!("{what}: {error:#}");
        let known = self.last.as_ref() == Some(&text);
        let last = self.last.insert(text);
        (!known).then_some(last)
    }

    /// Whatever it was has passed: the next failure is told again.
    pub fn settled(&mut self) {
        self.last = None;
    }
}
