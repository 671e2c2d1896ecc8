//! Supervision of long-lived tasks: what a worker cannot do its work without.
//!
//! A task that panics takes nothing with it but itself. A worker that had lost its receiver, its lease
//! keeper, its settler or a watcher that way would live on without receiving, renewing, settling or
//! updating, and nobody would know. So such a task runs under a [`Supervisor`]: after a panic the worker
//! drains, and ends with an error that names the task and the reason.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use lovage_core::{events::TaskPanicked, text::one_line};

/// The pause before a task that is needed until the end is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a reason may be, in bytes.
const REASON_BYTES: usize = 400;

/// A long-lived task that panicked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {task} panicked: {reason}; this is a bug in Lovage, please report it")]
pub struct Panicked {
    /// The task.
    pub task: String,
    /// The panic's message.
    pub reason: String,
}

/// Runs long-lived tasks and drains the worker when one of them panics. Clones are the same.
#[derive(Debug, Clone)]
pub struct Supervisor {
    drain: CancellationToken,
    first: Arc<OnceLock<Panicked>>,
}

impl Supervisor {
    /// A supervisor that cancels `drain` when a task panics, and notes the first panic.
    pub fn new(drain: CancellationToken, first: Arc<OnceLock<Panicked>>) -> Self {
        Self { drain, first }
    }

    /// Runs a task. A panic in it is logged and drains the worker.
    pub async fn run<T>(&self, task: &str, future: impl Future<Output = T>) -> Option<T> {
        match AssertUnwindSafe(future).catch_unwind().await {
            Ok(output) => Some(output),
            Err(panic) => {
                self.panicked(task, &*panic);
                None
            }
        }
    }

    /// Runs a task that is needed while the worker drains, too: after a panic it is started again.
    pub async fn keep_running<F: Future<Output = ()>>(&self, task: &str, start: impl Fn() -> F) {
        while self.run(task, start()).await.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The first panic, if there was one.
    ///
    /// # Errors
    ///
    /// The task that panicked, and why.
    pub fn verdict(&self) -> Result<(), Panicked> {
        self.first.get().map_or(Ok(()), |panicked| Err(panicked.clone()))
    }

    fn panicked(&self, task: &str, panic: &(dyn Any + Send)) {
        let reason = reason_of(panic);
        TaskPanicked { task, reason: &reason }.emit();
        let _ = self.first.set(Panicked { task: task.to_owned(), reason });
        self.drain.cancel();
    }
}

/// The message of a panic.
pub fn reason_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    one_line(text.unwrap_or("no message"), REASON_BYTES)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_panic_drains_and_is_told_by_its_task_and_reason() {
        let drain = CancellationToken::new();
        let supervisor = Supervisor::new(drain.clone(), Arc::default());
        assert_eq!(supervisor.run("receiver", async { 1 }).await, Some(1));
        assert_eq!(supervisor.verdict(), Ok(()));
        assert!(!drain.is_cancelled());
        let panics = async { panic!("broken\nby {}", "the test") };
        assert_eq!(supervisor.run::<()>("receiver of `jobs`", panics).await, None);
        assert!(drain.is_cancelled());
        supervisor.run::<()>("later", async { panic!("second") }).await;
        let error = supervisor.verdict().unwrap_err().to_string();
        assert!(
            error.starts_with("the receiver of `jobs` panicked: broken\\nby the test"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_task_that_is_needed_until_the_end_is_started_again() {
        let supervisor = Supervisor::new(CancellationToken::new(), Arc::default());
        let starts = AtomicUsize::new(0);
        supervisor
            .keep_running("keeper", async || {
                assert!(starts.fetch_add(1, Ordering::Relaxed) > 1, "not yet");
            })
            .await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
        assert!(supervisor.verdict().is_err());
    }
}
