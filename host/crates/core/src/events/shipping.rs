//! What happens to components while they are served.

use metrics::{counter, gauge};
use tracing::{debug, error, info, warn};

use super::Chain;
use crate::text::component_name;

/// A version took the place of the one before it.
pub struct ComponentReplaced<'a> {
    /// The component's file, or where it is.
    pub file: &'a str,
    /// The digest of the one before it.
    pub from: &'a str,
    /// The digest of the one that serves.
    pub to: &'a str,
    /// Tasks that the one before it had, and it has not.
    pub dropped: &'a [&'a str],
}

impl ComponentReplaced<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { file, from, to, dropped } = self;
        info!(file, from, to, "another version of a component is served");
        if !dropped.is_empty() {
            warn!(
                file,
                tasks = dropped.join(","),
                "tasks that the version before it had are not served any more"
            );
        }
        count("lovage_components_replaced_total", file);
    }
}

/// A component that is offered is not served.
pub struct ComponentRefused<'a> {
    /// Its file, or where it is.
    pub file: &'a str,
    /// Why.
    pub error: &'a (dyn std::error::Error + 'static),
    /// The digest of what serves instead; `None` where nothing does.
    pub serves: Option<&'a str>,
    /// Whether to say so at full volume: not again what was said.
    pub tell: bool,
}

impl ComponentRefused<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let serves = self.serves.unwrap_or("nothing");
        if self.tell {
            error!(
                error = %Chain(self.error),
                serves,
                "a component is not served; what was served is, still"
            );
        } else {
            debug!(error = %Chain(self.error), serves, "a component is still not served");
        }
        count("lovage_components_refused_total", self.file);
    }
}

/// A component is not offered any more; it is served all the same.
pub struct ComponentGone<'a> {
    /// The component's file, or where it is.
    pub file: &'a str,
    /// Its digest.
    pub digest: &'a str,
}

impl ComponentGone<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        warn!(
            file = self.file,
            digest = self.digest,
            "a component is not there any more; it is served until the worker ends"
        );
        count("lovage_components_gone_total", self.file);
    }
}

/// A place with components cannot be looked at.
pub struct SupplierFailed<'a> {
    /// The place.
    pub place: &'a str,
    /// Why.
    pub error: &'a (dyn std::error::Error + 'static),
    /// Whether to say so at full volume: not again what was said.
    pub tell: bool,
}

impl SupplierFailed<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        if self.tell {
            error!(
                place = self.place,
                error = %Chain(self.error),
                "cannot look for components; those that are served are, still"
            );
        } else {
            debug!(place = self.place, error = %Chain(self.error), "still no components");
        }
        counter!("lovage_component_look_failures_total", "place" => self.place.to_owned())
            .increment(1);
    }
}

/// A version is tried on a part of the jobs.
pub struct CanaryBegan<'a> {
    /// The component's file, or where it is.
    pub file: &'a str,
    /// The version's digest.
    pub digest: &'a str,
    /// How many of 100 jobs.
    pub percent: f64,
}

impl CanaryBegan<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        info!(file = self.file, digest = self.digest, percent = self.percent, "a version is tried");
        count("lovage_canaries_total", self.file);
    }
}

/// A version that was tried takes all jobs.
pub struct CanaryPromoted<'a> {
    /// The component's file, or where it is.
    pub file: &'a str,
    /// The version's digest.
    pub digest: &'a str,
    /// The numbers by which it was judged.
    pub compared: &'a dyn std::fmt::Display,
    /// How many jobs it had.
    pub calls: u64,
}

impl CanaryPromoted<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        info!(
            file = self.file,
            digest = self.digest,
            calls = self.calls,
            compared = %self.compared,
            "a version that was tried is served"
        );
        count("lovage_canaries_promoted_total", self.file);
    }
}

/// A version that was tried is worse than the one before it.
pub struct CanaryTakenBack<'a> {
    /// The component's file, or where it is.
    pub file: &'a str,
    /// The version's digest.
    pub digest: &'a str,
    /// In what.
    pub why: &'a str,
}

impl CanaryTakenBack<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        error!(
            file = self.file,
            digest = self.digest,
            why = self.why,
            "a version that was tried is taken back"
        );
        count("lovage_canaries_taken_back_total", self.file);
    }
}

/// A version must not be served any more, and one before it is.
pub struct VersionWentBack<'a> {
    /// The file.
    pub file: &'a str,
    /// The digest of what was served.
    pub from: &'a str,
    /// The digest of what is; `None` where there is none before it, and it serves still.
    pub to: Option<&'a str>,
    /// Why.
    pub why: &'a str,
}

impl VersionWentBack<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { file, from, to, why } = self;
        if let Some(to) = to {
            warn!(file, from, to, why, "went back to the version before");
        } else {
            error!(
                file,
                from, why, "a version should not be served, and is: no other is kept that may be"
            );
        }
        count("lovage_components_rolled_back_total", file);
    }
}

/// A key that signs components expires some day.
pub struct SigningKeyExpires<'a> {
    /// What it is called.
    pub key: &'a str,
    /// When.
    pub not_after: jiff::Timestamp,
    /// How long that is from now.
    pub left: jiff::SignedDuration,
    /// Whether to say so.
    pub tell: bool,
}

impl SigningKeyExpires<'_> {
    /// Logs and counts.
    pub fn emit(self) {
        let Self { key, not_after, left, tell } = self;
        gauge!("lovage_signing_key_expires_in_seconds", "key" => key.to_owned())
            .set(left.as_secs_f64());
        if !tell {
            return;
        }
        let days = left.as_hours() / 24;
        if left.is_positive() {
            warn!(
                key,
                %not_after,
                days,
                "a signing key expires soon; then a component that only this key signed is not \
                 loaded any more: sign with a new key, too"
            );
        } else {
            warn!(
                key,
                %not_after,
                "a signing key has expired; a component that only this key signed is not loaded by \
                 the next start: sign with a new key"
            );
        }
    }
}

fn count(what: &'static str, file: &str) {
    counter!(what, "component" => component_name(file).to_owned()).increment(1);
}
