//! The thread that writes: all that waits for it goes into one transaction.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{Failed, StoreError, schema, unavailable};
use lovage_platform::{flushes::FLUSHES, time_slice};

/// The most changes in one transaction.
const BATCH: usize = 256;

/// Hands changes to the thread. Dropping it waits for what is under way.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    /// Taken when it is to end.
    calls: Option<mpsc::Sender<Box<dyn Work>>>,
    thread: Option<JoinHandle<()>>,
}

/// A change, and somebody who waits for it.
trait Work: Send {
    /// Returns true if nobody waits any more.
    fn is_given_up(&self) -> bool;
    /// Makes the change. Whether it is to stay.
    fn run(&mut self, connection: &Connection, path: &Path) -> bool;
    /// Says how it ended. An error is the transaction's, and stands over what the change came to.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<T, F> {
    run: Option<F>,
    output: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Work for Call<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Failed> + Send,
{
    fn is_given_up(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, connection: &Connection, path: &Path) -> bool {
        let Some(run) = self.run.take() else { return false };
        let output = run(connection).map_err(|failed| match failed {
            Failed::Refused(error) => error,
            Failed::Sqlite(error) => unavailable(path, &error),
        });
        let stays = output.is_ok();
        self.output = Some(output);
        stays
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (committed, self.output) {
            // What was refused was so whatever became of the others.
            (_, Some(Err(refused))) => Err(refused),
            (Err(error), _) => Err(error),
            (Ok(()), Some(output)) => output,
            (Ok(()), None) => return,
        };
        let _ = self.reply.send(answer);
    }
}

impl Writer {
    /// Opens the file and starts the thread.
    pub(super) fn start(path: &Path, busy: Duration) -> Result<Self, StoreError> {
        let connection = schema::open_writer(path, busy)?;
        let (calls, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new().name("lovage-keyvalue".to_owned()).spawn({
            let path = path.to_owned();
            move || serve(&connection, &path, &waiting)
        });
        let thread = thread.map_err(|error| {
            StoreError::Unavailable(format!("no thread for the key-value store: {error}"))
        })?;
        Ok(Self { path: path.to_owned(), calls: Some(calls), thread: Some(thread) })
    }

    /// Hands over a change, and waits until it is on the disk.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let call = Call { run: Some(run), output: None, reply };
        // Where the thread is gone, so is the reply: that is noticed below.
        let _ = self.calls.as_ref().map(|calls| calls.send(Box::new(call)));
        answer.await.unwrap_or_else(|_| {
            let path = self.path.display();
            Err(StoreError::Unavailable(format!("the key-value store {path} has ended")))
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.calls.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Works until nobody can hand over changes any more.
fn serve(connection: &Connection, path: &Path, waiting: &mpsc::Receiver<Box<dyn Work>>) {
    time_slice::shorten();
    while let Ok(first) = waiting.recv() {
        let more = waiting.try_iter().take(BATCH - 1);
        let mut works: Vec<_> =
            std::iter::once(first).chain(more).filter(|work| !work.is_given_up()).collect();
        let done = transact(connection, path, &mut works);
        let done = done.map_err(|error| {
            // The transaction may have ended by itself.
            let _ = connection.execute_batch("ROLLBACK");
            unavailable(path, &error)
        });
        for work in works {
            work.answer(done.clone());
        }
    }
}

fn transact(
    connection: &Connection,
    path: &Path,
    works: &mut [Box<dyn Work>],
) -> rusqlite::Result<()> {
    let command = |text: &str| connection.prepare_cached(text)?.execute([]).map(drop);
    command("BEGIN IMMEDIATE")?;
    for work in works {
        command("SAVEPOINT work")?;
        if !work.run(connection, path) {
            command("ROLLBACK TO work")?;
        }
        command("RELEASE work")?;
    }
    // Which is on the disk then.
    FLUSHES.flush(|| command("COMMIT"))
}
