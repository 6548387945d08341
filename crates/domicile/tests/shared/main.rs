//! Do regions that all write the same tables end with the same rows, and does the conflict journal
//! tell of everything that was lost and of nothing else?
//!
//! Three regions and real PostgreSQL. `matrix.rs` is a table of conflicts; all of them are made at
//! once, while no region hears of another, and are then let go in different orders. `journal.rs`
//! is what a person does with an entry.

#[path = "../regions/mod.rs"]
mod regions;

mod cases;
mod journal;
mod matrix;
