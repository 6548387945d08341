//! Decides. Knows no clock, no I/O, no async and no randomness: time and facts are arguments.

pub mod change;
pub mod compare;
pub mod config;
pub mod conflict;
pub mod continuity;
pub mod fold;
pub mod frame;
pub mod history;
pub mod id;
pub mod lease;
pub mod lsn;
pub mod membership;
pub mod opening;
pub mod outage;
pub mod ownership;
pub mod partition;
pub mod progress;
pub mod publication;
pub mod pulse;
pub mod record;
pub mod retention;
pub mod route;
pub mod runbook;
pub mod seeding;
pub mod sequence;
pub mod time;
