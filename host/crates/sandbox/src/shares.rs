//! A pool that tenants share, of which none takes all.
//!
//! Somebody may have another one only while fewer are theirs than are free: a rule that switches have for
//! their packet buffers (dynamic thresholds). Alone a tenant has half of the pool, two have a third each,
//! and there is always one free for who comes next. Who has to wait does so in the order of coming,
//! passed only by those who may have one while it may not.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The pool. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Shares(Arc<Mutex<Pool>>);

#[derive(Debug)]
struct Pool {
    free: usize,
    held: HashMap<Arc<str>, usize>,
    waiting: VecDeque<(Arc<str>, oneshot::Sender<Share>)>,
}

/// One of a pool; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    pool: Shares,
    tenant: Arc<str>,
}

impl Pool {
    /// Takes one, if the tenant may have another.
    fn take(&mut self, tenant: &Arc<str>) -> bool {
        let held = self.held.get(tenant).copied().unwrap_or(0);
        if self.free <= held {
            return false;
        }
        self.free -= 1;
        *self.held.entry(Arc::clone(tenant)).or_insert(0) += 1;
        true
    }

    fn give_back(&mut self, tenant: &Arc<str>) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(tenant) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(tenant);
            }
        }
    }
}

impl Shares {
    /// A pool of so many; of at least one.
    pub(super) fn new(all: usize) -> Self {
        let (held, waiting) = (HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(Pool { free: all.max(1), held, waiting })))
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // Each change under the lock is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, tenant: Arc<str>) -> Share {
        Share { pool: self.clone(), tenant }
    }

    /// Waits for one.
    pub(super) async fn acquire(&self, tenant: &str) -> Share {
        let tenant = Arc::<str>::from(tenant);
        let (give, take) = oneshot::channel();
        {
            let mut pool = self.pool();
            if pool.take(&tenant) {
                drop(pool);
                return self.share(tenant);
            }
            pool.waiting.push_back((tenant, give));
        }
        match take.await {
            Ok(share) => share,
            // The pool outlives who waits, and drops nobody: there is nothing else to be done.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Gives what is free to those who wait and may have it.
    fn serve(&self) {
        let mut left = Vec::new();
        {
            let mut pool = self.pool();
            let mut at = 0;
            while let Some((tenant, give)) = pool.waiting.get(at) {
                if give.is_closed() {
                    pool.waiting.remove(at);
                    continue;
                }
                let tenant = Arc::clone(tenant);
                if !pool.take(&tenant) {
                    at += 1;
                    continue;
                }
                if let Some((_, give)) = pool.waiting.remove(at) {
                    left.push((tenant, give));
                }
            }
        }
        for (tenant, give) in left {
            // Who has left meanwhile drops it, which serves the next.
            drop(give.send(self.share(tenant)));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let waits = {
            let mut pool = self.pool.pool();
            pool.give_back(&self.tenant);
            !pool.waiting.is_empty()
        };
        if waits {
            self.pool.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn has_to_wait(pool: &Shares, tenant: &str) -> bool {
        tokio::time::timeout(Duration::from_millis(20), pool.acquire(tenant)).await.is_err()
    }

    #[tokio::test]
    async fn no_tenant_takes_all_and_who_comes_next_finds_one() {
        let pool = Shares::new(12);
        let mut first = Vec::new();
        for _ in 0..6 {
            first.push(pool.acquire("a").await);
        }
        assert!(has_to_wait(&pool, "a").await);
        let mut second = Vec::new();
        for _ in 0..3 {
            second.push(pool.acquire("b").await);
        }
        assert!(has_to_wait(&pool, "b").await);
        let third = pool.acquire("c").await;
        assert!(has_to_wait(&pool, "a").await);
        drop((first, second, third));
        assert_eq!(pool.pool().free, 12);
        assert!(pool.pool().held.is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_served_and_who_has_left_is_passed() {
        let pool = Shares::new(1);
        let one = pool.acquire("a").await;
        let waits = |tenant: &'static str| {
            let pool = pool.clone();
            tokio::spawn(async move { drop(pool.acquire(tenant).await) })
        };
        let (left, stays, other) = (waits("a"), waits("a"), waits("b"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        left.abort();
        let _ = left.await;
        drop(one);
        stays.await.unwrap();
        other.await.unwrap();
        assert_eq!(pool.pool().free, 1);
    }

    #[tokio::test]
    async fn a_pool_of_one_serves_tenants_in_turns() {
        let pool = Shares::new(0);
        for tenant in ["a", "b", "a"] {
            drop(pool.acquire(tenant).await);
        }
        assert_eq!(pool.pool().free, 1);
    }
}
