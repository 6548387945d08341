//! A small world on this machine: real clusters, processes and links, for the demo and the tests.

pub mod cluster;
pub mod dice;
pub mod etcd;
pub mod guarded;
pub mod regions;
pub mod relay;
pub mod skew;
