//! The one writer of this process.
//!
//! It takes all requests that have come while it was busy, carries them out in one transaction,
//! commits once, hands out messages, flushes the commit to the disk, and only then answers. The
//! busier it is, the more share a commit and a flush.
//!
//! Two threads are the writer in turns: while one waits for the disk, the other is at the next
//! transaction.
//!
//! Other processes write to the same file: a transaction takes the write lock when it begins, and
//! what it reads can no longer change under it.

// Over 500 lines: one transaction, step by step.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    acknowledgements::{Acknowledgements, Results},
    clock::Clock,
    fault::{explain, writer_gone},
    flush::Flush,
    gate::Gate,
    integrity::{CHECK_EVERY, Files, Lost},
    log::{self, Log},
    request::{Call, Request, Work},
    retention::Retentions,
    store::Store,
    waiting::{Served, Waiting},
    wake::{self, Signals, Watching},
    wire::{End, Ending, Row},
};
use lovage_core::{
    broker::BrokerError,
    events::{BrokerFileRestored, BrokerFiles, BrokerLogGrows, MessagesExpired},
};
use lovage_platform::time_slice;

/// The most that one transaction does, in rows or pages: it bounds how long others wait.
const TRANSACTION_WEIGHT: usize = 4096;

/// How often results are purged when nothing else happens, and how many at a time.
const PURGE_EVERY: Duration = Duration::from_secs(30);
const PURGE_STEP: usize = 256;

/// Free pages that the file keeps for what comes next; and the part of all pages, one in so many.
const SPARE_PAGES: i64 = 1024;
const SPARE_PART: i64 = 4;

/// How many pages are given back in one transaction.
const SHRINK_STEP: i64 = 256;

/// The log is said to grow after so many checks in a row that found it too long, and then once in so
/// many.
const LONG_CHECKS: u32 = 5;
const LONG_CHECKS_AGAIN: u32 = 60;

/// How often to look where the file cannot be watched, as long as anybody waits.
const POLL: Duration = Duration::from_millis(250);

pub struct Writer {
    pub connection: Connection,
    clock: Clock,
    pub path: PathBuf,
    pub retention: Duration,
    pub requests: Receiver<Request>,
    pub signals: Arc<Signals>,
    gate: Arc<Gate>,
    log: Log,
    flush: Arc<Flush>,
    waiting: Waiting,
    /// Deliveries whose receiver went away, to be given back.
    returned: Vec<Box<dyn Work>>,
    /// SQLite's count of the commits of others, as of the last look.
    data_version: i64,
    polled_at: Instant,
    purge_at: Instant,
    stopping: bool,
    /// To ask for a look by itself.
    requests_to_self: Option<Sender<Request>>,
    watching: Arc<Watching>,
    retentions: Arc<Retentions>,
    /// `None` until there is something to check.
    files: Option<Files>,
    lost: Arc<Lost>,
    check_at: Instant,
    /// Checks in a row that found the log too long.
    long_checks: u32,
}

/// Why a transaction came to nothing.
enum Failure {
    /// It did not even begin: no request is to blame.
    Begin(BrokerError),
    During(rusqlite::Error),
    Panic,
}

impl Writer {
    #[allow(clippy::too_many_arguments, reason = "each is another part of the writer")]
    pub fn new(
        connection: Connection,
        clock: Clock,
        retention: Duration,
        requests: Receiver<Request>,
        signals: Arc<Signals>,
        gate: Arc<Gate>,
        log: Log,
        flush: Arc<Flush>,
    ) -> Self {
        Self {
            path: flush.database().to_owned(),
            gate,
            log,
            flush,
            connection,
            clock,
            retention,
            requests,
            signals,
            waiting: Waiting::default(),
            returned: Vec::new(),
            data_version: 0,
            polled_at: Instant::now(),
            purge_at: Instant::now(),
            stopping: false,
            requests_to_self: None,
            watching: Arc::default(),
            retentions: Arc::default(),
            files: None,
            lost: Arc::default(),
            check_at: Instant::now() + CHECK_EVERY,
            long_checks: 0,
        }
    }

    /// Has the file watched anew when that is needed.
    pub fn watch(&mut self, requests: Sender<Request>, watching: Arc<Watching>) {
        self.requests_to_self = Some(requests);
        self.watching = watching;
    }

    /// Forgets messages by these times.
    pub fn retain(&mut self, retentions: Arc<Retentions>) {
        self.retentions = retentions;
    }

