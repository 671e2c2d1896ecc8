//! The order of signed versions, and the keys that sign them.
//!
//! A signature says that a component is genuine, not that it is the newest: whoever can write to a
//! place could bring back an older version with a known hole. So a signed manifest has an order, and
//! a place that served one order does not take a lower one. A manifest without an order has the
//! lowest.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::history::{Ordered, Record};
use super::{Registry, RegistryError, locked};
use crate::signature::SignedManifest;
use lovage_core::events::SigningKeyExpires;
use lovage_core::text::component_name;

/// How often it is warned of keys that expire.
const WARN_EVERY: Duration = Duration::from_hours(24);

impl Registry {
    /// Refuses a version whose order is lower than that of one which was served, and notes the order
    /// of others.
    pub(super) async fn check_order(
        &self,
        place: &str,
        file: &str,
        signed: &SignedManifest,
        record: Option<&Record>,
    ) -> Result<(), RegistryError> {
        // What was served last may be so again, as after a rollback.
        let is_current =
            record.and_then(Record::current).is_some_and(|kept| kept.digest == signed.digest);
        if is_current {
            return Ok(());
        }
        if let Some(highest) = self.highest_order(&signed.name).await
            && highest.digest != signed.digest
            && (signed.order < highest.order || (signed.order == highest.order && signed.order > 0))
        {
            return Err(RegistryError::Older {
                file: file.to_owned(),
                order: signed.order,
                newest: highest.digest,
                served: highest.order,
            });
        }
        if signed.order > 0 {
            let ordered = Ordered { order: signed.order, digest: signed.digest.clone() };
            locked(&self.orders).insert(signed.name.clone(), ordered.clone());
            if let Some(noted) =
                self.in_history(place, move |history, place| history.note_order(place, ordered))
            {
                let _ = noted.await;
            }
        }
        Ok(())
    }

    /// The highest order of a component of that name that was served: by this process, or before from
    /// the places that it looks at.
    async fn highest_order(&self, name: &str) -> Option<Ordered> {
        let here = locked(&self.orders).get(name).cloned();
        let Some(history) = self.options.history.clone() else { return here };
        let records = tokio::task::spawn_blocking(move || history.all()).await.ok()?;
        let records = records
            .inspect_err(|error| tracing::warn!(%error, "the order of versions is not known"))
            .unwrap_or_default();
        records
            .into_iter()
            .filter(|record| component_name(&record.place) == name && self.looks_at(&record.place))
            .filter_map(|record| record.order)
            .chain(here)
            .max_by_key(|ordered| ordered.order)
    }

    /// Returns true if components of a place would be served.
    fn looks_at(&self, place: &str) -> bool {
        self.suppliers.iter().any(|supplier| supplier.holds(place))
            || self.depots.iter().any(|precompiled_store| precompiled_store.holds(place))
    }

    /// Warns of keys that expire soon, or have: once a day.
    pub(super) fn warn_of_expiring_keys(&self) {
        let signatures = &self.options.signatures;
        let now = Timestamp::now();
        let mut warned = locked(&self.warned);
        let tell = warned.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        for key in &signatures.keys {
            let Some(not_after) = key.not_after else { continue };
            let left = now.duration_until(not_after);
            let soon = key.expires_within(signatures.warn_before, now);
            SigningKeyExpires { key: &key.id, not_after, left, tell: tell && soon }.emit();
        }
        if tell {
            *warned = Some(Instant::now());
        }
    }
}
