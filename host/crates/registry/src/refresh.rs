//! From one version to the next.
//!
//! A version that a supplier offers is fetched, compiled, asked what it serves, and held against
//! what its tasks are granted, all beside the version that serves; only then it takes over, in one
//! step. What is wrong with it is told once, and the version before it goes on serving, as it does
//! when its supplier is down or offers it no more.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::history::{Kept, Record};
use super::load::prepare;
use super::served::{Slot, Trial};
use super::status::Refusal;
use super::supplier::{Fetched, Offer, Supplier};
use super::version::{Version, real_path};
use super::{Registry, RegistryError, locked};
use lovage_core::events::{
    CanaryBegan, ComponentGone, ComponentRefused, ComponentReplaced, SupplierFailed,
    VersionWentBack,
};
use lovage_sandbox::{LoadedComponent, Source as Named};

impl Registry {
    /// Looks whether other versions are offered, and serves those that are good. What is wrong is
    /// told by events, and in [`status`](Self::status).
    pub async fn refresh(&self) {
        let _turn = self.turn.lock().await;
        self.warn_of_expiring_keys();
        self.follow_history().await;
        // A task may go from one component to another, which may be looked at first; and two may
        // exchange theirs.
        let before = self.generation();
        let twice = self.look_around().await > 0;
        if twice || self.generation() != before {
            self.look_around().await;
        }
        if twice {
            self.exchange().await;
        }
    }

    /// Looks at all that is offered and is not known; how much of it serves a task that another
    /// component serves.
    async fn look_around(&self) -> usize {
        let mut twice = 0;
        for supplier in &self.suppliers {
            let offers = match supplier.list().await {
                Ok(offers) => offers,
                Err(error) => {
                    if error.is_empty_place() {
                        self.forget_gone(|place| supplier.holds(place), &[]);
                    }
                    self.tell_failed(&supplier.shown(), &error);
                    continue;
                }
            };
            self.forget_failure(&supplier.shown());
            self.forget_gone(|place| supplier.holds(place), &offers);
            self.note_gone(|place| supplier.holds(place), &offers);
            for offer in &offers {
                if self.is_known(offer) {
                    continue;
                }
                supplier.settle(offer).await;
                match self.look(supplier.as_ref(), offer).await {
                    Ok(()) => self.note_accepted(offer),
                    Err(error) => {
                        twice += usize::from(error.is_contended());
                        self.refuse(offer, &error);
                    }
                }
            }
        }
        twice + self.look_around_bundles().await
    }

    /// Serves all at once what cannot be served one after the other.
    async fn exchange(&self) {
        let mut versions = Vec::new();
        for supplier in &self.suppliers {
            let Ok(offers) = supplier.list().await else { continue };
            for offer in offers.into_iter().filter(|offer| self.is_contended(offer)) {
                let Ok(component) = self.bring(supplier.as_ref(), &offer).await else { continue };
                if self.check_decided(&offer.place, &component).is_ok() {
                    versions.push((offer, Arc::new(Version::new(component))));
                }
            }
        }
        if versions.len() < 2 {
            return;
        }
        let before = self.now();
        let together = self.serve(|slots| {
            for (offer, version) in &versions {
                let slot = Slot { now: Arc::clone(version), trial: None, gone: false };
                slots.insert(offer.place.clone(), slot);
            }
        });
        if together.is_err() {
            // As it was told of each.
            return;
        }
        for (offer, version) in &versions {
            self.note_accepted(offer);
            self.tell_replaced(before.slots.get(&offer.place).map(|slot| &*slot.now), version);
            if let Some(noted) = self.note_served(&offer.place, version) {
                let _ = noted.await;
            }
        }
    }

    /// Fetches what is offered, and serves it if it is good.
    async fn look(&self, supplier: &dyn Supplier, offer: &Offer) -> Result<(), RegistryError> {
        let place = &offer.place;
        let (named, fetched) = self.fetch(supplier, offer).await?;
        if self.is_served(place, &named) {
            return Ok(());
        }
        let record = self.record_of(place).await;
        let component = self.made(place, named, fetched, record.as_ref()).await?;
        self.check_decided(place, &component)?;
        self.admit(place, Version::new(component), true).await
    }

