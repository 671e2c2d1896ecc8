//! What the host holds for an attempt counts as the attempt's memory.
//!
//! Guest memory and host memory share one account. Whatever host functions keep for a guest beyond the
//! call, and that can grow large, is kept together with a [`Charge`], which gives the bytes back when it
//! is dropped. The account is made when something is first charged: most attempts never do, and pay
//! nothing for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::limits::{Limit, Refusal};

/// The account of one attempt. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct HostMemory(Arc<Account>);

#[derive(Debug)]
struct Account {
    allowed: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

impl HostMemory {
    /// An account of which so many bytes are used.
    pub(super) fn new(allowed: u64, used: u64) -> Self {
        Self(Arc::new(Account { allowed, used: AtomicU64::new(used), peak: AtomicU64::new(used) }))
    }

    /// Bytes in use now.
    pub(super) fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use at once.
    pub(super) fn peak(&self) -> u64 {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Counts bytes until the charge is dropped.
    pub(super) fn charge(&self, bytes: u64) -> Result<Charge, Refusal> {
        self.add(bytes)?;
        Ok(Charge { memory: self.clone(), bytes })
    }

    /// Refuses what there is no room for, and counts nothing: for what is held within one call.
    pub fn check(&self, bytes: u64) -> Result<(), Refusal> {
        let asked = self.used().saturating_add(bytes);
        if asked > self.0.allowed { Err(self.refusal(asked)) } else { Ok(()) }
    }

    /// Counts bytes.
    pub(super) fn add(&self, bytes: u64) -> Result<(), Refusal> {
        let add = |used: u64| used.checked_add(bytes).filter(|asked| *asked <= self.0.allowed);
        match self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(before) => {
                self.0.peak.fetch_max(before.saturating_add(bytes), Ordering::Relaxed);
                Ok(())
            }
            Err(used) => Err(self.refusal(used.saturating_add(bytes))),
        }
    }

    /// Counts what is held already, if need be beyond what is allowed.
    pub(super) fn add_held(&self, bytes: u64) -> Result<(), Refusal> {
        let asked = self.0.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.0.peak.fetch_max(asked, Ordering::Relaxed);
        if asked > self.0.allowed { Err(self.refusal(asked)) } else { Ok(()) }
    }

    /// Counts them no more.
    pub(super) fn sub(&self, bytes: u64) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn refusal(&self, asked: u64) -> Refusal {
        Refusal { limit: Limit::Memory, asked, allowed: self.0.allowed }
    }
}

/// Bytes that the host holds for a guest. It lives as long as they do.
#[derive(Debug)]
pub(super) struct Charge {
    memory: HostMemory,
    bytes: u64,
}

impl Charge {
    /// Counts so many bytes in place of those until now; where that is refused, all is as before.
    pub(super) fn resize(&mut self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.bytes {
            self.memory.add(bytes - self.bytes)?;
        } else {
            self.memory.sub(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_counts_for_as_long_as_it_lives() {
        let memory = HostMemory::new(100, 30);
        let mut charge = memory.charge(50).unwrap();
        assert_eq!(memory.used(), 80);
        let refusal = memory.charge(21).unwrap_err();
        assert_eq!(refusal, Refusal { limit: Limit::Memory, asked: 101, allowed: 100 });
        assert!(charge.resize(71).is_err());
        charge.resize(70).unwrap();
        assert!(memory.check(1).is_err());
        charge.resize(10).unwrap();
        drop(charge);
        assert_eq!((memory.used(), memory.peak()), (30, 100));
        memory.charge(u64::MAX).unwrap_err();
    }

    #[test]
    fn many_that_charge_at_once_never_have_more_than_is_allowed() {
        let memory = HostMemory::new(1000, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let held: Vec<_> = (0..1000).map_while(|_| memory.charge(1).ok()).collect();
                    assert!(memory.used() <= 1000);
                    drop(held);
                });
            }
        });
        assert_eq!(memory.used(), 0);
        assert!(memory.peak() <= 1000);
    }
}
