//! Redis for tests: Debian's `redis-server`, which `host/tests/setup.sh` installs, on a free port
//! of this machine and without a disk. Ended with the test binary however that ends, or before.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Child,
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::guarded::{free_port, guarded};

/// A Redis of a test's own.
#[derive(Debug)]
pub struct Redis {
    pub port: u16,
    /// What its command line has beside the usual.
    more: Vec<String>,
    guard: Option<Child>,
}

/// The URL of a Redis that tests share; each puts its own prefix before its keys.
pub fn url() -> String {
    static REDIS: OnceLock<Redis> = OnceLock::new();
    REDIS.get_or_init(Redis::start).url()
}

impl Redis {
    /// Starts one. Panics, with what to do, when it is not installed or does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more on the command line.
    pub fn start_with(more: &[&str]) -> Self {
        let mut last = String::new();
        // A port that is free now can be taken a moment later.
        for _ in 0..3 {
            let more = more.iter().map(|&word| word.to_owned()).collect();
            let mut redis = Self { port: free_port(), more, guard: None };
            match redis.begin() {
                Ok(()) => return redis,
                Err(why) => last = why,
            }
        }
        panic!("redis-server did not start: {last}");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it. What it held is gone.
    pub fn stop(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        drop(guard.stdin.take());
        guard.wait().unwrap();
    }

    /// Starts it again where it was.
    pub fn begin(&mut self) -> Result<(), String> {
        let port = self.port.to_string();
        let usual = ["redis-server", "--bind", "127.0.0.1", "--port", &port, "--save", ""];
        let usual = usual.into_iter().chain(["--appendonly", "no", "--daemonize", "no"]);
        let command: Vec<&str> = usual.chain(self.more.iter().map(String::as_str)).collect();
        let mut guard = guarded(&command).map_err(|error| error.to_string())?;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            if answers(address) {
                self.guard = Some(guard);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(guard.stdin.take());
        let _ = guard.wait();
        Err("no answer within 20 s; run `make test-setup` (or host/tests/setup.sh) first"
            .to_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let mut answer = [0; 5];
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .and_then(|()| stream.write_all(b"PING\r\n"))
        .and_then(|()| stream.read_exact(&mut answer))
        .is_ok_and(|()| answer == *b"+PONG")
}
