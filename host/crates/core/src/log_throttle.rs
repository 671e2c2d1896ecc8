//! Events that guests can bring about as often as they like, told now and then.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// For how long an event that guests can bring about says no more.
#[derive(Debug)]
pub struct LogThrottle {
    seconds: u64,
    /// When the last one was told, in seconds since the Unix epoch.
    told: AtomicU64,
}

impl LogThrottle {
    /// Says no more for so long after it said something.
    pub const fn for_seconds(seconds: u64) -> Self {
        Self { seconds, told: AtomicU64::new(0) }
    }

    /// Returns true if it is time to tell again, which is then taken to be done.
    pub fn is_over(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let told = self.told.load(Ordering::Relaxed);
        now.abs_diff(told) >= self.seconds
            && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_told_is_left_in_peace_for_a_while() {
        let quiet = LogThrottle::for_seconds(3600);
        assert!(quiet.is_over());
        assert!(!quiet.is_over());
        assert!(LogThrottle::for_seconds(0).is_over());
    }
}
