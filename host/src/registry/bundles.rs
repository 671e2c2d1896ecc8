//! Components that were compiled ahead: those of files, and those of depots.

use std::path::Path;
use std::sync::Arc;

use super::depot::Depot;
use super::load::{check_declared, check_grants, tell_unchecked};
use super::supplier::{self, Offer};
use super::version::Version;
use super::{Registry, RegistryError, locked, precompiled};
use crate::sandbox::LoadedComponent;

impl Registry {
    /// Loads all bundles that are offered at the start.
    pub(super) async fn begin_bundles(&self) -> Result<(), RegistryError> {
        for path in &self.bundles {
            for offer in supplier::bundles(path)? {
                self.look_at_bundle(&offer).await?;
            }
        }
        for depot in &self.depots {
            self.begin_with(depot).await?;
        }
        Ok(())
    }

    /// Loads what a depot offers. What does not load, or all if it cannot be asked, is as it was on
    /// this machine before, if it was there.
    async fn begin_with(&self, depot: &Depot) -> Result<(), RegistryError> {
        let (offers, down) = match depot.list().await {
            Ok(offers) => (offers, None),
            Err(error) => (depot.kept(), Some(error)),
        };
        let mut served = false;
        for offer in &offers {
            // Of what is kept the newest comes first, and one is enough.
            if down.is_some() && self.now().slots.contains_key(&offer.place) {
                continue;
            }
            let Err(error) = self.look_at_depot(depot, offer).await else {
                served = true;
                continue;
            };
            if down.is_some() {
                continue;
            }
            let mut before = depot.kept();
            before.retain(|it| it.place == offer.place && it.stamp != offer.stamp);
            let mut good = false;
            for before in &before {
                good = good || self.look_at_depot(depot, before).await.is_ok();
            }
            if !good {
                return Err(error);
            }
            self.refuse(offer, &error);
        }
        match down {
            Some(error) if !served => return Err(error),
            Some(error) => self.tell_failed(&depot.shown(), &error),
            None => depot.tidy(&offers),
        }
        Ok(())
    }

    /// Looks at all bundles that are offered and not known; how many of them serve a task that
    /// another component serves.
    pub(super) async fn look_around_bundles(&self) -> usize {
        let mut twice = 0;
        for path in &self.bundles {
            let Ok(offers) = supplier::bundles(path) else { continue };
            for offer in offers.iter().filter(|offer| !self.is_known(offer)) {
                if let Err(error) = self.look_at_bundle(offer).await {
                    self.refuse(offer, &error);
                }
            }
        }
        for depot in &self.depots {
            let offers = match depot.list().await {
                Ok(offers) => offers,
                Err(error) => {
                    self.tell_failed(&depot.shown(), &error);
                    continue;
                }
            };
            locked(&self.refused).remove(&depot.shown());
            self.note_gone(|place| depot.holds(place), &offers);
            for offer in offers.iter().filter(|offer| !self.is_known(offer)) {
                if let Err(error) = self.look_at_depot(depot, offer).await {
                    twice += usize::from(matches!(error, RegistryError::TaskTwice { .. }));
                    self.refuse(offer, &error);
                }
            }
            depot.tidy(&offers);
        }
        twice
    }

    async fn look_at_bundle(&self, offer: &Offer) -> Result<(), RegistryError> {
        let component = self.bundle(Path::new(&offer.shown)).await?;
        self.admit_bundle(offer, component).await
    }

    /// Fetches a bundle, and serves it if it is good.
    async fn look_at_depot(&self, depot: &Depot, offer: &Offer) -> Result<(), RegistryError> {
        let brought = match depot.bring(offer, &self.options.signatures).await {
            Ok(brought) => brought,
            Err(error) => {
                if matches!(error, RegistryError::Untrusted { .. }) {
                    // Which will not change before the offer does.
                    let seen = (offer.stamp.clone(), offer.stamp.clone());
                    locked(&self.seen).insert(offer.place.clone(), seen);
                }
                return Err(error);
            }
        };
        let mut component = self.bundle(&brought.code).await?;
        component.source.file.clone_from(&offer.shown);
        check_declared(&component, &brought.signed)?;
        self.admit_bundle(offer, component).await
    }

    async fn bundle(&self, file: &Path) -> Result<LoadedComponent, RegistryError> {
        let loaded = precompiled::load(&self.sandbox, file, &self.options.limits).await;
        loaded.map_err(|error| match error {
            precompiled::CompileError::Component(error) => RegistryError::from(error),
            precompiled::CompileError::Bundle(error) => RegistryError::from(error),
        })
    }

    async fn admit_bundle(
        &self,
        offer: &Offer,
        component: LoadedComponent,
    ) -> Result<(), RegistryError> {
        let digest = component.source.digest.clone();
        locked(&self.seen).insert(offer.place.clone(), (offer.stamp.clone(), digest));
        check_grants(&component, &self.options.policies)
            .map_err(|problem| problem.of(&component.source.file))?;
        tell_unchecked(&component);
        if !self.is_served(&offer.place, &component.source) {
            self.admit(&offer.place, Version::new(Arc::new(component)), false).await?;
        }
        locked(&self.refused).remove(&offer.place);
        Ok(())
    }
}
