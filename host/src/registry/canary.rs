//! A new version's trial: it gets a small part of the jobs, beside the version before it, and what
//! becomes of them decides.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::version::Counts;

/// How a new version is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Canary {
    /// How many of 100 jobs it gets, above 0 and up to 100.
    pub percent: f64,
    /// How many attempts it has to have had for a judgement; at least 1.
    pub min_calls: u64,
    /// By how much the part of failed attempts may be greater than the old version's, 0 to 1.
    pub failure_margin: f64,
    /// How many times as long 95 of 100 attempts may take; at least 1.
    pub latency_ratio: f64,
}

/// Times that are compared count as no less than this: under it, the machine's moods are larger
/// than what a version does.
const NOISE: Duration = Duration::from_millis(1);

/// What follows from a trial so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Wait,
    /// The new version is as good: it takes all jobs.
    Promote,
    /// The new version is worse, and is taken back; why.
    TakeBack(String),
}

impl Canary {
    /// Whether a job is the new version's: always the same answer for one job and one version, on
    /// every attempt and every machine.
    pub fn takes(&self, job: &str, digest: &str) -> bool {
        let hash =
            Sha256::new().chain_update(digest).chain_update([0]).chain_update(job).finalize();
        let first = hash.iter().take(4).fold(0_u32, |all, byte| (all << 8) | u32::from(*byte));
        f64::from(first) < self.percent / 100.0 * 2_f64.powi(32)
    }

    /// Judges by what both did since the trial began.
    pub fn judge(&self, old: &Counts, new: &Counts) -> Verdict {
        let allowed = old.failure_rate() + self.failure_margin;
        let percent = |rate: f64| format!("{:.1}%", rate * 100.0);
        // Not even if all that are still to come went well.
        let hopeless = new.failures as f64 > allowed * self.min_calls.max(new.calls) as f64;
        if hopeless {
            return Verdict::TakeBack(format!(
                "{} of {} attempts failed, where {} may (the version before it: {}, and \
                 failure_margin)",
                new.failures,
                new.calls,
                percent(allowed),
                percent(old.failure_rate()),
            ));
        }
        if new.calls < self.min_calls {
            return Verdict::Wait;
        }
        if let (Some(before), Some(now)) = (old.p95(), new.p95())
            && now.as_secs_f64() > before.max(NOISE).as_secs_f64() * self.latency_ratio
        {
            return Verdict::TakeBack(format!(
                "95% of its attempts took up to {now:?}, and of the version before it {before:?}: \
                 more than latency_ratio ({}) allows",
                self.latency_ratio
            ));
        }
        Verdict::Promote
    }
}

#[cfg(test)]
mod tests {
    use super::super::version::Tally;
    use super::*;

    fn counts(calls: u64, failures: u64, wall: Duration) -> Counts {
        let tally = Tally::default();
        for n in 0..calls {
            tally.record(n < failures, wall);
        }
        tally.now()
    }

    const CANARY: Canary =
        Canary { percent: 5.0, min_calls: 100, failure_margin: 0.02, latency_ratio: 2.0 };

    const MS: Duration = Duration::from_millis(10);

    #[test]
    fn a_job_stays_with_its_version_and_the_part_is_kept_to() {
        let canary = CANARY;
        let takes = |n: u32, digest: &str| canary.takes(&format!("job-{n}"), digest);
        let taken = (0..20_000).filter(|n| takes(*n, "sha256:a")).count();
        assert!((800..1200).contains(&taken), "{taken}");
        assert!((0..100).all(|n| takes(n, "sha256:a") == takes(n, "sha256:a")));
        // Not the same jobs for every version.
        assert!((0..20_000).any(|n| takes(n, "sha256:a") != takes(n, "sha256:b")));
        let all = Canary { percent: 100.0, ..canary };
        assert!((0..1000).all(|n| all.takes(&n.to_string(), "sha256:a")));
    }

    #[test]
    fn a_version_that_is_as_good_takes_over_after_enough_attempts() {
        let canary = CANARY;
        let old = counts(1000, 50, MS);
        assert_eq!(canary.judge(&old, &counts(99, 5, MS)), Verdict::Wait);
        assert_eq!(canary.judge(&old, &counts(100, 6, MS)), Verdict::Promote);
        // Nothing to compare with.
        assert_eq!(canary.judge(&Counts::default(), &counts(100, 0, MS * 50)), Verdict::Promote);
    }

    #[test]
    fn a_version_that_fails_more_is_taken_back_as_soon_as_that_is_certain() {
        let canary = CANARY;
        let old = counts(1000, 50, MS);
        assert_eq!(canary.judge(&old, &counts(7, 7, MS)), Verdict::Wait);
        let Verdict::TakeBack(why) = canary.judge(&old, &counts(8, 8, MS)) else { panic!() };
        assert!(why.contains("8 of 8 attempts failed, where 7.0% may"), "{why}");
    }

    #[test]
    fn a_version_that_is_slower_is_taken_back() {
        let canary = CANARY;
        let old = counts(1000, 0, MS);
        assert!(matches!(canary.judge(&old, &counts(100, 0, MS * 4)), Verdict::TakeBack(_)));
        assert_eq!(canary.judge(&old, &counts(100, 0, MS * 3 / 2)), Verdict::Promote);
        // Some microseconds more are no reason.
        let quick = counts(1000, 0, Duration::from_micros(20));
        let other = counts(100, 0, Duration::from_micros(300));
        assert_eq!(canary.judge(&quick, &other), Verdict::Promote);
    }
}
