//! One budget for the memory of all attempts that run.
//!
//! Each attempt takes what it may use (`memory_bytes`) before it begins and gives it back at its
//! end, so an attempt that runs is never refused memory that it was promised. Attempts wait in the
//! order in which they came: a large one is not passed by small ones for ever.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The unit that is counted, in bytes: a page of WebAssembly.
const UNIT_BYTES: u64 = 64 << 10;

/// A budget of bytes.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    free: Semaphore,
    units: u32,
}

impl MemoryBudget {
    pub(super) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self { free: Semaphore::new(units as usize), units }
    }

    /// Waits for so many bytes. One that asks for more than there is runs alone. `None` only if the
    /// semaphore were closed, which nobody does.
    pub(super) async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        self.free.acquire_many(units.min(self.units)).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn attempts_together_are_allowed_no_more_than_the_budget() {
        let budget = MemoryBudget::new(256 << 20);
        let first = budget.take(128 << 20).await.unwrap();
        let second = budget.take(128 << 20).await.unwrap();
        let third = |bytes| tokio::time::timeout(Duration::from_millis(50), budget.take(bytes));
        assert!(third(64 << 10).await.is_err());
        drop(first);
        assert!(third(128 << 20).await.is_ok());
        drop(second);
        // One that is larger than all there is runs alone, and not never.
        assert!(third(1 << 40).await.is_ok());
        let _some = budget.take(1).await.unwrap();
        assert!(third(1 << 40).await.is_err());
    }
}
