//! What a registry serves and why not something else, for people and for `GET /tasks`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::canary::Comparison;
use super::refresh::listing;
use super::version::Version;
use super::{Registry, locked};
use lovage_core::text::one_line;

/// The most bytes of a reason.
const WHY_BYTES: usize = 1024;

/// One component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Where it comes from: a file's path, or a URL.
    pub place: String,
    /// What serves; `None` where nothing does, for the reason that `refused` has.
    pub version: Option<VersionStatus>,
    /// What is tried beside it.
    pub trial: Option<VersionStatus>,
    /// How many of 100 jobs go to what is tried.
    pub trial_percent: Option<f64>,
    /// The numbers by which it is judged.
    #[serde(default)]
    pub trial_compared: Option<Comparison>,
    /// What is offered and not served.
    pub refused: Option<Refusal>,
    /// True if its place does not offer it any more.
    pub gone: bool,
}

/// One version of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Its digest.
    pub digest: String,
    /// The tasks that it serves.
    pub tasks: Vec<String>,
    /// Since when it is served.
    pub since: Timestamp,
    /// How many attempts it made since then.
    pub calls: u64,
    /// How many of them failed: that were neither done nor snoozed.
    pub failures: u64,
}

/// What is not served, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is not served: a file, or a source.
    pub what: String,
    /// Its digest, where it came so far.
    pub digest: Option<String>,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
    /// True if it is only that somebody said so.
    #[serde(default)]
    pub(super) denied: bool,
    /// True if its place could not be looked at.
    #[serde(default, skip_serializing)]
    pub(super) listing: bool,
}

impl Refusal {
    pub(super) fn new(what: &str, digest: Option<String>, why: &str) -> Self {
        let why = one_line(why, WHY_BYTES);
        let (what, since) = (what.to_owned(), Timestamp::now());
        Self { what, digest, why, since, denied: false, listing: false }
    }
}

impl VersionStatus {
    fn of(version: &Version) -> Self {
        let (calls, failures) = version.tally.calls();
        Self {
            digest: version.digest().to_owned(),
            tasks: version.component.tasks.iter().map(|task| task.name.clone()).collect(),
            since: version.since,
            calls,
            failures,
        }
    }
}

impl Registry {
    /// All components, and what is not served, in the order of their places.
    pub fn status(&self) -> Vec<Status> {
        let now = self.now();
        let mut refused = locked(&self.refused).clone();
        let served = now.slots.iter().map(|(place, slot)| Status {
            place: place.clone(),
            version: Some(VersionStatus::of(&slot.now)),
            trial: slot.trial.as_ref().map(|trial| VersionStatus::of(&trial.version)),
            trial_percent: slot.trial.as_ref().map(|trial| trial.canary.percent),
            trial_compared: slot.trial.as_ref().map(|trial| trial.compare(&slot.now)),
            refused: refused.remove(place).or_else(|| refused.remove(&listing(place))),
            gone: slot.gone,
        });
        let mut all: Vec<_> = served.collect();
        all.extend(refused.into_iter().map(|(place, refusal)| Status {
            place: if refusal.listing { refusal.what.clone() } else { place },
            version: None,
            trial: None,
            trial_percent: None,
            trial_compared: None,
            refused: Some(refusal),
            gone: false,
        }));
        all.sort_by(|a, b| a.place.cmp(&b.place));
        all
    }
}
