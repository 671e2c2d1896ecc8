//! Whose turn it is to write, among the processes that share a file.
//!
//! SQLite's lock is had by whoever tries at the right moment. Next to a process that commits all
//! the time that moment is short, and a sender could try for hundreds of milliseconds. So writers
//! line up: who wants to write waits at the `queue`, first of all but one, and there for the
//! `turn`. Who has just written must wait at the queue again, so that the next one comes first.
//!
//! Who writes leaves its name at the turn's file, which tells the others that there is something to look
//! at, and each of them that it was not it itself: see [`wake`](super::wake). Where nobody else watches that
//! file, no name is left: it would wake the writer's own watcher alone.
//!
//! It is a matter of manners alone. What holds writers apart is SQLite's lock; who waits for too long
//! goes past the gate, and so does everybody where the locks cannot be had. A process that dies
//! leaves them, as the system has it with `flock`.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{integrity::is_at, watchers};

/// How long to wait for one's turn before one goes past the gate: somebody was stopped in it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often to look: what is waited for is a transaction of another process.
const LOOK: Duration = Duration::from_micros(100);

/// The gate before a file.
#[derive(Debug)]
pub struct Gate {
    locks: Option<Locks>,
}

#[derive(Debug)]
struct Locks {
    queue: File,
    turn: File,
    /// Where the turn's file is.
    path: PathBuf,
    /// Where the queue's is.
    queue_path: PathBuf,
    /// Our name.
    name: Uuid,
}

/// One's turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(Option<&'a File>);

impl Gate {
    /// The gate before a database: two empty files beside it.
    pub fn before(database: &Path) -> Self {
        let path = |what: &str| {
            let mut name = database.as_os_str().to_owned();
            name.push(what);
            PathBuf::from(name)
        };
        // Whoever may use the database may use them.
        let mode = std::fs::metadata(database).map_or(0o600, |it| it.permissions().mode() & 0o666);
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(mode);
            match options.clone().create_new(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
                made => made,
            }
        };
        let locks = || {
            let (queue_path, path) = (path("-queue"), path("-turn"));
            let (queue, turn) = (open(&queue_path)?, open(&path)?);
            io::Result::Ok(Locks { queue, turn, path, queue_path, name: Uuid::new_v4() })
        };
        let locks = locks();
        let locks = locks.inspect_err(|error| {
            tracing::debug!(%error, "writers of this file do not line up");
        });
        Self { locks: locks.ok() }
    }

    /// The first of its files that was deleted or replaced: those who come later use another.
    pub fn misplaced(&self) -> Option<PathBuf> {
        let locks = self.locks.as_ref()?;
        if !is_at(&locks.turn, &locks.path) {
            return Some(locks.path.clone());
        }
        (!is_at(&locks.queue, &locks.queue_path)).then(|| locks.queue_path.clone())
    }

    /// The file at which writers leave their names.
    pub fn file(&self) -> Option<&Path> {
        self.locks.as_ref().map(|locks| locks.path.as_path())
    }

    /// Has the others leave their names, from now on and for as long as this is there. What they
    /// commit without is seen by a transaction that begins after this.
    pub fn watch(&self) -> io::Result<()> {
        let locks = self.locks.as_ref().ok_or(io::ErrorKind::NotFound)?;
        watchers::join(&locks.turn)
    }

    /// Leaves our name, if others watch. For who holds the database's write lock, and is about to commit.
    pub fn sign(&self) {
        if let Some(locks) = &self.locks
            && watchers::others(&locks.turn)
            && let Err(error) = locks.turn.write_all_at(locks.name.as_bytes(), 0)
        {
            tracing::debug!(%error, "other processes are not told of a commit");
        }
    }

    /// Whether it was somebody else who left a name last. Who was before us is no matter: we have
    /// seen what they did when we wrote.
    pub fn signed_by_other(&self) -> bool {
        let Some(locks) = &self.locks else { return true };
        let mut name = [0; 16];
        locks.turn.read_exact_at(&mut name, 0).is_err() || name != *locks.name.as_bytes()
    }

    /// Waits for one's turn to write.
    pub fn enter(&self) -> Turn<'_> {
        let Some(Locks { queue, turn, .. }) = &self.locks else { return Turn(None) };
        let end = Instant::now() + PATIENCE;
        if !lock(queue, end) {
            return Turn(None);
        }
        let has_turn = lock(turn, end);
        let _ = queue.unlock();
        Turn(has_turn.then_some(turn))
    }
}

impl Turn<'_> {
    /// Returns true if it is one's turn; else one went past the gate.
    pub fn is_had(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.0 {
            let _ = turn.unlock();
        }
    }
}

fn lock(file: &File, end: Instant) -> bool {
    loop {
        match file.try_lock() {
            Ok(()) => return true,
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(LOOK);
            }
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_comes_before_who_has_just_written() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("lovage.db");
        let (one, other) = (Gate::before(&database), Gate::before(&database));
        let mine = one.enter();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let theirs = other.enter();
                assert!(theirs.0.is_some());
                Instant::now()
            });
            // Until the other waits at the gate.
            while one.locks.as_ref().unwrap().queue.try_lock().is_ok() {
                one.locks.as_ref().unwrap().queue.unlock().unwrap();
                std::thread::sleep(LOOK);
            }
            drop(mine);
            let again = one.enter();
            let at = Instant::now();
            assert!(again.0.is_some());
            assert!(waits.join().unwrap() <= at);
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_is_left_for_others_who_watch_and_for_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("lovage.db");
        let (one, other) = (Gate::before(&database), Gate::before(&database));
        let name_is_left = || {
            one.sign();
            other.signed_by_other() && std::fs::metadata(one.file().unwrap()).unwrap().len() > 0
        };
        one.watch().unwrap();
        assert!(!name_is_left());
        other.watch().unwrap();
        // Also while somebody has the turn.
        let turn = other.enter();
        assert!(name_is_left());
        drop(turn);
        std::fs::write(one.file().unwrap(), "").unwrap();
        drop(other);
        let other = Gate::before(&database);
        one.sign();
        assert_eq!(std::fs::metadata(other.file().unwrap()).unwrap().len(), 0);
    }

    #[test]
    fn nobody_waits_for_ever_or_where_there_are_no_locks() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("lovage.db");
        let (one, other) = (Gate::before(&database), Gate::before(&database));
        let _stopped = one.enter();
        assert!(other.enter().0.is_none());
        let nowhere = Gate::before(&directory.path().join("missing/lovage.db"));
        assert!(nowhere.enter().0.is_none());
    }
}
