//! What a deterministic task has in place of time and chance: the same for every attempt at a job.
//!
//! Each clock moves on by a nanosecond when it is read, so that no time is seen twice, and a
//! program that waits for a later one in a loop goes round until it is stopped. Random numbers come
//! from the seed and the job's id. What waits (a sleep) still does.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use rand_core::TryRng;
use sha2::{Digest as _, Sha256};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

use lovage_config::DeterminismConfig;

/// Puts them in place.
pub(super) fn apply(wasi: &mut WasiCtxBuilder, config: DeterminismConfig, job_id: &str) {
    let numbers = |kind: &str| Numbers::new(kind, config.seed, job_id);
    let mut seed = numbers("insecure-seed");
    wasi.wall_clock(Clock::at(Duration::from_millis(config.time_ms)))
        .monotonic_clock(Clock::at(Duration::ZERO))
        .secure_random(numbers("secure"))
        .insecure_random(numbers("insecure"))
        .insecure_random_seed(u128::from(seed.next()) << 64 | u128::from(seed.next()));
}

/// A clock that stands all but still.
struct Clock {
    start: Duration,
    reads: Cell<u64>,
}

impl Clock {
    fn at(start: Duration) -> Self {
        Self { start, reads: Cell::new(0) }
    }

    fn read(&self) -> Duration {
        let reads = self.reads.get();
        self.reads.set(reads.saturating_add(1));
        self.start.saturating_add(Duration::from_nanos(reads))
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        self.read()
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(self.read().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A sequence of numbers that looks like chance. Written here and not taken from a library, whose
/// next version may give others: xoshiro256** by Blackman and Vigna
/// (<https://prng.di.unimi.it/xoshiro256starstar.c>), started with a digest of all that it depends on.
struct Numbers([u64; 4]);

impl Numbers {
    fn new(kind: &str, seed: u64, job_id: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(kind)
            .chain_update([0])
            .chain_update(seed.to_le_bytes())
            .chain_update(job_id)
            .finalize();
        let mut words = digest
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |word: u64, byte| word << 8 | u64::from(*byte)));
        let mut next = || words.next().unwrap_or(1);
        Self([next(), next(), next(), next()])
    }

    fn next(&mut self) -> u64 {
        let Self([a, b, c, d]) = self;
        let number = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        number
    }
}

impl TryRng for Numbers {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The upper half is the better one.
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            for (to, from) in part.iter_mut().zip(number) {
                *to = from;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_seed_job_and_kind_and_on_nothing_else() {
        let first = |kind: &str, seed, job: &str| {
            let mut numbers = Numbers::new(kind, seed, job);
            [numbers.next(), numbers.next(), numbers.next()]
        };
        let these = first("secure", 1, "job");
        assert_eq!(these, first("secure", 1, "job"));
        for others in
            [first("insecure", 1, "job"), first("secure", 2, "job"), first("secure", 1, "bob")]
        {
            assert_ne!(these, others);
        }
        // The generator's own reference: its state after 1, 2, 3, 4.
        let mut reference = Numbers([1, 2, 3, 4]);
        assert_eq!(
            [reference.next(), reference.next(), reference.next()],
            [11520, 0, 1_509_978_240]
        );
    }
}
