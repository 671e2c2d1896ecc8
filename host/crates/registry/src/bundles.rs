//! Components that were compiled ahead: those of files, and those of depots.

use std::path::Path;
use std::sync::Arc;

use super::load::{check_declared, check_grants, tell_unchecked};
use super::precompiled_store::PrecompiledStore;
use super::start::{Candidate, Gathered};
use super::supplier::{self, Offer, Supplier as _};
use super::version::Version;
use super::{Registry, RegistryError, precompiled};
use lovage_sandbox::LoadedComponent;

impl Registry {
    /// Makes ready all bundles that are offered at the start.
    pub(super) async fn gather_bundles(
        &self,
        gathered: &mut Gathered,
    ) -> Result<(), RegistryError> {
        for path in &self.bundles {
            let offers = match supplier::bundles(path) {
                Ok(offers) => offers,
                Err(error) => {
                    let tell = |error: &_| self.tell_failed(&path.display().to_string(), error);
                    self.go_on_without(error, gathered, tell)?;
                    continue;
                }
            };
            for offer in offers {
                match self.bring_bundle(&offer).await {
                    Ok(component) => gathered.candidates.push(candidate(offer, component, None)),
                    Err(error) => {
                        self.go_on_without(error, gathered, |error| self.refuse(&offer, error))?;
                    }
                }
            }
        }
        for precompiled_store in &self.depots {
            self.gather_of_depot(precompiled_store, gathered).await?;
        }
        Ok(())
    }

    /// Makes ready what a depot offers. What does not load, or all if it cannot be asked, is as it
    /// was on this machine before, if it was there.
    async fn gather_of_depot(
        &self,
        precompiled_store: &PrecompiledStore,
        gathered: &mut Gathered,
    ) -> Result<(), RegistryError> {
        let (offers, down) = match precompiled_store.list().await {
            Ok(offers) => (offers, None),
            Err(error) => (precompiled_store.kept(), Some(error)),
        };
        let mut served = false;
        for offer in &offers {
            // Of what is kept the newest comes first, and one is enough.
            let has = |it: &Candidate| it.offer.place == offer.place;
            if down.is_some() && gathered.candidates.iter().any(has) {
                continue;
            }
            let error = match self.bring_of_depot(precompiled_store, offer, down.is_none()).await {
                Ok(component) => {
                    gathered.candidates.push(candidate(offer.clone(), component, None));
                    served = true;
                    continue;
                }
                Err(error) => error,
            };
            if down.is_some() {
                continue;
            }
            let mut before = precompiled_store.kept();
            before.retain(|it| it.place == offer.place && it.stamp != offer.stamp);
            let mut good = None;
            for before in &before {
                if good.is_none() {
                    good = self.bring_of_depot(precompiled_store, before, false).await.ok();
                }
            }
            if let Some(component) = good {
                gathered.candidates.push(candidate(offer.clone(), component, Some(error)));
            } else {
                self.go_on_without(error, gathered, |error| self.refuse(offer, error))?;
            }
        }
        match down {
            Some(error) => {
                let tell = |error: &_| self.tell_failed(&precompiled_store.shown(), error);
                if served {
                    tell(&error);
                } else {
                    self.go_on_without(error, gathered, tell)?;
                }
            }
            None => precompiled_store.tidy(&offers),
        }
        Ok(())
    }

    /// Looks at all bundles that are offered and not known; how many of them serve a task that
    /// another component serves.
    pub(super) async fn look_around_bundles(&self) -> usize {
        let mut twice = 0;
        for path in &self.bundles {
            let ours = supplier::Directory::new(path);
            let offers = match supplier::bundles(path) {
                Ok(offers) => offers,
                Err(error) => {
                    if error.is_empty_place() {
                        self.forget_gone(|place| ours.holds(place), &[]);
                    }
                    continue;
                }
            };
            self.forget_failure(&path.display().to_string());
            self.forget_gone(|place| ours.holds(place), &offers);
            for offer in offers.iter().filter(|offer| !self.is_known(offer)) {
                let brought = self.bring_bundle(offer).await;
                twice += usize::from(self.admit_bundle(offer, brought).await);
            }
        }
        for precompiled_store in &self.depots {
            let offers = match precompiled_store.list().await {
                Ok(offers) => offers,
                Err(error) => {
                    self.tell_failed(&precompiled_store.shown(), &error);
                    continue;
                }
            };
            self.forget_failure(&precompiled_store.shown());
            self.forget_gone(|place| precompiled_store.holds(place), &offers);
            self.note_gone(|place| precompiled_store.holds(place), &offers);
            for offer in offers.iter().filter(|offer| !self.is_known(offer)) {
                let brought = self.bring_of_depot(precompiled_store, offer, true).await;
                twice += usize::from(self.admit_bundle(offer, brought).await);
            }
            precompiled_store.tidy(&offers);
        }
        twice
    }

    async fn bring_bundle(&self, offer: &Offer) -> Result<LoadedComponent, RegistryError> {
        let component = self.bundle(Path::new(&offer.shown)).await?;
        self.check_bundle(offer, &component)?;
        Ok(component)
    }

    /// Fetches a bundle, and makes it ready. It is held to the order of versions if it is offered
    /// now, and not only kept from before.
    async fn bring_of_depot(
        &self,
        precompiled_store: &PrecompiledStore,
        offer: &Offer,
        is_offered: bool,
    ) -> Result<LoadedComponent, RegistryError> {
        let brought = precompiled_store.bring(offer, &self.options.signatures).await?;
        let mut component = self.bundle(&brought.code).await?;
        component.source.file.clone_from(&offer.shown);
        check_declared(&component, &brought.signed)?;
        self.check_bundle(offer, &component)?;
        if is_offered {
            self.check_order(&offer.place, &offer.shown, &brought.signed, None).await?;
        }
        Ok(component)
    }

    async fn bundle(&self, file: &Path) -> Result<LoadedComponent, RegistryError> {
        let loaded = precompiled::load(&self.sandbox, file, &self.options.limits).await;
        loaded.map_err(|error| match error {
            precompiled::CompileError::Component(error) => RegistryError::from(error),
            precompiled::CompileError::Bundle(error) => RegistryError::from(error),
        })
    }

    fn check_bundle(
        &self,
        offer: &Offer,
        component: &LoadedComponent,
    ) -> Result<(), RegistryError> {
        self.note_digest(offer, &component.source.digest);
        self.options.claims.check(&offer.place, component)?;
        check_grants(component, &self.options.policies)
            .map_err(|problem| problem.of(&component.source.file))?;
        tell_unchecked(component);
        Ok(())
    }

    /// Serves a bundle that is good; whether a task of it is another's.
    async fn admit_bundle(
        &self,
        offer: &Offer,
        brought: Result<LoadedComponent, RegistryError>,
    ) -> bool {
        let admitted = match brought {
            Ok(component) if self.is_served(&offer.place, &component.source) => Ok(()),
            Ok(component) => match self.check_decided(&offer.place, &component) {
                Ok(()) => self.admit(&offer.place, Version::new(Arc::new(component)), false).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match admitted {
            Ok(()) => {
                self.note_accepted(offer);
                false
            }
            Err(error) => {
                self.refuse(offer, &error);
                error.is_contended()
            }
        }
    }
}

fn candidate(
    offer: Offer,
    component: LoadedComponent,
    instead: Option<RegistryError>,
) -> Candidate {
    Candidate { offer, component: Arc::new(component), instead, record: None, keeps: false }
}
