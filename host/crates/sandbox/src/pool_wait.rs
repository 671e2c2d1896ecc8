//! An attempt that finds the engine's pool full waits, and is not spent.
//!
//! The pool has room for all that every slot may hold (see [`EngineOptions`](super::EngineOptions)), so an
//! attempt with a slot finds no pool full. Should that ever be wrong, it is the host's fault and never
//! the guest's: the attempt is made again when there is room.

use std::time::{Duration, Instant};

use wasmtime::PoolConcurrencyLimitError;

use lovage_core::outcome::Outcome;

/// The first wait; each is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(5);

/// The longest wait.
const LONGEST: Duration = Duration::from_millis(500);

/// How long the message is put back for when the waits have lasted too long.
const PUT_BACK: Duration = Duration::from_secs(5);

/// A pool of the engine has no room.
#[derive(Debug)]
pub(super) struct PoolFull(String);

impl PoolFull {
    /// Tells it from other errors by its type.
    pub(super) fn of(error: &wasmtime::Error) -> Option<Self> {
        error.is::<PoolConcurrencyLimitError>().then(|| Self(format!("{error:#}")))
    }
}

/// The waits of one attempt.
#[derive(Debug)]
pub(super) struct PoolWait {
    next: Duration,
    longest: Duration,
    /// When the message is put back instead; known from the first wait on.
    until: Option<Instant>,
    /// When the host itself has to end.
    deadline: Option<Instant>,
}

impl PoolWait {
    /// Waits of no more than `longest` in all.
    pub(super) fn new(deadline: Option<Instant>, longest: Duration) -> Self {
        Self { next: FIRST, longest, until: None, deadline }
    }

    /// Waits once. An outcome says that it is over; none of them spends the attempt.
    pub(super) async fn wait(&mut self, full: &PoolFull) -> Option<Outcome> {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Some(Outcome::Abandoned);
        }
        let until = *self.until.get_or_insert(now + self.longest);
        if now > until {
            return Some(Outcome::Snooze { after: PUT_BACK });
        }
        if self.next == FIRST {
            tracing::warn!(
                pool = full.0,
                "an attempt waits since a pool of instances is full; it is not spent"
            );
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(LONGEST);
        None
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};
    use wasmtime::{Instance, Module, Store};

    use super::*;

    #[test]
    fn a_full_pool_is_told_by_its_type_and_nothing_else_is() {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(1).max_memory_size(1 << 16);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).unwrap();
        let module = Module::new(&engine, b"\0asm\x01\0\0\0").unwrap();
        let mut store = Store::new(&engine, ());
        Instance::new(&mut store, &module, &[]).unwrap();
        let error = Instance::new(&mut store, &module, &[]).unwrap_err();
        assert!(PoolFull::of(&error).is_some(), "{error:#}");
        assert!(PoolFull::of(&error.context("more")).is_some());
        let trap = wasmtime::Error::from(wasmtime::Trap::UnreachableCodeReached);
        assert!(PoolFull::of(&trap).is_none());
    }

    #[tokio::test]
    async fn waiting_for_a_pool_spends_no_attempt() {
        let full = PoolFull("full".to_owned());
        let mut wait = PoolWait::new(None, Duration::from_millis(1));
        assert_eq!(wait.wait(&full).await, None);
        assert_eq!(wait.wait(&full).await, Some(Outcome::Snooze { after: PUT_BACK }));
        let mut wait = PoolWait::new(Some(Instant::now()), Duration::from_mins(1));
        assert_eq!(wait.wait(&full).await, Some(Outcome::Abandoned));
    }
}
