//! How long to wait before trying again: exponential back-off with full jitter, capped.
//!
//! Full jitter (a delay drawn evenly from zero to the exponential bound) spreads the retries of
//! jobs that failed together, which is what a recovering service needs most; see Amazon's
//! "Exponential Backoff And Jitter" for the measurements.

use std::time::Duration;

/// The shape of a back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound on the first delay.
    pub base: Duration,
    /// The bound on every delay.
    pub cap: Duration,
}

impl Backoff {
    /// The bound on the delay after the attempt numbered `attempt` (from 1):
    /// `base * 2^(attempt - 1)`, at most `cap`.
    pub fn bound(&self, attempt: u32) -> Duration {
        let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// A delay drawn evenly from zero to [`bound`](Self::bound), in whole milliseconds.
    pub fn delay(&self, attempt: u32) -> Duration {
        let bound = u64::try_from(self.bound(attempt).as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(fastrand::u64(0..=bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_never_passes_its_bound_nor_the_cap(
            base in 0u64..100_000, cap in 0u64..10_000_000, attempt in 0u32..=u32::MAX,
        ) {
            let backoff = Backoff {
                base: Duration::from_millis(base),
                cap: Duration::from_millis(cap),
            };
            prop_assert!(backoff.delay(attempt) <= backoff.bound(attempt));
            prop_assert!(backoff.bound(attempt) <= backoff.cap);
        }

        #[test]
        fn delays_spread_over_the_whole_of_their_bound(
            base in 1u64..100_000, cap in 1u64..10_000_000, attempt in 1u32..100,
        ) {
            let backoff = Backoff {
                base: Duration::from_millis(base),
                cap: Duration::from_millis(cap),
            };
            let bound = backoff.bound(attempt);
            // A quarter of the bound is missed by so many even draws once in 10^24 times; by
            // anything that is not spread evenly, such as a draw from the upper half, always.
            let draws: Vec<_> = (0..200).map(|_| backoff.delay(attempt)).collect();
            prop_assert!(draws.iter().all(|draw| *draw <= bound));
            prop_assert!(draws.iter().any(|draw| *draw <= bound / 4));
            prop_assert!(draws.iter().any(|draw| *draw >= bound * 3 / 4));
        }

        #[test]
        fn bounds_never_shrink_from_one_attempt_to_the_next(
            base in 0u64..100_000, cap in 0u64..10_000_000, attempt in 1u32..100,
        ) {
            let backoff = Backoff {
                base: Duration::from_millis(base),
                cap: Duration::from_millis(cap),
            };
            prop_assert!(backoff.bound(attempt) <= backoff.bound(attempt + 1));
        }
    }

    #[test]
    fn the_bound_doubles_from_the_base() {
        let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_mins(1) };
        let bounds: Vec<_> = (1..=8).map(|n| backoff.bound(n).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
