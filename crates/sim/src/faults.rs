//! What can go wrong, and how does it end?
//!
//! Each fault ends by itself after a while; healing ends all of them at once. Clock steps stay
//! within what the design claims to bear: small ones within the lease's margin, and ones so
//! large that a guard from before is refused.

use crate::clock::{MS, Micros, SECOND};
use crate::rng::Rng;
use crate::setup::Setup;

#[derive(Clone, Debug)]
pub enum Fault {
    KillAgent(usize),
    KillPostgres(usize),
    KillRegion(usize),
    PauseAgent(usize),
    PausePostgres(usize),
    /// Nothing gets from the first to the second of each pair.
    Cut(Vec<(usize, usize)>),
    Slow {
        from: usize,
        to: usize,
        by: Micros,
    },
    StepClock {
        region: usize,
        by: i64,
    },
    /// The region's agent dies at its effect after so many others.
    KillAtEffect {
        region: usize,
        after: u64,
    },
}

/// The end of a fault. Ending one that is over changes nothing.
#[derive(Clone, Debug)]
pub enum End {
    StartAgent(usize),
    StartPostgres(usize),
    StartRegion(usize),
    ResumeAgent(usize),
    ResumePostgres(usize),
    Mend(Vec<(usize, usize)>),
    Hurry { from: usize, to: usize },
    Nothing,
}

/// Which kinds of fault a seed has, and how often: some seeds know only cuts, some everything.
#[derive(Clone, Debug)]
pub struct Weather {
    kinds: Vec<u64>,
    every: Micros,
}

const KINDS: u64 = 12;
/// What goes on around a directory that is lost again and again.
const AROUND_THE_DIRECTORY: [u64; 9] = [0, 2, 5, 6, 10, 10, 11, 11, 11];

impl Weather {
    pub fn choose(rng: &mut Rng) -> Self {
        let kinds = match rng.below(5) {
            0 => (0..KINDS).filter(|_| rng.chance(350)).collect(),
            1 => AROUND_THE_DIRECTORY.to_vec(),
            _ => (0..KINDS).collect(),
        };
        Self { kinds, every: rng.between(400, 4000) * MS }
    }

    pub fn next_after(&self, rng: &mut Rng) -> Micros {
        self.every / 2 + rng.below(self.every)
    }

    /// A fault, and how long it lasts.
    pub fn strike(&self, rng: &mut Rng, setup: &Setup) -> Option<(Fault, Micros)> {
        let kind = *self.kinds.get(rng.index(self.kinds.len()))?;
        let region = rng.index(setup.count());
        let fault = match kind {
            0 => Fault::KillAgent(region),
            1 => Fault::KillPostgres(region),
            2 => Fault::KillRegion(region),
            3 => Fault::PauseAgent(region),
            4 => Fault::PausePostgres(region),
            5 => Fault::Cut(off(region, setup, rng)),
            6 => Fault::Cut(split(rng, setup)),
            7 => slow(rng, setup),
            8 => Fault::StepClock { region, by: step(rng) },
            // The directory is lost for all, or for some: those see each other and not it.
            10 => Fault::Cut(without_directory(1000, setup, rng)),
            11 => Fault::Cut(without_directory(500, setup, rng)),
            _ => Fault::KillAtEffect { region, after: rng.below(4) },
        };
        Some((fault, lasts(rng)))
    }
}

fn lasts(rng: &mut Rng) -> Micros {
    match rng.below(3) {
        0 => rng.between(20, 900) * MS,
        1 => rng.between(900, 4000) * MS,
        _ => rng.between(4, 9) * SECOND,
    }
}

/// One region is cut from others in one or both directions, perhaps from all.
fn off(region: usize, setup: &Setup, rng: &mut Rng) -> Vec<(usize, usize)> {
    let (way, whole) = (rng.below(3), rng.chance(400));
    let others = (0..=setup.directory()).filter(|n| *n != region);
    let chosen: Vec<usize> = others.filter(|_| whole || rng.chance(400)).collect();
    let mut pairs = Vec::new();
    for other in chosen {
        if way != 1 {
            pairs.push((region, other));
        }
        if way != 2 {
            pairs.push((other, region));
        }
    }
    pairs
}

/// Two groups lose sight of each other; the directory is in one of them.
fn split(rng: &mut Rng, setup: &Setup) -> Vec<(usize, usize)> {
    let nodes = setup.directory() + 1;
    let side: Vec<bool> = (0..nodes).map(|_| rng.chance(500)).collect();
    let all = (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b)));
    all.filter(|(a, b)| side[*a] != side[*b]).collect()
}

/// So many of a thousand regions and the directory do not hear each other.
fn without_directory(permille: u64, setup: &Setup, rng: &mut Rng) -> Vec<(usize, usize)> {
    let lost = (0..setup.count()).filter(|_| rng.chance(permille));
    lost.flat_map(|region| [(region, setup.directory()), (setup.directory(), region)]).collect()
}

fn slow(rng: &mut Rng, setup: &Setup) -> Fault {
    let nodes = setup.directory() + 1;
    Fault::Slow { from: rng.index(nodes), to: rng.index(nodes), by: rng.between(20, 1500) * MS }
}

/// By microseconds: within half the lease's margin, or by more than any lease.
fn step(rng: &mut Rng) -> i64 {
    let by = if rng.chance(500) { rng.between(1, 100) } else { rng.between(100_000, 3_600_000) };
    let by = (by * MS) as i64;
    if rng.chance(500) { by } else { -by }
}

impl Fault {
    pub fn end(&self) -> End {
        match self {
            Self::KillAgent(region) => End::StartAgent(*region),
            Self::KillPostgres(region) => End::StartPostgres(*region),
            Self::KillRegion(region) => End::StartRegion(*region),
            Self::PauseAgent(region) => End::ResumeAgent(*region),
            Self::PausePostgres(region) => End::ResumePostgres(*region),
            Self::Cut(pairs) => End::Mend(pairs.clone()),
            Self::Slow { from, to, .. } => End::Hurry { from: *from, to: *to },
            Self::StepClock { .. } | Self::KillAtEffect { .. } => End::Nothing,
        }
    }
}
