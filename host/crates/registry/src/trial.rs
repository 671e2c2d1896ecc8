//! The end of a trial: the new version takes over, or is taken back.

use std::sync::Arc;

use super::canary::Verdict;
use super::served::Trial;
use super::status::Refusal;
use super::{Registry, Task, locked};
use lovage_core::events::{CanaryPromoted, CanaryTakenBack};
use lovage_sandbox::Source as Named;

impl Registry {
    /// Judges a version that is tried by what became of its jobs.
    pub(super) fn judge(&self, task: &Task) {
        let now = self.now();
        let Some((place, slot, trial)) = now.trial_of(task) else { return };
        if trial.version.tally.calls().0 < trial.canary.min_calls {
            return;
        }
        let compared = trial.compare(&slot.now);
        let verdict = trial.canary.judge(&compared, &trial.looks);
        if verdict == Verdict::Wait {
            return;
        }
        // Several attempts may end at once.
        let mut first = false;
        let promote = verdict == Verdict::Promote;
        let changed = self.serve(|slots| {
            let Some(slot) = slots.get_mut(place) else { return };
            let same = |it: &Trial| Arc::ptr_eq(&it.version, &trial.version);
            if !slot.trial.as_ref().is_some_and(same) {
                return;
            }
            first = true;
            slot.trial = None;
            if promote {
                slot.now = Arc::clone(&trial.version);
            }
        });
        if !first || changed.is_err() {
            return;
        }
        let Named { file, digest, .. } = &trial.version.component.source;
        if promote {
            let calls = compared.new_calls;
            CanaryPromoted { file, digest, compared: &compared, calls }.emit();
            let _ = self.note_served(place, &trial.version);
            return;
        }
        let why = if verdict == Verdict::FailsMore { "it fails more" } else { "it is slower" };
        let why = format!("{why}: {compared}");
        CanaryTakenBack { file, digest, why: &why }.emit();
        let digest = digest.clone();
        let why = format!("taken back: {why}");
        let mut refusal = Refusal::new(&slot.now.component.source.file, Some(digest.clone()), &why);
        refusal.denied = true;
        locked(&self.refused).insert(place.to_owned(), refusal);
        self.note_taken_back(place);
        let _ = self
            .in_history(place, move |history, place| history.deny(place, &digest, &why).map(drop));
    }
}
