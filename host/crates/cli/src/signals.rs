//! The signals of a service.
//!
//! They are received on a thread with a runtime of its own, so that a worker whose threads are all
//! busy or blocked can still be told to end.

use std::{io, sync::Arc, thread};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};

use lovage_runtime::{telemetry, worker::Stop};

/// What signals ask for beside the end.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// SIGHUP: look for other versions of components at once.
    pub refresh: Arc<Notify>,
    /// SIGUSR1: log the state of the worker.
    pub report: Arc<Notify>,
}

/// The signals that would end the process by default, and mean something else to a service.
const HARMLESS: [i32; 4] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGXFSZ];

/// Ignores them, until [`watch`] handles them: a signal must not kill a worker that is just starting.
pub fn ignore_until_handled() {
    for number in HARMLESS {
        // SAFETY: ignoring a signal runs no code in a handler, and no other thread exists yet.
        #[allow(unsafe_code)]
        unsafe {
            libc::signal(number, libc::SIG_IGN);
        }
    }
}

/// Handles signals from here on.
///
/// - SIGTERM, SIGINT: the first drains, the second gives all back, the third ends the process.
/// - SIGQUIT: gives all back at once; the second ends the process.
/// - SIGHUP, SIGUSR1: as in [`Asked`]. SIGUSR2: is logged.
/// - SIGXFSZ: a file over the limit of its size is an error of the write, and no end.
///
/// # Errors
///
/// The handlers or the thread cannot be installed.
pub fn watch(stop: Stop) -> io::Result<Asked> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = Asked::default();
    let guard = runtime.enter();
    let handlers = Handlers {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        quit: signal(SignalKind::quit())?,
        hangup: signal(SignalKind::hangup())?,
        user_1: signal(SignalKind::user_defined1())?,
        user_2: signal(SignalKind::user_defined2())?,
        file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
    };
    drop(guard);
    let told = asked.clone();
    thread::Builder::new().name("lovage-signals".to_owned()).spawn(move || {
        lovage_platform::time_slice::shorten();
        let supervisor = stop.supervisor();
        let watcher = handlers.handle(stop, told);
        runtime.block_on(supervisor.run("watcher of signals", watcher));
    })?;
    Ok(asked)
}

struct Handlers {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
    file_size: Signal,
}

impl Handlers {
    async fn handle(mut self, stop: Stop, asked: Asked) {
        // How urgently the end is asked for: 1 drains, 2 gives all back, 3 ends the process.
        let mut urgency = 0;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => urgency += 1,
                _ = self.interrupt.recv() => urgency += 1,
                _ = self.quit.recv() => urgency = if urgency < 2 { 2 } else { 3 },
                _ = self.hangup.recv() => {
                    asked.refresh.notify_one();
                    continue;
                }
                _ = self.user_1.recv() => {
                    asked.report.notify_one();
                    continue;
                }
                _ = self.user_2.recv() => {
                    tracing::info!("SIGUSR2 does nothing; SIGUSR1 logs the state of the worker");
                    continue;
                }
                _ = self.file_size.recv() => {
                    tracing::warn!("a file reached the limit of its size (ulimit -f)");
                    continue;
                }
            }
            match urgency {
                1 => stop.drain.cancel(),
                2 => {
                    stop.now.cancel();
                    stop.drain.cancel();
                }
                _ => {
                    telemetry::flush();
                    std::process::exit(130);
                }
            }
        }
    }
}
