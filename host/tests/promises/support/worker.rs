//! A worker as an operator has it: the real program in a process of its own, told what to do by
//! signals and watched by its log. It never outlives its test.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::watch;

use super::stage::SOON;

/// What a command printed.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A worker's process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// How many lines there are; ends with the log.
    count: watch::Receiver<usize>,
}

impl Worker {
    /// Starts the process, and reads its log from then on.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = child.stderr.take().unwrap();
        Self::reads(child, log)
    }

    /// The same of a program whose standard output is what is read.
    pub fn spawn_watching_output(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        Self::reads(child, output)
    }

    fn reads(child: Child, log: impl Read + Send + 'static) -> Self {
        let log = BufReader::new(log);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let written = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let mut lines = written.lock().unwrap();
                lines.push(line);
                sender.send_replace(lines.len());
            }
        });
        Self { child, lines, count }
    }

    /// The log so far, line by line.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// A line, by its place from 0, as soon as it is there.
    pub async fn line(&mut self, place: usize) -> String {
        let there = self.count.wait_for(|count| *count > place);
        let there = tokio::time::timeout(SOON, there).await.is_ok_and(|there| there.is_ok());
        assert!(there, "no line {place}: {:?}", self.lines());
        self.lines()[place].clone()
    }

    /// The events of this name in the log so far.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let lines = self.lines();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["message"] == message).collect()
    }

    /// Waits until the log has `count` events of this name.
    pub async fn logs(&self, message: &str, count: usize) -> Vec<Value> {
        self.waits_for(&format!("{count} times {message:?}"), |worker| {
            Some(worker.logged(message)).filter(|events| events.len() >= count)
        })
        .await
    }

    /// Waits for a line that contains this.
    pub async fn says(&self, text: &str) -> String {
        self.waits_for(text, |worker| worker.lines().into_iter().find(|line| line.contains(text)))
            .await
    }

    async fn waits_for<T>(&self, what: &str, found: impl Fn(&Self) -> Option<T>) -> T {
        let mut count = self.count.clone();
        let wait = async {
            loop {
                count.mark_unchanged();
                if let Some(found) = found(self) {
                    return Some(found);
                }
                if count.changed().await.is_err() {
                    // The log has ended; its last line may have come since.
                    return found(self);
                }
            }
        };
        let Ok(found) = tokio::time::timeout(SOON, wait).await else {
            panic!("the worker does not say {what}");
        };
        found.unwrap_or_else(|| panic!("the worker has ended without {what}"))
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap();
    }

    /// Ends the process as a crash does: at once, and without a word.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the process to end by itself, and for the end of its log.
    pub async fn ends(&mut self) -> ExitStatus {
        self.ends_within(SOON).await
    }

    /// [`ends`](Self::ends), by then.
    pub async fn ends_within(&mut self, within: Duration) -> ExitStatus {
        let mut count = self.count.clone();
        let end = async { while count.changed().await.is_ok() {} };
        let in_time = tokio::time::timeout(within, end).await;
        assert!(in_time.is_ok(), "the worker has not ended within {within:?}");
        self.child.wait().unwrap()
    }

    /// Stops the worker as an operator does; it must end well.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.ends().await;
        assert!(status.success(), "a worker that is stopped ends with {status}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = self.lines();
            let skipped = lines.len().saturating_sub(200);
            eprintln!("--- the worker's log ({skipped} lines before this are left out)");
            for line in lines.iter().skip(skipped) {
                eprintln!("{line}");
            }
        }
    }
}

/// Waits until a condition holds that nobody tells of.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
