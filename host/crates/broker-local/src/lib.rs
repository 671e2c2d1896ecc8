//! The embedded broker: one SQLite file, no server, durable.
//!
//! What it promises beyond [`Broker`](lovage_core::broker::Broker): accepted means durable (an answer comes after the commit is
//! on the disk), a finish is one transaction (result, follow-on messages and the delete), and the
//! cost of a job does not grow with what is queued, delayed or done (`sql` says why). Any number
//! of processes on one machine may use the file at the same time.
//!
//! A caller encodes what it wants (`wire`) and hands it to the one `writer`; a second
//! connection serves those who only look.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use self::{
    clock::Clock,
    fault::{explain, writer_gone},
    flush::Flush,
    gate::Gate,
    integrity::{Files, Lost},
    log::Log,
    notes::Revocations,
    request::{Call, Request},
    retention::Retentions,
    store::{QueueRow, Store},
    wake::{Signals, Watching},
    wire::millis,
    writer::Writer,
};
use lovage_core::broker::{BrokerError, Fault, Limits, Queue};
use lovage_core::text::nearest;

mod acknowledgements;
mod calls;
mod clock;
pub mod compact;
mod fair;
mod fault;
mod flush;
mod gate;
mod integrity;
mod log;
mod notes;
mod parts;
mod request;
mod retention;
mod schema;
mod sql;
mod store;
#[cfg(test)]
mod tests;
mod waiting;
mod wake;
mod watchers;
mod wire;
mod writer;

const LIMITS: Limits = Limits {
    receive_batch: 256,
    settle_batch: 256,
    // While one commit is on its way to the disk the next ones gather: more would add nothing.
    settle_concurrency: 4,
    // The writer gathers what waits for it; a lone settlement has nothing to wait for.
    settle_linger: Duration::ZERO,
    keeps_results: true,
    counts_waits: false,
    takes_turns: true,
    message_bytes: wire::MESSAGE_BYTES,
    max_lease: Duration::from_hours(12),
};

/// The longest name of a queue, in bytes.
const NAME_BYTES: usize = 200;

/// How many threads are the writer in turns: one at its transaction, one at its flush.
const WRITERS: usize = 2;

/// How a [`LocalBroker`] behaves.
#[derive(Debug, Clone, Copy)]
pub struct LocalOptions {
    /// How long results are kept after their job has finished. Each process that has the file
    /// open purges by its own value. Default: 24 hours.
    pub retention: Duration,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self { retention: Duration::from_hours(24) }
    }
}

/// The embedded broker. Share it in an [`Arc`]; one for each file and process is enough.
///
/// Dropping it waits for the transaction under way, and closes the file.
pub struct LocalBroker {
    path: PathBuf,
    clock: Clock,
    requests: mpsc::Sender<Request>,
    signals: Arc<Signals>,
    reader: Arc<Mutex<Connection>>,
    revocations: Revocations,
    writers: Vec<std::thread::JoinHandle<()>>,
    retentions: Arc<Retentions>,
    lost: Arc<Lost>,
    watching: Arc<Watching>,
}

