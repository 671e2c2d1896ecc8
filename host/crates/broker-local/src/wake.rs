//! Notices what other processes write to the file.
//!
//! SQLite tells nobody of a commit. So who is about to commit leaves its name at a file, which is
//! watched. The event comes while the commit is still under way; the writer therefore looks in a
//! transaction, which waits for the other's lock. Our own name is of no interest: what others
//! committed before we left it, we saw in the transaction in which we did.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc::Sender,
    },
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::{gate::Gate, request::Request};
use lovage_platform::time_slice;

/// What the callers, the watcher and the writer know of each other.
#[derive(Debug, Default)]
pub struct Signals {
    waiting: AtomicUsize,
    asked: AtomicBool,
    poll: AtomicBool,
}

/// What watches the file at present. Held for what it does.
#[derive(Debug, Default)]
pub struct Watching(Mutex<Option<RecommendedWatcher>>);

impl Watching {
    /// Has another one watch from now on, or none.
    pub fn replace(&self, watcher: Option<RecommendedWatcher>) {
        let before = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *held, watcher)
        };
        // It may wait for its thread.
        drop(before);
    }
}

/// Counts its holder among those who wait.
#[derive(Debug)]
pub struct Waits<'a>(&'a Signals);

impl Signals {
    /// To be called before the request is made: whatever is written after the writer has looked
    /// is then sure to be noticed.
    pub fn wait(&self) -> Waits<'_> {
        self.waiting.fetch_add(1, SeqCst);
        Waits(self)
    }

    /// Returns true if a change could matter to anybody.
    pub fn anybody_waits(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// The writer is about to look.
    pub fn seen(&self) {
        self.asked.store(false, SeqCst);
    }

    /// Returns true if the file cannot be watched.
    pub fn must_poll(&self) -> bool {
        self.poll.load(SeqCst)
    }

    /// Something will tell from now on.
    pub fn is_watched(&self) {
        self.poll.store(false, SeqCst);
    }

    /// Look from time to time, since nothing will tell.
    pub fn poll(&self) {
        self.poll.store(true, SeqCst);
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

/// Watches for commits of others to the database at `path`, for as long as the answer is held.
/// `None`: that cannot be, and the writer looks from time to time instead.
pub fn watch(
    path: &Path,
    gate: &Arc<Gate>,
    requests: Sender<Request>,
    signals: &Arc<Signals>,
) -> Option<RecommendedWatcher> {
    match try_watch(Arc::clone(gate), requests, Arc::clone(signals)) {
        Ok(watcher) => {
            signals.is_watched();
            Some(watcher)
        }
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                %error,
                "cannot watch the broker's database; looking for messages of other processes \
                 every 250 ms instead (on Linux: is fs.inotify.max_user_watches or \
                 max_user_instances used up?)"
            );
            signals.poll();
            None
        }
    }
}

fn try_watch(
    gate: Arc<Gate>,
    requests: Sender<Request>,
    signals: Arc<Signals>,
) -> notify::Result<RecommendedWatcher> {
    let file = gate.file().ok_or_else(|| notify::Error::generic("it cannot be opened"))?;
    let file = file.to_owned();
    let watched = Arc::clone(&gate);
    let fallback = Arc::clone(&signals);
    let mut shortened = false;
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // The thread is the watcher's own, and this the first that is done there of ours.
        if !std::mem::replace(&mut shortened, true) {
            time_slice::shorten();
        }
        let concerns = match event {
            Ok(event) => match event.kind {
                EventKind::Modify(_) | EventKind::Any => gate.signed_by_other(),
                // Somebody has deleted it: those who come later will use another.
                EventKind::Remove(_) => {
                    fallback.poll();
                    true
                }
                _ => event.need_rescan(),
            },
            Err(error) => {
                tracing::warn!(%error, "watching the broker's database fails; looking every 250 ms");
                fallback.poll();
                true
            }
        };
        if concerns && signals.anybody_waits() && !signals.asked.swap(true, SeqCst) {
            let _ = requests.send(Request::FileChanged);
        }
    })?;
    watcher.watch(&file, RecursiveMode::NonRecursive)?;
    watched.watch().map_err(notify::Error::io)?;
    Ok(watcher)
}
