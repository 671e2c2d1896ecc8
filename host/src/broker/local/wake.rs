//! Notices what other processes write to the file.
//!
//! SQLite tells nobody of a commit, but it writes the commit to the log beside the database, and
//! that can be watched. The event comes while the commit is still under way; the writer therefore
//! looks in a transaction, which waits for the other's lock. Our own writes are seen, too: as
//! long as nobody here waits they cost one look at a number, else one look at the file's version.

use std::{
    ffi::OsString,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc::Sender,
    },
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::request::Request;

/// What the callers, the watcher and the writer know of each other.
#[derive(Debug, Default)]
pub struct Signals {
    waiting: AtomicUsize,
    asked: AtomicBool,
    poll: AtomicBool,
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

    /// Whether a change could matter to anybody.
    pub fn anybody_waits(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// The writer is about to look.
    pub fn seen(&self) {
        self.asked.store(false, SeqCst);
    }

    /// Whether the file cannot be watched.
    pub fn must_poll(&self) -> bool {
        self.poll.load(SeqCst)
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

/// Watches the log of the database at `path` for as long as the answer is held. `None`: it cannot
/// be watched, and the writer looks from time to time instead.
pub fn watch(
    path: &Path,
    requests: Sender<Request>,
    signals: &Arc<Signals>,
) -> Option<RecommendedWatcher> {
    match try_watch(path, requests, Arc::clone(signals)) {
        Ok(watcher) => Some(watcher),
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
    path: &Path,
    requests: Sender<Request>,
    signals: Arc<Signals>,
) -> notify::Result<RecommendedWatcher> {
    // SQLite follows links: the log is beside the file itself.
    let file = std::fs::canonicalize(path).map_err(notify::Error::io)?;
    let mut log: OsString = file.file_name().unwrap_or_default().to_owned();
    log.push("-wal");
    // The directory, since the log comes and goes with the processes that use it.
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let fallback = Arc::clone(&signals);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if !signals.anybody_waits() {
            return;
        }
        let concerns = match event {
            Ok(event) => event.need_rescan() || is_write_to(&event, &log),
            Err(error) => {
                tracing::warn!(%error, "watching the broker's database fails; looking every 250 ms");
                fallback.poll();
                true
            }
        };
        if concerns && !signals.asked.swap(true, SeqCst) {
            let _ = requests.send(Request::FileChanged);
        }
    })?;
    watcher.watch(&directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn is_write_to(event: &Event, log: &OsString) -> bool {
    matches!(event.kind, EventKind::Modify(_) | EventKind::Create(_) | EventKind::Any)
        && event.paths.iter().any(|path| path.file_name() == Some(log))
}