    /// Checks these files, and says when they are lost.
    pub fn guard(&mut self, files: Files, lost: Arc<Lost>) {
        self.files = Some(files);
        self.lost = lost;
    }

    /// Works until it is told to stop, together with others who do.
    pub fn run(writer: &Mutex<Self>, flush: &Flush, log: &File) {
        time_slice::shorten();
        let turn = || {
            let mut writer = Self::enter(writer);
            if writer.stopping {
                return false;
            }
            let told = writer.turn();
            drop(writer);
            told.tell(flush, log);
            true
        };
        // The callers of a turn that panics see their replies dropped, which is an answer, too.
        while catch_unwind(AssertUnwindSafe(turn)).unwrap_or(true) {}
    }

    /// Becomes the writer, as soon as nobody else is. What a panic left half done is undone.
    fn enter(writer: &Mutex<Self>) -> MutexGuard<'_, Self> {
        writer.lock().unwrap_or_else(|poisoned| {
            let mut left = poisoned.into_inner();
            writer.clear_poison();
            tracing::error!(path = %left.path.display(), "the broker's writer panicked");
            left.undo();
            left
        })
    }

    /// Does what nobody waits for, then waits for requests and carries them out.
    fn turn(&mut self) -> Acknowledgements {
        if Instant::now() >= self.check_at {
            self.check();
        }
        if self.lost.error().is_none() {
            self.log.tend(&self.connection);
            if Instant::now() >= self.purge_at {
                self.purge();
            }
        }
        let requests = self.gather();
        self.carry_out(requests)
    }

    /// Waits for something to do, then takes all that there is, up to a transaction's weight.
    fn gather(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut weight = 0;
        let mut next = match self.requests.recv_timeout(self.pause()) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.stopping = true;
                None
            }
        };
        while let Some(request) = next.take() {
            weight += match &request {
                Request::Work(work) => work.weight(),
                Request::Receive(receive) => receive.max,
                Request::AwaitResult(_) | Request::FileChanged | Request::Interrupt => 1,
                Request::Stop => {
                    self.stopping = true;
                    break;
                }
            };
            requests.push(request);
            if weight < TRANSACTION_WEIGHT {
                next = self.requests.try_recv().ok();
            }
        }
        requests
    }

    /// How long there is nothing to do, as far as is known.
    fn pause(&self) -> Duration {
        if !self.returned.is_empty() {
            return Duration::ZERO;
        }
        let next = if self.lost.error().is_some() {
            self.check_at
        } else {
            self.purge_at.min(self.check_at)
        };
        let mut pause = next.saturating_duration_since(Instant::now());
        if let Some(at) = self.waiting.next_at() {
            let left = at.saturating_sub(self.clock.now_ms()).max(0).unsigned_abs();
            pause = pause.min(Duration::from_millis(left));
        }
        if let Some(end) = self.waiting.next_end() {
            pause = pause.min(end.saturating_duration_since(Instant::now()));
        }
        if self.polls() {
            pause = pause.min(POLL.saturating_sub(self.polled_at.elapsed()));
        }
        pause
    }

    fn polls(&self) -> bool {
        self.signals.must_poll() && self.signals.anybody_waits()
    }

    /// Carries out requests, and answers those that failed.
    fn carry_out(&mut self, requests: Vec<Request>) -> Acknowledgements {
        let mut works = std::mem::take(&mut self.returned);
        let mut look = false;
        for request in requests {
            match request {
                Request::Work(work) => works.push(work),
                Request::Receive(receive) => self.waiting.receive(receive),
                Request::AwaitResult(wait) => self.waiting.await_result(wait),
                Request::Interrupt => self.waiting.interrupt(),
                Request::FileChanged => {
                    // Before the transaction begins: a write that comes later asks anew.
                    self.signals.seen();
                    look = true;
                }
                Request::Stop => {}
            }
        }
        if let Some(error) = self.lost.error() {
            self.fail(works, Failure::Begin(error));
            return Acknowledgements::default();
        }
        if self.polls() && self.polled_at.elapsed() >= POLL {
            self.polled_at = Instant::now();
            look = true;
        }
        self.waiting.end_waits();
        let due = self.waiting.next_at().is_some_and(|at| at <= self.clock.now_ms());
        let mut told = Acknowledgements::default();
        if works.is_empty() && !look && !due {
            return told;
        }
        match self.attempt(&mut works) {
            Ok(results) => told.add(works, results, self.flush.last()),
            Err(failure @ Failure::Begin(_)) => self.fail(works, failure),
            Err(failure) if works.len() < 2 => self.fail(works, failure),
            Err(_) => self.one_by_one(works, &mut told),
        }
        told
    }

    /// Tells everybody concerned why nothing was done.
    fn fail(&mut self, works: Vec<Box<dyn Work>>, failure: Failure) {
        let first = match failure {
            Failure::Begin(error) => error,
            Failure::During(error) => {
                self.lost.note(&self.path, &error);
                explain(&self.path, "write to", error)
            }
            Failure::Panic => writer_gone(&self.path),
        };
        for work in works {
            work.answer(Err(again(&first)));
        }
        self.waiting.fail(|| again(&first));
    }

    /// After a failure of all together: finds the one to blame, by a transaction for each.
    fn one_by_one(&mut self, works: Vec<Box<dyn Work>>, told: &mut Acknowledgements) {
        for mut work in works {
            match self.attempt(std::slice::from_mut(&mut work)) {
                Ok(results) => told.add(vec![work], results, self.flush.last()),
                Err(failure) => self.fail(vec![work], failure),
            }
        }
    }

    /// One transaction, whole or undone. Messages are with their receivers after it.
    fn attempt(&mut self, works: &mut [Box<dyn Work>]) -> Result<Results, Failure> {
        self.flush.recover(&self.connection).map_err(Failure::Begin)?;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.transact(works)));
        match outcome {
            Ok(Ok(())) => Ok(self.deliver()),
            Ok(Err(failure)) => {
                self.undo();
                Err(failure)
            }
            Err(_) => {
                tracing::error!(path = %self.path.display(), "a request to the broker panicked");
                self.undo();
                Err(Failure::Panic)
            }
        }
    }

    fn transact(&mut self, works: &mut [Box<dyn Work>]) -> Result<(), Failure> {
        let gate = Arc::clone(&self.gate);
        let turn = gate.enter();
        // Who only looks for results writes nothing, and holds nobody up. Its turn it waits for all
        // the same: what it was woken by may have yet to be committed.
        let reads = works.is_empty() && !self.waiting.receives() && turn.is_had();
        let _turn = (!reads).then_some(turn);
        let begin = if reads { "BEGIN" } else { "BEGIN IMMEDIATE" };
        let begun = self.command(begin);
        begun.map_err(|error| {
            self.lost.note(&self.path, &error);
            Failure::Begin(explain(&self.path, "write to", error))
        })?;
        let inside = || {
            let before = self.connection.total_changes();
            let mut store = Store::at(&self.connection, self.clock.now_ms());
            // Even unasked: nobody asks for what others did before we left our name again.
            let version = data_version(&self.connection)?;
            for work in works {
                work.run(&mut store)?;
            }
            self.waiting.serve(&mut store, version != self.data_version)?;
            store.purge(self.retention, 0)?;
            let is_changed = self.connection.total_changes() != before;
            if is_changed {
                gate.sign();
            }
            self.command("COMMIT")?;
            Ok((version, is_changed))
        };
        let (version, is_changed) = inside().map_err(Failure::During)?;
        if is_changed || version != self.data_version {
            self.flush.committed();
        }
        self.data_version = version;
        Ok(())
    }

    fn command(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn undo(&mut self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.command("ROLLBACK")
        {
            tracing::error!(path = %self.path.display(), %error, "a transaction cannot be undone");
        }
        self.waiting.undone();
    }

    /// Gives those who waited for messages what they waited for; what nobody takes goes back. Those
    /// who waited for results have yet to be told.
    fn deliver(&mut self) -> Results {
        let mut results = Vec::new();
        for served in self.waiting.committed() {
            match served {
                Served::Result(wait, found) => results.push((wait, found)),
                Served::Messages(receive, rows) => {
                    if let Err(Ok(Ok(rows))) = receive.reply.send(Ok(rows)) {
                        self.returned.extend(give_back(&receive.queue, rows));
                    }
                }
            }
        }
        results
    }

    /// A small step of purging, in a transaction of its own; soon again if that was not all.
    fn purge(&mut self) {
        self.waiting.tidy();
        let (mut expired, mut shrunk) = (Vec::new(), false);
        let mut step = || {
            let _turn = self.gate.enter();
            self.command("BEGIN IMMEDIATE")?;
            let mut store = Store::at(&self.connection, self.clock.now_ms());
            let mut more = store.purge(self.retention, PURGE_STEP)?;
            for (queue, retention) in self.retentions.all() {
                let count = store.expire(&queue, retention, PURGE_STEP)?;
                more |= count >= PURGE_STEP;
                if count > 0 {
                    expired.push((queue, count));
                }
            }
            let shrinks = self.shrink()?;
            more |= shrinks == Some(true);
            shrunk = shrinks == Some(false);
            self.command("COMMIT")?;
            Ok(more)
        };
        let more: rusqlite::Result<bool> = step();
        match &more {
            Ok(_) => {
                if shrunk {
                    // Nothing may come for long that has it copied back.
                    log::copy_back(&self.connection, &self.path);
                }
                for (queue, count) in expired {
                    MessagesExpired { queue: &queue, count }.emit();
                }
            }
            Err(error) => {
                self.lost.note(&self.path, error);
                tracing::warn!(
                    path = %self.path.display(),
                    %error,
                    "old results cannot be purged yet"
                );
                self.undo();
            }
        }
        let soon = Duration::from_millis(20);
        self.purge_at = Instant::now() + if more.unwrap_or(false) { soon } else { PURGE_EVERY };
    }

    /// Gives free pages back to the file system, a few at a time, where the file was made for that.
    /// `None` where none were, else whether there are more. The file itself is shorter once the log is
    /// copied back.
    fn shrink(&self) -> rusqlite::Result<Option<bool>> {
        let read = |pragma: &str| {
            self.connection.prepare_cached(pragma)?.query_row([], |row| row.get::<_, i64>(0))
        };
        let free = read("PRAGMA freelist_count")?;
        let spare = SPARE_PAGES.max(read("PRAGMA page_count")? / SPARE_PART);
        if free <= spare || read("PRAGMA auto_vacuum")? != 2 {
            return Ok(None);
        }
        let step = SHRINK_STEP.min(free - spare);
        let mut statement =
            self.connection.prepare(&format!("PRAGMA incremental_vacuum({step})"))?;
        // Each row is a page that is given back.
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(Some(free - step > spare))
    }

    /// Compares the files with those that are open.
    fn check(&mut self) {
        self.check_at = Instant::now() + CHECK_EVERY;
        if self.lost.error().is_some() {
            return;
        }
        match self.files.as_mut().map(Files::check) {
            None => return,
            Some(Err(why)) => return self.lost.set(why),
            Some(Ok(sizes)) => {
                BrokerFiles { database_bytes: sizes.database, log_bytes: sizes.log }.emit();
                self.check_log(sizes.log);
            }
        }
        if let Some(path) = self.gate.misplaced() {
            self.restore(&path);
        }
    }

    /// A log that stays long although it is copied back has a reader that keeps it.
    fn check_log(&mut self, bytes: u64) {
        if self.log.pages() < 2 * log::LONG_PAGES {
            self.long_checks = 0;
            return;
        }
        self.long_checks += 1;
        if self.long_checks % LONG_CHECKS_AGAIN == LONG_CHECKS {
            BrokerLogGrows { path: &self.path, bytes }.emit();
        }
    }

    /// Makes the files of the gate anew, and watches them.
    fn restore(&mut self, path: &std::path::Path) {
        BrokerFileRestored { path }.emit();
        self.gate = Arc::new(Gate::before(&self.path));
        self.log.reopen();
        self.watching.replace(None);
        if let Some(requests) = &self.requests_to_self {
            let watcher = wake::watch(&self.path, &self.gate, requests.clone(), &self.signals);
            self.watching.replace(watcher);
            // What came while nobody watched.
            let _ = requests.send(Request::FileChanged);
        }
    }
}

/// The same error for one more request; what lies beneath stays with the first.
pub fn again(error: &BrokerError) -> BrokerError {
    BrokerError::new(error.fault, error.message.clone())
}

/// Differs from the last one when another connection has committed since.
fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

/// Puts back messages that were leased for nobody; no attempt is spent.
pub fn give_back(queue: &Arc<str>, rows: Vec<Row>) -> Option<Box<dyn Work>> {
    if rows.is_empty() {
        return None;
    }
    let end = |row: Row| End {
        delivery: row.delivery,
        ending: Ending::Release { after_ms: 0, spent: false },
    };
    let ends: Vec<_> = rows.into_iter().map(end).collect();
    let queue = Arc::clone(queue);
    Some(Box::new(Call {
        weight: ends.len(),
        run: move |store: &mut Store<'_>| store.settle(&queue, &ends),
        output: None,
        reply: None,
    }))
}
