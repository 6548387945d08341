//! Decides. Knows no clock, no I/O, no async and no randomness: time and facts are arguments.

pub mod change;
pub mod frame;
pub mod id;
pub mod lsn;
pub mod ownership;
pub mod partition;
pub mod time;
