//! The only files that talk to the local database.

pub mod canary;
pub mod catalog;
pub mod compare;
pub mod database;
pub mod drain;
pub mod encryption;
pub mod guard;
pub mod journal;
pub mod migration;
pub mod outcome;
pub mod passed_over;
pub mod pulse;
pub mod rows;
pub mod sequences;
pub mod session;
pub mod setup;
pub mod shared;
pub mod slot;
pub mod snapshot;
pub mod stamp;
pub mod stream;
pub mod target;
pub mod written;
