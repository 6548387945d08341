//! The only files that talk to the local database.
