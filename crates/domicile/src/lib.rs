//! Does: all of Domicile that touches sockets, files, clocks and PostgreSQL.
//!
//! What to do is decided in `domicile-core`; the loops here wait for an event, ask, and perform
//! the answer. `agent` is the one place where the parts are joined.

pub mod agent;
pub mod apply;
pub mod capture;
pub mod cli;
pub mod clock;
mod complain;
pub mod continuity;
pub mod copies;
pub mod demo;
pub mod directory;
mod dns;
mod drills;
pub mod durable;
pub mod files;
mod front;
pub mod gateway;
pub mod guards;
pub mod health;
mod keepalive;
mod kill_at;
pub mod lab;
pub mod log;
mod metrics;
mod migrate;
pub mod notices;
pub mod observe;
pub mod operate;
pub mod origins;
mod pages;
pub mod passed_over;
pub mod peer;
pub mod pieces;
pub mod positions;
pub mod postgres;
mod programs;
pub mod promises;
pub mod proto;
pub mod recover;
pub mod repair;
pub mod report;
pub mod retain;
pub mod routes;
mod seed;
pub mod settings;
mod shared;
pub mod sockets;
pub mod staleness;
pub mod status;
pub mod tail;
pub mod tenure;
pub mod tls;
pub mod verify;
mod webhooks;
pub mod witness;
