//! Knows bytes: PostgreSQL's wire protocol and pgoutput, read from whoever sends them.
//!
//! Everything here takes bytes that may be hostile and returns values or an error: it never
//! panics, never allocates more than a stated limit asks for, and knows nothing of Domicile.

pub mod backend;
pub mod feedback;
pub mod frame;
pub mod frontend;
pub mod pgoutput;
pub mod scram;
pub mod script;
pub mod sqlstate;
pub mod startup;
