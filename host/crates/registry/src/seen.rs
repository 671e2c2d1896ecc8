//! What was seen of each place, and what is therefore looked at again.
//!
//! An offer that is served, or that can never be, is looked at again when it changes. One whose
//! task another component serves is looked at again when what is served changes. One that failed for
//! a reason that may pass is tried again, at ever longer intervals.

use std::time::{Duration, Instant};

use super::supplier::Offer;
use super::version::{Version, real_path};
use super::{Registry, RegistryError, locked};
use lovage_sandbox::Retry;

/// After how long what failed is tried again: at first, and at the most.
const RETRIES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(15));

/// How often what fails for a reason that may be in it is tried again.
const FEW: u32 = 4;

/// What was seen of a place.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    stamp: String,
    /// The digest that it had then, where it came so far.
    digest: Option<String>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is served or tried, here or by another place.
    Served,
    /// It cannot be, as it is.
    Refused,
    /// A task of it is another's, by what was served then.
    Contended { generation: u64 },
    /// It failed so often, and is tried again then.
    Failed { times: u32, until: Instant },
}

impl Registry {
    /// Returns true if there is no reason to look at an offer.
    pub(super) fn is_known(&self, offer: &Offer) -> bool {
        let Some(seen) = self.seen_of(offer) else { return false };
        match seen.state {
            State::Served => seen.digest.is_some_and(|digest| self.has(offer, &digest)),
            State::Refused => true,
            State::Contended { generation } => generation == self.generation(),
            State::Failed { until, .. } => Instant::now() < until,
        }
    }

    /// Returns true if a task of an offer was another's when it was looked at last.
    pub(super) fn is_contended(&self, offer: &Offer) -> bool {
        self.seen_of(offer).is_some_and(|seen| matches!(seen.state, State::Contended { .. }))
    }

    fn seen_of(&self, offer: &Offer) -> Option<Seen> {
        locked(&self.seen).get(&offer.place).filter(|seen| seen.stamp == offer.stamp).cloned()
    }

    /// Whether a version is served or tried by its place, or offered and served by another one.
    fn has(&self, offer: &Offer, digest: &str) -> bool {
        let now = self.now();
        let is = |version: &Version| version.digest() == digest;
        if let Some(slot) = now.slots.get(&offer.place) {
            return is(&slot.now) || slot.trial.as_ref().is_some_and(|it| is(&it.version));
        }
        let file = real_path(&offer.shown);
        now.slots
            .values()
            .any(|slot| !slot.gone && (is(&slot.now) || (file.is_some() && slot.now.file == file)))
    }

    /// Notes the digest of what an offer brought.
    pub(super) fn note_digest(&self, offer: &Offer, digest: &str) {
        self.note(offer, |seen| seen.digest = Some(digest.to_owned()));
    }

    /// Notes that an offer is served, or tried.
    pub(super) fn note_accepted(&self, offer: &Offer) {
        self.note(offer, |seen| seen.state = State::Served);
        locked(&self.refused).remove(&offer.place);
    }

    /// Notes that an offer is not served; the digest that it had, if it is known.
    pub(super) fn note_failed(&self, offer: &Offer, error: &RegistryError) -> Option<String> {
        let generation = self.generation();
        let mut digest = None;
        self.note(offer, |seen| {
            let times = match seen.state {
                State::Failed { times, .. } => times.saturating_add(1),
                _ => 1,
            };
            let again = State::Failed { times, until: Instant::now() + after(times) };
            seen.state = match error.retry() {
                _ if error.is_contended() => State::Contended { generation },
                Retry::Always => again,
                Retry::Few if times <= FEW => again,
                Retry::Few | Retry::Never => State::Refused,
            };
            digest.clone_from(&seen.digest);
        });
        digest
    }

    /// Notes that the version which a place offers is not served any more.
    pub(super) fn note_taken_back(&self, place: &str) {
        if let Some(seen) = locked(&self.seen).get_mut(place) {
            seen.state = State::Refused;
        }
    }

    fn note(&self, offer: &Offer, change: impl FnOnce(&mut Seen)) {
        let mut all = locked(&self.seen);
        let new = || Seen { stamp: offer.stamp.clone(), digest: None, state: State::Refused };
        let seen = all.entry(offer.place.clone()).or_insert_with(new);
        if seen.stamp != offer.stamp {
            *seen = new();
        }
        change(seen);
    }

    /// Forgets what was seen of places that are not offered any more, and why it was not served.
    pub(super) fn forget_gone(&self, ours: impl Fn(&str) -> bool, offers: &[Offer]) {
        let is_gone = |place: &str| ours(place) && !offers.iter().any(|offer| offer.place == place);
        locked(&self.seen).retain(|place, _| !is_gone(place));
        locked(&self.refused).retain(|place, refusal| refusal.listing || !is_gone(place));
        self.forget_claims(is_gone);
    }

    /// After how long something is to be tried again, at the earliest.
    #[cfg(feature = "watch")]
    pub(super) fn next_retry(&self) -> Option<Duration> {
        let until = |seen: &Seen| match seen.state {
            State::Failed { until, .. } => Some(until),
            _ => None,
        };
        let earliest = locked(&self.seen).values().filter_map(until).min()?;
        Some(earliest.saturating_duration_since(Instant::now()))
    }
}

/// After how long something is tried again that failed so often.
fn after(times: u32) -> Duration {
    let (first, most) = RETRIES;
    first.saturating_mul(1 << times.saturating_sub(1).min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_at_ever_longer_intervals_up_to_a_most() {
        assert_eq!(after(1), Duration::from_secs(5));
        assert_eq!(after(2), Duration::from_secs(10));
        assert_eq!(after(4), Duration::from_secs(40));
        assert_eq!(after(100), Duration::from_mins(15));
        assert_eq!(after(u32::MAX), Duration::from_mins(15));
    }
}
