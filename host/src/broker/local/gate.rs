//! Whose turn it is to write, among the processes that share a file.
//!
//! SQLite's lock is had by whoever tries at the right moment. Next to a process that commits all
//! the time that moment is short, and a sender could try for hundreds of milliseconds. So writers
//! line up: who wants to write waits at the `queue`, first of all but one, and there for the
//! `turn`. Who has just written must wait at the queue again, so that the next one comes first.
//!
//! It is a matter of manners alone. What holds writers apart is SQLite's lock; who waits for too long
//! goes past the gate, and so does everybody where the locks cannot be had. A process that dies
//! leaves them, as the system has it with `flock`.

use std::{
    fs::{File, OpenOptions},
    path::Path,
    time::{Duration, Instant},
};

/// How long to wait for one's turn before one goes past the gate: somebody was stopped in it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often to look: what is waited for is a commit of another process, of half a millisecond or
/// more.
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
}

/// One's turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(Option<&'a File>);

impl Gate {
    /// The gate before a database: two empty files beside it.
    pub fn before(database: &Path) -> Self {
        let open = |what: &str| {
            let mut name = database.as_os_str().to_owned();
            name.push(what);
            OpenOptions::new().create(true).truncate(false).write(true).open(name)
        };
        let locks = open("-queue").and_then(|queue| Ok(Locks { queue, turn: open("-turn")? }));
        let locks = locks.inspect_err(|error| {
            tracing::debug!(%error, "writers of this file do not line up");
        });
        Self { locks: locks.ok() }
    }

    /// Waits for one's turn to write.
    pub fn enter(&self) -> Turn<'_> {
        let Some(Locks { queue, turn }) = &self.locks else { return Turn(None) };
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
    /// Whether it is one's turn; else one went past the gate.
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
