//! Does a message arrive, and when?
//!
//! Each direction of each link can be cut by itself. Messages may overtake one another: they
//! stand for calls on many connections.

use crate::clock::{MS, Micros};
use crate::rng::Rng;

pub struct Network {
    nodes: usize,
    /// `cut[from * nodes + to]` counts the reasons why nothing gets through.
    cut: Vec<u32>,
    /// Added to every message between two nodes while a link is slow.
    slow: Vec<Micros>,
    base: Micros,
    /// So many of a thousand messages take much longer than all the others.
    late_permille: u64,
}

impl Network {
    pub fn new(nodes: usize, rng: &mut Rng) -> Self {
        let links = nodes * nodes;
        let base = rng.between(1, 40) * MS;
        Self { nodes, cut: vec![0; links], slow: vec![0; links], base, late_permille: 2 }
    }

    /// All regions are equally far from each other, and nothing is held up on the way.
    pub fn even(nodes: usize, base: Micros) -> Self {
        let links = nodes * nodes;
        Self { nodes, cut: vec![0; links], slow: vec![0; links], base, late_permille: 0 }
    }

    /// When a message sent now arrives; `None` when it is lost.
    pub fn delay(&self, from: usize, to: usize, rng: &mut Rng) -> Option<Micros> {
        if self.is_cut(from, to) {
            return None;
        }
        let usual = self.base / 2 + rng.below(self.base);
        let late = if rng.chance(self.late_permille) { rng.below(2500) * MS } else { 0 };
        Some(usual + late + self.slow[from * self.nodes + to])
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from * self.nodes + to] > 0
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut[from * self.nodes + to] += 1;
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        let reasons = &mut self.cut[from * self.nodes + to];
        *reasons = reasons.saturating_sub(1);
    }

    pub fn slow_down(&mut self, from: usize, to: usize, by: Micros) {
        self.slow[from * self.nodes + to] = by;
    }

    pub fn heal(&mut self) {
        self.cut.fill(0);
        self.slow.fill(0);
    }
}
