//! What an attempt was refused, and may have coped with: for the detail of its failure.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use super::limits::Refusal;

/// Refusals of one attempt, the first of each limit. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Vec<Refusal>>>);

impl Notes {
    /// Writes a refusal down, unless its limit has refused something before: so there are never
    /// more than there are limits.
    pub(super) fn refused(&self, refusal: Refusal) {
        // Nothing in here panics half-way.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.iter().all(|other| other.limit != refusal.limit) {
            all.push(refusal);
        }
    }

    /// A line each; empty where there is none.
    pub(super) fn text(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().fold(String::new(), |mut text, refusal| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "refused: {refusal}");
            text
        })
    }
}
