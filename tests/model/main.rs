//! Random operations on the core, without the kernel, against a reference.
//!
//! `TTLFS_MODEL_SEED` repeats one run; `TTLFS_MODEL_SECONDS` is how long each test draws new ones.

use std::time::{Duration, Instant};

#[path = "../rig/mod.rs"]
mod rig;

mod reference;
mod regressions;
mod rules;
mod run;
mod threads;

const OPERATIONS: u64 = 200;

fn seconds() -> Duration {
    let given = std::env::var("TTLFS_MODEL_SECONDS").ok();
    Duration::from_secs(given.and_then(|s| s.parse().ok()).unwrap_or(30))
}

/// Runs with one seed after the other for as long as is asked for, or with the one that is given.
fn repeat(name: &str, once: impl Fn(u64)) {
    if let Ok(seed) = std::env::var("TTLFS_MODEL_SEED") {
        once(seed.parse().expect("TTLFS_MODEL_SEED is a number"));
        return;
    }
    let until = Instant::now() + seconds();
    let mut random = rig::random::Random::new(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64),
    );
    let mut runs = 0;
    while Instant::now() < until {
        let seed = random.next() >> 16;
        let again = Seed(seed);
        once(seed);
        std::mem::forget(again);
        runs += 1;
    }
    println!("{name}: {runs} runs");
}

/// Tells how to repeat a run that failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("to repeat it: TTLFS_MODEL_SEED={}", self.0);
    }
}

#[test]
fn one_program() {
    repeat("one_program", |seed| {
        run::Run::new(seed).steps(OPERATIONS);
    });
}

#[test]
fn several_programs() {
    repeat("several_programs", |seed| threads::run(seed, OPERATIONS));
}
