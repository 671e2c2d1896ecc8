//! Why an attempt did not succeed.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use crate::bindings::exports::lovage::task::handler::TaskError as WitError;
use crate::bindings::lovage::task::types::{Failure, RetryRequest};

/// Why an attempt did not succeed, and so what becomes of the job.
///
/// Any `std::error::Error` turns into [`TaskError::Fail`] with `?`: the kind is the error's type,
/// the message its text, the detail its chain of sources. That is also why this type is no
/// `std::error::Error` itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskError {
    /// Something passing went wrong: try again. Spends an attempt.
    Retry {
        /// Why, for a person.
        reason: String,
        /// How long to wait; the host's own back-off when absent.
        after: Option<Duration>,
    },
    /// Not ready yet: put the job back for so long, without spending an attempt. At least a second.
    Snooze(Duration),
    /// It failed, and would fail again. Never retried.
    Fail {
        /// A stable, machine-readable kind, such as `ValueError`.
        kind: String,
        /// One line for a person.
        message: String,
        /// Free text for a person: a stack trace, say. The end of standard error when absent.
        detail: Option<String>,
    },
    /// The payload is not what this task takes; the text says why. Never retried.
    Reject(String),
}

impl TaskError {
    /// Something passing went wrong: try again after the host's own back-off.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), after: None }
    }

    /// Something passing went wrong: try again after this long.
    pub fn retry_after(reason: impl Into<String>, after: Duration) -> Self {
        Self::Retry { reason: reason.into(), after: Some(after) }
    }

    /// Not ready yet: come back after this long, at least a second. Spends no attempt.
    pub fn snooze(after: Duration) -> Self {
        Self::Snooze(after)
    }

    /// It failed, and would fail again.
    pub fn fail(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Fail { kind: kind.into(), message: message.into(), detail: None }
    }

    /// The payload is not what this task takes.
    pub fn reject(message: impl Into<String>) -> Self {
        Self::Reject(message.into())
    }
}

impl<E: Error> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::Fail { kind: kind_of::<E>(), message: error.to_string(), detail: sources_of(&error) }
    }
}

impl From<TaskError> for WitError {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Retry { reason, after } => {
                Self::Retry(RetryRequest { reason, after: after.map(millis) })
            }
            TaskError::Snooze(after) => Self::Snooze(millis(after)),
            TaskError::Fail { kind, message, detail } => {
                Self::Fail(Failure { kind, message, detail })
            }
            TaskError::Reject(message) => Self::Reject(message),
        }
    }
}

/// Rounded up: a wait that is too short comes back before the thing is ready.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The name of an error's type, as short as it still says something: `ParseIntError`, but
/// `serde_json::Error` and `std::io::Error`, because a bare `Error` names nothing.
fn kind_of<E>() -> String {
    let full = std::any::type_name::<E>();
    let path = full.split('<').next().unwrap_or(full);
    match path.rsplit("::").next() {
        Some(name) if name != "Error" => name.to_owned(),
        _ => path.split("::").filter(|segment| *segment != "error").collect::<Vec<_>>().join("::"),
    }
}

fn sources_of(error: &dyn Error) -> Option<String> {
    let mut detail = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let separator = if detail.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = write!(detail, "{separator}caused by: {cause}");
        source = cause.source();
    }
    (!detail.is_empty()).then_some(detail)
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    fn failure(error: TaskError) -> (String, String, Option<String>) {
        match error {
            TaskError::Fail { kind, message, detail } => (kind, message, detail),
            other => panic!("not a failure: {other:?}"),
        }
    }

    #[test]
    fn any_error_fails_the_job_under_the_name_of_its_type() {
        fn parse(text: &str) -> Result<i32, TaskError> {
            Ok(text.parse()?)
        }
        let (kind, message, detail) = failure(parse("x").unwrap_err());
        assert_eq!(kind, "ParseIntError");
        assert_eq!(message, "invalid digit found in string");
        assert_eq!(detail, None);
    }

    #[test]
    fn a_bare_error_keeps_its_crate() {
        let json = serde_json::from_str::<u8>("x").unwrap_err();
        assert_eq!(failure(json.into()).0, "serde_json::Error");
        let io = std::io::Error::other("gone");
        assert_eq!(failure(io.into()).0, "std::io::Error");
    }

    #[test]
    fn the_chain_of_sources_is_the_detail() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no price")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let (kind, message, detail) = failure(Outer("x".parse::<u8>().unwrap_err()).into());
        assert_eq!((kind.as_str(), message.as_str()), ("Outer", "no price"));
        assert_eq!(detail.as_deref(), Some("caused by: invalid digit found in string"));
    }

    #[test]
    fn waits_are_rounded_up_to_milliseconds() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_millis(20)), 20);
        assert_eq!(millis(Duration::MAX), u64::MAX);
    }
}
