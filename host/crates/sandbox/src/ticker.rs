//! The clock that makes guests which compute let others run.
//!
//! Generated code looks at the engine's epoch in every loop and function. Somebody has to move it
//! on: a thread of the operating system, since a task of the executor would not run while a guest
//! holds the executor's thread. It sleeps for good while nothing runs, so that an idle worker
//! uses no CPU at all; but it lingers a little, so that a busy one does not wake a thread for
//! every attempt of some microseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wasmtime::Engine;

use super::error::EngineError;
use lovage_platform::time_slice;

/// How long the clock goes on ticking when nothing runs any more: ticking costs some microseconds
/// a tick, and waking it as much an attempt.
const LINGER: Duration = Duration::from_millis(100);

/// The running clock; it stops when this is dropped.
#[derive(Debug)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Attempts under way.
    running: AtomicUsize,
    /// Whether the thread sleeps, or is about to.
    parked: AtomicBool,
    stopped: AtomicBool,
}

/// Held by an attempt: the clock ticks while there is one.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Ticker);

impl Ticker {
    pub(super) fn start(engine: &Engine, tick: Duration) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared::default());
        let engine = engine.weak();
        let linger = (LINGER.as_nanos() / tick.as_nanos().max(1)) as u32;
        let thread = thread::Builder::new()
            .name("lovage-ticker".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    time_slice::shorten();
                    let mut idle = 0;
                    while !shared.stopped.load(Ordering::SeqCst) {
                        if shared.running.load(Ordering::SeqCst) > 0 {
                            idle = 0;
                        } else if idle < linger {
                            idle += 1;
                        } else {
                            shared.park();
                            idle = 0;
                            continue;
                        }
                        thread::sleep(tick);
                        match engine.upgrade() {
                            Some(engine) => engine.increment_epoch(),
                            None => return,
                        }
                    }
                }
            })
            .map_err(EngineError::Ticker)?;
        Ok(Self { shared, thread })
    }

    /// The clock ticks until what is returned is dropped.
    pub(super) fn run(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        // The thread sets `parked` before it looks at `running` for the last time, and here it is
        // the other way round; so one of the two sees the other.
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.thread().unpark();
        }
        Running(self)
    }

    #[cfg(test)]
    fn is_parked(&self) -> bool {
        self.shared.parked.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_clock_sleeps_when_nothing_runs_and_wakes_when_something_does() {
        let engine = Engine::default();
        let ticker = Ticker::start(&engine, Duration::from_millis(50)).unwrap();
        let patience = Instant::now() + Duration::from_secs(30);
        let until = |parked: bool| {
            while ticker.is_parked() != parked {
                assert!(Instant::now() < patience, "parked is not {parked}");
                thread::sleep(Duration::from_millis(5));
            }
        };
        until(true);
        let running = ticker.run();
        until(false);
        drop(running);
        until(true);
    }
}
