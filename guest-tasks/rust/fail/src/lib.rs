//! `fail`: shows what becomes of a job that does not succeed at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lovage_task::{Context, TaskError, task};
use schemars::JsonSchema;
use serde::Deserialize;

/// How to fail, and how often.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Request {
    /// Fail while the attempt is not above this number; then succeed.
    times: u32,
    /// How to fail.
    error: How,
    /// With `retry`: ask to be tried again after so many milliseconds.
    after_ms: Option<u64>,
    /// With `snooze`, which spends no attempt and so cannot go by `times`: snooze until this
    /// time, in milliseconds since the Unix epoch; then succeed.
    snooze_until: u64,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum How {
    #[default]
    Retry,
    Snooze,
    Fail,
    Reject,
    Panic,
}

/// Without a word about it, every attempt fails.
impl Default for Request {
    fn default() -> Self {
        Self { times: u32::MAX, error: How::default(), after_ms: None, snooze_until: 0 }
    }
}

/// Fails the way it is told to for the first `times` attempts, then succeeds with the number of
/// the attempt.
#[task]
fn fail(request: Request, ctx: &Context) -> Result<u32, TaskError> {
    if matches!(request.error, How::Snooze) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let left = Duration::from_millis(request.snooze_until).saturating_sub(now);
        return if left.is_zero() { Ok(ctx.attempt) } else { Err(TaskError::snooze(left)) };
    }
    if ctx.attempt > request.times {
        return Ok(ctx.attempt);
    }
    let reason = format!("attempt {} fails, as it was told to", ctx.attempt);
    Err(match request.error {
        How::Fail => TaskError::fail("ToldToFail", reason),
        How::Reject => TaskError::reject(reason),
        How::Panic => told_to_panic(&reason),
        How::Retry | How::Snooze => match request.after_ms {
            Some(ms) => TaskError::retry_after(reason, Duration::from_millis(ms)),
            None => TaskError::retry(reason),
        },
    })
}

#[allow(clippy::panic, reason = "to show what becomes of a panic is what it is for")]
fn told_to_panic(reason: &str) -> TaskError {
    panic!("{reason}")
}

lovage_task::export!(fail);

#[cfg(test)]
mod tests {
    use lovage_task::serde_json;

    use super::*;

    fn attempt(payload: &str, attempt: u32) -> Result<u32, TaskError> {
        let mut ctx = Context::default();
        ctx.attempt = attempt;
        fail(serde_json::from_str(payload).unwrap(), &ctx)
    }

    #[test]
    fn fails_as_often_as_it_is_told_and_then_succeeds() {
        let retry = |n| Err(TaskError::retry(format!("attempt {n} fails, as it was told to")));
        assert_eq!(attempt(r#"{"times":2}"#, 1), retry(1));
        assert_eq!(attempt(r#"{"times":2}"#, 2), retry(2));
        assert_eq!(attempt(r#"{"times":2}"#, 3), Ok(3));
        assert_eq!(attempt("{}", 100), retry(100));
    }

    #[test]
    fn fails_in_the_way_it_is_told() {
        let reason = "attempt 1 fails, as it was told to";
        assert_eq!(attempt(r#"{"error":"fail"}"#, 1), Err(TaskError::fail("ToldToFail", reason)));
        assert_eq!(attempt(r#"{"error":"reject"}"#, 1), Err(TaskError::reject(reason)));
        assert_eq!(
            attempt(r#"{"after_ms":20}"#, 1),
            Err(TaskError::retry_after(reason, Duration::from_millis(20)))
        );
    }

    #[test]
    #[should_panic(expected = "attempt 1 fails, as it was told to")]
    fn panics_when_it_is_told() {
        let _ = attempt(r#"{"error":"panic"}"#, 1);
    }

    #[test]
    fn snoozes_until_the_time_has_come() {
        assert_eq!(attempt(r#"{"error":"snooze","snooze_until":1}"#, 1), Ok(1));
        assert!(matches!(
            attempt(r#"{"error":"snooze","snooze_until":33000000000000}"#, 1),
            Err(TaskError::Snooze(left)) if left > Duration::from_hours(1)
        ));
    }
}
