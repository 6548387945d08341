//! A person decides. Until then every region shows the same one of the writes: the latest.

use super::super::version::Sibling;
use super::Deletes;

/// Returns which sibling is shown.
pub fn pick(siblings: &[Sibling], deletes: Deletes) -> Option<usize> {
    let latest = |meant: fn(&Sibling) -> bool| {
        (0..siblings.len()).filter(|i| meant(&siblings[*i])).max_by_key(|i| &siblings[*i].dot)
    };
    match deletes {
        Deletes::Latest => latest(|_| true),
        Deletes::DeleteWins => latest(|s| s.image.is_none()).or_else(|| latest(|_| true)),
        Deletes::UpdateWins => latest(|s| s.image.is_some()).or_else(|| latest(|_| true)),
    }
}
