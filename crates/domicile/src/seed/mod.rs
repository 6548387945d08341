//! How does a region come to show what the others show, so that it can join them?
//!
//! Under writes, and without a moment in which anything stands still:
//!
//! ```text
//!   1. follow   the others' logs are copied from wherever they begin, and not applied
//!   2. snapshot one region opens a snapshot, with the frontier that it shows, exactly
//!   3. copy     its rows, several pieces at a time; what is done is remembered with its rows
//!   4. join     the frontier is noted, and the region becomes a member
//!   5. start    anew, as any other region: what the logs hold behind the frontier is applied
//! ```
//!
//! Until then nothing is captured here, nobody writes, and no copy of ours counts anywhere. Whatever
//! breaks off is taken up again, also after a restart, while the other region's snapshot is open.

pub mod ask;
mod copy;
mod newcomer;
pub mod source;
mod wire;

pub use copy::ORIGINS;
pub use newcomer::Newcomer;