impl std::fmt::Debug for LocalBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBroker").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LocalBroker {
    /// Opens the database at `path`, and makes it if there is none. Its directory must exist and
    /// be writable: SQLite keeps a log and an index of it beside the file.
    ///
    /// Blocks for the time of a few file operations, and up to 10 s where another process holds
    /// the file locked.
    ///
    /// # Errors
    ///
    /// [`Fault::NotFound`]: the directory is missing. [`Fault::Denied`]: not readable or not
    /// writable. [`Fault::Invalid`]: the file is no database, another program's, damaged, or a
    /// newer Lovage's. [`Fault::Unavailable`]: the disk is full or failing, or the file is locked.
    pub fn open(path: &Path, options: LocalOptions) -> Result<Self, BrokerError> {
        let connection = schema::open_writer(path)?;
        Self::with(connection, path, options, Flush::of(path))
    }

    fn with(
        mut connection: Connection,
        path: &Path,
        options: LocalOptions,
        flush: Flush,
    ) -> Result<Self, BrokerError> {
        let log = Log::of(&mut connection, path).map_err(|error| explain(path, "open", error))?;
        let clock = Clock::of(&mut connection).map_err(|error| explain(path, "open", error))?;
        let reader = schema::open_reader(path)?;
        let (requests, receiver) = mpsc::channel();
        let signals = Arc::new(Signals::default());
        let gate = Arc::new(Gate::before(path));
        let flush = Arc::new(flush);
        let watcher = wake::watch(path, &gate, requests.clone(), &signals);
        let watching = Arc::new(Watching::default());
        watching.replace(watcher);
        let (retentions, lost) = (Arc::new(Retentions::default()), Arc::new(Lost::default()));
        let mut writer = Writer::new(
            connection,
            clock,
            options.retention,
            receiver,
            Arc::clone(&signals),
            gate,
            log,
            Arc::clone(&flush),
        );
        writer.watch(requests.clone(), Arc::clone(&watching));
        writer.retain(Arc::clone(&retentions));
        writer.guard(Files::of(path), Arc::clone(&lost));
        let writer = Arc::new(Mutex::new(writer));
        let mut broker = Self {
            path: path.to_owned(),
            clock,
            requests,
            signals,
            reader: Arc::new(Mutex::new(reader)),
            revocations: Revocations::default(),
            writers: Vec::with_capacity(WRITERS),
            retentions,
            lost,
            watching,
        };
        for _ in 0..WRITERS {
            let (writer, flush, log) = (Arc::clone(&writer), Arc::clone(&flush), flush.open_log()?);
            let thread = std::thread::Builder::new().name("lovage-broker".to_owned());
            let thread =
                thread.spawn(move || Writer::run(&writer, &flush, &log)).map_err(|error| {
                    let what = "cannot start the thread of the embedded broker";
                    BrokerError::caused_by(Fault::Unavailable, what, error)
                })?;
            broker.writers.push(thread);
        }
        Ok(broker)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a queue, or changes the settings of one that there is; messages in it stay, and keep
    /// the order they were sent under. Names have 1 to 200 bytes and no control characters.
    ///
    /// # Errors
    ///
    /// [`Fault::Invalid`]: the name, or a visibility timeout of over 12 hours.
    pub async fn declare(
        &self,
        name: &str,
        fifo: bool,
        visibility_timeout: Duration,
    ) -> Result<Queue, BrokerError> {
        if name.is_empty() || name.len() > NAME_BYTES || name.contains(char::is_control) {
            return Err(BrokerError::new(
                Fault::Invalid,
                format!(
                    "cannot declare queue {name:?}: a name has 1 to {NAME_BYTES} bytes and no \
                     control characters"
                ),
            ));
        }
        let visibility_ms = lease(name, visibility_timeout)?;
        let row = QueueRow { id: 0, fifo, visibility_ms };
        let queue = described(name, row);
        let name = Arc::clone(&queue.name);
        self.call(1, move |store| store.declare(&name, fifo, visibility_ms)).await?;
        Ok(queue)
    }

    /// Forgets messages that have been in a queue for longer than this. For queues that nobody takes
    /// jobs from here: results, dead letters. Holds for this process.
    pub fn retain(&self, name: &str, retention: Duration) {
        self.retentions.set(name, retention);
    }

    /// All queues, by name.
    ///
    /// # Errors
    ///
    /// As for any look at the file: [`Fault::Unavailable`] and [`Fault::Invalid`].
    pub async fn queues(&self) -> Result<Vec<Queue>, BrokerError> {
        self.look(|connection| {
            let mut statement = connection.prepare_cached(sql::QUEUES)?;
            let rows = statement.query_map([], |row| {
                let name: String = row.get(0)?;
                let settings = QueueRow { id: 0, fifo: row.get(1)?, visibility_ms: row.get(2)? };
                Ok(described(&name, settings))
            })?;
            rows.collect()
        })
        .await
    }

    /// Hands work to the writer, at once. The answer comes when its outcome is on the disk.
    fn call<T, F>(
        &self,
        weight: usize,
        run: F,
    ) -> impl Future<Output = Result<T, BrokerError>> + Send + use<'_, T, F>
    where
        T: Send + 'static,
        F: FnMut(&mut Store<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // Where the writer is gone, so is the reply: that is noticed below.
        let _ = self.submit(Request::Work(Box::new(Call {
            weight,
            run,
            output: None,
            reply: Some(reply),
        })));
        async { answer.await.map_err(|_| writer_gone(&self.path))? }
    }

    fn submit(&self, request: Request) -> Result<(), BrokerError> {
        self.requests.send(request).map_err(|_| writer_gone(&self.path))
    }

    /// Reads without getting in the writer's way.
    async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let reader = Arc::clone(&self.reader);
        let looked = tokio::task::spawn_blocking(move || {
            // A reader that panicked left nothing half done.
            read(&reader.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match looked.await {
            Ok(answer) => answer.map_err(|error| {
                self.lost.note(&self.path, &error);
                explain(&self.path, "read", error)
            }),
            Err(error) => Err(BrokerError::caused_by(
                Fault::Unavailable,
                format!("reading the broker's database {} broke off", self.path.display()),
                error,
            )),
        }
    }

    /// Says that a queue is missing, and what there is instead.
    async fn missing(&self, name: &str) -> BrokerError {
        let queues = match self.queues().await {
            Ok(queues) => queues,
            Err(error) => return error,
        };
        let names: Vec<_> = queues.iter().take(20).map(|queue| &*queue.name).collect();
        let known = match (names.len(), queues.len()) {
            (0, _) => "it holds no queues yet".to_owned(),
            (shown, all) if shown < all => {
                format!("it holds {}, and {} more", names.join(", "), all - shown)
            }
            _ => format!("it holds {}", names.join(", ")),
        };
        let advice = match nearest(name, queues.iter().map(|queue| &*queue.name)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "declare it, or name another".to_owned(),
        };
        let message = format!(
            "queue {name:?} does not exist in the broker's database {}: {known}; {advice}",
            self.path.display()
        );
        BrokerError::new(Fault::NotFound, message)
    }
}

impl Drop for LocalBroker {
    fn drop(&mut self) {
        self.watching.replace(None);
        let _ = self.requests.send(Request::Stop);
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

/// A queue as its row describes it.
fn described(name: &str, row: QueueRow) -> Queue {
    let name: Arc<str> = name.into();
    Queue {
        address: Arc::clone(&name),
        name,
        fifo: row.fifo,
        visibility_timeout: Duration::from_millis(row.visibility_ms.unsigned_abs()),
        redrive_target: None,
    }
}

/// A lease in milliseconds, if it is one that can be had.
fn lease(queue: &str, duration: Duration) -> Result<i64, BrokerError> {
    if duration <= LIMITS.max_lease {
        return Ok(millis(duration));
    }
    Err(BrokerError::new(
        Fault::Invalid,
        format!(
            "a visibility timeout of {} s on queue {queue} is too long: 12 hours are the most",
            duration.as_secs()
        ),
    ))
}
