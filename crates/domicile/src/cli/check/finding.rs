//! What did `check` find, how bad is it, and what is the way out?

use domicile_core::id::RegionId;
use serde::Serialize;

/// How much a finding weighs; the worst sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Domicile cannot run like this.
    Blocker,
    /// It runs, and a person should know.
    Warn,
    Ok,
}

/// One thing about one object, in one or several regions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// Stable, for scripts: as in `no_primary_key`.
    pub name: &'static str,
    /// In the configuration's order; empty when it concerns the cluster as a whole.
    pub regions: Vec<String>,
    /// With its kind, as in `table "public.accounts"`.
    pub object: String,
    pub what: String,
    /// A sentence; empty when nothing has to be done.
    pub way_out: String,
}

/// Collects findings; what several regions share becomes one.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub fn add(&mut self, region: Option<&RegionId>, finding: Finding) {
        let same = self.0.iter_mut().find(|other| {
            let Finding { level, name, object, what, way_out, .. } = &finding;
            other.level == *level
                && other.name == *name
                && other.object == *object
                && other.what == *what
                && other.way_out == *way_out
        });
        let found = match same {
            Some(other) => other,
            None => {
                self.0.push(Finding { regions: Vec::new(), ..finding });
                self.0.last_mut().expect("one was just pushed")
            }
        };
        found.regions.extend(region.map(ToString::to_string));
    }

    /// Returns whether this object has something worse than `Ok`.
    pub fn wrong(&self, object: &str) -> bool {
        self.0.iter().any(|finding| finding.object == object && finding.level != Level::Ok)
    }

    /// The worst first, otherwise in the order in which they were found.
    pub fn into_list(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.level);
        self.0
    }
}
