//! Clocks, and figures from many rounds.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process so far, all threads.
pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// What a stretch of work took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub wall: Duration,
    pub cpu: Duration,
}

/// Starts measuring; the returned function ends it.
pub fn stopwatch() -> impl FnOnce() -> Cost {
    let (wall, begin) = (Instant::now(), cpu());
    move || Cost { wall: wall.elapsed(), cpu: cpu().saturating_sub(begin) }
}

/// The middle of some figures: what disturbs a few rounds does not move it.
pub fn median(mut figures: Vec<f64>) -> f64 {
    assert!(!figures.is_empty());
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        f64::midpoint(figures[middle - 1], figures[middle])
    }
}

/// The figure that so large a part of all does not exceed.
pub fn percentile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (part * (sorted.len() - 1) as f64).round();
    #[allow(clippy::cast_sign_loss, reason = "a part of a length")]
    sorted[index as usize]
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
