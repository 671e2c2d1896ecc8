//! What was done in one turn of the writer, and whom to tell of it.

use std::fs::File;

use bytes::Bytes;

use super::{
    flush::{Commit, Flush, Flushed},
    request::{AwaitResult, Work},
    writer::again,
};

/// Work that is committed, and those who asked for it.
#[must_use = "somebody waits to be told"]
#[derive(Default)]
pub struct Acknowledgements {
    works: Vec<Box<dyn Work>>,
    results: Results,
    commit: Commit,
}

/// What those get who waited for a result.
pub type Results = Vec<(AwaitResult, Option<Bytes>)>;

impl Acknowledgements {
    /// Adds what was done, up to a commit.
    pub fn add(&mut self, works: Vec<Box<dyn Work>>, results: Results, commit: Commit) {
        self.works.extend(works);
        self.results.extend(results);
        self.commit = commit;
    }

    /// Tells of it, as soon as it is on the disk; `log` is this thread's.
    pub fn tell(self, flush: &Flush, log: &File) {
        let Self { works, results, commit } = self;
        let says_something = !works.is_empty() || results.iter().any(|(_, found)| found.is_some());
        let tell = move |flushed: &Flushed| {
            let outcome = || flushed.as_ref().map(drop).map_err(again);
            for work in works {
                work.answer(outcome());
            }
            for (wait, found) in results {
                let _ = wait.reply.send(outcome().map(|()| found));
            }
        };
        if says_something {
            flush.then(commit, log, tell);
        } else {
            tell(&Ok(()));
        }
    }
}
