//! Does each directory keep what it promises, over a real socket and a real disk?
//!
//! `suite` is what both promise; `embedded` and `etcd` are what only one of them can be asked.

mod embedded;
mod etcd;
mod relocate;
mod suite;
mod world;
