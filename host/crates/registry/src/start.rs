//! The start: all that is offered is made ready, those with the better claims are served first, and
//! what is not served stops the start or does not, as the operator says.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::claims::Claimant;
use super::history::Record;
use super::served::Slot;
use super::supplier::{Offer, Supplier};
use super::version::{Version, real_path};
use super::{Registry, RegistryError, locked};
use lovage_config::OnError;
use lovage_sandbox::{LoadedComponent, TaskSpec};

/// A component that is ready to be served.
pub(super) struct Candidate {
    pub offer: Offer,
    pub component: Arc<LoadedComponent>,
    /// Why it is not the version that is offered, but one before it.
    pub instead: Option<RegistryError>,
    /// What was served of the place before.
    pub record: Option<Record>,
    /// True if its bytes are kept.
    pub keeps: bool,
}

impl Claimant for Candidate {
    fn place(&self) -> &str {
        &self.offer.place
    }

    fn tasks(&self) -> &[TaskSpec] {
        &self.component.tasks
    }
}

/// What comes of a start.
#[derive(Default)]
pub(super) struct Gathered {
    pub candidates: Vec<Candidate>,
    /// The first reason for which something is not served.
    pub first: Option<RegistryError>,
}

impl Registry {
    /// Loads what is offered at the start.
    pub(super) async fn begin(&self) -> Result<(), RegistryError> {
        let mut gathered = Gathered::default();
        for supplier in &self.suppliers {
            match supplier.list().await {
                Ok(offers) => {
                    for offer in offers {
                        self.gather(supplier.as_ref(), offer, &mut gathered).await?;
                    }
                }
                Err(error) => {
                    let tell = |error: &_| self.tell_failed(&supplier.shown(), error);
                    if self.restore(supplier.as_ref(), &mut gathered).await {
                        tell(&error);
                    } else {
                        self.go_on_without(error, &mut gathered, tell)?;
                    }
                }
            }
        }
        self.gather_bundles(&mut gathered).await?;
        let Gathered { mut candidates, mut first } = gathered;
        let last = served_last(&candidates);
        *locked(&self.undecided) =
            self.options.claims.order(&mut candidates, |task| last.get(task).cloned());
        for candidate in candidates {
            let offer = candidate.offer.clone();
            let Some(error) = self.begin_with(candidate).await else { continue };
            let serves_another = self.now().slots.contains_key(&offer.place);
            if !serves_another && self.options.on_error == OnError::Refuse {
                return Err(error);
            }
            self.refuse(&offer, &error);
            if !serves_another {
                first.get_or_insert(error);
            }
        }
        match first {
            Some(error) if self.now().slots.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes an offer ready, or the last good version of its place.
    async fn gather(
        &self,
        supplier: &dyn Supplier,
        offer: Offer,
        gathered: &mut Gathered,
    ) -> Result<(), RegistryError> {
        let record = self.record_of(&offer.place).await;
        let fetched = self.fetch(supplier, &offer).await;
        let is_offered_twice = fetched.as_ref().is_ok_and(|(named, _)| {
            let file = real_path(&named.file);
            gathered.candidates.iter().map(|it| &it.component.source).any(|other| {
                other.digest == named.digest || (file.is_some() && real_path(&other.file) == file)
            })
        });
        if is_offered_twice {
            self.note_accepted(&offer);
            return Ok(());
        }
        let made = match fetched {
            Ok((named, fetched)) => self.made(&offer.place, named, fetched, record.as_ref()).await,
            Err(error) => Err(error),
        };
        let candidate = match made {
            Ok(component) => Candidate { offer, component, instead: None, record, keeps: true },
            Err(error) => {
                let kept = match &record {
                    Some(record) => self.kept(record, &offer.shown, "").await,
                    None => None,
                };
                let Some(component) = kept else {
                    return self.go_on_without(error, gathered, |error| self.refuse(&offer, error));
                };
                Candidate { offer, component, instead: Some(error), record, keeps: false }
            }
        };
        gathered.candidates.push(candidate);
        Ok(())
    }

    /// Goes on without something that is not served, and tells why; or the start fails for it.
    pub(super) fn go_on_without(
        &self,
        error: RegistryError,
        gathered: &mut Gathered,
        tell: impl FnOnce(&RegistryError),
    ) -> Result<(), RegistryError> {
        if self.options.on_error == OnError::Refuse {
            return Err(error);
        }
        tell(&error);
        gathered.first.get_or_insert(error);
        Ok(())
    }

    /// Serves what was served of a place that cannot be looked at; whether there is anything.
    async fn restore(&self, supplier: &dyn Supplier, gathered: &mut Gathered) -> bool {
        let Some(history) = self.options.history.clone() else { return false };
        let all = tokio::task::spawn_blocking(move || history.all()).await;
        let Ok(Ok(records)) = all else { return false };
        let mut any = false;
        for record in records.into_iter().filter(|record| supplier.holds(&record.place)) {
            let Some(component) = self.kept(&record, &record.place, "").await else { continue };
            let (place, stamp) = (record.place.clone(), String::new());
            let offer = Offer { shown: place.clone(), place, stamp };
            let (instead, record) = (None, Some(record));
            gathered.candidates.push(Candidate { offer, component, instead, record, keeps: false });
            any = true;
        }
        any
    }

    /// Serves a candidate, or a version before it that clashes with nobody; why what is offered is
    /// not served.
    async fn begin_with(&self, candidate: Candidate) -> Option<RegistryError> {
        let Candidate { offer, component, instead, record, keeps } = candidate;
        let place = &offer.place;
        if self.is_served(place, &component.source) {
            self.note_accepted(&offer);
            return None;
        }
        let digest = component.source.digest.clone();
        let before = record.as_ref().and_then(Record::current).map(|kept| &kept.digest);
        let is_new = before.is_some_and(|before| *before != digest);
        if let (true, Some(record), Some(_)) = (is_new, &record, self.options.canary)
            && let Some(before) = self.kept(record, &offer.shown, &digest).await
        {
            // A start while a version was tried begins its trial again.
            self.admit_at_once(place, before);
        }
        let admitted = match self.check_decided(place, &component) {
            Ok(()) => self.admit(place, Version::new(component), keeps).await,
            Err(error) => Err(error),
        };
        let Err(error) = admitted else {
            if instead.is_none() {
                self.note_accepted(&offer);
            }
            return instead;
        };
        if let Some(record) = record
            && !self.now().slots.contains_key(place)
            && let Some(before) = self.kept(&record, &offer.shown, &digest).await
            && self.check_decided(place, &before).is_ok()
        {
            self.admit_at_once(place, before);
        }
        Some(error)
    }

    pub(super) fn admit_at_once(&self, place: &str, component: Arc<LoadedComponent>) -> bool {
        let slot = Slot { now: Arc::new(Version::new(component)), trial: None, gone: false };
        self.serve(|slots| drop(slots.insert(place.to_owned(), slot))).is_ok()
    }
}

/// The place that served each task last, of those that are offered.
fn served_last(candidates: &[Candidate]) -> BTreeMap<String, String> {
    let mut last = BTreeMap::new();
    for candidate in candidates {
        let Some(kept) = candidate.record.as_ref().and_then(Record::current) else { continue };
        for task in &kept.tasks {
            let entry = last.entry(task.clone()).or_insert((kept.since, &candidate.offer.place));
            if entry.0 < kept.since {
                *entry = (kept.since, &candidate.offer.place);
            }
        }
    }
    last.into_iter().map(|(task, (_, place))| (task, place.clone())).collect()
}
