//! Follow-on jobs: work that a job leads to.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::Context;

/// Why a follow-on job is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DispatchError {
    /// The operator does not grant jobs for that task.
    Denied(String),
    /// The attempt has sent as many as it may, or the chain of jobs is as long as it may be.
    TooMany(String),
    /// The payload is larger than so many bytes.
    TooLarge(u64),
    /// The request breaks the contract.
    Invalid(String),
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) | Self::TooMany(why) | Self::Invalid(why) => f.write_str(why),
            Self::TooLarge(most) => write!(f, "a payload may have {most} bytes"),
        }
    }
}

impl std::error::Error for DispatchError {}

/// Sent jobs are the same at each attempt that sends them in the same order. They go out only if
/// the attempt succeeds. Needs the grant `dispatch`: a component that calls one of these is not
/// loaded without it.
impl Context {
    /// Asks for a job: the task's name, and its payload as JSON. Gives the job's id.
    pub fn dispatch(&self, task: &str, data: &impl Serialize) -> Result<String, DispatchError> {
        self.dispatch_after(Duration::ZERO, task, data)
    }

    /// Like [`dispatch`](Self::dispatch), for a job that is not to run before `delay` has passed.
    pub fn dispatch_after(
        &self,
        delay: Duration,
        task: &str,
        data: &impl Serialize,
    ) -> Result<String, DispatchError> {
        let payload = serde_json::to_vec(data)
            .map_err(|error| DispatchError::Invalid(format!("the payload is no JSON: {error}")))?;
        send(task, payload, delay)
    }
}

#[cfg(target_family = "wasm")]
fn send(task: &str, payload: Vec<u8>, delay: Duration) -> Result<String, DispatchError> {
    use crate::bindings::lovage::task::dispatch;
    let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    dispatch::send(&dispatch::Request {
        task: task.to_owned(),
        content_type: "application/json".to_owned(),
        payload,
        delay: (delay > 0).then_some(delay),
    })
    .map_err(|error| match error {
        dispatch::Error::Denied(why) => DispatchError::Denied(why),
        dispatch::Error::TooMany(why) => DispatchError::TooMany(why),
        dispatch::Error::TooLarge(most) => DispatchError::TooLarge(most),
        dispatch::Error::Invalid(why) => DispatchError::Invalid(why),
    })
}

#[cfg(not(target_family = "wasm"))]
use self::native::send;

/// Where there is no host, in unit tests: jobs are kept for the test to look at.
#[cfg(not(target_family = "wasm"))]
pub mod native {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::DispatchError;
    use crate::Value;

    /// A job that a task asked for.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Sent {
        /// The task.
        pub task: String,
        /// The payload.
        pub data: Value,
        /// How long it is to wait.
        pub delay: Duration,
    }

    thread_local! {
        static SENT: RefCell<Vec<Sent>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn send(
        task: &str,
        payload: Vec<u8>,
        delay: Duration,
    ) -> Result<String, DispatchError> {
        let data = serde_json::from_slice(&payload)
            .map_err(|error| DispatchError::Invalid(error.to_string()))?;
        SENT.with_borrow_mut(|sent| {
            sent.push(Sent { task: task.to_owned(), data, delay });
            Ok(format!("sent-{}", sent.len()))
        })
    }

    /// Takes the jobs that tasks asked for on this thread.
    pub fn sent() -> Vec<Sent> {
        SENT.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn what_is_sent_in_a_test_can_be_looked_at() {
        let ctx = Context::default();
        ctx.dispatch("mail", &json!({"to": 1})).unwrap();
        ctx.dispatch_after(Duration::from_secs(5), "report", &2).unwrap();
        let sent = native::sent();
        assert_eq!(sent.len(), 2);
        assert_eq!((&*sent[1].task, sent[1].delay), ("report", Duration::from_secs(5)));
        assert!(native::sent().is_empty());
    }
}
