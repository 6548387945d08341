//! The door of a region: clients speak PostgreSQL to it.
