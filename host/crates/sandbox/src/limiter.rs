//! Who says no to memory, and how much of it was held for how long.
//!
//! `wasmtime::StoreLimits` holds each memory to a limit but not their sum, and tells nobody why it
//! refused: a guest whose memory was refused just traps. The [`Limiter`] here counts all memories
//! and tables of a store together, and writes down what it refused, so that the failure can name
//! the limit.

use std::time::Instant;

use wasmtime::ResourceLimiter;

use super::host_memory::HostMemory;
use super::limits::{Limit, Limits, Refusal};

/// How much memory one element of a table takes: a pointer
/// (`wasmtime::ResourceLimiter::table_growing`).
const TABLE_ELEMENT_BYTES: u64 = 8;

/// Counts what a store has, and refuses what is too much.
///
/// Memories and tables of WebAssembly never shrink, so what is in use of these is also the peak. What the
/// host holds for the guest counts with them, once there is any.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    used: u64,
    /// The account that host functions charge; it has `used` in it.
    host: Option<HostMemory>,
    /// Bytes of it that the resource table had at the last look.
    table: u64,
    refused: Option<Refusal>,
    /// Why the host had no memory that the guest was granted.
    host_fault: Option<String>,
    /// Bytes times nanoseconds until `since`, from when on `used` bytes are held.
    held: u128,
    since: Instant,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: 0,
            host: None,
            table: 0,
            refused: None,
            host_fault: None,
            held: 0,
            since: Instant::now(),
        }
    }

    /// The limiter of an attempt that takes over what was made ahead: it holds that from now on.
    pub(super) fn taken_over(self, limits: Limits) -> Self {
        Self { limits, held: 0, since: Instant::now(), ..self }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The most bytes that memories, tables and what the host held took together.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.host.as_ref().map_or(self.used, HostMemory::peak)
    }

    /// The account that host functions charge what they hold to.
    pub(super) fn host_memory(&mut self) -> &HostMemory {
        let (allowed, used) = (self.limits.memory_bytes, self.used);
        self.host.get_or_insert_with(|| HostMemory::new(allowed, used))
    }

    /// Counts what a look at the resource table has found, in place of what the last one has.
    pub(super) fn count_table(&mut self, bytes: u64) -> Result<(), Refusal> {
        let before = std::mem::replace(&mut self.table, bytes);
        let host = self.host_memory();
        host.sub(before);
        let counted = host.add_held(bytes);
        if let Err(refusal) = counted {
            self.refused = Some(refusal);
        }
        counted
    }

    /// Bytes of memories and tables times the milliseconds that they were held, until now.
    pub(super) fn byte_ms(&self) -> u64 {
        let now = self.since.elapsed().as_nanos().saturating_mul(u128::from(self.used));
        u64::try_from(self.held.saturating_add(now) / 1_000_000).unwrap_or(u64::MAX)
    }

    /// The last refusal; a guest may have coped with it.
    pub(super) fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    /// Why the host had no memory that the guest was granted; `None` where it always had.
    pub(super) fn host_fault(&self) -> Option<&str> {
        self.host_fault.as_deref()
    }

    /// Counts what the host holds for the guest to the end of the attempt.
    pub(super) fn hold(&mut self, bytes: u64) -> Result<(), Refusal> {
        let asked = self.all().saturating_add(bytes);
        let refusal = Refusal { limit: Limit::Memory, asked, allowed: self.limits.memory_bytes };
        if self.grow(bytes) { Ok(()) } else { Err(refusal) }
    }

    /// Bytes in use of guest and host together.
    fn all(&self) -> u64 {
        self.host.as_ref().map_or(self.used, HostMemory::used)
    }

    fn grow(&mut self, by: u64) -> bool {
        let asked = self.all().saturating_add(by);
        let fits = match &self.host {
            None => asked <= self.limits.memory_bytes,
            // Another thread may charge it at the same time.
            Some(host) => host.add(by).is_ok(),
        };
        if !fits {
            return self.refuse(Limit::Memory, asked, self.limits.memory_bytes);
        }
        let now = Instant::now();
        let held = now.duration_since(self.since).as_nanos().saturating_mul(u128::from(self.used));
        self.held = self.held.saturating_add(held);
        self.since = now;
        self.used = self.used.saturating_add(by);
        true
    }

    fn refuse(&mut self, limit: Limit, asked: u64, allowed: u64) -> bool {
        self.refused = Some(Refusal { limit, asked, allowed });
        false
    }

    /// What cannot be granted anyway is not counted. Were it counted and taken back in
    /// `memory_grow_failed`, a guest could have more taken back than was counted, since wasmtime
    /// calls that one also for growth that it never asked about.
    fn beyond_maximum(&mut self, desired: usize, maximum: Option<usize>) -> bool {
        match maximum {
            Some(maximum) if desired > maximum => {
                !self.refuse(Limit::Declared, desired as u64, maximum as u64)
            }
            _ => false,
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let by = desired.saturating_sub(current) as u64;
        if self.all().saturating_add(by) <= self.limits.memory_bytes
            && self.beyond_maximum(desired, maximum)
        {
            return Ok(false);
        }
        Ok(self.grow(by))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.limits.table_elements {
            let allowed = self.limits.table_elements as u64;
            return Ok(self.refuse(Limit::TableElements, desired as u64, allowed));
        }
        if self.beyond_maximum(desired, maximum) {
            return Ok(false);
        }
        let by = (desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(by))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // wasmtime calls this for a refusal of ours, too; those have no error of the system below.
        let system = |it: &(dyn std::error::Error + 'static)| {
            it.is::<std::io::Error>() || it.is::<rustix::io::Errno>()
        };
        if error.chain().any(system) {
            self.host_fault = Some(format!("{error:#}"));
        }
        Ok(())
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(memory_bytes: u64) -> Limiter {
        Limiter::new(Limits { memory_bytes, ..Limits::default() })
    }

    #[test]
    fn memories_and_tables_count_together() {
        let mut limiter = limiter(1000);
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.table_growing(0, 20, None).unwrap());
        assert_eq!(limiter.peak_bytes(), 960);
        assert!(!limiter.table_growing(20, 30, None).unwrap());
        assert_eq!(
            limiter.refused(),
            Some(Refusal { limit: Limit::Memory, asked: 1040, allowed: 1000 })
        );
        assert!(limiter.memory_growing(400, 440, None).unwrap());
        assert!(!limiter.memory_growing(440, 441, None).unwrap());
    }

    #[test]
    fn what_the_host_holds_counts_with_memories_and_tables() {
        let mut limiter = limiter(1000);
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        let charge = limiter.host_memory().charge(500).unwrap();
        assert!(!limiter.memory_growing(400, 501, None).unwrap());
        assert!(limiter.memory_growing(400, 500, None).unwrap());
        assert!(limiter.host_memory().charge(1).is_err());
        drop(charge);
        assert!(limiter.memory_growing(500, 1000, None).unwrap());
        assert_eq!(limiter.peak_bytes(), 1000);
        assert_eq!(limiter.count_table(5).unwrap_err().asked, 1005);
        limiter.count_table(0).unwrap();
        assert_eq!(limiter.all(), 1000);
    }

    #[test]
    fn growth_that_fails_anyway_is_not_counted_and_never_given_back() {
        let mut limiter = limiter(1000);
        assert!(limiter.memory_growing(0, 100, Some(100)).unwrap());
        assert!(!limiter.memory_growing(100, 200, Some(100)).unwrap());
        assert_eq!(limiter.refused().unwrap().limit, Limit::Declared);
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert_eq!(limiter.peak_bytes(), 100);
        assert!(!limiter.memory_growing(0, 901, None).unwrap());
    }

    #[test]
    fn the_limit_that_is_at_fault_is_the_one_that_is_named() {
        let mut limiter = limiter(1000);
        assert!(!limiter.memory_growing(0, 4000, Some(2000)).unwrap());
        assert_eq!(limiter.refused().unwrap().limit, Limit::Memory);
        assert!(!limiter.table_growing(0, 20_001, None).unwrap());
        assert_eq!(limiter.refused().unwrap().limit, Limit::TableElements);
    }

    #[test]
    fn memory_counts_for_as_long_as_it_is_held() {
        let mut limiter = limiter(1 << 40);
        let ms = std::time::Duration::from_millis;
        limiter.grow(1000);
        limiter.since -= ms(5);
        limiter.grow(1 << 39);
        let held = limiter.held;
        assert!((5_000_000_000..6_000_000_000).contains(&held), "{held}");
        limiter.since -= ms(7);
        let first = limiter.byte_ms();
        assert!((7 << 39..8 << 39).contains(&first), "{first}");
        // Asking twice counts nothing twice.
        assert!(limiter.byte_ms() - first < 1 << 39);
    }
}
