//! What is remembered of one secret, and for how long it is good.

use std::time::{Duration, Instant};

use super::{SecretError, SecretValue, Trouble};

/// For how long beyond its `ttl_ms` a value serves while its source is away.
pub const STALE: Duration = Duration::from_hours(1);

/// For how long a failure is remembered before the source is asked again.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The last value and the last failure since.
#[derive(Debug, Default)]
pub(super) struct Known {
    value: Option<(SecretValue, Instant)>,
    failure: Option<(SecretError, Instant)>,
}

/// What to do for somebody who needs the secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Give this value.
    Value(SecretValue),
    /// Say this.
    Failure(SecretError),
    /// Ask the source. Where it was away the last time, give this without waiting for the answer.
    Ask { meanwhile: Option<SecretValue> },
}

impl Known {
    /// What holds at a time, for a value that is good for `ttl`.
    pub(super) fn at(&self, now: Instant, ttl: Duration) -> Use {
        let stale = self.value_within(now, ttl.saturating_add(STALE));
        if let Some(value) = self.value_within(now, ttl) {
            return Use::Value(value);
        }
        match &self.failure {
            Some((failure, at)) if now.saturating_duration_since(*at) < RETRY_AFTER => {
                match stale {
                    Some(value) if failure.trouble == Trouble::Away => Use::Value(value),
                    _ => Use::Failure(failure.clone()),
                }
            }
            Some((failure, _)) if failure.trouble == Trouble::Away => Use::Ask { meanwhile: stale },
            _ => Use::Ask { meanwhile: None },
        }
    }

    fn value_within(&self, now: Instant, age: Duration) -> Option<SecretValue> {
        let (value, at) = self.value.as_ref()?;
        (now.saturating_duration_since(*at) < age).then(|| value.clone())
    }

    /// The source gave a value.
    pub(super) fn found(&mut self, value: SecretValue, now: Instant) {
        *self = Self { value: Some((value, now)), failure: None };
    }

    /// The source gave none. The value that serves all the same, if there is one.
    pub(super) fn failed(
        &mut self,
        error: SecretError,
        now: Instant,
        ttl: Duration,
    ) -> Option<SecretValue> {
        // A secret that was taken away is forgotten, and does not come back with the next outage.
        if error.trouble == Trouble::Wrong {
            self.value = None;
        }
        self.failure = Some((error, now));
        self.value_within(now, ttl.saturating_add(STALE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_mins(1);

    fn error(trouble: Trouble) -> SecretError {
        SecretError { trouble, ..SecretError::unknown("s") }
    }

    #[test]
    fn a_value_is_good_for_its_time_and_is_then_asked_for_again() {
        let (start, value) = (Instant::now(), SecretValue::new("v"));
        let mut known = Known::default();
        assert_eq!(known.at(start, TTL), Use::Ask { meanwhile: None });
        known.found(value.clone(), start);
        assert_eq!(known.at(start + TTL / 2, TTL), Use::Value(value.clone()));
        assert_eq!(known.at(start + TTL, TTL), Use::Ask { meanwhile: None });
        assert_eq!(known.at(start + TTL + STALE, TTL), Use::Ask { meanwhile: None });
        // No time is so long that it overflows.
        assert_eq!(known.at(start, Duration::MAX), Use::Value(value));
    }

    #[test]
    fn an_old_value_serves_for_an_hour_while_its_source_is_away() {
        let (start, value) = (Instant::now(), SecretValue::new("v"));
        let mut known = Known::default();
        known.found(value.clone(), start);
        let later = start + TTL + STALE / 2;
        assert_eq!(known.failed(error(Trouble::Away), later, TTL), Some(value.clone()));
        assert_eq!(known.at(later, TTL), Use::Value(value.clone()));
        // And the source is asked again soon.
        let meanwhile = Some(value);
        assert_eq!(known.at(later + RETRY_AFTER, TTL), Use::Ask { meanwhile });
        let end = start + TTL + STALE;
        assert_eq!(known.failed(error(Trouble::Away), end, TTL), None);
        assert_eq!(known.at(end, TTL), Use::Failure(error(Trouble::Away)));
        assert_eq!(known.at(end + RETRY_AFTER, TTL), Use::Ask { meanwhile: None });
    }

    #[test]
    fn a_secret_that_was_taken_away_is_gone_at_its_next_look_up() {
        let start = Instant::now();
        let mut known = Known::default();
        known.found(SecretValue::new("v"), start);
        let later = start + TTL;
        assert_eq!(known.failed(error(Trouble::Wrong), later, TTL), None);
        assert_eq!(known.at(later, TTL), Use::Failure(error(Trouble::Wrong)));
        // An outage after that does not bring it back.
        let later = later + RETRY_AFTER;
        assert_eq!(known.failed(error(Trouble::Away), later, TTL), None);
    }
}
