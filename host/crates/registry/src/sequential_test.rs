//! A sequential test of two rates: is the second greater than the first by more than a margin?
//!
//! The test may be read after every observation. Under the null hypothesis (the second rate is at
//! most the first plus the margin) the probability that the evidence ever reaches `1 / alpha` is at
//! most `alpha`, however long and however often one looks.
//!
//! For each side, the likelihood of its data averaged over all rates, divided by the likelihood at
//! the true rate, is a martingale that starts at 1. So is the product of the two sides. Ville's
//! inequality bounds how often it gets large. The true rates are not known, so the product is taken
//! at the rates within the null hypothesis that make it smallest. That only makes it smaller.

/// Successes and failures of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub trials: u64,
    /// At most `trials`.
    pub hits: u64,
}

impl Sample {
    /// The share of hits; 0 without a trial.
    pub(super) fn rate(self) -> f64 {
        if self.trials == 0 { 0.0 } else { self.hits as f64 / self.trials as f64 }
    }

    fn misses(self) -> f64 {
        self.trials.saturating_sub(self.hits) as f64
    }

    /// The logarithm of the likelihood, averaged over all rates from 0 to 1.
    fn ln_average_likelihood(self) -> f64 {
        ln_factorial(self.hits) + ln_factorial(self.trials.saturating_sub(self.hits))
            - ln_factorial(self.trials.saturating_add(1))
    }

    fn ln_likelihood(self, rate: f64) -> f64 {
        let term = |count: f64, p: f64| if count > 0.0 { count * p.ln() } else { 0.0 };
        term(self.hits as f64, rate) + term(self.misses(), 1.0 - rate)
    }
}

/// The logarithm of the evidence that the rate of `second` is greater than that of `first` plus
/// `margin`. At most 0 where the observed rates do not say so.
pub(super) fn ln_evidence(first: Sample, second: Sample, margin: f64) -> f64 {
    let margin = margin.clamp(0.0, 1.0);
    let average = first.ln_average_likelihood() + second.ln_average_likelihood();
    let rate = if second.rate() <= first.rate() + margin {
        // The rates that fit best are within the null hypothesis.
        return (average - first.ln_likelihood(first.rate()) - second.ln_likelihood(second.rate()))
            .min(0.0);
    } else {
        most_likely(first, second, margin)
    };
    average - first.ln_likelihood(rate) - second.ln_likelihood(rate + margin)
}

/// The rate of `first` at which both samples are most likely, where `second`'s is greater by the
/// margin. The logarithm of the likelihood is concave in it, so its slope is bisected.
fn most_likely(first: Sample, second: Sample, margin: f64) -> f64 {
    let slope = |rate: f64| {
        let term = |count: f64, p: f64| if count > 0.0 { count / p } else { 0.0 };
        let other = rate + margin;
        term(first.hits as f64, rate) - term(first.misses(), 1.0 - rate)
            + term(second.hits as f64, other)
            - term(second.misses(), 1.0 - other)
    };
    let (mut low, mut high) = (0.0, 1.0 - margin);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if slope(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// `ln(n!)`, by Stirling's series where that is exact to ten digits.
fn ln_factorial(n: u64) -> f64 {
    if n < 20 {
        return (2..=n).map(|factor| (factor as f64).ln()).sum();
    }
    let n = n as f64;
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1260.0 * n.powi(5));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(trials: u64, hits: u64) -> Sample {
        Sample { trials, hits }
    }

    #[test]
    fn factorials_are_exact_to_nine_digits() {
        let mut exact = 0.0;
        for n in 1..=2000_u64 {
            exact += (n as f64).ln();
            let found = ln_factorial(n);
            assert!((found - exact).abs() <= 1e-9 * exact.max(1.0), "{n}: {found} {exact}");
        }
        assert!(ln_factorial(0).abs() < 1e-12);
    }

    #[test]
    fn evidence_grows_with_the_difference_and_with_the_number_of_observations() {
        let old = sample(1000, 100);
        let of = |trials, hits| ln_evidence(old, sample(trials, hits), 0.02);
        assert!(of(100, 10) <= 0.0);
        assert!(of(100, 30) > of(100, 25));
        assert!(of(1000, 300) > of(100, 30));
        assert!(of(100, 100) > 100.0);
        // Two or three observations prove nothing.
        assert!(of(1, 1) < 1.0 && of(3, 3) < 3.0);
        // Without a comparison there is no evidence.
        assert!(ln_evidence(sample(0, 0), sample(100, 100), 0.02) <= 0.0);
        assert!(ln_evidence(sample(0, 0), sample(0, 0), 1.0).abs() < 1e-12);
    }

    #[test]
    fn extreme_counts_give_finite_evidence() {
        let most = 1 << 40;
        for first in [sample(0, 0), sample(1, 0), sample(1, 1), sample(most, 0), sample(most, most)]
        {
            for second in [sample(0, 0), sample(1, 1), sample(most, most / 2), sample(most, most)] {
                for margin in [0.0, 0.02, 1.0] {
                    let evidence = ln_evidence(first, second, margin);
                    assert!(evidence.is_finite(), "{first:?} {second:?} {margin}: {evidence}");
                }
            }
        }
    }
}
