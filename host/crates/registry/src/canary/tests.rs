use super::super::version::Tally;
use super::*;

fn counts(calls: u64, failures: u64, wall: Duration) -> Counts {
    let tally = Tally::default();
    for n in 0..calls {
        tally.record(n < failures, wall, 1);
    }
    tally.now()
}

const CANARY: Canary =
    Canary { percent: 5.0, min_calls: 100, failure_margin: 0.02, latency_ratio: 2.0, alpha: 0.05 };

const MS: Duration = Duration::from_millis(10);

fn verdict(canary: &Canary, old: &Counts, new: &Counts) -> Verdict {
    let slow = canary.slow_above(old);
    canary.judge(&canary.compare(&Counts::default(), old, new, slow), &AtomicU32::new(0))
}

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
fn a_version_that_is_as_good_takes_over_after_enough_jobs() {
    let old = counts(1000, 50, MS);
    assert_eq!(verdict(&CANARY, &old, &counts(99, 5, MS)), Verdict::Wait);
    assert_eq!(verdict(&CANARY, &old, &counts(100, 6, MS)), Verdict::Promote);
    // Above the margin, but by chance as likely as not: the trial goes on.
    assert_eq!(verdict(&CANARY, &old, &counts(100, 9, MS)), Verdict::Wait);
    assert_eq!(verdict(&CANARY, &old, &counts(200, 12, MS)), Verdict::Promote);
    // Nothing to compare with.
    assert_eq!(verdict(&CANARY, &Counts::default(), &counts(100, 0, MS * 50)), Verdict::Promote);
}

#[test]
fn min_calls_holds_for_failures_too() {
    let old = counts(1000, 50, MS);
    for failures in 0..100 {
        let new = counts(failures.max(1), failures, MS);
        assert_eq!(verdict(&CANARY, &old, &new), Verdict::Wait, "{failures}");
    }
    assert_eq!(verdict(&CANARY, &old, &counts(100, 100, MS)), Verdict::FailsMore);
    // A few observations are no proof, whatever `min_calls` says.
    let hasty = Canary { min_calls: 1, ..CANARY };
    assert_eq!(verdict(&hasty, &old, &counts(1, 1, MS)), Verdict::Wait);
    assert_eq!(verdict(&hasty, &old, &counts(8, 8, MS)), Verdict::FailsMore);
}

#[test]
fn without_jobs_of_the_old_version_its_earlier_ones_are_compared() {
    let canary = Canary { percent: 100.0, ..CANARY };
    let judged = |before: &Counts, new: &Counts| {
        canary.judge(&canary.compare(before, &Counts::default(), new, None), &AtomicU32::new(0))
    };
    let before = counts(1000, 100, MS);
    assert_eq!(judged(&before, &counts(100, 100, MS)), Verdict::FailsMore);
    assert_eq!(judged(&before, &counts(100, 11, MS)), Verdict::Promote);
    // Nothing at all is known of it: it is taken not to fail.
    assert_eq!(judged(&Counts::default(), &counts(100, 100, MS)), Verdict::FailsMore);
    assert_eq!(judged(&Counts::default(), &counts(100, 1, MS)), Verdict::Promote);
}

#[test]
fn a_job_counts_once_however_often_it_is_tried() {
    let tally = Tally::default();
    for attempt in 1..=25 {
        tally.record(true, MS, attempt);
    }
    assert_eq!(tally.calls(), (25, 25));
    assert_eq!((tally.now().calls, tally.now().failures), (1, 1));
}

#[test]
fn a_version_that_is_slower_is_taken_back() {
    let old = counts(1000, 0, MS);
    assert_eq!(verdict(&CANARY, &old, &counts(100, 0, MS * 4)), Verdict::IsSlower);
    assert_eq!(verdict(&CANARY, &old, &counts(100, 0, MS * 3 / 2)), Verdict::Promote);
    // Some microseconds more are no reason.
    let quick = counts(1000, 0, Duration::from_micros(20));
    let other = counts(100, 0, Duration::from_micros(300));
    assert_eq!(verdict(&CANARY, &quick, &other), Verdict::Promote);
    // An absurd ratio compares nothing, and panics no less.
    let absurd = Canary { latency_ratio: f64::MAX, ..CANARY };
    assert_eq!(verdict(&absurd, &old, &counts(100, 0, MS * 4)), Verdict::Promote);
}

