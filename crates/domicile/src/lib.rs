//! Does: all of Domicile that touches sockets, files, clocks and PostgreSQL.
//!
//! What to do is decided in `domicile-core`; the loops here wait for an event, ask, and perform
//! the answer. `agent` is the one place where the parts are joined.

pub mod clock;
pub mod directory;
pub mod gateway;
pub mod lab;
pub mod log;
pub mod postgres;
pub mod proto;
pub mod settings;
pub mod status;
