//! What is tried of the faults that a cluster has to bear, and where?

#[path = "../pages/mod.rs"]
mod pages;
mod table;
