//! Do regions that all write the same tables end with the same rows, and does the conflict journal
//! tell of everything that was lost and of nothing else?
//!
//! Three regions and real PostgreSQL. `cases.rs` and `collisions.rs` are a table of conflicts, of one
//! row and of several, `odd.rs` of odd keys; `matrix.rs` makes all of them at once, while no region hears of another, and
//! lets them go in different orders. `links.rs` has a region hear of one region and not of another,
//! `forgotten.rs` deletions that are forgotten, `journal.rs` what a person does with an entry.

#[path = "../regions/mod.rs"]
mod regions;

mod cases;
mod collisions;
mod forgotten;
mod journal;
mod links;
mod matrix;
mod odd;
