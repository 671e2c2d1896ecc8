//! The slot of a job, which it gives up while it waits for a store with its result.
//!
//! A result that cannot be stored is held until the store is back. Its job needs no place to run
//! any more, and other queues may need no store: so its permit goes back before the job is over.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How many jobs wait without a slot at most: results are held in memory. Those beyond keep theirs,
/// so that no more are begun.
const MOST_HELD: usize = 256;

tokio::task_local! {
    static SLOT: RefCell<Option<Box<dyn Send>>>;
}

/// Runs a job that has a slot: whatever is dropped when the slot is free.
pub async fn within<T>(slot: impl Send + 'static, job: impl Future<Output = T>) -> T {
    SLOT.scope(RefCell::new(Some(Box::new(slot))), job).await
}

/// Counts a job that waits with its result.
#[derive(Debug)]
pub(super) struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives the slot up, unless too many have; `None` then.
pub(super) fn hold(count: &Arc<AtomicUsize>) -> Option<Held> {
    let more = |held: usize| (held < MOST_HELD).then_some(held + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
    // Outside of a worker there is none.
    let slot = SLOT.try_with(RefCell::take).ok().flatten();
    drop(slot);
    Some(Held(Arc::clone(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slot(Arc<AtomicUsize>);

    impl Drop for Slot {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_slot_is_given_up_once_and_by_a_bounded_number() {
        let (freed, count) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let free = || freed.load(Ordering::Relaxed);
        within(Slot(Arc::clone(&freed)), async {
            assert_eq!(free(), 0);
            let held = hold(&count);
            assert!(held.is_some());
            assert_eq!(free(), 1, "before the job is over");
        })
        .await;
        assert_eq!((free(), count.load(Ordering::Relaxed)), (1, 0));
        count.store(MOST_HELD, Ordering::Relaxed);
        within(Slot(Arc::clone(&freed)), async {
            assert!(hold(&count).is_none());
            assert_eq!(free(), 1);
        })
        .await;
        assert_eq!(free(), 2);
    }
}
