//! What is known of one tenant, and when a message of it that cannot run now should try again.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::DefaultClock,
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};

use super::{LATELY, Refused, Want};

/// The shortest and the longest wait of a message that is put back for its tenant's quota.
pub(super) const SHORTEST: Duration = Duration::from_millis(250);
pub(super) const LONGEST: Duration = Duration::from_mins(1);

/// How often a tenant that is held back is told of in the log.
const TOLD_EVERY: Duration = Duration::from_secs(10);

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// How many of a tenant's jobs may begin in a time.
#[derive(Debug)]
pub(super) struct Rate {
    pub limiter: Limiter,
    pub period: Duration,
    pub burst: usize,
}

/// What is known of one tenant that is there, or was lately.
#[derive(Debug)]
pub(super) struct Account {
    pub running: usize,
    /// CPU seconds by weight.
    pub time: f64,
    /// When it last began or ended a job.
    pub changed: Instant,
    /// How long its jobs hold a place, on average, in seconds.
    pub mean: f64,
    /// Until when places are promised to messages that were put back.
    booked: Instant,
    /// How many jobs its rate allowed when it was last asked, and when that was.
    pub allowed: Option<(usize, Instant)>,
    told: Option<Instant>,
}

impl Rate {
    /// `None` where there is no such rate; the configuration is checked for those.
    pub fn new(per_second: f64, burst: Option<NonZeroU32>) -> Option<Self> {
        let period = Duration::try_from_secs_f64(per_second.recip()).ok()?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "casts of floats end at the bounds of the type, and a million is the most"
        )]
        let second = NonZeroU32::new(per_second.ceil() as u32).unwrap_or(NonZeroU32::MIN);
        let burst = burst.unwrap_or(second);
        let quota = Quota::with_period(period)?.allow_burst(burst);
        let limiter = DefaultDirectRateLimiter::direct(quota).with_middleware();
        Some(Self { limiter, period, burst: usize::try_from(burst.get()).unwrap_or(usize::MAX) })
    }
}

impl Account {
    pub fn new(now: Instant) -> Self {
        // As if it had been away: it begins at the floor.
        let changed = now.checked_sub(LATELY).unwrap_or(now);
        Self { running: 0, time: 0.0, changed, mean: 0.1, booked: now, allowed: None, told: None }
    }

    /// When a message that finds no place should try again: behind those that were told so before,
    /// by how fast places become free.
    pub fn refuse_place(&mut self, now: Instant, quota: usize) -> Refused {
        let stuck = now.saturating_duration_since(self.changed).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let step = self.mean.max(stuck) / quota as f64;
        let after = self.book(now, Duration::from_secs_f64(step.clamp(0.0, 3600.0)));
        self.refuse(now, Want::Places, after)
    }

    pub fn refuse_rate(&mut self, now: Instant, wait: Duration, period: Duration) -> Refused {
        self.booked = self.booked.max(now + wait);
        let after = self.book(now, period).max(wait);
        self.refuse(now, Want::Rate, after)
    }

    fn book(&mut self, now: Instant, step: Duration) -> Duration {
        self.booked = (self.booked.max(now) + step).min(now + LONGEST);
        let wait = self.booked.saturating_duration_since(now);
        // Spread out, or all would come back together.
        wait.mul_f64(0.75 + 0.5 * fastrand::f64()).clamp(SHORTEST, LONGEST)
    }

    fn refuse(&mut self, now: Instant, want: Want, after: Duration) -> Refused {
        let tell = self.told.is_none_or(|told| told + TOLD_EVERY <= now);
        if tell {
            self.told = Some(now);
        }
        Refused { want, after, tell }
    }

    /// How many jobs its rate allows now, about, and when it allows the next.
    pub fn allowed_by(&self, rate: &Rate, now: Instant) -> (usize, Instant) {
        let Some((left, at)) = self.allowed else { return (rate.burst, now) };
        let passed = now.saturating_duration_since(at);
        let more = passed.as_nanos() / rate.period.as_nanos().max(1);
        let allowed = left.saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
        (allowed.min(rate.burst), at + rate.period)
    }
}
