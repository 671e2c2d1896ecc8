//! A new version's trial: it gets a small part of the jobs, beside the version before it, and what
//! becomes of them decides.
//!
//! Both versions run at the same time, and a hash of the job's id assigns a job, so a busy machine or
//! a broken dependency meets both alike. The first attempt of each job counts: a job that fails all
//! its attempts is one observation, not four. Two [sequential tests](super::sequential_test) ask
//! whether the new version fails more, and whether it is slower. Each may err with half of `alpha`.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::sequential_test::{Sample, ln_evidence};
use super::version::Counts;

/// How a new version is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Canary {
    /// How many of 100 jobs it gets, above 0 and up to 100.
    pub percent: f64,
    /// How many jobs it has to have had for a judgement; at least 1.
    pub min_calls: u64,
    /// By how much the part of failed attempts may be greater than the old version's, 0 to 1.
    pub failure_margin: f64,
    /// An attempt that takes longer than this many times the old version's median is slow; at
    /// least 1.
    pub latency_ratio: f64,
    /// The probability that a version that is as good is taken back; above 0 and below 1.
    pub alpha: f64,
}

/// Times that are compared count as no less than this: under it, the machine's moods are larger
/// than what a version does.
const NOISE: Duration = Duration::from_millis(1);

/// By how much the new version's share of slow attempts may be greater. A new version starts with
/// cold caches, and with no instance made ahead. A version whose median is slow has a share of 0.5.
const SLOW_MARGIN: f64 = 0.2;

/// How many attempts of the old version tell its median.
const MEDIAN_CALLS: u64 = 20;

/// The most that evidence is shown as.
const MOST_EVIDENCE: f64 = 1e12;

/// What follows from a trial so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Wait,
    /// The new version is as good: it takes all jobs.
    Promote,
    /// The new version fails more, and is taken back.
    FailsMore,
    /// The new version is slower, and is taken back.
    IsSlower,
}

/// The numbers of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Jobs of the old version that are compared.
    pub old_calls: u64,
    /// How many of them failed at their first attempt.
    pub old_failures: u64,
    /// How many of them were slow.
    pub old_slow: u64,
    /// Jobs of the new version.
    pub new_calls: u64,
    /// How many of them failed at their first attempt.
    pub new_failures: u64,
    /// How many of them were slow.
    pub new_slow: u64,
    /// How many jobs the new version needs for a judgement.
    pub min_calls: u64,
    /// What is slow, in milliseconds; `None` while the old version's median is not known.
    pub slow_ms: Option<f64>,
    /// The evidence that the new version fails more.
    pub failure_evidence: f64,
    /// The evidence that the new version is slower.
    pub latency_evidence: f64,
    /// The evidence that takes a version back.
    pub needed_evidence: f64,
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

    /// The time above which an attempt is slow, if enough is known of the old version.
    pub fn slow_above(&self, old: &Counts) -> Option<Duration> {
        let median = old.median().filter(|_| old.calls >= MEDIAN_CALLS)?;
        // A ratio without bound is no reason to panic.
        Duration::try_from_secs_f64(median.max(NOISE).as_secs_f64() * self.latency_ratio).ok()
    }

    /// Compares what the versions did. `before` is what the old one did before the trial, and
    /// `during` what it did since. `slow` is the time above which an attempt is slow.
    pub fn compare(
        &self,
        before: &Counts,
        during: &Counts,
        new: &Counts,
        slow: Option<Duration>,
    ) -> Comparison {
        // Only where there is too little to compare with at the same time.
        let all = before.plus(during);
        let mut old = if during.calls < self.min_calls { &all } else { during };
        // Where nothing is known of the old version, it is taken not to fail.
        let perfect = Counts::of_calls(self.min_calls);
        if old.calls == 0 {
            old = &perfect;
        }
        let above = |counts: &Counts| slow.map_or(0, |slow| counts.above(slow)).min(counts.calls);
        let (old_slow, new_slow) = (above(old), above(new));
        let evidence = |first: u64, second: u64, margin: f64| {
            let first = Sample { trials: old.calls, hits: first.min(old.calls) };
            let second = Sample { trials: new.calls, hits: second.min(new.calls) };
            ln_evidence(first, second, margin).exp().min(MOST_EVIDENCE)
        };
        Comparison {
            old_calls: old.calls,
            old_failures: old.failures,
            old_slow,
            new_calls: new.calls,
            new_failures: new.failures,
            new_slow,
            min_calls: self.min_calls,
            slow_ms: slow.map(|slow| slow.as_secs_f64() * 1000.0),
            failure_evidence: evidence(old.failures, new.failures, self.failure_margin),
            latency_evidence: evidence(old_slow, new_slow, SLOW_MARGIN),
            needed_evidence: 2.0 / self.alpha,
        }
    }

    /// Judges by a comparison. A version is taken back as soon as the evidence suffices, and takes
    /// over where, after `min_calls` jobs or twice, four times, eight times as many, it is within the
    /// margins. Never before `min_calls` jobs of the new version. `looks` counts the latter looks.
    pub fn judge(&self, compared: &Comparison, looks: &AtomicU32) -> Verdict {
        if compared.new_calls < self.min_calls.max(1) {
            return Verdict::Wait;
        }
        if compared.failure_evidence >= compared.needed_evidence {
            return Verdict::FailsMore;
        }
        if compared.latency_evidence >= compared.needed_evidence {
            return Verdict::IsSlower;
        }
        let is_within = |old: u64, new: u64, margin: f64| {
            rate(new, compared.new_calls) <= rate(old, compared.old_calls) + margin
        };
        if self.is_due(compared.new_calls, looks)
            && is_within(compared.old_failures, compared.new_failures, self.failure_margin)
            && is_within(compared.old_slow, compared.new_slow, SLOW_MARGIN)
        {
            return Verdict::Promote;
        }
        Verdict::Wait
    }

    /// Returns true once for each of the looks that are due. Few of them: each is a chance for a
    /// version that is worse to look good.
    fn is_due(&self, calls: u64, looks: &AtomicU32) -> bool {
        let done = looks.load(Ordering::Relaxed);
        let due = self.min_calls.max(1).saturating_mul(1_u64.checked_shl(done).unwrap_or(u64::MAX));
        calls >= due
            && looks.compare_exchange(done, done + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn rate(hits: u64, of: u64) -> f64 {
    Sample { trials: of, hits }.rate()
}

/// The numbers for people: counts, rates, and both tests' values.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |hits: u64, of: u64| format!("{hits} of {of} ({:.1}%)", rate(hits, of) * 100.0);
        write!(
            f,
            "{} jobs failed at their first attempt, of the version before it {}; evidence {:.2} of \
             {:.0}",
            side(self.new_failures, self.new_calls),
            side(self.old_failures, self.old_calls),
            self.failure_evidence,
            self.needed_evidence
        )?;
        if let Some(slow) = self.slow_ms {
            write!(
                f,
                "; {} took more than {slow:.1} ms, of the version before it {}; evidence {:.2} of \
                 {:.0}",
                side(self.new_slow, self.new_calls),
                side(self.old_slow, self.old_calls),
                self.latency_evidence,
                self.needed_evidence
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