    pub(super) async fn fetch(
        &self,
        supplier: &dyn Supplier,
        offer: &Offer,
    ) -> Result<(Named, Fetched), RegistryError> {
        let fetched = supplier.fetch(offer, &self.sandbox).await?;
        let named = Named::of(&offer.shown, &fetched.wasm);
        self.note_digest(offer, &named.digest);
        Ok((named, fetched))
    }

    /// Fetches what is offered, and makes it ready.
    async fn bring(
        &self,
        supplier: &dyn Supplier,
        offer: &Offer,
    ) -> Result<Arc<LoadedComponent>, RegistryError> {
        let (named, fetched) = self.fetch(supplier, offer).await?;
        let record = self.record_of(&offer.place).await;
        self.made(&offer.place, named, fetched, record.as_ref()).await
    }

    /// Makes what was fetched ready, if it may be served at all.
    pub(super) async fn made(
        &self,
        place: &str,
        named: Named,
        fetched: Fetched,
        record: Option<&Record>,
    ) -> Result<Arc<LoadedComponent>, RegistryError> {
        let digest = named.digest.clone();
        if let Some(denied) = record.and_then(|record| record.denial(&digest)) {
            let (file, why) = (named.file, denied.why.clone());
            return Err(RegistryError::Denied { file, why });
        }
        let Fetched { wasm, signatures } = fetched;
        let (sandbox, options) = (&self.sandbox, &self.options);
        let (component, signed) =
            prepare(sandbox, options, named, wasm.clone(), signatures.as_deref()).await?;
        options.claims.check(place, &component)?;
        if let Some(signed) = signed {
            self.check_order(place, &component.source.file, &signed, record).await?;
        }
        self.keep(&digest, wasm, signatures).await;
        Ok(component)
    }

    /// Whether a component is served already: from that place, or from another by which the same
    /// one is offered, too. That is no conflict.
    pub(super) fn is_served(&self, place: &str, named: &Named) -> bool {
        let now = self.now();
        if let Some(slot) = now.slots.get(place) {
            let served = slot.now.digest() == named.digest;
            if served && (slot.trial.is_some() || slot.gone) {
                // What was tried is not offered any more.
                let _ = self.serve(|slots| {
                    if let Some(slot) = slots.get_mut(place) {
                        (slot.trial, slot.gone) = (None, false);
                    }
                });
            }
            let tried = slot.trial.as_ref().is_some_and(|it| it.version.digest() == named.digest);
            return served || tried;
        }
        // The same content, or the same file by another name, which may have been replaced since.
        let file = real_path(&named.file);
        let same = |slot: &Slot| {
            slot.now.digest() == named.digest || (file.is_some() && slot.now.file == file)
        };
        let Some((other, slot)) = now.slots.iter().find(|(_, slot)| same(slot)) else {
            return false;
        };
        if slot.gone && slot.now.digest() == named.digest {
            // It has moved.
            let _ = self.serve(|slots| {
                if let Some(mut slot) = slots.remove(other) {
                    slot.gone = false;
                    slots.insert(place.to_owned(), slot);
                }
            });
        }
        true
    }

    /// Serves a version that is good, or tries it where that is wanted. `keeps` is whether its bytes
    /// are kept.
    pub(super) async fn admit(
        &self,
        place: &str,
        version: Version,
        keeps: bool,
    ) -> Result<(), RegistryError> {
        let version = Arc::new(version);
        let before = self.now().slots.get(place).map(|slot| Arc::clone(&slot.now));
        if let (Some(now), Some(canary)) = (&before, self.options.canary) {
            self.serve(|slots| {
                if let Some(slot) = slots.get_mut(place) {
                    slot.trial = Some(Trial::new(Arc::clone(&version), now, canary));
                    slot.gone = false;
                }
            })?;
            let Named { file, digest, .. } = &version.component.source;
            CanaryBegan { file, digest, percent: canary.percent }.emit();
            return Ok(());
        }
        self.serve(|slots| {
            // What is not offered any more is served only as long as nobody else does.
            slots.retain(|other, slot| other == place || !slot.gone || !share(&slot.now, &version));
            let slot = Slot { now: Arc::clone(&version), trial: None, gone: false };
            slots.insert(place.to_owned(), slot);
        })?;
        self.tell_replaced(before.as_deref(), &version);
        if keeps && let Some(noted) = self.note_served(place, &version) {
            // In the order in which they are served.
            let _ = noted.await;
        }
        Ok(())
    }

