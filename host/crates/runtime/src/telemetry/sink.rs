//! Standard error, written to by a thread of its own.
//!
//! A log call appends to a bounded buffer and returns. It never waits for the reader of standard
//! error, and never fails. A reader that is gone, stands still, or has a full disk costs lines, and
//! never a job: what does not fit into the buffer is dropped and counted, and the count is logged
//! when the reader is back.
//!
//! The thread writes to a descriptor of its own, so that it holds no lock of the standard library
//! while it waits: a panic elsewhere could otherwise wait for that lock.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use metrics::counter;

use lovage_core::events::LogLinesDropped;

/// The most bytes that wait for the reader: some ten thousand lines.
const BUFFER_BYTES: usize = 4 << 20;

/// The most bytes of one write. A pipe takes as many as a whole, so that the lines of several
/// processes that share it do not run into each other (`PIPE_BUF`).
const WRITE_BYTES: usize = 4096;

/// The pause after a write that failed. A reader may come back: a named pipe, a disk with room.
const RETRY: Duration = Duration::from_millis(250);

/// Writes lines to a file, on a thread of its own where it was asked to.
#[derive(Debug)]
pub struct Sink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Never longer than `capacity`, plus one line.
    buffer: Mutex<Buffer>,
    capacity: usize,
    /// The thread waits for lines.
    filled: Condvar,
    /// Those who flush wait for the thread.
    drained: Condvar,
    dropped: AtomicU64,
    /// The last write failed.
    fails: AtomicBool,
    /// Nothing waits for a reader: each line is written by its caller.
    direct: Option<File>,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// The thread has taken lines that are not written yet.
    writing: bool,
}

impl Sink {
    /// A sink whose callers write by themselves. For a process that may be stopped at any time after
    /// it answered, as in AWS Lambda, and for commands that end in a moment.
    pub fn direct(file: File) -> Self {
        Self { shared: Arc::new(Shared::new(BUFFER_BYTES, Some(file))) }
    }

    /// A sink for a process that has no standard error.
    pub fn nowhere() -> Self {
        Self { shared: Arc::new(Shared::new(0, None)) }
    }

    /// A sink with a thread and a buffer.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn threaded(file: File) -> io::Result<Self> {
        Self::with_capacity(file, BUFFER_BYTES)
    }

    fn with_capacity(file: File, capacity: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(capacity, None));
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("lovage-stderr".to_owned()).spawn(move || {
            lovage_platform::time_slice::shorten();
            writer.run(file);
        })?;
        Ok(Self { shared })
    }

    /// Standard error, as a file of its own.
    pub fn standard_error() -> io::Result<File> {
        io::stderr().as_fd().try_clone_to_owned().map(File::from)
    }

    /// Takes lines. They end with a line feed.
    pub fn write(&self, lines: &[u8]) {
        self.shared.push(lines);
    }

    /// Waits until all is written that was handed over, up to `patience`. Does not wait for a reader
    /// that is known to be gone.
    pub fn flush(&self, patience: Duration) {
        self.shared.flush(patience);
    }

    /// Lines that nobody got, since the start of the process.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }
}

impl Shared {
    fn new(capacity: usize, direct: Option<File>) -> Self {
        Self {
            buffer: Mutex::default(),
            capacity,
            filled: Condvar::new(),
            drained: Condvar::new(),
            dropped: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            direct,
        }
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        // Each change to it is a single call, so a panic leaves it whole.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, lines: &[u8]) {
        if let Some(mut file) = self.direct.as_ref() {
            if file.write_all(lines).is_err() {
                self.count_dropped(1);
            }
            return;
        }
        let mut buffer = self.buffer();
        if buffer.bytes.len() + lines.len() > self.capacity {
            drop(buffer);
            return self.count_dropped(1);
        }
        let was_empty = buffer.bytes.is_empty();
        buffer.bytes.extend_from_slice(lines);
        drop(buffer);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Counted where it happens: the thread may be stuck in a write.
    fn count_dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
        counter!("lovage_log_lines_dropped_total").increment(lines);
    }

