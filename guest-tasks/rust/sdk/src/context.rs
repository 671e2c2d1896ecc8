//! What a task may know of the attempt that it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

/// One attempt at one job. A task asks for it with an argument of type `&Context`.
///
/// For a unit test, change what matters of [`Context::default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Context {
    /// The job's id, the same on every attempt and every delivery: the idempotency key for
    /// effects outside of the sandbox.
    pub id: String,
    /// The task name that was asked for.
    pub task: String,
    /// Who the work is for; empty where the operator names no tenants.
    pub tenant: String,
    /// 1 on the first attempt.
    pub attempt: u32,
    /// The attempt after which the host gives up; at least 1.
    pub max_attempts: u32,
    /// Milliseconds since the Unix epoch at which the host stops the task.
    pub deadline: u64,
    /// The id of the first job of the chain of jobs that led here; the job's own id when nothing
    /// led here.
    pub root_id: String,
    /// The id of the job that asked for this one.
    pub parent_id: Option<String>,
    /// Headers that travelled with the message. Names are lower case and may repeat.
    pub headers: Vec<(String, String)>,
    /// Media type of the payload.
    pub content_type: String,
}

impl Context {
    /// The first header of that name, which is lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a retry would be in vain, because the host gives up after this attempt.
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// What is left until the host stops the task; zero when the deadline has passed.
    pub fn time_left(&self) -> Duration {
        (UNIX_EPOCH + Duration::from_millis(self.deadline))
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }
}

/// A first and only attempt with an empty name for everything, for unit tests.
impl Default for Context {
    fn default() -> Self {
        Self {
            id: String::new(),
            task: String::new(),
            tenant: String::new(),
            attempt: 1,
            max_attempts: 1,
            deadline: u64::MAX / 1_000_000, // far away, and still a time that can be computed with
            root_id: String::new(),
            parent_id: None,
            headers: Vec::new(),
            content_type: "application/json".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_header_of_a_name() {
        let ctx = Context {
            headers: [("a", "1"), ("b", "2"), ("b", "3")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .to_vec(),
            ..Context::default()
        };
        assert_eq!(ctx.header("b"), Some("2"));
        assert_eq!(ctx.header("c"), None);
    }

    #[test]
    fn knows_the_last_attempt_and_the_time_left() {
        let mut ctx = Context::default();
        assert!(ctx.is_last_attempt());
        assert!(ctx.time_left() > Duration::from_secs(1));
        ctx.max_attempts = 2;
        ctx.deadline = 1;
        assert!(!ctx.is_last_attempt());
        assert_eq!(ctx.time_left(), Duration::ZERO);
    }
}