    fn tell_replaced(&self, before: Option<&Version>, version: &Version) {
        let Some(before) = before else { return };
        let old = before.component.tasks.iter().map(|task| task.name.as_str());
        let now = self.now();
        let dropped: Vec<_> = old.filter(|name| now.get(name).is_none()).collect();
        ComponentReplaced {
            file: &version.component.source.file,
            from: before.digest(),
            to: version.digest(),
            dropped: &dropped,
        }
        .emit();
    }

    /// The last version of a record that may be served and that loads, but for one.
    pub(super) async fn kept(
        &self,
        record: &Record,
        shown: &str,
        except: &str,
    ) -> Option<Arc<LoadedComponent>> {
        let may_be = |kept: &&Kept| record.denial(&kept.digest).is_none() && kept.digest != except;
        for kept in record.versions.iter().rev().filter(may_be) {
            if let Some(component) = self.kept_version(record, &kept.digest, shown).await {
                return Some(component);
            }
        }
        None
    }

    /// A version of a record, made ready from what is kept of it.
    pub(super) async fn kept_version(
        &self,
        record: &Record,
        wanted: &str,
        shown: &str,
    ) -> Option<Arc<LoadedComponent>> {
        let (history, digest) = (self.options.history.clone()?, wanted.to_owned());
        let wasm = tokio::task::spawn_blocking(move || history.wasm(&digest)).await;
        let (wasm, signatures) = wasm.ok()?.ok()??;
        let named = Named::of(shown, &wasm);
        let (sandbox, options) = (&self.sandbox, &self.options);
        let prepared = prepare(sandbox, options, named, wasm.into(), signatures.as_deref()).await;
        let checked = prepared.and_then(|(component, _)| {
            options.claims.check(&record.place, &component).map(|()| component)
        });
        match checked {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(
                    place = record.place,
                    digest = wanted,
                    error = %lovage_core::events::Chain(&error),
                    "a version that was kept does not load any more"
                );
                None
            }
        }
    }

    /// Goes back from versions that must not be served any more, as somebody noted since.
    async fn follow_history(&self) {
        if self.options.history.is_none() {
            return;
        }
        for (place, slot) in &self.now().slots {
            let Some(record) = self.record_of(place).await else { continue };
            if let Some(trial) = &slot.trial
                && record.denial(trial.version.digest()).is_some()
            {
                let _ = self.serve(|slots| {
                    if let Some(slot) = slots.get_mut(place) {
                        slot.trial = None;
                    }
                });
            }
            self.forget_denial(place, &record);
            let Some(denied) = record.denial(slot.now.digest()) else { continue };
            let shown = slot.now.component.source.file.clone();
            let (from, why) = (slot.now.digest(), denied.why.as_str());
            if let Some(component) = self.kept(&record, &shown, "").await {
                let digest = component.source.digest.clone();
                if self.admit_at_once(place, component) {
                    VersionWentBack { file: &shown, from, to: Some(&digest), why }.emit();
                }
            } else {
                let error = RegistryError::NothingBefore { file: shown.clone() };
                if self.note_refusal(place, Refusal::new(place, None, &error.to_string())) {
                    VersionWentBack { file: &shown, from, to: None, why }.emit();
                }
            }
        }
    }

    /// What was allowed again is looked at again.
    fn forget_denial(&self, place: &str, record: &Record) {
        let mut refused = locked(&self.refused);
        let allowed = refused.get(place).is_some_and(|refusal| {
            let digest = refusal.digest.as_deref().unwrap_or_default();
            refusal.denied && record.denial(digest).is_none()
        });
        if allowed {
            refused.remove(place);
            locked(&self.seen).remove(place);
        }
    }

    pub(super) fn note_gone(&self, ours: impl Fn(&str) -> bool, offers: &[Offer]) {
        let offered = |place: &str| offers.iter().any(|offer| offer.place == place);
        for (place, slot) in &self.now().slots {
            if slot.gone || !ours(place) || offered(place) {
                continue;
            }
            let _ = self.serve(|slots| {
                if let Some(slot) = slots.get_mut(place) {
                    slot.gone = true;
                }
            });
            let Named { file, digest, .. } = &slot.now.component.source;
            ComponentGone { file, digest }.emit();
        }
    }

    /// Notes and tells why what is offered is not served.
    pub(super) fn refuse(&self, offer: &Offer, error: &RegistryError) {
        let digest = self.note_failed(offer, error);
        let why = lovage_core::events::Chain(error).to_string();
        let mut refusal = Refusal::new(&offer.shown, digest, &why);
        refusal.denied = matches!(error, RegistryError::Denied { .. });
        let tell = self.note_refusal(&offer.place, refusal);
        let serves = self.now().slots.get(&offer.place).map(|it| it.now.digest().to_owned());
        if matches!(error, RegistryError::Denied { .. }) {
            // As it was wanted: no error.
            tracing::info!(file = offer.shown, why, "a version that was taken back is offered");
        } else {
            ComponentRefused { file: &offer.shown, error, serves: serves.as_deref(), tell }.emit();
        }
    }

    /// Tells that a place cannot be looked at.
    pub(super) fn tell_failed(&self, place: &str, error: &RegistryError) {
        let mut refusal = Refusal::new(place, None, &lovage_core::events::Chain(error).to_string());
        refusal.listing = true;
        // Beside what one offer of the same place may have.
        let tell = self.note_refusal(&listing(place), refusal);
        SupplierFailed { place, error, tell }.emit();
    }

    /// Forgets that a place could not be looked at.
    pub(super) fn forget_failure(&self, place: &str) {
        locked(&self.refused).remove(&listing(place));
    }

    /// Notes why something is not served; whether that was not the last thing that went wrong there.
    fn note_refusal(&self, place: &str, mut refusal: Refusal) -> bool {
        let mut refused = locked(&self.refused);
        let last = refused.get(place).filter(|last| last.why == refusal.why);
        let news = last.is_none();
        if let Some(last) = last {
            refusal.since = last.since;
        }
        refused.insert(place.to_owned(), refusal);
        news
    }

    pub(super) async fn record_of(&self, place: &str) -> Option<Record> {
        let (history, place) = (self.options.history.clone()?, place.to_owned());
        let read = tokio::task::spawn_blocking(move || history.of(&place)).await.ok()?;
        read.map_err(|error| tracing::warn!(%error, "what was served before is not known")).ok()
    }

    async fn keep(&self, digest: &str, wasm: Bytes, signatures: Option<Vec<u8>>) {
        let Some(history) = self.options.history.clone() else { return };
        let digest = digest.to_owned();
        let kept = tokio::task::spawn_blocking(move || {
            history.keep(&digest, &wasm, signatures.as_deref())
        })
        .await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "a version is not kept: there will be no way back to it");
        }
    }

    pub(super) fn note_served(&self, place: &str, version: &Version) -> Option<JoinHandle<()>> {
        let kept = Kept {
            digest: version.digest().to_owned(),
            size: version.component.source.size,
            tasks: version.component.tasks.iter().map(|task| task.name.clone()).collect(),
            since: Timestamp::now(),
        };
        self.in_history(place, move |history, place| history.serve(place, kept))
    }

    /// Writes to the history, on a thread for that.
    pub(super) fn in_history(
        &self,
        place: &str,
        write: impl FnOnce(&super::History, &str) -> Result<(), super::HistoryError> + Send + 'static,
    ) -> Option<JoinHandle<()>> {
        let (history, place) = (self.options.history.clone()?, place.to_owned());
        Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&history, &place) {
                tracing::warn!(%error, "which versions are served is not noted");
            }
        }))
    }
}

/// What a failure to look at a place is noted under.
pub(super) fn listing(place: &str) -> String {
    format!("{place} (listing)")
}

/// Returns true if two versions serve a task both.
fn share(one: &Version, other: &Version) -> bool {
    let names = |version: &Version, name: &str| {
        version.component.tasks.iter().any(|task| task.name == name)
    };
    one.component.tasks.iter().any(|task| names(other, &task.name))
}