    fn flush(&self, patience: Duration) {
        if self.direct.is_some() {
            return;
        }
        let end = Instant::now() + patience;
        let mut buffer = self.buffer();
        while (buffer.writing || !buffer.bytes.is_empty()) && !self.fails.load(Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.drained.wait_timeout(buffer, left);
            buffer = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The thread: takes all that there is, and writes it.
    fn run(&self, mut file: File) {
        let mut lines = Vec::new();
        let mut told = 0;
        loop {
            let mut buffer = self.buffer();
            while buffer.bytes.is_empty() {
                buffer.writing = false;
                self.drained.notify_all();
                buffer = self.filled.wait(buffer).unwrap_or_else(PoisonError::into_inner);
            }
            buffer.writing = true;
            std::mem::swap(&mut lines, &mut buffer.bytes);
            drop(buffer);
            self.write_out(&mut file, &lines);
            lines.clear();
            let dropped = self.dropped.load(Relaxed);
            if dropped > told {
                let lines = dropped - told;
                told = dropped;
                LogLinesDropped { lines }.emit();
            }
        }
    }

    /// Writes lines, however long that takes: the buffer bounds what waits behind them.
    fn write_out(&self, file: &mut File, mut lines: &[u8]) {
        while let Some(chunk) = lines.get(..chunk(lines)).filter(|chunk| !chunk.is_empty()) {
            match file.write(chunk) {
                Ok(0) => self.failed(),
                Ok(written) => {
                    self.fails.store(false, Relaxed);
                    lines = lines.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.failed(),
            }
        }
    }

    /// There is nobody to tell, or no room. Those who flush do not wait for it.
    fn failed(&self) {
        self.fails.store(true, Relaxed);
        self.drained.notify_all();
        thread::sleep(RETRY);
    }
}

/// How many bytes to write at once: as many whole lines as go into one write, or one line.
fn chunk(lines: &[u8]) -> usize {
    if lines.len() <= WRITE_BYTES {
        return lines.len();
    }
    let first = lines.get(..WRITE_BYTES).unwrap_or(lines);
    let whole = first.iter().rposition(|byte| *byte == b'\n');
    let line = || lines.iter().position(|byte| *byte == b'\n');
    whole.or_else(line).map_or(lines.len(), |end| end + 1)
}

/// One event's line on its way to a sink.
#[derive(Debug)]
pub struct Line<'a>(pub &'a Sink);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn pipe() -> (File, File) {
        let (reader, writer) = io::pipe().unwrap();
        (
            File::from(std::os::fd::OwnedFd::from(reader)),
            File::from(std::os::fd::OwnedFd::from(writer)),
        )
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_nobody_waits_for_it() {
        let (mut reader, writer) = pipe();
        let sink = Sink::with_capacity(writer, 100_000).unwrap();
        let line = [b'x'; 999].iter().copied().chain([b'\n']).collect::<Vec<u8>>();
        let begin = Instant::now();
        for _ in 0..1_000 {
            sink.write(&line);
        }
        assert!(begin.elapsed() < Duration::from_secs(5));
        // The buffer, what the thread has taken, and the pipe.
        assert!((500..1_000).contains(&sink.dropped()), "{}", sink.dropped());
        let flushed = Instant::now();
        sink.flush(Duration::from_millis(200));
        assert!(flushed.elapsed() < Duration::from_secs(5));
        // The reader is back: what was kept comes, line by line and whole.
        let kept = 1_000 - usize::try_from(sink.dropped()).unwrap();
        let mut text = vec![0; kept * 1_000];
        reader.read_exact(&mut text).unwrap();
        assert!(text.chunks(1_000).all(|chunk| chunk == line));
    }

    #[test]
    fn a_reader_that_is_gone_fails_no_line_and_no_exit() {
        let (reader, writer) = pipe();
        drop(reader);
        let sink = Sink::with_capacity(writer, 10_000).unwrap();
        for _ in 0..100 {
            sink.write(&[b'x'; 1_000]);
        }
        assert!(sink.dropped() >= 80, "{}", sink.dropped());
        let begin = Instant::now();
        sink.flush(Duration::from_mins(1));
        assert!(begin.elapsed() < Duration::from_secs(30));
        // The same where callers write by themselves.
        let (reader, writer) = pipe();
        drop(reader);
        let sink = Sink::direct(writer);
        sink.write(b"line\n");
        assert_eq!(sink.dropped(), 1);
    }

    #[test]
    fn a_disk_that_is_full_fails_no_line() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let sink = Sink::with_capacity(full, 10_000).unwrap();
        for _ in 0..100 {
            sink.write(&[b'x'; 1_000]);
        }
        assert!(sink.dropped() >= 80, "{}", sink.dropped());
        sink.flush(Duration::from_mins(1));
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let (mut reader, writer) = pipe();
        let sink = Sink::with_capacity(writer, 100_000).unwrap();
        sink.write(b"one\n");
        sink.write(b"two\n");
        sink.flush(Duration::from_mins(1));
        let mut text = [0; 8];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one\ntwo\n");
    }

    #[test]
    fn writes_end_at_lines() {
        let short = b"a\nb\n";
        assert_eq!(chunk(short), 4);
        let mut long = vec![b'x'; 4_000];
        long.push(b'\n');
        long.extend_from_slice(&[b'y'; 4_000]);
        long.push(b'\n');
        assert_eq!(chunk(&long), 4_001);
        let mut huge = vec![b'x'; 9_000];
        huge.extend_from_slice(b"\nnext\n");
        assert_eq!(chunk(&huge), 9_001);
    }
}