/// Numbers from 0 to 1 that a seed repeats (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A version's failure rate, and how long its attempts take by chance.
type Behaviour<'a> = (f64, &'a dyn Fn(&mut Chance) -> Duration);

/// One trial, to its end; after how many jobs of the new version it is at most given up.
fn trial(seed: u64, share: f64, old: Behaviour<'_>, new: Behaviour<'_>) -> (Verdict, u64) {
    const MOST: u64 = 5_000;
    let mut chance = Chance(seed);
    let canary = Canary { percent: share * 100.0, ..CANARY };
    let (before, during, tried) = (Tally::default(), Tally::default(), Tally::default());
    for _ in 0..50 {
        let wall = old.1(&mut chance);
        before.record(chance.next() < old.0, wall, 1);
    }
    let before = before.now();
    let slow = canary.slow_above(&before);
    let looks = AtomicU32::new(0);
    loop {
        let is_new = chance.next() < share;
        let (tally, (rate, walls)) = if is_new { (&tried, new) } else { (&during, old) };
        let wall = walls(&mut chance);
        tally.record(chance.next() < rate, wall, 1);
        let (calls, _) = tried.calls();
        if !is_new || calls < canary.min_calls {
            continue;
        }
        let compared = canary.compare(&before, &during.now(), &tried.now(), slow);
        match canary.judge(&compared, &looks) {
            Verdict::Wait if calls < MOST => {}
            verdict => return (verdict, calls),
        }
    }
}

fn steady(_: &mut Chance) -> Duration {
    MS
}

/// A machine with other things to do: a third of the attempts take up to ten times as long.
fn busy(chance: &mut Chance) -> Duration {
    let stretch = if chance.next() < 0.33 { 1.0 + 9.0 * chance.next() } else { 1.0 };
    MS.mul_f64(stretch)
}

#[test]
fn equal_versions_are_taken_back_in_at_most_alpha_of_1000_trials() {
    for (share, behaviour) in
        [(0.5, (0.1, &steady as &dyn Fn(&mut Chance) -> Duration)), (0.05, (0.1, &busy))]
    {
        let mut taken_back = 0_u32;
        let mut undecided = 0_u32;
        for seed in 0..1000 {
            match trial(seed, share, behaviour, behaviour).0 {
                Verdict::FailsMore | Verdict::IsSlower => taken_back += 1,
                Verdict::Wait => undecided += 1,
                Verdict::Promote => {}
            }
        }
        // 0.05 of them are allowed.
        assert!(taken_back <= 50, "share {share}: {taken_back} of 1000");
        assert!(undecided <= 20, "share {share}: {undecided} of 1000 undecided");
    }
}

#[test]
fn a_version_that_fails_three_times_as_often_is_found_within_500_jobs() {
    let found = (0..200)
        .filter(|seed| {
            let (verdict, calls) = trial(*seed, 0.05, (0.1, &steady), (0.3, &steady));
            verdict == Verdict::FailsMore && calls <= 500
        })
        .count();
    assert!(found >= 195, "{found} of 200");
}

#[test]
fn a_version_that_takes_three_times_as_long_is_found_on_a_busy_machine() {
    let slow = |chance: &mut Chance| busy(chance) * 3;
    let found = (0..200)
        .filter(|seed| {
            let (verdict, calls) = trial(*seed, 0.05, (0.1, &busy), (0.1, &slow));
            verdict == Verdict::IsSlower && calls <= 500
        })
        .count();
    assert!(found >= 195, "{found} of 200");
}
