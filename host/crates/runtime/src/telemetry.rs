//! Logs: for people or as JSON, always to standard error, so that standard output stays a
//! command's own.
//!
//! No log call blocks, fails or panics, whatever becomes of the reader of standard error: see
//! `sink`.

mod sink;

use std::{sync::OnceLock, time::Duration};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    filter::filter_fn, fmt::format::FmtSpan, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::sink::{Line, Sink};
use lovage_config::{LogConfig, LogFormat, log_filter};

/// Where the process writes its log, and all else that it says on standard error.
static SINK: OnceLock<Sink> = OnceLock::new();

/// The longest that a flush at the end waits for the reader.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The longest that a panic waits for the reader: an abort may follow it.
const PANIC_WORDS: Duration = Duration::from_millis(200);

/// Who waits for the reader of standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// A thread of its own, behind a bounded buffer: for a worker.
    Buffered,
    /// The caller: for a command that ends in a moment, and for AWS Lambda, which stops the process
    /// once it has answered.
    Direct,
}

/// Whether what a line says is fit for a log. At `trace`, what stands between host and guests
/// (wasmtime-wasi and its relatives) tells what passes: the guests' own data, and what they were
/// given for themselves. No level asks for that.
fn is_for_logs(metadata: &Metadata<'_>) -> bool {
    *metadata.level() != Level::TRACE || !metadata.target().starts_with("wasmtime_wasi")
}

/// Starts logging as configured. The second call in a process does nothing.
pub fn start(config: &LogConfig, delivery: Delivery) -> anyhow::Result<()> {
    let filter = log_filter::filter(&config.level).map_err(anyhow::Error::msg)?;
    let in_lambda = std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some();
    if delivery == Delivery::Buffered && !in_lambda && SINK.get().is_none() {
        // Without a thread or a descriptor the callers write by themselves.
        if let Ok(sink) = Sink::standard_error().and_then(Sink::threaded) {
            let _ = SINK.set(sink);
            log_panics();
        }
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        // They would be printed in a way that panics where nobody reads.
        .log_internal_errors(false)
        .with_writer(|| Line(sink()));
    let json = match config.format {
        LogFormat::Auto => in_lambda,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // An error means that somebody else has started logging already.
    let _ = if json {
        let json = builder.json().flatten_event(true).with_current_span(true);
        json.finish().with(filter_fn(is_for_logs)).try_init()
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let human = builder.with_ansi(colours).with_target(false);
        human.finish().with(filter_fn(is_for_logs)).try_init()
    };
    Ok(())
}

/// The process's sink; one whose callers write by themselves where no other was started.
fn sink() -> &'static Sink {
    SINK.get_or_init(|| Sink::standard_error().map_or_else(|_| Sink::nowhere(), Sink::direct))
}

/// Says something on standard error, beside the log. Never fails: `eprintln!` panics where nobody
/// reads, and would wait where the log does not.
pub fn say(text: &str) {
    sink().write(format!("{text}\n").as_bytes());
}

/// Waits a moment for the last lines to be written, at the end of the process.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        sink.flush(LAST_WORDS);
    }
}

/// Lines of the log that nobody got.
pub fn dropped_lines() -> u64 {
    SINK.get().map_or(0, Sink::dropped)
}

/// Has panics say what they are by way of the sink. The standard library's own report waits for the
/// reader, with a lock held for which everybody else waits then.
fn log_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("<unnamed>");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let why = panic.payload_as_str().unwrap_or("no message");
            let wanted = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
            let backtrace = if wanted {
                format!("\n{}", std::backtrace::Backtrace::force_capture())
            } else {
                String::new()
            };
            say(&format!("thread '{name}' panicked at {place}:\n{why}{backtrace}"));
            sink().flush(PANIC_WORDS);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_between_host_and_guests_is_in_no_log() {
        use std::sync::{Arc, Mutex, PoisonError};

        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            // Also where it is asked for by name, which makes the rest of the filter stand back.
            .with_env_filter(
                log_filter::filter("trace,wasmtime_wasi_http=trace,wasmtime_wasi=trace").unwrap(),
            )
            .with_writer(move || writer.clone())
            .finish()
            .with(filter_fn(is_for_logs));
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "wasmtime_wasi::p2::bindings", "hunter2");
            tracing::trace!(target: "wasmtime_wasi_http::p2::bindings", "hunter2");
            tracing::trace!(target: "wasmtime_wasi_config", "hunter2");
            tracing::warn!(target: "wasmtime_wasi_http::p2", "seen: a warning");
            tracing::trace!(target: "lovage::worker", "seen: our own");
        });
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.matches("seen").count(), 2, "{lines}");
        assert!(!lines.contains("hunter2"), "{lines}");
    }
}
