//! One clock: time that no step of the wall clock touches, and the news of such steps.
//!
//! The wall clock is for people and for what senders say (`eta`, `expires`). Differences are
//! measured on the clock since the machine's start, which all processes of a machine share, and
//! which runs on while it sleeps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::events::ClockJumped;

/// How often the two clocks are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(2);

/// Smaller differences are how clocks are corrected in the course of things.
const JUMP_MS: i64 = 1_000;

/// Milliseconds since the machine started. The same for all processes of a machine.
#[cfg(target_os = "linux")]
pub fn boottime_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000)
}

/// Elsewhere the wall clock has to do.
#[cfg(not(target_os = "linux"))]
pub fn boottime_ms() -> i64 {
    wall_ms()
}

/// Milliseconds since 1970, by the wall clock.
pub fn wall_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// The name of this start of the machine; `None` where the system does not tell.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Tells of steps of the wall clock, for as long as the future lives.
pub async fn watch() {
    let mut before = wall_ms() - boottime_ms();
    loop {
        tokio::time::sleep(COMPARE_EVERY).await;
        let now = wall_ms() - boottime_ms();
        if let Some(by_ms) = jump(before, now) {
            ClockJumped { by_ms }.emit();
        }
        before = now;
    }
}

/// By how much the wall clock was set, if it was.
fn jump(before: i64, now: i64) -> Option<i64> {
    let by = now.saturating_sub(before);
    (by.saturating_abs() >= JUMP_MS).then_some(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_is_noticed_and_its_usual_corrections_are_not() {
        assert_eq!(jump(5_000, 5_000 + 3_600_000), Some(3_600_000));
        assert_eq!(jump(3_600_000, 0), Some(-3_600_000));
        assert_eq!(jump(5_000, 5_900), None);
        assert_eq!(jump(5_000, 4_100), None);
    }

    #[test]
    fn time_since_the_start_goes_on() {
        let before = boottime_ms();
        std::thread::sleep(Duration::from_millis(20));
        assert!(boottime_ms() >= before + 10);
    }
}
